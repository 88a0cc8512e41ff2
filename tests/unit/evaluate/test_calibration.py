"""What a probability is worth, against numbers that can be counted by hand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.evaluate import statistics as st
from strokecore.evaluate.calibration import (
    FEWEST_HEMISPHERES,
    brier_skill,
    calibration,
    calibration_error,
    calibration_slope,
    region_cut,
    reliability,
    write_region_cut,
)
from strokecore.evaluate.outcomes import Outcome
from tests.unit.evaluate.cases import random_outcomes, said, truth_of

COUNTS = st.draw_patients(2, 50)


def test_skill_is_measured_against_the_affected_share() -> None:
    truth = np.array([True, False, False, False])
    assert brier_skill(truth, np.full(4, 0.25)) == pytest.approx(0.0)
    assert brier_skill(truth, truth.astype(float)) == 1.0
    # (0.3^2 + 3 * 0.1^2) / 4 = 0.03 against 3/16
    assert brier_skill(truth, np.array([0.7, 0.1, 0.1, 0.1])) == pytest.approx(1 - 0.03 / 0.1875)
    assert np.isnan(brier_skill(np.zeros(3, bool), np.full(3, 0.2)))


def test_the_slope_tells_how_much_too_sure_the_probabilities_are() -> None:
    rng = np.random.default_rng(0)
    log_odds = rng.normal(-1, 2, 40_000)
    truth = rng.random(log_odds.size) < 1 / (1 + np.exp(-log_odds))
    for factor in (0.5, 1.0, 2.0):
        probability = 1 / (1 + np.exp(-factor * log_odds))
        assert calibration_slope(truth, probability) == pytest.approx(1 / factor, rel=0.05)
    assert np.isnan(calibration_slope(truth, np.full(truth.size, 0.3)))
    assert np.isnan(calibration_slope(np.zeros(3, bool), np.array([0.1, 0.2, 0.3])))


def test_the_error_is_the_weighted_mean_of_the_bins() -> None:
    truth = np.array([True, False, False, False, True])
    probability = np.array([0.32, 0.38, 0.3, 0.1, 1.0])
    # bin 0.3-0.4: mean 1/3 and share 1/3; 0.1-0.2: 0.1 and 0; 0.9-1: 1 and 1
    assert calibration_error(truth, probability) == pytest.approx(0.1 / 5)
    assert reliability(truth, probability) == [
        {"regions": 1, "probability": pytest.approx(0.1), "affected": 0.0},
        {"regions": 3, "probability": pytest.approx(1 / 3), "affected": pytest.approx(1 / 3)},
        {"regions": 1, "probability": 1.0, "affected": 1.0},
    ]


def test_the_error_is_told_by_group_of_regions() -> None:
    sure = {RegionId("C", "left"): 0.6, RegionId("M4", "left"): 1.0}
    found = calibration([said("a", "left:C,M4", "", probability=sure), said("b", "", "")], COUNTS)
    # the regions that say nothing have 0.1 and are never affected
    assert found["M1-M3"]["expected_calibration_error"]["value"] == pytest.approx(0.1)
    assert found["C L IC I"]["expected_calibration_error"]["value"] == pytest.approx((0.4 + 15 * 0.1) / 16)
    assert found["M4-M6"]["expected_calibration_error"]["value"] == pytest.approx((0 + 11 * 0.1) / 12)
    assert found["all"]["regions"] == 40


def test_regions_that_are_not_judged_or_not_assessed_do_not_count() -> None:
    little = truth_of("left:M1", unjudged=frozenset({RegionId("M2", "left")}))
    case = said("a", "left:M1", "left:M1,M2", unassessed="left:C", probability={RegionId("M2", "left"): 0.9})
    found = calibration([replace(case, truth=little)], st.draw_patients(1, 5))
    assert found["M1-M3"]["regions"] == 5
    assert found["C L IC I"]["regions"] == 7
    # M1 of the left 0.9 and affected, four others 0.1 and not
    assert found["M1-M3"]["expected_calibration_error"]["value"] == pytest.approx(5 * 0.1 / 5)
    assert found["M1-M3"]["expected_calibration_error"]["low"] is None  # one patient


def test_the_interval_comes_from_the_patients() -> None:
    outcomes = random_outcomes(40, 3)
    error = calibration(outcomes, st.draw_patients(40, 400))["all"]["expected_calibration_error"]
    assert error["low"] < error["high"]
    assert 0.5 * error["value"] < error["low"] < 2 * error["value"]


def healthy(name: str, peak: float) -> Outcome:
    """A head without infarct whose left hemisphere has this highest probability, its right one 0.1."""
    return said(name, "", "", probability={RegionId("M3", "left"): peak})


def test_the_cut_keeps_the_share_of_clean_hemispheres() -> None:
    # 20 hemispheres: ten at 0.1, then 0.21 .. 0.30; 17 of 20 are kept from just above 0.27 on
    outcomes = [healthy(f"{n}", 0.21 + 0.01 * n) for n in range(10)]
    cut = region_cut(outcomes)
    assert cut == {"schema": 1, "threshold": 0.2701, "hemispheres_without_infarct": 20, "kept": 0.85}
    assert region_cut(outcomes[:9]) is None
    assert FEWEST_HEMISPHERES == 20


def test_only_hemispheres_without_infarct_set_the_cut() -> None:
    outcomes = [healthy(f"{n}", 0.2) for n in range(10)]
    sick = [said(f"s{n}", "left:M1", "left:M1") for n in range(30)]  # right hemispheres at 0.1
    bled = replace(outcomes[0], truth=truth_of("", infarct_ml={"left": 3.0, "right": 0.0}))
    cut = region_cut([*outcomes, *sick, bled])
    assert cut is not None
    assert cut["hemispheres_without_infarct"] == 20 + 30 + 1
    # 41 hemispheres at 0.1 are fewer than 85 % of 51
    assert (cut["threshold"], cut["kept"]) == (0.2001, 1.0)


def test_a_cut_is_a_decision_even_where_the_node_is_sure_of_false_alarms() -> None:
    cut = region_cut(
        [
            said(f"{n}", "", "", probability={RegionId("C", "left"): 1.0, RegionId("C", "right"): 1.0})
            for n in range(10)
        ]
    )
    assert cut is not None
    assert 0 < cut["threshold"] < 1
    assert cut["kept"] == 0.0


def test_the_cut_s_file_names_the_study(tmp_path: Path) -> None:
    study = tmp_path / "study.json"
    study.write_text("{}")
    record: dict[str, Any] = {
        "date": "2026-11-28",
        "model": {"name": "a", "version": "1", "sha256": "0", "engine": "asymmetry", "precision": "fp64"},
        "software": {"version": "1"},
    }
    record["region_cut"] = {"schema": 1, "threshold": 0.4}
    found = json.loads(write_region_cut(study, record).read_text())
    assert found["schema"] == 1
    assert found["threshold"] == 0.4
    assert found["made_from"] == hashlib.sha256(b"{}").hexdigest()
    assert found["model"] == {"name": "a", "version": "1", "sha256": "0", "engine": "asymmetry"}
