"""The weights that join a network's infarct map with the weight-free engine's, fitted on validation cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.placed import place_atlas
from strokecore.anatomy.registration import register_atlas
from strokecore.brain import segment_brain
from strokecore.engines.asymmetry import AsymmetryEngine
from strokecore.engines.base import Head, Lesion
from strokecore.engines.combination import Combination, VoxelWeights, voxel_opinions
from strokecore.frame import CANONICAL_GRID
from trainer.data.augment import OUTSIDE_HU
from trainer.data.cases import Case

Floats = npt.NDArray[np.float64]

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
    learned, asymmetry: log-odds of both opinions. infarct: the truth. inside: in an ASPECTS region.
    """

    learned: npt.NDArray[np.float32]
    asymmetry: npt.NDArray[np.float32]
    infarct: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]


def weight_free(case: Case, atlas: Atlas) -> Lesion:
    """The weight-free engine's answer for a prepared case.

    A case holds the head and not all that the node measured on the way; brain and registration are done again
    from the densities, which are kept to 1/32 HU.
    """
    hu = case.hu.astype(np.float32)
    covered = hu > OUTSIDE_HU
    brain = segment_brain(hu, CANONICAL_GRID, covered)
    registration = register_atlas(hu, brain, CANONICAL_GRID, covered, atlas)
    placed = place_atlas(atlas, registration, CANONICAL_GRID, brain, covered)
    head = Head(
        hu=hu,
        grid=CANONICAL_GRID,
        brain=brain,
        regions=case.regions,
        grey=placed.grey,
        tissue=placed.tissue,
        covered=covered,
        slice_thickness_mm=case.record.slice_thickness_mm,
    )
    return AsymmetryEngine().segment(head)


def voxel_sample(
    case: Case, learned: npt.NDArray[np.float32], asymmetry: npt.NDArray[np.float32]
) -> VoxelSample:
    """Random voxels of both maps, float32 [z, y, x] infarct probability."""
    places = np.flatnonzero(case.inside)
    rng = np.random.default_rng(_SEED)
    chosen = rng.choice(places, min(_VOXELS, len(places)), replace=False)
    mine, other = voxel_opinions(learned.ravel()[chosen], asymmetry.ravel()[chosen])
    return VoxelSample(mine, other, case.lesion.ravel()[chosen], case.regions.ravel()[chosen] > 0)


def fit_combination(samples: list[VoxelSample]) -> Combination:
    """Weights of voxels in and outside the regions, over all cases together."""
    learned, asymmetry, infarct, inside = (
        np.concatenate([getattr(sample, name) for sample in samples])
        for name in ("learned", "asymmetry", "infarct", "inside")
    )
    fitted = [
        _fit(learned[part].astype(float), asymmetry[part].astype(float), infarct[part].astype(float))
        for part in (inside, ~inside)
    ]
    return Combination(AsymmetryEngine().sha256, *fitted)


def _fit(learned: Floats, asymmetry: Floats, infarct: Floats) -> VoxelWeights:
    """Logistic regression with weights of 0 or more."""
    x = np.stack([learned, asymmetry, np.ones_like(learned)], axis=1)
    prior, sd = np.array([_FAIR, _FAIR, 0.0]), np.array([_WEIGHT_SD, _WEIGHT_SD, _OFFSET_SD])

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = x @ weights
        away = (weights - prior) / sd
        value = float(np.sum(np.logaddexp(0.0, z) - infarct * z) + 0.5 * np.sum(away**2))
        return value, x.T @ (special.expit(z) - infarct) + away / sd

    found = optimize.minimize(
        loss, prior, jac=True, method="L-BFGS-B", bounds=[(0.0, None), (0.0, None), (None, None)]
    )
    return VoxelWeights(*(round(float(weight), 6) for weight in found.x))
