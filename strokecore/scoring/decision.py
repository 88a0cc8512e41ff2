"""From a region's measurements to a calibrated probability; fitted on simulated heads of real people.

Two steps. First a logistic model per group of regions over the three measurements of evidence.py, each in
units of its scatter in people without infarct (noise of the image included, so that a noisy scan decides
less). Then the company of a region: a vessel feeds several regions of one side, and a scan that makes many
regions of both sides look ill is to be trusted less. The constants stand in decision.json beside this file
with what they were fitted on; tests/studies/decision.py fits them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

import numpy as np

from strokecore.anatomy.regions import GANGLIONIC, REGION_NAMES, RegionId
from strokecore.scoring.evidence import Evidence

# A region this many standard deviations brighter than in people without a lesion is not healthy.
BRIGHT_SD: Final = 2.0
# One region alone must not decide for its whole side.
COMPANY_LIMIT: Final = 4.0
NO_COMPANY: Final = -2.0
# Beyond this a log-odds only says "sure".
LOGIT_LIMIT: Final = 8.0
GROUPS: Final[Mapping[str, str]] = {
    name: name if name in ("C", "L", "IC", "I") else "ganglionic" if name in GANGLIONIC else "supraganglionic"
    for name in REGION_NAMES
}
"""Which regions share weights: the small deep ones stand alone, the M regions of a level together."""


@dataclass(frozen=True)
class Weights:
    """Log-odds = offset - the sum of weight * measurement in units of its scatter; darker is more likely."""

    offset: float
    difference: float
    local: float
    level: float


@dataclass(frozen=True)
class Company:
    """Log-odds = offset + own * the region's + same_side and other_side * the mean of the regions there."""

    offset: float
    own: float
    same_side: float
    other_side: float


@dataclass(frozen=True)
class Normal:
    """One region name in people without infarct, HU.

    Attributes
    ----------
    difference_sd, local_sd, level_sd: scatter between people, image noise apart.
    local_mean: the darker part of a healthy region is darker than its mirror by this.
    level_mean: what the region's typical density differs from the person's level by.
    """

    difference_sd: float
    local_sd: float
    level_sd: float
    local_mean: float
    level_mean: float


class Judgement(NamedTuple):
    """A region's calibrated probability, and whether other borders of the region decide otherwise."""

    probability: float
    borderline: bool


@dataclass(frozen=True)
class Decision:
    """The fitted model.

    Attributes
    ----------
    threshold: probability from which a region is called affected.
    slope, offset: of the calibration (Platt 1999), from the mean of the opinions to the log-odds.
    normal: by region name. weights, alone: by group; ``alone`` for a region without a comparable mirror.
    """

    threshold: float
    slope: float
    offset: float
    normal: Mapping[str, Normal]
    weights: Mapping[str, Weights]
    alone: Mapping[str, Weights]
    company: Mapping[str, Company]

    def judge(self, opinions: Mapping[RegionId, Sequence[Evidence]]) -> dict[RegionId, Judgement]:
        """The regions' calibrated probabilities, and whether a call depends on where the borders are.

        ``opinions``: the measurements of every region that could be judged, first with the borders that the
        head has, then with others.
        """
        odds = {region: [self.log_odds(region, e) for e in each] for region, each in opinions.items()}
        means = {region: float(np.mean(each)) for region, each in odds.items()}
        judged = {}
        for region, each in odds.items():
            sides = mean_of_others(means, region)
            probability, *others = (
                self._probability(region, value, *sides) for value in (means[region], *each)
            )
            called = [value >= self.threshold for value in others]
            judged[region] = Judgement(probability, any(called) and not all(called))
        return judged

    def log_odds(self, region: RegionId, found: Evidence) -> float:
        """Log-odds by one opinion on the region's borders, before the calibration."""
        difference, local, level = in_units(found, self.normal[region.name])
        if difference is None or local is None:
            weights = self.alone[GROUPS[region.name]]
            return weights.offset - weights.level * level
        weights = self.weights[GROUPS[region.name]]
        return (
            weights.offset - weights.difference * difference - weights.local * local - weights.level * level
        )

    def _probability(self, region: RegionId, own: float, same_side: float, other_side: float) -> float:
        company = self.company[GROUPS[region.name]]
        together = (
            company.offset
            + company.own * own
            + company.same_side * same_side
            + company.other_side * other_side
        )
        value = np.clip(self.slope * together + self.offset, -LOGIT_LIMIT, LOGIT_LIMIT)
        return 1.0 / (1.0 + float(np.exp(-value)))


def mean_of_others(log_odds: Mapping[RegionId, float], region: RegionId) -> tuple[float, float]:
    """Mean log-odds of the other regions of this side, and of the other side's; each within COMPANY_LIMIT.

    A side without a judged region says what most healthy sides do.
    """
    sides = []
    for side in (region.side, region.mirror.side):
        values = [value for other, value in log_odds.items() if other.side == side and other != region]
        sides.append(float(np.mean(np.clip(values, -COMPANY_LIMIT, COMPANY_LIMIT))) if values else NO_COMPANY)
    return sides[0], sides[1]


def in_units(found: Evidence, normal: Normal) -> tuple[float | None, float | None, float]:
    """Difference, local and level in units of their scatter; None without a mirror.

    A mirror that is brighter than healthy tissue is no reference for the part above: blood, calcium or
    contrast on one side must not darken the other.
    """
    level = _units(found.level_hu - normal.level_mean, normal.level_sd, found.error_hu)
    if found.difference_hu is None or found.local_hu is None:
        return None, None, level
    mirror_hu = found.level_hu - found.difference_hu - normal.level_mean
    too_bright = max(0.0, mirror_hu - BRIGHT_SD * normal.level_sd)
    error = found.error_hu * float(np.sqrt(2.0))  # both sides bring their noise
    return (
        _units(found.difference_hu + too_bright, normal.difference_sd, error),
        _units(found.local_hu - normal.local_mean + too_bright, normal.local_sd, error),
        level,
    )


@cache
def load_decision() -> Decision:
    """The model that ships."""
    return decision_from(json.loads(decision_text()))


def decision_text() -> str:
    """The shipped constants as they are written; part of the engine's hash."""
    return resources.files("strokecore.scoring").joinpath("decision.json").read_text(encoding="utf-8")


def decision_from(record: Mapping[str, Any]) -> Decision:
    """The model that ``decision.json`` holds."""
    return Decision(
        threshold=float(record["threshold"]),
        slope=float(record["calibration"]["slope"]),
        offset=float(record["calibration"]["offset"]),
        normal={name: Normal(**values) for name, values in record["normal"].items()},
        weights={name: Weights(**values) for name, values in record["weights"].items()},
        alone={name: Weights(**values) for name, values in record["alone"].items()},
        company={name: Company(**values) for name, values in record["company"].items()},
    )


def _units(value_hu: float, sd_hu: float, error_hu: float) -> float:
    return value_hu / float(np.hypot(sd_hu, error_hu))
