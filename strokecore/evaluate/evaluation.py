"""A study: cases scored, their figures, and both on disk; two studies of the same cases compared.

study.json is for machines, cases.csv for people.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, SIDES
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.evaluate import statistics as st
from strokecore.evaluate.calibration import REGION_CUT_FILE, region_cut, write_region_cut
from strokecore.evaluate.cases import Case
from strokecore.evaluate.figures import side_answer, summarise
from strokecore.evaluate.outcomes import TIMEOUT_S, Outcome, Scorer, run_study
from strokecore.evaluate.plots import draw_all
from strokecore.files import csv_bytes, write_atomically
from strokecore.learned.selection import select_engine
from strokecore.pipeline import score_folder
from strokecore.result import ModelInfo, SoftwareInfo
from strokecore.scoring.engine import model_info

SCHEMA_VERSION: Final = 1
REGION_KEYS: Final = tuple(f"{region.side}:{region.name}" for region in ALL_REGIONS)
_LIBRARIES: Final = ("numpy", "scipy", "SimpleITK", "pydicom")
# matplotlib draws the pictures, nibabel reads outlines of the infarct
_EXTRAS: Final = ("matplotlib", "nibabel")
# What must be equal, case by case, for a difference of two studies to be the model's.
_SAME: Final = ("name", "truth")


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
    UsageError: a missing extra, an engine that is not available, a region cut that is none, or an output
        folder among the cases.
    ModelPackageError: a damaged atlas or model package.
    """
    _require_extras()
    engine, atlas = select_engine(config), load_atlas(config.atlas)
    software = SoftwareInfo.of(config, atlas.sha256)
    # the folder that lists the cases: a case may be a link to a folder elsewhere
    folders = [case.folder.parent.resolve() for case in cases if case.folder is not None]
    if any(out.resolve().is_relative_to(folder) for folder in folders):
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
        software=software,
    )
    (out / REGION_CUT_FILE).unlink(missing_ok=True)  # of an earlier study in this folder
    write_cases(outcomes, out)
    draw_all(outcomes, figures, out)
    study = write_study(record, out)  # last of the figures: where it stands, the rest is complete
    if record["region_cut"] is not None:
        write_region_cut(study, record)
    return record


def study_record(
    outcomes: Sequence[Outcome],
    figures: dict[str, Any],
    *,
    command: str,
    date: str,
    workers: int,
    model: ModelInfo,
    software: SoftwareInfo,
) -> dict[str, Any]:
    """study.json: where the figures come from, the figures, and every case."""
    return {
        "schema": SCHEMA_VERSION,
        "date": date,
        "command": command,
        "machine": {"architecture": platform.machine(), "cores": os.cpu_count(), "workers": workers},
        "versions": {"python": platform.python_version()} | {n: metadata.version(n) for n in _LIBRARIES},
        "software": asdict(software),
        "model": asdict(model),
        "cases_from": _origin(outcomes),
        "figures": figures,
        "region_cut": region_cut(outcomes),
        "region_order": list(REGION_KEYS),
        "cases": [_case(outcome) for outcome in outcomes],
    }


def write_study(record: dict[str, Any], folder: Path) -> Path:
    """Write ``record`` to ``folder``/study.json, one line per case; complete or not at all."""
    rest = {key: value for key, value in record.items() if key != "cases"}
    head = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
    rows = ",\n".join("  " + json.dumps(case, allow_nan=False) for case in record["cases"])
    path = folder / "study.json"
    write_atomically(path, f'{head},\n "cases": [\n{rows}\n ]\n}}\n'.encode())
    return path


def write_cases(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``folder``/cases.csv: one row per case, a list of regions in one cell."""
    path = folder / "cases.csv"
    write_atomically(path, csv_bytes([_row(outcome) for outcome in outcomes]))
    return path


@dataclass(frozen=True)
class Comparison:
    """Region AUC of two studies and their difference, second minus first, drawn over the same patients."""

    first: st.Estimate
    second: st.Estimate
    difference: st.Estimate


def compare(first: Path, second: Path, draws: int = st.BOOTSTRAP_DRAWS) -> Comparison:
    """Paired bootstrap of the region AUC of two study.json files.

    Raises UsageError unless both hold the same cases with the same truth and images.
    """
    a, b = _read_cases(first), _read_cases(second)
    if [_identity(case) for case in a] != [_identity(case) for case in b] or any(
        None not in (x["digest"], y["digest"]) and x["digest"] != y["digest"]
        for x, y in zip(a, b, strict=True)
    ):
        raise UsageError("The two studies are not of the same cases; evaluate both on the same folder.")
    truth = np.array([case["truth"] for case in a], bool)
    judged = np.array([case.get("judged", np.ones_like(case["truth"])) for case in a], bool)
    counts = st.draw_patients(len(a), draws)
    values, drawn = [], []
    for cases in (a, b):
        probability = np.where(judged, [case["probability"] for case in cases], np.nan)
        values.append(st.auc(truth, probability))
        drawn.append(st.auc_draws(truth, probability, counts))
    return Comparison(
        st.estimate(values[0], drawn[0]),
        st.estimate(values[1], drawn[1]),
        st.estimate(values[1] - values[0], drawn[1] - drawn[0]),
    )


def _require_extras() -> None:
    """Raises UsageError with the command that installs what is missing, before minutes are spent."""
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"strokecore evaluate needs {' and '.join(missing)}; install what is missing with: "
            "pip install 'strokecore[evaluate]'"
        )


def _origin(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Which cases these are: splits, seeds, simulator, and one hash over images and truth."""
    seeds = [o.truth.seed for o in outcomes if o.truth.seed is not None]
    simulators = {o.truth.simulator for o in outcomes if o.truth.simulator is not None}
    identity = [[o.name, o.digest, o.truth.regions] for o in outcomes]
    return {
        "splits": sorted({o.truth.split or "not stated" for o in outcomes}),
        "seeds": [min(seeds), max(seeds)] if seeds else None,
        "simulators": [asdict(s) for s in sorted(simulators, key=lambda s: (s.version, s.sha256))],
        "sha256": hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
    }


def _case(outcome: Outcome) -> dict[str, Any]:
    """One case with its probability for each region, in REGION_KEYS order."""
    return {
        "name": outcome.name,
        "split": outcome.truth.split,
        "seed": outcome.truth.seed,
        "status": outcome.status,
        "code": outcome.code,
        "detail": outcome.detail,
        "flags": list(outcome.flags),
        "digest": outcome.digest,
        "truth": [int(value) for value in outcome.truth.regions],
        "judged": [int(value) for value in outcome.truth.judged],
        "affected": [int(value) for value in outcome.affected],
        "borderline": [int(value) for value in outcome.borderline],
        "assessed": [int(value) for value in outcome.assessed],
        "probability": [round(value, 6) for value in outcome.probability],
        "difference_hu": outcome.difference_hu,
        "observer_hu": outcome.truth.observer_hu,
        "person": outcome.truth.person,
        "delta_hu": outcome.truth.delta_hu,
        "confounder": outcome.truth.confounder,
        "true_blood": asdict(outcome.truth.blood) if outcome.truth.blood else None,
        "blood": outcome.blood,
        "true_aspects": outcome.truth.scores,
        "aspects": outcome.scores,
        "range": outcome.ranges,
        "true_side": outcome.truth.side,
        "side": outcome.side,
        "true_infarct_ml": outcome.truth.infarct_ml,
        "infarct_ml": outcome.infarct_ml,
        "dice": outcome.dice,
        "mask_error": outcome.mask_error,
        "seconds": outcome.seconds,
    }


def _row(outcome: Outcome) -> dict[str, object]:
    truth = outcome.truth
    row: dict[str, object] = {
        "case": outcome.name,
        "split": truth.split,
        "status": outcome.status,
        "code": outcome.code,
        "detail": outcome.detail,
        "flags": _words(outcome.flags),
        "person": truth.person,
        "delta_hu": truth.delta_hu,
        "confounder": truth.confounder,
    }
    for side in SIDES:
        row[f"true_aspects_{side}"] = truth.scores[side]
        row[f"aspects_{side}"] = outcome.scores[side]
    row |= {
        "true_side": truth.side,
        "side": outcome.side,
        "side_answer": side_answer(truth, outcome.side) if truth.affected else None,
    }
    for side in SIDES:
        row[f"true_infarct_ml_{side}"] = truth.infarct_ml and truth.infarct_ml[side]
        row[f"infarct_ml_{side}"] = outcome.infarct_ml and outcome.infarct_ml[side]
    rows = zip(REGION_KEYS, truth.regions, outcome.affected, outcome.assessed, truth.judged, strict=True)
    trio = [(key, true, called, seen) for key, true, called, seen, judged in rows if judged]
    return row | {
        "dice": outcome.dice,
        "mask_error": outcome.mask_error,
        "found": _words(k for k, true, called, _ in trio if true and called),
        "missed": _words(k for k, true, called, _ in trio if true and not called),
        "false_alarms": _words(k for k, true, called, _ in trio if called and not true),
        "not_assessed": _words(k for k, _, _, seen in trio if not seen),
        "seconds": outcome.seconds,
    }


def _words(words: Iterable[str]) -> str:
    return " ".join(words)


def _read_cases(path: Path) -> list[dict[str, Any]]:
    try:
        cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path.name} is no study.json ({type(error).__name__}).") from None
    return cases


def _identity(case: dict[str, Any]) -> list[Any]:
    return [case[key] for key in _SAME]
