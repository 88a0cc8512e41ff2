"""Thresholds of a trained network, fitted on validation cases through the node's own functions.

Three things are fitted: the infarct probability from which a voxel is outlined, and for each region the
logistic curve from its aggregated evidence to the probability that it is affected (Platt, "Probabilistic
outputs for support vector machines", 1999). A region name has few affected cases, so its slope and offset
are drawn towards those of all regions together; the evidence of left and right is pooled. Last, the
probability from which a region is called, by what it does to healthy hemispheres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy import optimize, special

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, SIDES
from strokecore.arrays import BoolArray, Float64Array
from strokecore.errors import UsageError
from strokecore.evaluate.statistics import auc
from strokecore.learned.package import Calibration
from strokecore.scoring.engine import REGION_THRESHOLD
from trainer.measure.thresholds import THRESHOLDS, ranked
from trainer.package.evidence import Decisions, Evidence

# False infarct that halves the worth of a healthy head's answer: the engine keeps what is larger than 0.7 ml,
# and a lesion of a few ml can already turn a region.
FREE_ML: Final = 5.0
# Standard deviations of the Gaussian priors. Of all regions together: the slope's logarithm around 0 (the
# network's own scale) and the offset around 0. Of one region around all: what about ten affected
# cases can overrule.
_SLOPE_SD: Final = 0.5
_OFFSET_SD: Final = 5.0
_REGION_SLOPE_SD: Final = 0.2
_REGION_OFFSET_SD: Final = 1.0
# With two opinions each starts from a fair share of the evidence.
_FAIR_SHARE: Final = 0.5
# A false finding in a healthy brain is what a reader forgives least, so the regions are cut by the healthy
# hemispheres: nine in ten are to stay at 10 in new heads, and the fit flatters itself a little.
CLEAN_SHARE: Final = 0.92
FEWEST_CLEAN: Final = 40
MIRROR_WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75)
_CUTS: Final = (0.2, 0.8)


def ranked_thresholds(dice: Float64Array, called_ml: Float64Array) -> list[float]:
    """Thresholds by the mean worth of their outlines, the best first.

    A case with infarct is worth its Dice, one without FREE_ML / (FREE_ML + outlined ml): Dice alone, which
    healthy heads do not have, drives the threshold down until every head has an outline.

    Parameters
    ----------
    dice, called_ml: as in Evidence.

    Raises
    ------
    UsageError: no case has an infarct.
    """
    with_infarct: BoolArray = ~np.all(np.isnan(dice), axis=1)
    if not with_infarct.any():
        raise UsageError(
            "no validation case has an infarct, so no lesion threshold can be chosen; prepare data with "
            "infarcts in the validation split."
        )
    means = np.where(with_infarct[:, None], dice, FREE_ML / (FREE_ML + called_ml)).mean(axis=0)
    return ranked(means)


def fit_calibration(
    log_odds: Float64Array, affected: BoolArray, asymmetry: Float64Array | None = None
) -> dict[str, Calibration]:
    """Slope (above 0), offset and, with two opinions, weight of the other one of every region name.

    Arguments as in Evidence. What the weight-free engine could not judge is left out, as on the node.
    """
    opinions = [log_odds] if asymmetry is None else [log_odds, asymmetry]
    known = ~np.any([np.isnan(opinion) for opinion in opinions], axis=0)
    x, y = np.stack([opinion[known] for opinion in opinions]), affected[known].astype(np.float64)
    number, count = len(REGION_NAMES), len(opinions)
    names = np.broadcast_to([REGION_NAMES.index(region.name) for region in ALL_REGIONS], known.shape)[known]
    # one row per opinion's slope (its logarithm), the last for the offset; first column: all regions together
    centre = np.zeros((count + 1, 1 + number))
    centre[:-1, 0] = np.log(1.0 if count == 1 else _FAIR_SHARE)
    scale = np.empty_like(centre)
    scale[:-1], scale[-1] = _REGION_SLOPE_SD, _REGION_OFFSET_SD
    scale[:-1, 0], scale[-1, 0] = _SLOPE_SD, _OFFSET_SD

    def curves(parameters: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Slopes [opinions, names] and offsets [names]."""
        added = parameters[:, :1] + parameters[:, 1:]
        return np.exp(added[:-1]), added[-1]

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        """Minus the log of the posterior, and its gradient."""
        parameters = flat.reshape(centre.shape)
        slopes, offsets = curves(parameters)
        terms = slopes[:, names] * x
        z = terms.sum(axis=0) + offsets[names]
        wrong = special.expit(z) - y
        by_name = np.stack([np.bincount(names, wrong * part, number) for part in (*terms, np.ones_like(z))])
        away = (parameters - centre) / scale
        value = float(np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * np.sum(away**2))
        gradient = np.concatenate([by_name.sum(axis=1, keepdims=True), by_name], axis=1) + away / scale
        return value, gradient.ravel()

    found = optimize.minimize(loss, centre.ravel(), jac=True, method="L-BFGS-B")
    slopes, offsets = curves(np.asarray(found.x).reshape(centre.shape))
    return {
        name: Calibration(
            round(float(slopes[0, at]), 6),
            round(float(offsets[at]), 6),
            round(float(slopes[1, at]), 6) if count == 2 else 0.0,
        )
        for at, name in enumerate(REGION_NAMES)
    }


def fit_regions(
    log_odds: Float64Array, affected: BoolArray, judged: BoolArray, asymmetry: Float64Array | None = None
) -> Decisions:
    """Curves of every region name, what they take off for the mirror's sake, and where they are cut.

    Arguments as in Evidence. Of MIRROR_WEIGHTS the one whose curves explain the truth best.
    """
    other = np.zeros_like(log_odds) if asymmetry is None else asymmetry
    best: tuple[float, Decisions] | None = None
    for weight in MIRROR_WEIGHTS:
        evidence = mirrored(log_odds, weight)
        curves = fit_calibration(np.where(judged, evidence, np.nan), affected, asymmetry)
        probability = probabilities(curves, evidence, other)
        known = judged & ~np.isnan(probability)
        loss = _log_loss(affected[known], probability[known])
        if best is None or loss < best[0]:
            best = loss, Decisions(curves, clean_cut(probability, affected, judged), weight)
    assert best is not None, "there is a weight to try"
    return best[1]


def mirrored(log_odds: Float64Array, weight: float) -> Float64Array:
    """strokecore.learned.engine.against_mirror of many cases, [cases, 20]."""
    partner = log_odds[:, [ALL_REGIONS.index(region.mirror) for region in ALL_REGIONS]]
    return log_odds - weight * np.where(np.isnan(partner), log_odds, partner)


def _log_loss(truth: BoolArray, probability: Float64Array) -> float:
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(truth, np.log(p), np.log(1 - p))))


def probabilities(
    calibration: Mapping[str, Calibration], log_odds: Float64Array, asymmetry: Float64Array
) -> Float64Array:
    """Of every region, float64 [cases, 20]; NaN where one of the opinions is."""
    slope, other, shift = (
        np.array([getattr(calibration[region.name], name) for region in ALL_REGIONS])
        for name in ("slope", "asymmetry", "offset")
    )
    return np.asarray(special.expit(slope * log_odds + other * asymmetry + shift))


def clean_cut(probability: Float64Array, affected: BoolArray, judged: BoolArray) -> float:
    """The probability from which a region is called, so that CLEAN_SHARE of the healthy hemispheres stay 10.

    Parameters
    ----------
    probability, affected, judged: [cases, 20], see Evidence; a hemisphere with a region that the truth does
        not judge is not counted as healthy.

    Returns
    -------
    REGION_THRESHOLD where there are fewer than FEWEST_CLEAN healthy hemispheres.
    """
    highest: list[float] = []
    for side in SIDES:
        mine = np.array([region.side == side for region in ALL_REGIONS])
        clean = judged[:, mine].all(axis=1) & ~affected[:, mine].any(axis=1)
        clean &= ~np.isnan(probability[:, mine]).all(axis=1)
        highest += np.nanmax(probability[np.ix_(clean, mine)], axis=1).tolist() if clean.any() else []
    if len(highest) < FEWEST_CLEAN:
        return REGION_THRESHOLD
    cut = float(np.clip(np.quantile(highest, CLEAN_SHARE, method="higher"), *_CUTS))
    return math.ceil(cut * 1000) / 1000


def figures(evidence: Evidence, threshold: float, decisions: Decisions) -> dict[str, Any]:
    """What the fit reaches on the cases it was made from, which flatter it; JSON-ready, None: undefined."""
    at = THRESHOLDS.index(threshold)
    asymmetry = np.zeros_like(evidence.log_odds) if evidence.asymmetry is None else evidence.asymmetry
    known = evidence.judged & ~np.isnan(evidence.log_odds) & ~np.isnan(asymmetry)
    y = evidence.affected[known]
    compared = mirrored(evidence.log_odds, decisions.mirror_weight)
    probability = probabilities(decisions.calibration, compared, asymmetry)[known]
    outlined = evidence.outlined[..., at][known]
    called = (probability >= decisions.threshold) & outlined
    dice = evidence.dice[:, at]
    sick = ~np.isnan(dice)
    return {
        "cases": len(dice),
        "with_infarct": int(sick.sum()),
        "dice_mean": _rounded(np.mean(dice[sick])) if sick.any() else None,
        "dice_median": _rounded(np.median(dice[sick])) if sick.any() else None,
        "false_ml_without_infarct": _rounded(np.mean(evidence.called_ml[~sick, at]))
        if (~sick).any()
        else None,
        "regions": int(known.sum()),
        "regions_affected": int(y.sum()),
        "affected_by_name": {
            name: int(evidence.affected[:, [r.name == name for r in ALL_REGIONS]].sum())
            for name in REGION_NAMES
        },
        "region_auc": _rounded(auc(y, probability)),
        "region_sensitivity": _rounded(np.mean(called[y])) if y.any() else None,
        "region_specificity": _rounded(np.mean(~called[~y])) if (~y).any() else None,
        "region_brier": _rounded(np.mean((probability - y) ** 2)) if y.size else None,
        "probable_not_outlined": int(((probability >= decisions.threshold) & ~outlined).sum()),
    }


def _rounded(value: Any) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 4)
