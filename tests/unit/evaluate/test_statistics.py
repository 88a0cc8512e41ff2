"""The statistics of a study, against published examples, hand-computed values and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from scipy import stats

from strokecore.evaluate import statistics as st

# Shrout & Fleiss 1979, table 2: four judges rate six targets; table 4 gives ICC(2,1) = 0.29.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def brute_auc(truth: np.ndarray, probability: np.ndarray) -> float:
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in probability[truth] for n in probability[~truth]]
    return float(np.mean(wins)) if wins else float("nan")


def test_icc_is_the_published_one() -> None:
    assert round(st.icc_2_1(SHROUT_FLEISS), 2) == 0.29


def test_icc_sees_a_constant_offset_and_no_order_of_targets() -> None:
    rating = np.array([2.0, 4, 6, 8, 10])
    assert st.icc_2_1(np.stack([rating, rating], axis=1)) == pytest.approx(1.0)
    # by hand: BMS 20, JMS 10, EMS 0 -> 20 / (20 + 0 + 2 * 10 / 5)
    assert st.icc_2_1(np.stack([rating, rating + 2], axis=1)) == pytest.approx(20 / 24)
    assert st.icc_2_1(SHROUT_FLEISS[::-1]) == pytest.approx(st.icc_2_1(SHROUT_FLEISS))


def test_icc_is_not_defined_where_nothing_varies() -> None:
    assert np.isnan(st.icc_2_1(np.full((5, 2), 10.0)))
    assert np.isnan(st.icc_2_1(np.array([[3.0, 4.0]])))


def test_kappa_is_the_textbook_one() -> None:
    # 20 both yes, 5 first only, 10 second only, 15 both no: observed 0.7, chance 0.5
    first = np.repeat([True, True, False, False], [20, 5, 10, 15])
    second = np.repeat([True, False, True, False], [20, 5, 10, 15])
    assert st.kappa(first, second) == pytest.approx(0.4)
    assert np.isnan(st.kappa(np.ones(4, bool), np.ones(4, bool)))
    assert np.isnan(st.kappa(np.zeros(0, bool), np.zeros(0, bool)))


def test_bland_altman_by_hand() -> None:
    found = st.bland_altman(np.array([1.0, -1.0, 3.0, 1.0]))  # mean 1, sample variance 8 / 3
    assert found is not None
    assert found.bias == 1.0
    assert found.high - 1.0 == pytest.approx(1.96 * np.sqrt(8 / 3))
    assert 1.0 - found.low == pytest.approx(1.96 * np.sqrt(8 / 3))
    assert st.bland_altman(np.array([1.0])) is None


def test_auc_by_hand() -> None:
    truth = np.array([True, True, False, False])
    assert st.auc(truth, np.array([0.9, 0.4, 0.4, 0.1])) == pytest.approx(3.5 / 4)
    assert st.auc(truth, np.full(4, 0.5)) == 0.5
    assert np.isnan(st.auc(np.ones(3, bool), np.array([0.1, 0.2, 0.3])))


@given(
    some.integers(2, 6).flatmap(
        lambda n: some.tuples(
            arrays.arrays(bool, (n, 4)),
            # few distinct values: ties are the hard part
            arrays.arrays(float, (n, 4), elements=some.sampled_from([0.0, 0.2, 0.5, 0.5001, 1.0])),
            some.integers(0, 1000),
        )
    )
)
def test_auc_and_its_draws_equal_brute_force(drawn: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, probability, seed = drawn
    assert st.auc(truth, probability) == pytest.approx(brute_auc(truth, probability), nan_ok=True)
    counts = st.draw_patients(len(truth), draws=5, seed=seed)
    wanted = [brute_auc(np.repeat(truth, c, axis=0), np.repeat(probability, c, axis=0)) for c in counts]
    assert st.auc_draws(truth, probability, counts) == pytest.approx(np.array(wanted), nan_ok=True)


def test_auc_equals_the_mann_whitney_statistic_of_scipy() -> None:
    rng = np.random.default_rng(3)
    truth, probability = rng.random(500) < 0.3, rng.random(500).round(2)
    u = stats.mannwhitneyu(probability[truth], probability[~truth]).statistic
    assert st.auc(truth, probability) == pytest.approx(u / (truth.sum() * (~truth).sum()))


def test_the_roc_curve_encloses_the_auc() -> None:
    rng = np.random.default_rng(4)
    truth, probability = rng.random((30, 20)) < 0.3, rng.random((30, 20)).round(1)
    false, true = st.roc_curve(truth, probability)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(st.auc(truth, probability))


def test_patients_are_drawn_whole_and_the_same_every_time() -> None:
    counts = st.draw_patients(7, draws=50)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == st.draw_patients(7, draws=50)).all()
    assert (counts != st.draw_patients(7, draws=50, seed=2)).any()


def test_an_interval_over_patients_is_wider_than_one_over_regions() -> None:
    # 20 patients in whom all ten regions agree: 200 regions are worth 20 observations
    hits = np.repeat([10, 0], [14, 6])
    clustered = st.rate(hits, np.full(20, 10), st.draw_patients(20))
    naive = st.rate(np.repeat([1, 0], [140, 60]), np.ones(200), st.draw_patients(200))
    assert clustered.value == naive.value == 0.7
    assert clustered.low == pytest.approx(0.7 - 1.96 * np.sqrt(0.7 * 0.3 / 20), abs=0.05)
    assert naive.low == pytest.approx(0.7 - 1.96 * np.sqrt(0.7 * 0.3 / 200), abs=0.02)


def test_a_perfect_rate_is_not_certain() -> None:
    perfect = st.rate(np.full(10, 3), np.full(10, 3), st.draw_patients(10))
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(stats.binomtest(10, 10).proportion_ci(method="exact").low)
    never = st.rate(np.zeros(10), np.ones(10), st.draw_patients(10))
    assert never.high == pytest.approx(stats.binomtest(0, 10).proportion_ci(method="exact").high)


def test_what_is_not_defined_is_none() -> None:
    nothing = st.Estimate(None)
    counts = st.draw_patients(3, draws=10)
    assert st.rate(np.zeros(3), np.zeros(3), counts) == nothing
    assert st.auc_estimate(np.zeros((3, 2), bool), np.zeros((3, 2)), counts) == nothing


def test_one_patient_has_no_interval() -> None:
    one, truth = st.draw_patients(1, draws=10), np.array([[True, False]])
    assert st.pooled_mean([3.0], [2], one) == st.Estimate(1.5)
    assert st.pooled_mean([3.0, 0.0], [2, 0], st.draw_patients(2, draws=10)) == st.Estimate(1.5)
    assert st.auc_estimate(truth, np.array([[0.9, 0.1]]), one) == st.Estimate(1.0)
    assert st.resampled(lambda v: float(v.mean()), np.array([2.0]), one) == st.Estimate(2.0)


def test_draws_without_positives_are_left_out() -> None:
    truth = np.array([[True, False], [False, False], [False, False]])
    found = st.auc_estimate(truth, np.array([[0.9, 0.1], [0.2, 0.1], [0.3, 0.1]]), st.draw_patients(3))
    assert found == st.Estimate(1.0, 1.0, 1.0)


def test_a_statistic_is_resampled_by_patient() -> None:
    values = np.arange(12.0).reshape(6, 2)
    counts = st.draw_patients(6, draws=400)
    found = st.resampled(lambda v: float(v.mean()), values, counts)
    same = st.pooled_mean(values.sum(axis=1), np.full(6, 2), counts)
    assert (found.value, found.low, found.high) == pytest.approx((same.value, same.low, same.high))


def test_an_estimate_in_words() -> None:
    assert st.in_words({"value": 0.98765, "low": 0.9, "high": 1.0}) == "0.988 (0.900 to 1.000)"
    assert st.in_words({"value": 1.0, "low": None, "high": None}, "{:.1f}") == "1.0"
    assert st.in_words({"value": 0.5, "low": 0.25, "high": 0.75}, to="-") == "0.500 (0.250-0.750)"
    assert st.in_words({"value": 0.0, "low": -0.01, "high": 0.01}, "{:+.2f}") == "+0.00 (-0.01 to +0.01)"
    assert st.in_words({"value": None, "low": None, "high": None}) == "-"


def test_mean_and_median_leave_out_what_is_not_defined() -> None:
    values = np.array([0.2, np.nan, 0.4, 0.9])
    found = st.mean(values, st.draw_patients(4))
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.2)  # the worst patient in every place
    assert st.median(values).value == pytest.approx(0.4)
    assert st.mean(values[:2], st.draw_patients(2)) == st.median(values[:2]) == st.Estimate(0.2)
    for none in (values[1:2], values[:0]):
        assert st.mean(none, st.draw_patients(len(none))) == st.median(none) == st.Estimate(None)
