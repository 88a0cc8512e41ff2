"""``strokecore evaluate`` from cases to files: the steps in order."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from strokecore._version import __version__
from strokecore.anatomy.atlas import load_atlas
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.evaluate.cases import Case
from strokecore.evaluate.figures import summarise
from strokecore.evaluate.outcomes import TIMEOUT_S, Scorer, run_study
from strokecore.evaluate.plots import draw_all
from strokecore.evaluate.study import study_record, write_cases, write_study
from strokecore.learned.selection import select_engine
from strokecore.pipeline import score_folder
from strokecore.result import SoftwareInfo
from strokecore.scoring.engine import model_info

# matplotlib draws the pictures, nibabel reads outlines of the infarct
_EXTRAS: Final = ("matplotlib", "nibabel")


def evaluate(
    cases: Sequence[Case],
    config: ScoringConfig,
    out: Path,
    *,
    command: str,
    workers: int = 1,
    timeout_s: float = TIMEOUT_S,
    score: Scorer = score_folder,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Score ``cases``, write study.json, cases.csv and the pictures to ``out``; returns study.json's content.

    Parameters
    ----------
    cases: at least one (find_cases, of_one_split).
    command: what was asked for, written into the record.
    workers, timeout_s, score, done: see run_study.

    Raises
    ------
    UsageError: a missing extra, an engine that is not available, or an output folder among the cases.
    ModelPackageError: a damaged atlas or model package.
    """
    _require_extras()
    engine, atlas = select_engine(config), load_atlas(config.atlas)
    folders = [case.folder.resolve() for case in cases if case.folder is not None]
    if any(out.resolve().is_relative_to(folder.parent) for folder in folders):
        raise UsageError("The output folder lies among the cases, where it would be taken for one; move it.")
    out.mkdir(parents=True, exist_ok=True)
    outcomes = run_study(cases, config, workers=workers, timeout_s=timeout_s, score=score, done=done)
    figures = summarise(outcomes)
    record = study_record(
        outcomes,
        figures,
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        workers=workers,
        model=model_info(engine),
        software=SoftwareInfo(__version__, atlas.sha256, config.sha256),
    )
    write_cases(outcomes, out)
    draw_all(outcomes, figures, out)
    write_study(record, out)  # last: where it stands, the rest is complete
    return record


def _require_extras() -> None:
    """Raises UsageError with the command that installs what is missing, before minutes are spent."""
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"strokecore evaluate needs {' and '.join(missing)}; install what is missing with: "
            "pip install 'strokecore[evaluate]'"
        )
