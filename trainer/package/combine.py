"""The weights that join a network's infarct map with the weight-free engine's, fitted on validation cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import optimize, special

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.regions import RegionId
from strokecore.arrays import BoolArray, Float32Array, Float64Array
from strokecore.head.canonical import canonical_head
from strokecore.learned.combination import Combination, VoxelWeights, region_map, voxel_opinions
from strokecore.learned.preprocessing import OUTSIDE_HU
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import Lesion
from trainer.data.cases import Case

# Voxels of one case that the weights are fitted on: neighbours say the same, so more add only time.
_VOXELS: Final = 20_000
_SEED: Final = 20261125
# Standard deviation of the Gaussian prior on each weight around a fair share of both opinions, and on the
# offset around 0: wide, it only keeps a fit from few voxels finite.
_WEIGHT_SD: Final = 1.0
_OFFSET_SD: Final = 5.0
_FAIR: Final = 0.5


@dataclass(frozen=True, eq=False)
class VoxelSample:
    """Voxels of one case, drawn at random inside its skull; all [n].

    Attributes
    ----------
    learned, asymmetry: log-odds of both opinions. region: of the voxel's region by both together, 0 outside.
    infarct: the truth. inside: in an ASPECTS region.
    """

    learned: Float32Array
    asymmetry: Float32Array
    region: Float32Array
    infarct: BoolArray
    inside: BoolArray


def weight_free(case: Case, atlas: Atlas) -> Lesion:
    """The weight-free engine's answer for a prepared case.

    A case holds the head and not all that the node measured on the way; brain and registration are done again
    from the densities, which are kept to 1/32 HU.
    """
    hu = case.hu.astype(np.float32)
    covered = hu > OUTSIDE_HU
    head = canonical_head(hu, covered, atlas, case.record.slice_thickness_mm)
    return AsymmetryEngine().segment(replace(head, regions=case.regions))


def voxel_sample(
    case: Case,
    learned: Float32Array,
    asymmetry: Float32Array,
    region_log_odds: Mapping[RegionId, float],
) -> VoxelSample:
    """Random voxels of both maps, float32 [z, y, x] infarct probability; ``region_log_odds`` by both."""
    places = np.flatnonzero(case.inside)
    rng = np.random.default_rng(_SEED)
    chosen = rng.choice(places, min(_VOXELS, len(places)), replace=False)
    mine, other = voxel_opinions(learned.ravel()[chosen], asymmetry.ravel()[chosen])
    regions = case.regions.ravel()[chosen]
    region = region_map(regions, region_log_odds)
    return VoxelSample(mine, other, region, case.lesion.ravel()[chosen], regions > 0)


def fit_combination(samples: list[VoxelSample]) -> Combination:
    """Weights of voxels in and outside the regions, over all cases together."""
    learned, asymmetry, region, infarct, inside = (
        np.concatenate([getattr(sample, name) for sample in samples])
        for name in ("learned", "asymmetry", "region", "infarct", "inside")
    )
    own = _fit([learned[inside], asymmetry[inside], region[inside]], infarct[inside])
    other = _fit([learned[~inside], asymmetry[~inside]], infarct[~inside])
    return Combination(
        AsymmetryEngine().sha256,
        VoxelWeights(own[0], own[1], own[-1], own[2]),
        VoxelWeights(other[0], other[1], other[-1]),
    )


def _fit(opinions: list[Float32Array], infarct: BoolArray) -> list[float]:
    """Logistic regression: one weight of 0 or more for each opinion, then the offset."""
    x = np.stack([*opinions, np.ones_like(opinions[0])], axis=1).astype(np.float64)
    y, count = infarct.astype(np.float64), len(opinions)
    prior = np.array([_FAIR] * count + [0.0])
    sd = np.array([_WEIGHT_SD] * count + [_OFFSET_SD])

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        z = x @ weights
        away = (weights - prior) / sd
        value = float(np.sum(np.logaddexp(0.0, z) - y * z) + 0.5 * np.sum(away**2))
        return value, x.T @ (special.expit(z) - y) + away / sd

    found = optimize.minimize(
        loss, prior, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * count + [(None, None)]
    )
    return [round(float(weight), 6) for weight in found.x]
