"""A trained model and the weight-free engine as one opinion.

The two look at different things: the network at texture and shape that it was trained on, the weight-free
engine at the densities of mirror regions of this person. Their log-odds are added with weights that the
trainer fitted on validation cases (a logistic model of two experts' opinions: Genest & Zidek, "Combining
probability distributions", Statist Sci 1986;1:114, sec. 3). Old infarct, what may be measured and what is
unknown are the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from strokecore.anatomy.regions import RegionId
from strokecore.arrays import Float3D, UInt8Array
from strokecore.scoring.decision import LOGIT_LIMIT
from strokecore.scoring.engine import Lesion


@dataclass(frozen=True)
class VoxelWeights:
    """Log-odds of infarct in a voxel: learned * network's + asymmetry * weight-free engine's + offset.

    Inside a region also ``region`` times the log-odds that both opinions together give the region, so that
    what is outlined and what is called affected rest on the same evidence.
    """

    learned: float
    asymmetry: float
    offset: float
    region: float = 0.0


@dataclass(frozen=True)
class Combination:
    """How a package's map is joined with the weight-free engine's.

    Attributes
    ----------
    asymmetry_sha256: of the weight-free engine that the weights were fitted with.
    inside, outside: weights of voxels in and outside the ASPECTS regions, where the weight-free engine has
        other criteria.
    """

    asymmetry_sha256: str
    inside: VoxelWeights
    outside: VoxelWeights


def log_odds(probability: Float3D) -> Float3D:
    """Logit of probabilities, cut off at LOGIT_LIMIT; any shape."""
    edge = 1.0 / (1.0 + np.exp(LOGIT_LIMIT))
    p = np.clip(probability, edge, 1.0 - edge)
    return np.asarray(np.log(p / (1.0 - p)), np.float32)


def voxel_opinions(learned: Float3D, weight_free: Float3D) -> tuple[Float3D, Float3D]:
    """Log-odds of both infarct maps (0-1, same shape).

    The weight-free engine judges no voxel on the border of brain and fluid and says exactly 0 there: the
    network's opinion then stands for its own.
    """
    mine = log_odds(learned)
    return mine, np.where(weight_free > 0, log_odds(weight_free), mine)


def combined(
    learned: Float3D,
    weight_free: Float3D,
    regions: UInt8Array,
    region_log_odds: Mapping[RegionId, float],
    weights: Combination,
    called_from: float = 0.0,
) -> Float3D:
    """Joined infarct probability; all arrays [z, y, x], ``regions`` RegionId.label or 0.

    Parameters
    ----------
    region_log_odds: of the regions by both opinions; one that was not judged counts as even.
    called_from: log-odds from which a region is called affected. In such a region what the weight-free engine
        outlines is outlined too: the network draws the small deep regions thinner than a finding must be to
        count.
    """
    mine, other = voxel_opinions(learned, weight_free)
    inside, outside = (
        w.learned * mine + w.asymmetry * other + w.offset for w in (weights.inside, weights.outside)
    )
    of_region = region_map(regions, region_log_odds)
    inside = inside + np.float32(weights.inside.region) * of_region
    joined = np.asarray(1.0 / (1.0 + np.exp(-np.where(regions > 0, inside, outside))), np.float32)
    called = region_map(regions, {r: value - called_from for r, value in region_log_odds.items()}) > 0
    return np.where(called, np.maximum(joined, weight_free), joined)


def region_map(regions: UInt8Array, values: Mapping[RegionId, float]) -> Float3D:
    """Each region's value, cut off at LOGIT_LIMIT, in its voxels; 0 elsewhere."""
    table = np.zeros(256, np.float32)
    for region, value in values.items():
        table[region.label] = np.clip(value, -LOGIT_LIMIT, LOGIT_LIMIT)
    return table[regions]


def region_opinions(weight_free: Lesion) -> dict[RegionId, float]:
    """Log-odds that the weight-free engine gives each region, without those that it could not judge."""
    return {
        region: float(log_odds(np.float32(found.probability)))  # type: ignore[arg-type]
        for region, found in weight_free.evidence.items()
        if found.probability is not None
    }
