"""The statistics of a study: pure functions on small arrays, each with its source.

Regions of one head hang together, so every 95 % interval is a percentile bootstrap that draws whole patients
(Efron & Tibshirani 1993, ch. 13; for clustered ROC data Rutter, Acad Radiol 2000;7:413). The first axis of
every array is the patient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from strokecore.arrays import BoolArray, Float64Array, Int64Array, ratio

Counts = Int64Array

# The 2.5th and 97.5th percentiles of 2000 draws repeat from seed to seed to about a fiftieth of the interval.
BOOTSTRAP_DRAWS: Final = 2000
# One fixed seed: the same cases give the same interval, and two studies of the same cases share their draws.
BOOTSTRAP_SEED: Final = 1
INTERVAL: Final = (2.5, 97.5)
ONE_SIDED: Final = 0.025
# 95 % of a normal distribution lies within this many standard deviations.
NORMAL_95: Final = 1.96
# 1 - 0.95 is a little more than 0.05.
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BlandAltman:
    """Mean difference and the limits within which 95 % of differences are expected."""

    bias: float
    low: float
    high: float


def in_words(estimate: dict[str, Any], form: str = "{:.3f}", to: str = " to ") -> str:
    """An estimate as text: "0.988 (0.979 to 0.996)"."""
    if estimate["value"] is None:
        return "-"
    value = form.format(estimate["value"])
    if estimate["low"] is None:
        return value
    return f"{value} ({form.format(estimate['low'])}{to}{form.format(estimate['high'])})"


def draw_patients(patients: int, draws: int = BOOTSTRAP_DRAWS, seed: int = BOOTSTRAP_SEED) -> Counts:
    """Bootstrap samples with replacement: how often each patient was drawn, int64 [draws, patients]."""
    if not patients:
        return np.zeros((draws, 0), np.int64)
    equal = np.full(patients, 1.0 / patients)
    return np.random.default_rng(seed).multinomial(patients, equal, size=draws).astype(np.int64)


def estimate(value: float, drawn: npt.ArrayLike) -> Estimate:
    """``value`` with the percentile interval of its bootstrap values; draws where it is NaN are left out."""
    values = np.asarray(drawn, np.float64)
    values = values[np.isfinite(values)]
    if not np.isfinite(value) or not values.size:
        return Estimate(float(value) if np.isfinite(value) else None)
    low, high = np.percentile(values, INTERVAL)
    return Estimate(float(value), float(low), float(high))


def resampled(
    statistic: Callable[[npt.NDArray[Any]], float], values: npt.NDArray[Any], counts: Counts
) -> Estimate:
    """``statistic`` of ``values`` [patients, ...] and its interval, computed anew for every draw."""
    drawn = [statistic(np.repeat(values, row, axis=0)) for row in counts] if len(values) > 1 else []
    return estimate(statistic(values), drawn)


def pooled_mean(sums: npt.ArrayLike, numbers: npt.ArrayLike, counts: Counts) -> Estimate:
    """sum(sums) / sum(numbers), both given per patient [patients], with its interval."""
    part, whole = np.asarray(sums, np.float64), np.asarray(numbers, np.float64)
    value = float(ratio(part.sum(), whole.sum()))
    several = np.count_nonzero(whole) > 1  # one patient drawn again and again would look certain
    return estimate(value, ratio(counts @ part, counts @ whole) if several else [])


def mean(values: Float64Array, counts: Counts) -> Estimate:
    """Mean of the defined values [patients], NaN where there is none, with its interval."""
    defined = np.isfinite(values)
    return pooled_mean(np.where(defined, values, 0.0), defined, counts)


def median(values: Float64Array) -> Estimate:
    """Median of the defined values [patients], with the interval over the patients who have one."""
    defined = values[np.isfinite(values)]
    if not defined.size:
        return Estimate(None)
    return resampled(lambda drawn: float(np.median(drawn)), defined, draw_patients(defined.size))


def rate(hits: npt.ArrayLike, of: npt.ArrayLike, counts: Counts) -> Estimate:
    """A pooled rate: hits and trials per patient [patients].

    Where all or none hit, the bootstrap has no spread and would claim certainty; the bound is then the exact
    binomial one with each patient as one trial (Hanley & Lippman-Hand, JAMA 1983;249:1743).
    """
    found = pooled_mean(hits, of, counts)
    patients = int((np.asarray(of) > 0).sum())
    if found.value == 1.0:
        return Estimate(1.0, ONE_SIDED ** (1 / patients), 1.0)
    if found.value == 0.0:
        return Estimate(0.0, 0.0, 1 - ONE_SIDED ** (1 / patients))
    return found


def auc(truth: BoolArray, probability: Float64Array) -> float:
    """Area under the ROC curve, NaN when one class is empty; arrays of any equal shape.

    The probability that a positive ranks above a negative, ties counting half: the Mann-Whitney statistic
    (Hanley & McNeil, Radiology 1982;143:29). Regions whose probability is NaN are left out.
    """
    known = np.isfinite(probability)
    hit = truth[known]
    positives = int(hit.sum())
    negatives = hit.size - positives
    ranks = stats.rankdata(probability[known])  # mean rank where tied
    above = float(ranks[hit].sum()) - positives * (positives + 1) / 2
    return float(ratio(above, positives * negatives))


def auc_draws(truth: BoolArray, probability: Float64Array, counts: Counts) -> Float64Array:
    """AUC of every bootstrap draw, float64 [draws]; ``truth`` and ``probability`` are [patients, regions].

    Each pair of patients contributes its pairs of a positive and a negative once, however often both are
    drawn; so the draws need only the table of wins between patients. NaN is left out, as in auc.
    """
    known = np.isfinite(probability)
    positive = truth & known
    rows = zip(positive, probability, strict=True)
    wins = np.stack([_wins(row[t], positive, probability) for t, row in rows])
    positives, negatives = positive.sum(axis=1), (known & ~truth).sum(axis=1)
    drawn = counts.astype(np.float64)
    pairs = (drawn @ positives) * (drawn @ negatives)
    return np.asarray(ratio(((drawn @ wins) * drawn).sum(axis=1), pairs), np.float64)


def auc_estimate(truth: BoolArray, probability: Float64Array, counts: Counts) -> Estimate:
    """AUC over all regions of all patients, with its interval; arrays [patients, regions]."""
    several = len(truth) > 1
    return estimate(auc(truth, probability), auc_draws(truth, probability, counts) if several else [])


def icc_2_1(ratings: Float64Array) -> float:
    """Intraclass correlation of single ratings [targets, raters]; NaN when nothing varies.

    Two-way random effects, absolute agreement, single rater: ICC(2,1) of Shrout & Fleiss, Psychol Bull
    1979;86:420, from the mean squares of targets (BMS), raters (JMS) and residual (EMS).
    """
    n, k = ratings.shape
    if n < 2:
        return float("nan")
    mean = ratings.mean()
    targets, raters = ratings.mean(axis=1), ratings.mean(axis=0)
    bms = k * float(((targets - mean) ** 2).sum()) / (n - 1)
    jms = n * float(((raters - mean) ** 2).sum()) / (k - 1)
    residual = ratings - targets[:, None] - raters[None, :] + mean
    ems = float((residual**2).sum()) / ((n - 1) * (k - 1))
    return float(ratio(bms - ems, bms + (k - 1) * ems + k * (jms - ems) / n))


def bland_altman(difference: Float64Array) -> BlandAltman | None:
    """Bias and limits of agreement of ``difference`` (measured minus true); None for fewer than two.

    Bland & Altman, Lancet 1986;327:307.
    """
    if difference.size < 2:
        return None
    bias, spread = float(difference.mean()), float(difference.std(ddof=1))
    return BlandAltman(bias, bias - NORMAL_95 * spread, bias + NORMAL_95 * spread)


def kappa(first: BoolArray, second: BoolArray) -> float:
    """Cohen's kappa of two yes/no ratings (Educ Psychol Meas 1960;20:37); NaN when chance explains all."""
    if not first.size:
        return float("nan")
    observed = float((first == second).mean())
    yes_1, yes_2 = float(first.mean()), float(second.mean())
    chance = yes_1 * yes_2 + (1 - yes_1) * (1 - yes_2)
    return float(ratio(observed - chance, 1 - chance))


def roc_curve(truth: BoolArray, probability: Float64Array) -> tuple[Float64Array, Float64Array]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct probability but NaN."""
    known = np.isfinite(probability)
    truth, probability = truth[known], probability[known]
    order = np.argsort(-probability, kind="stable")
    hit, score = truth[order], probability[order]
    last = np.append(np.flatnonzero(np.diff(score)), score.size - 1)  # of each group of ties
    true = np.append(0, np.cumsum(hit)[last])
    false = np.append(0, np.cumsum(~hit)[last])
    return np.asarray(ratio(false, false[-1]), float), np.asarray(ratio(true, true[-1]), float)


def sensitivity_at(
    specificity: float, truth: BoolArray, probability: Float64Array, counts: Counts
) -> Estimate:
    """Highest sensitivity of a cut that leaves at least ``specificity``; arrays [patients, regions].

    The cut is chosen on the very cases that it is judged by, as a point of their ROC curve is, and anew in
    every draw. NaN is left out.
    """
    value = _sensitivity_at(specificity, truth, probability, np.ones((1, len(truth)), np.int64))[0]
    several = len(truth) > 1
    return estimate(value, _sensitivity_at(specificity, truth, probability, counts) if several else [])


def _sensitivity_at(
    specificity: float, truth: BoolArray, probability: Float64Array, counts: Counts
) -> Float64Array:
    """One sensitivity per draw, NaN where a draw has no positive or no negative."""
    patient, region = np.nonzero(np.isfinite(probability))
    score = probability[patient, region]
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)  # of each group of ties
    hit, weight = truth[patient, region][order], counts[:, patient[order]]
    nothing = np.zeros((len(counts), 1))  # the cut above every probability
    true = np.hstack([nothing, np.cumsum(weight * hit, axis=1)[:, last]]) if score.size else nothing
    false = np.hstack([nothing, np.cumsum(weight * ~hit, axis=1)[:, last]]) if score.size else nothing
    allowed = ratio(false, false[:, -1:]) <= 1 - specificity + _ROUNDING
    best = np.where(allowed, ratio(true, true[:, -1:]), 0.0).max(axis=1)
    return np.where(false[:, -1] > 0, best, np.nan)


def _wins(positive: Float64Array, truth: BoolArray, probability: Float64Array) -> Float64Array:
    """How often ``positive`` probabilities beat the negatives of each patient, ties half; [patients].

    NaN is beaten by nothing.
    """
    wins = np.zeros(len(truth))
    for value in positive:
        beaten = (probability < value) + 0.5 * (probability == value)
        wins += np.where(truth, 0.0, beaten).sum(axis=1)
    return wins
