"""How good the node is on cases whose truth is known: ``strokecore evaluate`` (docs/evaluation.md).

cases.py chooses the cases, evaluation.py runs the node's own pipeline over them and writes the study, and
sets two studies of the same cases against each other. The trainer shares statistics.py, which must not load
the pipeline: nothing is imported here.
"""
