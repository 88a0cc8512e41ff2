"""Figures of a group of patients, with 95 % intervals drawn over patients; as JSON and as a table.

The interval is the percentile bootstrap of strokecore.evaluate.statistics: whole patients are drawn with
replacement, 2000 times, from one fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import Float64Array
from strokecore.evaluate import statistics as st
from strokecore.head.grid import CANONICAL_GRID
from trainer.measure.metrics import Overlap, PatientFigures

Patients = Sequence[PatientFigures]

# The patterns that figures are given for; "uncoupled" is infarct of one level without the other's.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "all": ("coupled", "bg_only", "sg_only", "mixed", "outside", "lesion_free"),
    "coupled": ("coupled",),
    "uncoupled": ("bg_only", "sg_only"),
    "bg_only": ("bg_only",),
    "sg_only": ("sg_only",),
    "mixed": ("mixed",),
    "outside": ("outside",),
    "lesion_free": ("lesion_free",),
}


def of_group(patients: Patients, group: str) -> tuple[PatientFigures, ...]:
    """The patients of one of GROUPS."""
    return tuple(patient for patient in patients if patient.group in GROUPS[group])


def summarise(patients: Patients) -> dict[str, Any]:
    """Every figure of one or more patients, JSON-ready; a figure that nobody contributes to has value None.

    Dice, HD95, volume error and lesion-wise F1 are over patients with infarct, false positives over those
    without.
    """
    sick = [patient for patient in patients if not patient.lesion_free]
    healthy = [patient for patient in patients if patient.lesion_free]
    f1 = values(sick, lambda p: p.lesions.f1)
    distance = values(sick, lambda p: p.hd95_mm)
    volume = values(sick, lambda p: p.volume_error_ml)
    false_ml = values(healthy, lambda p: p.predicted_ml)
    dice = values(sick, lambda p: p.infarct.dice)
    return {
        "patients": {"all": len(patients), "with_infarct": len(sick), "without": len(healthy)},
        "dice": {"mean": _mean(dice), "median": _median(dice)},
        "dice_pooled": _number(_pooled([p.infarct for p in sick]).dice),
        "dice_bg": _mean(values(sick, lambda p: p.level_dice("bg"))),
        "dice_sg": _mean(values(sick, lambda p: p.level_dice("sg"))),
        "sg_sensitivity": _mean(values(sick, lambda p: p.sg_sensitivity)),
        "hd95_mm": {
            "mean": _mean(distance),
            "median": _median(distance),
            "undefined": int(np.isnan(distance).sum()),
        },
        "volume_error_ml": {"bias": _mean(volume), "mean_absolute": _mean(np.abs(volume))},
        "lesions": {
            "f1": _mean(f1),
            "found": sum(p.lesions.found for p in sick),
            "missed": sum(p.lesions.missed for p in sick),
            "false": sum(p.lesions.false for p in sick),
        },
        "false_positive_ml": {
            "mean": _mean(false_ml),
            "median": _median(false_ml),
            "largest": _number(float(false_ml.max())) if len(false_ml) else None,
            "any": _mean((false_ml > 0).astype(np.float64)),
        },
        "territories": {name: _territory(patients, name) for name in REGION_NAMES},
    }


def values(patients: Patients, measure: Callable[[PatientFigures], float]) -> Float64Array:
    """One number per patient, float64 [patients]."""
    return np.array([measure(patient) for patient in patients], np.float64)


def patient_row(patient: PatientFigures) -> dict[str, Any]:
    """One patient's measurements under flat names; NaN becomes None."""
    row: dict[str, Any] = {
        "id": patient.id,
        "group": patient.group,
        "lesion_ml": patient.lesion_ml,
        "predicted_ml": patient.predicted_ml,
        "volume_error_ml": patient.volume_error_ml,
        "dice": patient.infarct.dice,
        "dice_bg": patient.level_dice("bg"),
        "dice_sg": patient.level_dice("sg"),
        "sg_sensitivity": patient.sg_sensitivity,
        "hd95_mm": patient.hd95_mm,
        "lesions_found": patient.lesions.found,
        "lesions_missed": patient.lesions.missed,
        "lesions_false": patient.lesions.false,
        "lesion_f1": patient.lesions.f1,
    }
    for name in REGION_NAMES:
        row[f"dice_{name}"] = patient.territory_dice(name, "class")
    for name in REGION_NAMES:
        row[f"infarct_dice_in_{name}"] = patient.territory_dice(name, "inside")
    return {name: _number(value) if isinstance(value, float) else value for name, value in row.items()}


def print_summary(groups: dict[str, dict[str, Any]], title: str, console: Console) -> None:
    """The headline figures of every group that has patients."""
    console.print(escape(title), style="bold")
    overlap, rest = (Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)) for _ in range(2))  # 80 columns
    for table in (overlap, rest):
        table.add_column("group", no_wrap=True)
    overlap.add_column("patients", no_wrap=True)
    for column in ("Dice", "median", "BG", "SG", "SG found"):
        overlap.add_column(column, justify="right", no_wrap=True)
    for column in ("HD95 mm", "volume error ml", "lesion F1", "false ml"):
        rest.add_column(column, justify="right", no_wrap=True)
    for name, found in groups.items():
        with_infarct, without = found["patients"]["with_infarct"], found["patients"]["without"]
        overlap.add_row(
            name,
            f"{with_infarct} + {without}" if with_infarct and without else str(with_infarct or without),
            st.in_words(found["dice"]["mean"], to="-"),
            _short(found["dice"]["median"]["value"]),
            _short(found["dice_bg"]["value"]),
            _short(found["dice_sg"]["value"]),
            _short(found["sg_sensitivity"]["value"]),
        )
        rest.add_row(
            name,
            _short(found["hd95_mm"]["median"]["value"], 1),
            _short(found["volume_error_ml"]["bias"]["value"], 1),
            _short(found["lesions"]["f1"]["value"], 2),
            _short(found["false_positive_ml"]["mean"]["value"], 2),
        )
    console.print(overlap)
    console.print(rest)
    undefined = groups["all"]["hd95_mm"]["undefined"]
    console.print(
        "Dice: mean over patients with infarct, with its 95 % interval; HD95: median"
        f" ({undefined} undefined); false ml: mean where there is no infarct. Research use only.",
        style="dim",
    )


def _territory(patients: Patients, name: str) -> dict[str, Any]:
    """Dice over the patients in whom the territory is infarcted; false volume over the others."""
    free = [p for p in patients if p.territories and name not in p.counted]
    false_voxels = sum(p.territories[name].predicted - p.territories[name].both for p in free)
    return {
        "dice": _mean(values(patients, lambda p: p.territory_dice(name, "class"))),
        "dice_pooled": _number(_pooled([p.territories[name] for p in patients if p.territories]).dice),
        "false_positive_ml": _number(false_voxels * CANONICAL_GRID.voxel_ml / len(free)) if free else None,
        "infarct_dice_inside": _mean(values(patients, lambda p: p.territory_dice(name, "inside"))),
    }


def _pooled(overlaps: Sequence[Overlap]) -> Overlap:
    return Overlap(
        sum(o.both for o in overlaps), sum(o.predicted for o in overlaps), sum(o.true for o in overlaps)
    )


def _mean(numbers: Float64Array) -> dict[str, Any]:
    """Mean of the defined numbers, its interval, and how many there are."""
    found = st.mean(numbers, st.draw_patients(len(numbers)))
    return {**asdict(found), "patients": int(np.isfinite(numbers).sum())}


def _median(numbers: Float64Array) -> dict[str, Any]:
    return asdict(st.median(numbers))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _short(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
