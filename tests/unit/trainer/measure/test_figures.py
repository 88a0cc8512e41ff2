"""Figures of a group of patients: means, intervals, rows and the table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.files import csv_bytes
from tests.unit.trainer.evaluation_cases import make_case
from trainer.evaluate import by_group
from trainer.measure.figures import patient_row, print_summary, summarise
from trainer.measure.metrics import LesionMatch, Overlap, PatientFigures, measure

NOWHERE = dict.fromkeys(REGION_NAMES, Overlap())


def patient(dice: float, *, group: str = "coupled", true: int = 1000, case_id: str = "p") -> PatientFigures:
    """A patient whose infarct has this Dice (predicted as large as the truth)."""
    infarct = Overlap(round(dice * true), true, true)
    return PatientFigures(
        case_id, group, "territory", infarct, infarct, Overlap(), LesionMatch(1, 0, 0), 3.0,
        {**NOWHERE, "M2": infarct}, frozenset({"M2"}), {**NOWHERE, "M2": infarct}, frozenset({"M2"}),
    )  # fmt: skip


def test_summary_by_hand() -> None:
    people = [patient(0.2, case_id="a"), patient(0.4, case_id="b"), patient(0.9, case_id="c")]
    free = PatientFigures(
        "d", "lesion_free", "territory", Overlap(0, 500, 0), Overlap(), Overlap(), LesionMatch(0, 0, 2),
        math.nan, {**NOWHERE, "M2": Overlap(0, 500, 0)}, frozenset(), NOWHERE, frozenset(),
    )  # fmt: skip
    found = summarise([*people, free])
    assert found["dice"]["mean"]["value"] == pytest.approx(0.5)
    assert found["dice"]["mean"]["patients"] == 3
    assert found["dice"]["median"]["value"] == pytest.approx(0.4)
    assert found["dice"]["mean"]["low"] == pytest.approx(0.2)  # the worst patient three times
    assert found["dice_pooled"] == pytest.approx(0.5)
    assert found["false_positive_ml"]["mean"]["value"] == pytest.approx(1.0)
    assert found["lesions"]["false"] == 0  # of patients with infarct
    assert found["territories"]["M2"]["dice"]["value"] == pytest.approx(0.5)
    assert found["territories"]["M2"]["dice_pooled"] == pytest.approx(2 * 1500 / (3500 + 3000))
    assert found["territories"]["M2"]["false_positive_ml"] == pytest.approx(1.0)
    assert found["territories"]["C"]["dice"] == {"value": None, "low": None, "high": None, "patients": 0}


def test_intervals_are_the_same_every_time_and_one_patient_has_none() -> None:
    people = [patient(d) for d in (0.1, 0.5, 0.6, 0.7)]
    assert summarise(people) == summarise(people)
    one = summarise(people[:1])["dice"]["mean"]
    assert (one["value"], one["low"], one["high"]) == (pytest.approx(0.1), None, None)
    json.dumps(summarise(people[:1]), allow_nan=False)


def test_rows_are_json_and_csv() -> None:
    rows = [patient_row(patient(0.5)), patient_row(patient(0.5, group="sg_only"))]
    json.dumps(rows, allow_nan=False)
    lines = csv_bytes(rows).decode().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("id,group,lesion_ml")


def test_table_of_nobody_with_infarct() -> None:
    free = make_case("x", "test", "lesion_free")
    nothing = np.zeros(free.lesion.shape, bool)
    console = Console(record=True, width=160)
    print_summary(by_group([measure(free, nothing, nothing.astype(np.uint8))]), "t", console)
    assert "lesion_free" in console.export_text()
