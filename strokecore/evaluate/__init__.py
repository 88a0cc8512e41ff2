"""How good the node is on cases whose truth is known: ``strokecore evaluate`` (docs/evaluation.md).

``find_cases`` and ``of_one_split`` choose the cases, ``evaluate`` runs the node's own pipeline over them and
writes the study, ``compare`` sets two studies of the same cases against each other.
"""

from strokecore.evaluate.cases import Case, find_cases, of_one_split
from strokecore.evaluate.evaluation import Comparison, compare, evaluate
from strokecore.evaluate.figures import summarise
from strokecore.evaluate.outcomes import Outcome, run_study
from strokecore.evaluate.table import print_study
from strokecore.evaluate.truth import Truth, read_truth

__all__ = [
    "Case",
    "Comparison",
    "Outcome",
    "Truth",
    "compare",
    "evaluate",
    "find_cases",
    "of_one_split",
    "print_study",
    "read_truth",
    "run_study",
    "summarise",
]
