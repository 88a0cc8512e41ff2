"""Lesions: acute infarct in atlas regions with borders of its own, old cavities, and blood.py's bleeding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, SUPRAGANGLIONIC, RegionId
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.head.grid import on_side, voxel_volume_ml
from strokecore.simulate.anatomy import AverageHead, average_head
from strokecore.simulate.blood import draw_blood
from strokecore.simulate.shape import FINE_MM, Warp, bend, perturbed, smooth_noise
from strokecore.simulate.solids import HEAD_SPACING_MM, head_axes
from strokecore.simulate.spec import STREAM_INFARCT, SampleSpec
from strokecore.simulate.tissue import OLD_CAVITY_HU, Person

# White matter takes up less water early and starts darker: it loses about 70 % of what grey matter loses, so
# that grey-white contrast is lost as well.
WHITE_SHARE: Final = 0.7
EDGE_SIGMA_MM: Final = 1.4  # gives an edge of about 2 mm either side of the border
_FEWEST_GREY_VOXELS: Final = 300  # about half a millilitre
_LEAST_MEAN_DEPTH: Final = 0.6  # thin regions such as the insula are mostly edge: their core stays plausible
_INHOMOGENEITY: Final = 0.12
_INHOMOGENEITY_LENGTH_MM: Final = 7.0
# Labels are continued where the skull is nearer than the first and another region nearer than the second.
_PIA_DEPTH_MM: Final = 3.5
_PIA_REACH_MM: Final = 9.0
# Labels above the 20 regions, inside this module only: acute infarct in another artery's territory.
_OTHER_LABEL: Final = {
    ("ACA", "left"): 101,
    ("ACA", "right"): 102,
    ("PCA", "left"): 103,
    ("PCA", "right"): 104,
}


@dataclass(frozen=True, eq=False)
class LesionTruth:
    """What was drawn, on the brain's part of the fine grid [z, y, x].

    Attributes
    ----------
    infarct: float32 0-1, acute infarct's fraction (tissue only).
    own_regions: uint8, the person's 20 regions; ``drawn_regions``: the perturbed copy the infarct follows.
    numbers: JSON-ready volumes and mean darkening per region.
    """

    infarct: Float32Array
    own_regions: UInt8Array
    drawn_regions: UInt8Array
    numbers: dict[str, Any]


def add_lesions(spec: SampleSpec, head: AverageHead, person: Person, warp: Warp) -> LesionTruth:
    """Darken, empty or fill ``person.hu`` in place as the specification asks, and say what was done."""
    rng = spec.rng(STREAM_INFARCT)
    grid = person.brain_grid
    hu = person.hu[person.brain]
    drawn_average = perturbed(rng, _drawable_labels())
    own, drawn = (
        np.asarray(bend(labels, head.origin_mm, warp.brain, grid, 0.0), np.uint8)
        for labels in (head.labels, drawn_average)
    )
    tissue = np.where(person.inside, person.grey + person.white, 0).astype(np.float32)
    patches = 1 + _INHOMOGENEITY * smooth_noise(rng, grid.shape, FINE_MM, _INHOMOGENEITY_LENGTH_MM)
    acute_labels = [r.label for r in spec.affected] + [_OTHER_LABEL[pair] for pair in spec.other_territory]
    acute = _soft_union(drawn, acute_labels)
    weight = np.where(person.inside, person.grey + WHITE_SHARE * person.white, 0)
    shape = acute * weight * np.clip(patches, 0.5, 1.5)
    grey_inside = np.isin(drawn, acute_labels) & person.inside & (person.grey > 0.5)
    drop = (spec.delta_hu * shape / _mean_depth(shape, grey_inside)).astype(np.float32)
    if spec.supraganglionic_share < 1:
        upper = _soft_union(drawn, [r.label for r in ALL_REGIONS if r.name in SUPRAGANGLIONIC])
        drop *= 1 - (1 - np.float32(spec.supraganglionic_share)) * upper
    hu -= drop
    old = _soft_union(drawn, [r.label for r in spec.old_infarct]) * person.inside
    hu += np.clip(old * 1.15, 0, 1) * tissue * (OLD_CAVITY_HU - hu)
    blood = draw_blood(spec, person)
    infarct = (acute * tissue).astype(np.float32)
    numbers = _numbers(spec, person, infarct, drop, drawn, old * tissue) | blood.numbers
    return LesionTruth(infarct, own, np.where(drawn > len(ALL_REGIONS), 0, drawn).astype(np.uint8), numbers)


def _mean_depth(shape: Float32Array, grey_inside: BoolArray) -> float:
    """Mean of ``shape`` in affected grey matter; less than 1 by soft edges and fluid.

    Dividing by it makes ``delta_hu`` the mean that is drawn. Where there is almost no grey matter, as in the
    internal capsule, nothing is scaled.
    """
    if np.count_nonzero(grey_inside) < _FEWEST_GREY_VOXELS:
        return 1.0
    return float(np.clip(shape[grey_inside].mean(), _LEAST_MEAN_DEPTH, 1.0))


def _soft_union(labels: UInt8Array, wanted: list[int]) -> Float32Array:
    if not wanted:
        return np.zeros(labels.shape, np.float32)
    member = np.isin(labels, wanted).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(member, EDGE_SIGMA_MM / FINE_MM), np.float32)


@cache
def _drawable_labels() -> UInt8Array:
    """The average head's regions and other territories, continued outwards to the skull.

    An infarct reaches the pia: a border moved inwards must not leave a rim of healthy cortex, so labels go on
    beyond the brain, where only fluid and bone are.
    """
    head = average_head()
    labels = _with_other_territories(head.labels)
    far, nearest = ndimage.distance_transform_edt(labels == 0, sampling=HEAD_SPACING_MM, return_indices=True)
    surface = (head.intracranial_mm > -_PIA_DEPTH_MM) & (far < _PIA_REACH_MM)
    out = np.where(surface, labels[tuple(nearest)], labels).astype(np.uint8)
    out.flags.writeable = False
    return out


def _with_other_territories(labels: UInt8Array) -> UInt8Array:
    """Add cortical ACA and PCA territory, by coordinates, where no ASPECTS region is."""
    x, y, z = head_axes()
    ax, yy, zz = np.abs(x)[None, None, :], y[None, :, None], z[:, None, None]
    anterior = (ax < 15) & (yy < 0) & (yy > -80) & (zz > 14)
    posterior = (ax < 38) & (yy > 62) & (zz > -14) & (zz < 30)
    out = labels.copy()
    for side in SIDES:
        here = on_side(x, side)[None, None, :]
        out[anterior & here & (labels == 0)] = _OTHER_LABEL["ACA", side]
        out[posterior & here & (labels == 0)] = _OTHER_LABEL["PCA", side]
    return out


def _numbers(
    spec: SampleSpec,
    person: Person,
    infarct: Float32Array,
    drop: Float32Array,
    drawn: UInt8Array,
    old: Float32Array,
) -> dict[str, Any]:
    x, _, _ = person.brain_grid.axes_mm
    voxel_ml = voxel_volume_ml((FINE_MM, FINE_MM, FINE_MM))
    core = infarct > 0.5
    tissue = (person.grey + person.white > 0.5) & person.inside

    def mean_drop(region: RegionId) -> float | None:
        here = tissue & (drawn == region.label)
        return round(float(drop[here].mean()), 3) if here.any() else None

    def half_ml(mask: BoolArray) -> dict[str, float]:
        return {side: round(float(mask[:, :, on_side(x, side)].sum() * voxel_ml), 2) for side in SIDES}

    return {
        "infarct_ml": half_ml(core),
        "old_infarct_ml": half_ml(old > 0.5),
        "regions": [
            {"name": r.name, "side": r.side, "affected": r in spec.affected, "mean_drop_hu": mean_drop(r)}
            for r in ALL_REGIONS
        ],
    }
