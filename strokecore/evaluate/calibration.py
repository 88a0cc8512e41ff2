"""What a region's probability is worth: how often it holds, and the cut that a site may set by it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import optimize, special

from strokecore.anatomy.regions import ALL_REGIONS, DEEP
from strokecore.arrays import BoolArray, Float64Array, ratio
from strokecore.evaluate import statistics as st
from strokecore.evaluate.outcomes import Outcome
from strokecore.files import write_atomically

REGION_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "C L IC I": DEEP,
    "M1-M3": ("M1", "M2", "M3"),
    "M4-M6": ("M4", "M5", "M6"),
}
# Ten bins of equal width (Guo et al., ICML 2017: expected calibration error).
BINS: Final = 10
# A site's decision point keeps this share of hemispheres without infarct at exactly 10.
KEPT: Final = 0.85
# Of fewer hemispheres the 85th percentile is one hemisphere's whim.
FEWEST_HEMISPHERES: Final = 20
REGION_CUT_FILE: Final = "region_cut.json"
_REGION_CUT_SCHEMA: Final = 1
_DIGITS: Final = 4
# Of the regions that nobody is sure of; the sure ones are many and hide how well the others are judged.
DOUBTFUL: Final = (0.1, 0.9)
_NEVER_SURE: Final = (1e-6, 1 - 1e-6)


def calibration(outcomes: Sequence[Outcome], counts: st.Counts) -> dict[str, Any]:
    """Expected calibration error and reliability of the regions that were assessed, all and by group."""
    found = {"all": _calibration(outcomes, [r.name for r in ALL_REGIONS], counts)}
    return found | {group: _calibration(outcomes, names, counts) for group, names in REGION_GROUPS.items()}


def reliability(truth: BoolArray, probability: Float64Array) -> list[dict[str, float]]:
    """Regions sorted into BINS by their probability: how many, their mean probability, the share affected."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "regions": int((place == number).sum()),
            "probability": float(probability[place == number].mean()),
            "affected": float(truth[place == number].mean()),
        }
        for number in np.unique(place)
    ]


def calibration_error(truth: BoolArray, probability: Float64Array) -> float:
    """Mean difference of probability and share affected over the bins, weighted by their regions."""
    if not truth.size:
        return float("nan")
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    # regions x (probability - share) of a bin is the sum of its differences
    return float(np.abs(np.bincount(place, probability - truth)).sum() / truth.size)


def brier_skill(truth: BoolArray, probability: Float64Array) -> float:
    """1 - Brier score / that of the affected share for every region (Murphy, J Appl Meteorol 1973;12:595).

    NaN where all regions are affected, or none.
    """
    share = float(np.mean(truth)) if truth.size else 0.0
    if share in (0.0, 1.0):
        return float("nan")
    return 1.0 - float(np.mean((probability - truth) ** 2)) / (share * (1.0 - share))


def calibration_slope(truth: BoolArray, probability: Float64Array) -> float:
    """Slope of a logistic curve from the probabilities' log-odds to the truth: below 1 they are too extreme.

    Cox, Biometrika 1958;45:562. NaN where all regions are affected, or none, or all probabilities are equal.
    """
    log_odds = special.logit(np.clip(probability, *_NEVER_SURE))
    if truth.size == 0 or truth.all() or not truth.any() or np.ptp(log_odds) == 0:
        return float("nan")

    def loss(line: Float64Array) -> tuple[float, Float64Array]:
        z = line[0] * log_odds + line[1]
        wrong = special.expit(z) - truth
        return float(np.sum(np.logaddexp(0.0, z) - truth * z)), np.array([wrong @ log_odds, wrong.sum()])

    return float(optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS").x[0])


def region_cut(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """The lowest cut on the region probability that keeps KEPT of the hemispheres without infarct at 10.

    None for fewer than FEWEST_HEMISPHERES. The node calls regions affected from the cut on.
    """
    peaks = sorted(peak for o in outcomes for peak in _peaks(o))
    if len(peaks) < FEWEST_HEMISPHERES:
        return None
    last_kept = peaks[math.ceil(KEPT * len(peaks)) - 1]
    step = 10.0**-_DIGITS
    threshold = min(round((math.floor(last_kept / step) + 1) * step, _DIGITS), 1 - step)
    return {
        "schema": _REGION_CUT_SCHEMA,
        "threshold": threshold,
        "hemispheres_without_infarct": len(peaks),
        "kept": round(float(np.mean(np.array(peaks) < threshold)), _DIGITS),
    }


def write_region_cut(study: Path, record: dict[str, Any]) -> Path:
    """Write region_cut.json, with its origin, beside ``study`` (study.json, its content is ``record``)."""
    origin = {
        "made_from": hashlib.sha256(study.read_bytes()).hexdigest(),
        "date": record["date"],
        "model": {key: record["model"][key] for key in ("name", "version", "sha256", "engine")},
        "software": record["software"],
    }
    path = study.parent / REGION_CUT_FILE
    write_atomically(path, (json.dumps(record["region_cut"] | origin, indent=1) + "\n").encode())
    return path


def _peaks(outcome: Outcome) -> list[float]:
    """The highest probability of each hemisphere without infarct that was assessed."""
    rows = list(zip(ALL_REGIONS, outcome.probability, outcome.assessed, strict=True))
    known = {
        side: [p for r, p, seen in rows if seen and r.side == side] for side in outcome.truth.clean_sides
    }
    return [max(values) for values in known.values() if values]


def _calibration(outcomes: Sequence[Outcome], names: Sequence[str], counts: st.Counts) -> dict[str, Any]:
    columns = [number for number, region in enumerate(ALL_REGIONS) if region.name in names]
    truth = np.array([o.truth.regions for o in outcomes])[:, columns]
    counted = np.array([np.logical_and(o.truth.judged, o.assessed) for o in outcomes])[:, columns]
    probability = np.array([o.probability for o in outcomes])[:, columns]
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    # per patient and bin, so that a draw needs only sums
    per_bin = np.stack(
        [np.where(counted & (place == b), probability - truth, 0).sum(axis=1) for b in range(BINS)]
    )
    regions = counted.sum(axis=1)
    drawn = np.abs(counts @ per_bin.T).sum(axis=1)
    several = len(outcomes) > 1
    value = calibration_error(truth[counted], probability[counted])
    doubtful = counted & (probability >= DOUBTFUL[0]) & (probability <= DOUBTFUL[1])
    return {
        "regions": int(regions.sum()),
        "expected_calibration_error": asdict(
            st.estimate(value, ratio(drawn, counts @ regions) if several else [])
        ),
        "reliability": reliability(truth[counted], probability[counted]),
        "doubtful_error": _number(calibration_error(truth[doubtful], probability[doubtful])),
        "brier_skill": _number(brier_skill(truth[counted], probability[counted])),
        "slope": _number(calibration_slope(truth[counted], probability[counted])),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
