"""A study on disk: study.json for machines and cases.csv for people."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from strokecore.anatomy.regions import ALL_REGIONS, SIDES
from strokecore.evaluate.figures import side_answer
from strokecore.evaluate.outcomes import Outcome
from strokecore.files import write_atomically
from strokecore.result import ModelInfo, SoftwareInfo

SCHEMA_VERSION: Final = 1
REGION_KEYS: Final = tuple(f"{region.side}:{region.name}" for region in ALL_REGIONS)
_LIBRARIES: Final = ("numpy", "scipy", "SimpleITK", "pydicom")


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
    rows = [_row(outcome) for outcome in outcomes]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
    return path


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
        "affected": [int(value) for value in outcome.affected],
        "assessed": [int(value) for value in outcome.assessed],
        "probability": [round(value, 6) for value in outcome.probability],
        "true_aspects": outcome.truth.scores,
        "aspects": outcome.scores,
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
    trio = list(zip(REGION_KEYS, truth.regions, outcome.affected, outcome.assessed, strict=True))
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
