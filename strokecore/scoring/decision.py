"""From a region's measurements to a calibrated probability; fitted on simulated heads of real people.

Two steps. First a logistic model per group of regions over the measurements of evidence.py, each in units of
its scatter in people without infarct (noise of the image and scatter of this head included, so that a poor
scan decides less). Then the company of a region: a vessel feeds several regions of one side, and a scan that
makes many regions of both sides look ill is to be trusted less. The constants stand in decision.json beside
this file with what they were fitted on; tests/studies/decision.py fits them.
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
# So many of the drawings of a region must disagree with the rest before its call is in doubt: there are
# eight, and one border moved by 3 mm nearly always finds something.
DISSENT: Final = 2
# One region alone must not decide for its whole side.
COMPANY_LIMIT: Final = 2.0
NO_COMPANY: Final = -2.0
# How dark a region is against this person's brain speaks for infarct fully up to the limit and with the share
# beyond, where there is a mirror: how bright a nucleus is differs between scanners, on both sides alike.
LEVELS_LIMIT: Final = 1.5
LEVELS_BEYOND: Final = 0.4
# A head's scatter counts between these multiples of the usual one: nobody was fitted beyond.
SCATTER_LIMITS: Final = (0.75, 1.4)
# Beyond this a log-odds only says "sure".
LOGIT_LIMIT: Final = 8.0
GROUPS: Final[Mapping[str, str]] = {
    name: name if name in ("C", "L", "IC", "I") else "ganglionic" if name in GANGLIONIC else "supraganglionic"
    for name in REGION_NAMES
}
"""Which regions share weights: the small deep ones stand alone, the M regions of a level together."""


@dataclass(frozen=True)
class Weights:
    """Log-odds = offset - the sum of weight * measurement in units of its scatter, by tissue.QUANTILES.

    What the levels speak for is ``bounded`` where there are differences.

    A darker bright part makes infarct likelier; the weight of the dark part is negative where it tells of
    sulci.
    """

    offset: float
    differences: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Company:
    """Log-odds = offset + own * the region's + each weight * what the other regions say (see company_of)."""

    offset: float
    own: float
    same_side: float
    strongest: float
    other_side: float


@dataclass(frozen=True)
class Normal:
    """One region name in people without infarct, HU, by tissue.QUANTILES.

    Attributes
    ----------
    differences_sd, levels_sd: scatter between people, image noise apart.
    levels_mean: what the region differs from the person's brain by.
    """

    differences_sd: tuple[float, ...]
    levels_sd: tuple[float, ...]
    levels_mean: tuple[float, ...]


@dataclass(frozen=True)
class Scatter:
    """How the scatter of one head's blocks (Evidence.scatter_hu) carries over to that of its regions.

    Attributes
    ----------
    usual_hu: in the median head.
    differences_power, levels_power: a region's scatter in this head is Normal's times
        (scatter_hu / usual_hu) ** power.
    """

    usual_hu: float
    differences_power: float
    levels_power: float

    def of_head(self, scatter_hu: float | None) -> tuple[float, float]:
        """Factors on the scatter of differences and levels."""
        if scatter_hu is None:
            return 1.0, 1.0
        ratio = float(np.clip(scatter_hu / self.usual_hu, *SCATTER_LIMITS))
        return ratio**self.differences_power, ratio**self.levels_power


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
    normal: by region name; scatter: what makes one head differ from it.
    weights, alone: by group; ``alone`` for a region without a comparable mirror.
    company: by group, how much the other regions count.
    """

    threshold: float
    slope: float
    offset: float
    normal: Mapping[str, Normal]
    scatter: Scatter
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
            others = company_of(means, region)
            probability, *redrawn = (
                self._probability(region, value, others) for value in (means[region], *each)
            )
            called = [value >= self.threshold for value in redrawn]
            dissent = min(sum(called), len(called) - sum(called))
            judged[region] = Judgement(
                probability, dissent >= DISSENT if len(called) > DISSENT else dissent > 0
            )
        return judged

    def log_odds(self, region: RegionId, found: Evidence) -> float:
        """Log-odds by one opinion on the region's borders, before the calibration."""
        differences, levels = in_units(found, self.normal[region.name], self.scatter)
        group = GROUPS[region.name]
        if differences is None:
            weights = self.alone[group]
            return weights.offset - _weighted(weights.levels, levels)
        weights = self.weights[group]
        by_levels = bounded(-_weighted(weights.levels, levels))
        return weights.offset - _weighted(weights.differences, differences) + by_levels

    def _probability(self, region: RegionId, own: float, others: tuple[float, float, float]) -> float:
        company = self.company[GROUPS[region.name]]
        same_side, strongest, other_side = others
        together = (
            company.offset
            + company.own * own
            + company.same_side * same_side
            + company.strongest * strongest
            + company.other_side * other_side
        )
        value = np.clip(self.slope * together + self.offset, -LOGIT_LIMIT, LOGIT_LIMIT)
        return 1.0 / (1.0 + float(np.exp(-value)))


def company_of(log_odds: Mapping[RegionId, float], region: RegionId) -> tuple[float, float, float]:
    """What the other regions say: mean of this side, of its two likeliest, and of the other side.

    Each region within COMPANY_LIMIT; a side without a judged region says what most healthy sides do.
    """
    same, other = (
        sorted(
            min(max(value, -COMPANY_LIMIT), COMPANY_LIMIT)
            for name, value in log_odds.items()
            if name.side == side and name != region
        )
        for side in (region.side, region.mirror.side)
    )
    return _mean(same), _mean(same[-2:]), _mean(other)


def bounded(by_levels: float) -> float:
    """The log-odds that the levels may add beside differences."""
    return min(by_levels, LEVELS_LIMIT) + LEVELS_BEYOND * max(0.0, by_levels - LEVELS_LIMIT)


def _weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    """Their scalar product."""
    return sum(w * value for w, value in zip(weights, values, strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else NO_COMPANY


def in_units(
    found: Evidence, normal: Normal, scatter: Scatter
) -> tuple[tuple[float, ...] | None, tuple[float, ...]]:
    """Differences and levels in units of their scatter in such a head; no differences without a mirror.

    A mirror that is brighter than healthy tissue is no reference for the part above: blood, calcium or
    contrast on one side must not darken the other.
    """
    of_differences, of_levels = scatter.of_head(found.scatter_hu)
    levels = tuple(
        _units(value - mean, sd * of_levels, found.error_hu)
        for value, mean, sd in zip(found.levels_hu, normal.levels_mean, normal.levels_sd, strict=True)
    )
    if found.differences_hu is None:
        return None, levels
    error = found.error_hu * float(np.sqrt(2.0))  # both sides bring their noise
    differences = []
    for at, value in enumerate(found.differences_hu):
        mirror_hu = found.levels_hu[at] - value - normal.levels_mean[at]
        too_bright = max(0.0, mirror_hu - BRIGHT_SD * normal.levels_sd[at])
        differences.append(_units(value + too_bright, normal.differences_sd[at] * of_differences, error))
    return tuple(differences), levels


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
        normal={name: Normal(**_tuples(values)) for name, values in record["normal"].items()},
        scatter=Scatter(**record["scatter"]),
        weights={name: Weights(**_tuples(values)) for name, values in record["weights"].items()},
        alone={name: Weights(**_tuples(values)) for name, values in record["alone"].items()},
        company={name: Company(**values) for name, values in record["company"].items()},
    )


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _units(value_hu: float, sd_hu: float, error_hu: float) -> float:
    return value_hu / float(np.hypot(sd_hu, error_hu))
