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
from strokecore.evaluate.calibration import calibration
from strokecore.evaluate.detection import detection
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.truth import Blood, Truth
from strokecore.scoring.aspects import FULL_SCORE

# Trials chose patients for thrombectomy by ASPECTS >= 6; >= 8 is the other customary cut (few early changes).
DICHOTOMIES: Final = (6, 8)
# Simulated heads without infarct must never lose this many points on a side.
FALSE_ALARM_SCORE: Final = 7
# The confounder's name of a simulated head that has none.
PLAIN: Final = "plain"
# Small haemorrhages are hard to see, those of 10 ml and more are not to be missed.
BLOOD_EDGES_ML: Final = (2, 10)


def summarise(outcomes: Sequence[Outcome], draws: int = st.BOOTSTRAP_DRAWS) -> dict[str, Any]:
    """All figures as JSON-ready values; docs/evaluation.md defines each. Needs at least one outcome.

    An estimate is {"value", "low", "high"}: the figure and its 95 % interval over patients.
    """
    persons = sorted({o.truth.person for o in outcomes if o.truth.person is not None})
    by_person = {name: [o for o in outcomes if o.truth.person == name] for name in persons}
    return {
        **_summary(outcomes, draws),
        "by_person": {name: _summary(theirs, draws) for name, theirs in by_person.items()},
    }


def _summary(outcomes: Sequence[Outcome], draws: int) -> dict[str, Any]:
    counts = st.draw_patients(len(outcomes), draws)
    return {
        "cases": {
            "all": len(outcomes),
            "with_infarct": sum(bool(o.truth.affected) for o in outcomes),
            "with_blood": sum(o.truth.blood is not None for o in outcomes),
            "without": sum(o.truth.clean for o in outcomes),
        },
        "processed": processed(outcomes, counts),
        "regions": regions(outcomes, counts),
        "detection": detection(outcomes, draws),
        "calibration": calibration(outcomes, counts),
        "aspects": aspects(outcomes, counts),
        "side": side(outcomes, counts),
        "without_infarct": without_infarct(outcomes, draws),
        "blood": blood(outcomes, draws),
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
    judged = np.array([o.truth.judged for o in outcomes])
    called = np.array([o.affected for o in outcomes])
    probability = np.where(judged, np.array([o.probability for o in outcomes]), np.nan)
    assessed = np.array([o.assessed for o in outcomes])
    borderline = np.array([o.borderline for o in outcomes])
    sick = np.flatnonzero(truth.any(axis=1))
    by_name = {}
    for name in REGION_NAMES:
        columns = [i for i, region in enumerate(ALL_REGIONS) if region.name == name]
        by_name[name] = _regions(truth[:, columns], called[:, columns], probability[:, columns], counts)
    return {
        **_regions(truth, called, probability, counts),
        "auc_cases_with_infarct": asdict(_auc_of(sick, truth, probability, draws=len(counts))),
        "not_judged": int((~judged).sum()),
        "not_assessed": _of_judged(~assessed, truth, judged),
        "borderline": _of_judged(borderline, truth, judged),
        "by_name": by_name,
    }


def _of_judged(which: BoolArray, truth: BoolArray, judged: BoolArray) -> dict[str, int]:
    """How many regions of ``which`` are truly affected, and how many normal."""
    return {"affected": int((which & truth & judged).sum()), "normal": int((which & ~truth & judged).sum())}


def aspects(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Agreement of the score with the truth: of all hemispheres, and of those that hold an infarct."""
    true = np.array([[o.truth.scores[s] for s in SIDES] for o in outcomes], float)
    found = np.array([[_number(o.scores[s]) for s in SIDES] for o in outcomes], float)
    affected = true < FULL_SCORE
    return {
        "hemispheres": _agreement(true, found, counts),
        "affected_hemispheres": _agreement(np.where(affected, true, np.nan), found, counts),
        "range": _range(outcomes, true, counts),
    }


def _range(outcomes: Sequence[Outcome], true: Float64Array, counts: st.Counts) -> dict[str, Any]:
    """How often the range that the node allows for holds the truth, and how wide it is, in points."""
    limits = np.array([[o.ranges[s] or (np.nan, np.nan) for s in SIDES] for o in outcomes], float)
    low, high = limits[..., 0], limits[..., 1]
    given = np.isfinite(low)
    holds = given & (low <= true) & (true <= high)
    width = np.where(given, high - low, 0.0)
    return {
        "hemispheres": int(given.sum()),
        "coverage": asdict(st.rate(holds.sum(axis=1), given.sum(axis=1), counts)),
        "width": asdict(st.pooled_mean(width.sum(axis=1), given.sum(axis=1), counts)),
        "median_width": float(np.median(width[given])) if given.any() else None,
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


def without_infarct(outcomes: Sequence[Outcome], draws: int = st.BOOTSTRAP_DRAWS) -> dict[str, Any]:
    """Hemispheres without infarct: full scores and false alarms, of clean heads and opposite an infarct.

    ``by_confounder`` has the clean heads in which one thing alone imitates an infarct, and what it costs: the
    mean points that a hemisphere loses, beside those of PLAIN heads.
    """
    clean = [o for o in outcomes if o.truth.clean]
    opposite = [o for o in outcomes if o.truth.clean_sides and not o.truth.clean]
    counts = st.draw_patients(len(clean), draws)
    withheld = [o.status == "withheld" for o in clean]
    return {
        **_clean_hemispheres(clean, draws),
        "withheld": asdict(st.rate(withheld, np.ones(len(clean)), counts)),
        "opposite_an_infarct": _clean_hemispheres(opposite, draws),
        "all": _clean_hemispheres([*clean, *opposite], draws),
        "by_confounder": _by_confounder(clean, draws),
    }


def _clean_hemispheres(outcomes: Sequence[Outcome], draws: int) -> dict[str, Any]:
    """Of the clean hemispheres of these cases; the share is of those that were scored.

    ``painted_unwarned`` counts those with a score of 10 and an acute infarct in the outputs all the same, of
    heads without any warning.
    """
    counts = st.draw_patients(len(outcomes), draws)
    scores = np.array(
        [[_number(o.scores[s]) if s in o.truth.clean_sides else np.nan for s in SIDES] for o in outcomes]
    )
    scores = scores.reshape(len(outcomes), len(SIDES))
    scored = np.isfinite(scores)
    sides = sum(len(o.truth.clean_sides) for o in outcomes)
    painted = [
        not o.warnings and o.scores[s] == FULL_SCORE and o.infarct_ml is not None and o.infarct_ml[s] > 0
        for o in outcomes
        for s in o.truth.clean_sides
    ]
    return {
        "hemispheres": sides,
        "exactly_10": int((scores == FULL_SCORE).sum()),
        "at_most_7": int((scores <= FALSE_ALARM_SCORE).sum()),
        "not_scored": sides - int(scored.sum()),
        "share_exactly_10": asdict(st.rate((scores == FULL_SCORE).sum(axis=1), scored.sum(axis=1), counts)),
        "points_lost": asdict(st.pooled_mean(_lost(scores), scored.sum(axis=1), counts)),
        "painted_unwarned": sum(painted),
    }


def _by_confounder(clean: Sequence[Outcome], draws: int) -> dict[str, Any]:
    """_clean_hemispheres of each confounder, with ``cost``: points lost per hemisphere more than in PLAIN."""
    names = sorted({o.truth.confounder for o in clean if o.truth.confounder is not None})
    heads = {name: [o for o in clean if o.truth.confounder == name] for name in names}
    found = {name: _clean_hemispheres(theirs, draws) for name, theirs in heads.items()}
    plain = found.get(PLAIN, {"points_lost": {"value": None}})["points_lost"]["value"]
    for row in found.values():
        lost = row["points_lost"]["value"]
        row["cost"] = None if lost is None or plain is None else lost - plain
    return found


def blood(outcomes: Sequence[Outcome], draws: int = st.BOOTSTRAP_DRAWS) -> dict[str, Any]:
    """Haemorrhage by kind and size: how often the node suspects it, whether or not it withholds the score."""
    kinds = sorted({_kind(o.truth.blood) for o in outcomes if o.truth.blood})
    found = {}
    for kind in kinds:
        suspected = [o.blood for o in outcomes if o.truth.blood and _kind(o.truth.blood) == kind]
        counts = st.draw_patients(len(suspected), draws)
        rate = st.rate(suspected, np.ones(len(suspected)), counts)
        found[kind] = {"cases": len(suspected), "found": asdict(rate)}
    return found


def _kind(found: Blood) -> str:
    """ "parenchymal, 2 to 10 ml": places and sizes that a reader takes for different things."""
    low = max(edge for edge in (0, *BLOOD_EDGES_ML) if edge <= found.ml)
    above = [edge for edge in BLOOD_EDGES_ML if edge > low]
    return f"{found.place}, {low} to {above[0]} ml" if above else f"{found.place}, {low} ml or more"


def _lost(scores: Float64Array) -> Float64Array:
    """Points that each patient's hemispheres lost, NaN being a hemisphere that does not count."""
    return np.asarray(np.nansum(FULL_SCORE - scores, axis=1), np.float64)


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
    """``probability`` is NaN where a region is not judged."""
    judged = np.isfinite(probability)
    sick, well = truth & judged, ~truth & judged
    return {
        "affected": int(sick.sum()),
        "normal": int(well.sum()),
        "auc": asdict(st.auc_estimate(truth, probability, counts)),
        "sensitivity": asdict(st.rate((called & sick).sum(axis=1), sick.sum(axis=1), counts)),
        "specificity": asdict(st.rate((~called & well).sum(axis=1), well.sum(axis=1), counts)),
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
        "mean_absolute_error": asdict(st.pooled_mean(np.nansum(np.abs(difference), axis=1), known, counts)),
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
