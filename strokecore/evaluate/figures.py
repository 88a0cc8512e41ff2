"""From outcomes to the figures that a study reports. Pure: no files, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, SIDES
from strokecore.arrays import BoolArray, Float64Array
from strokecore.evaluate import statistics as st
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.truth import Truth
from strokecore.scoring.aspects import FULL_SCORE

# Trials chose patients for thrombectomy by ASPECTS >= 6; >= 8 is the other customary cut (few early changes).
DICHOTOMIES: Final = (6, 8)
# Simulated heads without infarct must never lose this many points on a side.
FALSE_ALARM_SCORE: Final = 7


def summarise(outcomes: Sequence[Outcome], draws: int = st.BOOTSTRAP_DRAWS) -> dict[str, Any]:
    """All figures as JSON-ready values; docs/evaluation.md defines each. Needs at least one outcome.

    An estimate is {"value", "low", "high"}: the figure and its 95 % interval over patients.
    """
    counts = st.draw_patients(len(outcomes), draws)
    infarcts = sum(bool(o.truth.affected) for o in outcomes)
    return {
        "cases": {"all": len(outcomes), "with_infarct": infarcts, "without": len(outcomes) - infarcts},
        "processed": processed(outcomes, counts),
        "regions": regions(outcomes, counts),
        "aspects": aspects(outcomes, counts),
        "side": side(outcomes, counts),
        "without_infarct": without_infarct(outcomes),
        "infarct_ml": infarct_volume(outcomes, counts),
        "infarct_dice": infarct_dice(outcomes, counts),
        "seconds": seconds(outcomes),
    }


def processed(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Share of cases that were read, and the codes of those that got no score."""
    read = [o.processed for o in outcomes]
    codes = Counter(o.code for o in outcomes if o.code is not None)
    return {
        "fraction": asdict(st.rate(read, np.ones(len(read)), counts)),
        "by_status": dict(Counter(o.status for o in outcomes)),
        "not_scored_codes": dict(codes.most_common()),
    }


def regions(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """AUC, sensitivity and specificity over all regions, and for each region name (both sides together)."""
    truth = np.array([o.truth.regions for o in outcomes])
    called = np.array([o.affected for o in outcomes])
    probability = np.array([o.probability for o in outcomes])
    assessed = np.array([o.assessed for o in outcomes])
    sick = np.flatnonzero(truth.any(axis=1))
    by_name = {}
    for name in REGION_NAMES:
        columns = [i for i, region in enumerate(ALL_REGIONS) if region.name == name]
        by_name[name] = _regions(truth[:, columns], called[:, columns], probability[:, columns], counts)
    return {
        **_regions(truth, called, probability, counts),
        "auc_cases_with_infarct": asdict(_auc_of(sick, truth, probability, draws=len(counts))),
        "not_assessed": {
            "affected": int((truth & ~assessed).sum()),
            "normal": int((~truth & ~assessed).sum()),
        },
        "by_name": by_name,
    }


def aspects(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Agreement of the score with the truth: of all hemispheres, and of those that hold an infarct."""
    true = np.array([[o.truth.scores[s] for s in SIDES] for o in outcomes], float)
    found = np.array([[_number(o.scores[s]) for s in SIDES] for o in outcomes], float)
    affected = true < FULL_SCORE
    return {
        "hemispheres": _agreement(true, found, counts),
        "affected_hemispheres": _agreement(np.where(affected, true, np.nan), found, counts),
    }


def side(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """The affected side in cases with infarct: see side_answer."""
    answers = [side_answer(o.truth, o.side) if o.truth.affected else None for o in outcomes]
    correct = [a == "correct" for a in answers]
    return {
        "correct": asdict(st.rate(correct, [a is not None for a in answers], counts)),
        "answers": dict(Counter(a for a in answers if a is not None)),
    }


def side_answer(truth: Truth, found: str | None) -> str:
    """ "correct", "wrong_side", "both_called" (one is true), "one_of_two" (both are true) or "not_said"."""
    if found == truth.side:
        return "correct"
    if found is None:
        return "not_said"
    if found == "bilateral":
        return "both_called"
    return "one_of_two" if truth.side == "bilateral" else "wrong_side"


def without_infarct(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The hemispheres of heads without infarct: how many got a full score, and how many a false alarm."""
    scores = [o.scores[s] for o in outcomes if not o.truth.affected for s in SIDES]
    return {
        "hemispheres": len(scores),
        "exactly_10": sum(s == FULL_SCORE for s in scores),
        "at_most_7": sum(s is not None and s <= FALSE_ALARM_SCORE for s in scores),
        "not_scored": sum(s is None for s in scores),
    }


def infarct_volume(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Error of the acute infarct's volume, both sides together, where it is known and was measured; ml."""
    error = np.array([[_volume_error(o)] for o in outcomes])
    known = error[np.isfinite(error)]
    return {
        "cases": known.size,
        "median_absolute_error": float(np.median(np.abs(known))) if known.size else None,
        "bland_altman": _bland_altman(error, counts),
    }


def infarct_dice(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Overlap with the outlined infarct, in cases that have an outline and an infarct in it or found."""
    values = np.array([float("nan") if o.dice is None else o.dice for o in outcomes])
    known = np.isfinite(values)
    return {
        "cases": int(known.sum()),
        "mean": asdict(st.mean(values, counts)),
        "median": float(np.median(values[known])) if known.any() else None,
        "unusable_masks": sum(bool(o.mask_error) for o in outcomes),
    }


def seconds(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Time of the pipeline per case that was read."""
    taken = [o.seconds for o in outcomes if o.processed and o.seconds is not None]
    return {
        "cases": len(taken),
        "median": float(np.median(taken)) if taken else None,
        "p95": float(np.percentile(taken, 95)) if taken else None,
    }


def _regions(
    truth: BoolArray, called: BoolArray, probability: Float64Array, counts: st.Counts
) -> dict[str, Any]:
    return {
        "affected": int(truth.sum()),
        "normal": int((~truth).sum()),
        "auc": asdict(st.auc_estimate(truth, probability, counts)),
        "sensitivity": asdict(st.rate((called & truth).sum(axis=1), truth.sum(axis=1), counts)),
        "specificity": asdict(st.rate((~called & ~truth).sum(axis=1), (~truth).sum(axis=1), counts)),
    }


def _auc_of(chosen: st.Counts, truth: BoolArray, probability: Float64Array, draws: int) -> st.Estimate:
    """AUC of the patients with these indices, drawn among themselves."""
    if not chosen.size:
        return st.Estimate(None)
    return st.auc_estimate(truth[chosen], probability[chosen], st.draw_patients(chosen.size, draws))


def _agreement(true: Float64Array, found: Float64Array, counts: st.Counts) -> dict[str, Any]:
    """``true`` and ``found`` are scores [patients, sides], NaN where left out or not scored."""
    both = np.isfinite(true) & np.isfinite(found)
    pairs = np.stack([np.where(both, true, np.nan), np.where(both, found, np.nan)], axis=-1)
    difference = np.where(both, found - true, np.nan)
    known = both.sum(axis=1)
    return {
        "scored": int(both.sum()),
        "not_scored": int((np.isfinite(true) & ~both).sum()),
        "icc_2_1": asdict(st.resampled(lambda p: st.icc_2_1(_rows(p)), pairs, counts)),
        "bland_altman": _bland_altman(difference, counts),
        "exact": asdict(st.rate((difference == 0).sum(axis=1), known, counts)),
        "within_1": asdict(st.rate((np.abs(difference) <= 1).sum(axis=1), known, counts)),
        "dichotomies": {f">={cut}": _dichotomy(pairs, cut, counts) for cut in DICHOTOMIES},
    }


def _dichotomy(pairs: Float64Array, cut: int, counts: st.Counts) -> dict[str, Any]:
    """Agreement on "score >= cut"; sensitivity is the share of truly >= cut that is called so."""
    yes = pairs >= cut
    no = pairs < cut  # NaN is neither
    true_yes, found_yes, true_no, found_no = yes[..., 0], yes[..., 1], no[..., 0], no[..., 1]

    def agreement(drawn: npt.NDArray[Any]) -> float:
        first, second = (_rows(drawn) >= cut).T
        return st.kappa(first, second)

    return {
        "true_at_or_above": int(true_yes.sum()),
        "true_below": int(true_no.sum()),
        "sensitivity": asdict(st.rate((true_yes & found_yes).sum(axis=1), true_yes.sum(axis=1), counts)),
        "specificity": asdict(st.rate((true_no & found_no).sum(axis=1), true_no.sum(axis=1), counts)),
        "kappa": asdict(st.resampled(agreement, pairs, counts)),
    }


def _rows(pairs: Float64Array) -> Float64Array:
    """The pairs that were scored, [n, 2], of pairs [patients, sides, 2]."""
    rows = pairs.reshape(-1, 2)
    return rows[np.isfinite(rows[:, 0])]


def _bland_altman(difference: Float64Array, counts: st.Counts) -> dict[str, Any]:
    """Bias with its interval and limits of agreement of differences [patients, sides]; NaN is left out."""
    known = np.isfinite(difference)
    limits = st.bland_altman(difference[known])
    return {
        "bias": asdict(st.pooled_mean(np.nansum(difference, axis=1), known.sum(axis=1), counts)),
        "limits": None if limits is None else [limits.low, limits.high],
    }


def _volume_error(outcome: Outcome) -> float:
    found, true = outcome.infarct_ml, outcome.truth.infarct_ml
    return float("nan") if found is None or true is None else sum(found.values()) - sum(true.values())


def _number(score: int | None) -> float:
    return float("nan") if score is None else float(score)
