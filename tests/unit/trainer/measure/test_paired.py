"""Two ways of training compared on the same patients over the same seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from strokecore.evaluate.statistics import BOOTSTRAP_SEED, Estimate, draw_patients
from trainer.measure.paired import LARGEST_LOSS, average, difference, figure, judge

NAN = math.nan


class TestStatistics:
    def test_average_by_hand(self) -> None:
        values = np.array([[0.2, NAN, 0.4], [0.4, NAN, 0.6]])
        assert average(values).value == pytest.approx(0.4)
        assert figure(values)["patients"] == 2
        territories = np.stack([values, np.array([[1.0, NAN, NAN], [1.0, NAN, NAN]])], axis=2)
        assert average(territories).value == pytest.approx((0.4 + 1.0) / 2)

    def test_interval_equals_brute_force_over_crossed_draws(self) -> None:
        rng = np.random.default_rng(3)
        values = rng.normal(size=(3, 7, 2))
        values[:, 2, 0] = values[:, 4, 1] = NAN
        by_seed = draw_patients(3, seed=BOOTSTRAP_SEED + 1)
        by_patient = draw_patients(7, seed=BOOTSTRAP_SEED)
        drawn = []
        for s, p in zip(by_seed, by_patient, strict=True):
            picked = np.repeat(np.repeat(values, s, axis=0), p, axis=1)
            drawn.append(np.nanmean([np.nanmean(picked[..., t]) for t in range(2)]))
        found = average(values)
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
        assert average(values) == found  # fixed draws

    def test_pairing_removes_what_seeds_and_patients_share(self) -> None:
        rng = np.random.default_rng(1)
        control = rng.uniform(0.2, 0.9, (3, 30)) + rng.normal(0, 0.1, (3, 1))
        found = difference(control + 0.02, control)
        assert found["value"] == pytest.approx(0.02)
        assert (found["low"], found["high"]) == (pytest.approx(0.02), pytest.approx(0.02))
        assert found["per_seed"] == [pytest.approx(0.02)] * 3
        assert (found["seeds_higher"], found["seeds_lower"]) == (3, 0)

    def test_seeds_widen_the_interval(self) -> None:
        patients = np.random.default_rng(2).normal(0, 0.01, (1, 40))
        together = average(np.repeat(patients, 3, axis=0))
        apart = average(patients + np.array([[-0.1], [0.0], [0.1]]))
        assert apart.high - apart.low > 3 * (together.high - together.low)

    def test_nothing_known_and_one_patient(self) -> None:
        assert average(np.full((2, 3), NAN)) == Estimate(None)
        assert average(np.zeros((2, 0))) == Estimate(None)
        assert average(np.array([[0.5], [0.7]])) == Estimate(pytest.approx(0.6))

    def test_a_control_zero_and_a_missing_patient_are_different_things(self) -> None:
        found = difference(np.array([[0.0, NAN, 0.2]]), np.array([[0.1, NAN, 0.1]]))
        assert found["value"] == pytest.approx(0.0)
        assert found["patients"] == 2


class TestCriterion:
    @pytest.mark.parametrize(
        ("dice", "sensitivity", "met", "shown"),
        [
            (Estimate(0.02, 0.01, 0.03), Estimate(0.0, -0.005, 0.01), True, True),
            (Estimate(-0.01, -0.01, 0.0), Estimate(-0.01, -0.01, 0.0), True, True),  # "no more than"
            (Estimate(-0.0101, -0.02, 0.0), Estimate(0.1, 0.0, 0.2), False, False),
            (Estimate(0.1, 0.0, 0.2), Estimate(-0.0101, -0.02, 0.0), False, False),
            (Estimate(0.0, -0.03, 0.03), Estimate(0.0, -0.001, 0.03), True, False),
            (Estimate(0.0), Estimate(0.0), True, False),  # one patient shows nothing
            (Estimate(None), Estimate(0.0, 0.0, 0.0), None, None),
            (Estimate(0.0, 0.0, 0.0), Estimate(None), None, None),
        ],
    )
    def test_edges(self, dice: Estimate, sensitivity: Estimate, met: bool | None, shown: bool | None) -> None:
        criterion = judge("TAGL", dice, sensitivity, (12, 2))
        assert (criterion.met, criterion.shown) == (met, shown)
        assert ("NOT MET" in criterion.text) == (met is False)
        assert criterion.text.startswith("TAGL")
        assert "in 12 patients" in criterion.text

    def test_a_loss_of_one_hundredth_survives_rounding(self) -> None:
        control = np.array([[0.7, 0.3, 0.6]])
        found = difference(control - LARGEST_LOSS, control)
        assert judge("TAGL", Estimate(found["value"], 0, 0), Estimate(0, 0, 0), (3, 3)).met
