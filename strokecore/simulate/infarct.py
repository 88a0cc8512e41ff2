"""Lesions: acute infarct with borders of its own, old cavities and lacunes, and blood.py's haemorrhage.

Without ``involvement`` an infarct takes whole regions of a displaced copy of the person's; with it, it is one
smooth volume over parts of them (vascular.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, SUPRAGANGLIONIC, RegionId, Side
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.head.grid import on_side, voxel_volume_ml
from strokecore.simulate.anatomy import BaseHead
from strokecore.simulate.blood import draw_blood
from strokecore.simulate.scars import add_lacunes, cavity_profile, dig
from strokecore.simulate.shape import FINE_MM, Bending, perturbed, smooth_noise
from strokecore.simulate.solids import HEAD_SPACING_MM
from strokecore.simulate.spec import STREAM_INFARCT, STREAM_OUTLINE, Definition, SampleSpec
from strokecore.simulate.tissue import Person
from strokecore.simulate.true_regions import true_regions
from strokecore.simulate.vascular import infarct_profile

# A region is affected from the first share of its tissue on; from the second to the first nobody can say.
AFFECTED_SHARE: Final = 0.30
TOUCHED_SHARE: Final = 0.05
# Swelling closes sulci, not the ventricles and not the space under the vault.
_VENTRICLE_WALL_MM: Final = 3.0
_VAULT_MM: Final = 1.5
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
    tissue: float32 0-1, what is not fluid after swelling and cavities.
    own_regions: uint8, the person's 20 regions.
    drawn_regions: uint8, the copy of them that the infarct follows; ``own_regions`` where it follows none.
    numbers: JSON-ready volumes, and involvement and mean darkening per region.
    """

    infarct: Float32Array
    tissue: Float32Array
    own_regions: UInt8Array
    drawn_regions: UInt8Array
    numbers: dict[str, Any]


def add_lesions(spec: SampleSpec, head: BaseHead, person: Person, bending: Bending) -> LesionTruth:
    """Darken, empty or fill ``person.hu`` in place as the specification asks, and say what was done."""
    person = replace(person, grey=person.grey.copy(), white=person.white.copy())
    rng = spec.rng(STREAM_INFARCT)
    grid = person.brain_grid
    regions, drawable = _base_labels(head, spec.definition, spec.seed if spec.definition == "between" else 0)
    own = _bent(regions, head, bending)
    # Only lesions that follow labels need the displaced copy of them.
    if spec.involvement and not (spec.other_territory or spec.old_infarct or spec.old_territory):
        drawn = own
    else:
        drawn = _bent(perturbed(rng, drawable, head.spacing_mm), head, bending)
    patches = 1 + _INHOMOGENEITY * smooth_noise(rng, grid.shape, FINE_MM, _INHOMOGENEITY_LENGTH_MM)
    acute = _acute(spec, own, drawn, person)
    _swell(spec, person, acute)
    drop = _darken(spec, person, acute, patches, drawn)
    old = _add_scars(spec, person, drawn)
    blood = draw_blood(spec, person)
    tissue = np.where(person.inside, person.grey + person.white, 0).astype(np.float32)
    numbers = _numbers(spec, person, acute, tissue, drop, own, old) | blood.numbers
    follows = own if spec.involvement else np.where(drawn > len(ALL_REGIONS), 0, drawn).astype(np.uint8)
    return LesionTruth(acute * tissue, tissue, own, follows, numbers)


def _bent(labels: UInt8Array, head: BaseHead, bending: Bending) -> UInt8Array:
    return np.asarray(bending.bend(labels, head.origin_mm, head.spacing_mm, 0.0), np.uint8)


def _acute(spec: SampleSpec, own: UInt8Array, drawn: UInt8Array, person: Person) -> Float32Array:
    """How much of its depth the acute infarct has at each voxel, 0-1."""
    outside = [_OTHER_LABEL[pair] for pair in spec.other_territory]
    if not spec.involvement:
        return _soft_union(drawn, [r.label for r in spec.affected] + outside, spec.edge_mm)
    wanted: dict[Side, dict[int, float]] = {side: {} for side in SIDES}
    for region, share in zip(spec.affected, spec.involvement, strict=True):
        wanted[region.side][region.label] = share
    tissue = np.where(person.inside, person.grey + person.white, 0)
    partial = infarct_profile(spec.rng(STREAM_OUTLINE), own, tissue, person.brain_grid, wanted, spec.edge_mm)
    return np.maximum(partial, _soft_union(drawn, outside, spec.edge_mm))


def _swell(spec: SampleSpec, person: Person, acute: Float32Array) -> None:
    """Swollen cortex takes the place of a part of the fluid in the infarct's sulci (in place)."""
    if spec.swelling <= 0:
        return
    fluid = np.clip(1 - person.grey - person.white, 0, 1)
    sulcus = (person.ventricle_mm > _VENTRICLE_WALL_MM) & (person.intracranial_mm < -_VAULT_MM)
    moved = np.float32(spec.swelling) * acute * fluid * sulcus
    np.add(person.grey, moved, out=person.grey)
    person.hu[person.brain] += moved * np.float32(person.grey_hu - person.csf_hu)


def _darken(
    spec: SampleSpec, person: Person, acute: Float32Array, patches: Float32Array, drawn: UInt8Array
) -> Float32Array:
    """Take the infarct's depth from ``person.hu`` (in place); returns what was taken, HU."""
    weight = np.where(person.inside, person.grey + np.float32(spec.white_share) * person.white, 0)
    shape = acute * weight * np.clip(patches, 0.5, 1.5)
    if not spec.involvement:
        labels = [r.label for r in spec.affected] + [_OTHER_LABEL[pair] for pair in spec.other_territory]
        shape /= _mean_depth(shape, np.isin(drawn, labels) & person.inside & (person.grey > 0.5))
    drop = (spec.delta_hu * shape).astype(np.float32)
    if spec.supraganglionic_share < 1:
        upper = _soft_union(drawn, [r.label for r in ALL_REGIONS if r.name in SUPRAGANGLIONIC], spec.edge_mm)
        drop *= 1 - (1 - np.float32(spec.supraganglionic_share)) * upper
    person.hu[person.brain] -= drop
    return drop


def _add_scars(spec: SampleSpec, person: Person, drawn: UInt8Array) -> Float32Array:
    """Dig old cavities and lacunes (in place); returns the share of tissue that is gone, 0-1."""
    gone = person.grey + person.white
    outside = [_OTHER_LABEL[pair] for pair in spec.old_territory]
    if spec.rim_hu > 0 and (spec.old_infarct or outside):
        labels: dict[Side, list[int]] = {
            side: [r.label for r in spec.old_infarct if r.side == side]
            + [_OTHER_LABEL[pair] for pair in spec.old_territory if pair[1] == side]
            for side in SIDES
        }
        dig(person, cavity_profile(spec, drawn, labels, person), spec.rim_hu, spec.rim_mm)
    elif spec.old_infarct or outside:
        old = _soft_union(drawn, [r.label for r in spec.old_infarct] + outside, spec.edge_mm) * person.inside
        dig(person, np.clip(old * 1.15, 0, 1).astype(np.float32), 0.0, spec.rim_mm)
    if spec.lacunes:
        add_lacunes(spec, person)
    return np.asarray(gone - person.grey - person.white, np.float32)


def _mean_depth(shape: Float32Array, grey_inside: BoolArray) -> float:
    """Mean of ``shape`` in affected grey matter; less than 1 by soft edges and fluid.

    Dividing by it makes ``delta_hu`` the mean that is drawn. Where there is almost no grey matter, as in the
    internal capsule, nothing is scaled.
    """
    if np.count_nonzero(grey_inside) < _FEWEST_GREY_VOXELS:
        return 1.0
    return float(np.clip(shape[grey_inside].mean(), _LEAST_MEAN_DEPTH, 1.0))


def _soft_union(labels: UInt8Array, wanted: list[int], edge_mm: float) -> Float32Array:
    if not wanted:
        return np.zeros(labels.shape, np.float32)
    member = np.isin(labels, wanted).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(member, edge_mm / FINE_MM), np.float32)


@lru_cache(maxsize=2)
def _base_labels(head: BaseHead, definition: Definition, seed: int) -> tuple[UInt8Array, UInt8Array]:
    """The true regions on the base head's grid, and those that an infarct is drawn from."""
    regions = true_regions(head, definition, seed)
    drawable = _drawable_labels(head, regions)
    drawable.flags.writeable = False
    return regions, drawable


def _drawable_labels(head: BaseHead, regions: UInt8Array) -> UInt8Array:
    """A base head's regions and other territories, continued outwards to the skull.

    An infarct reaches the pia: a border moved inwards must not leave a rim of healthy cortex, so labels go on
    beyond the brain, where only fluid and bone are.
    """
    labels = _with_other_territories(head, regions)
    # Outside the brain every second voxel of a finer head says enough.
    step = 1 if head.spacing_mm >= HEAD_SPACING_MM else 2
    few = labels[::step, ::step, ::step]
    far, nearest = ndimage.distance_transform_edt(
        few == 0, sampling=head.spacing_mm * step, return_indices=True
    )
    continued = np.where(far < _PIA_REACH_MM, few[tuple(nearest)], 0).astype(np.uint8)
    for axis in range(3):
        continued = np.repeat(continued, step, axis=axis).take(range(labels.shape[axis]), axis=axis)
    surface = (labels == 0) & (head.intracranial_mm > -_PIA_DEPTH_MM)
    return np.where(surface, continued, labels).astype(np.uint8)


def _with_other_territories(head: BaseHead, labels: UInt8Array) -> UInt8Array:
    """Add cortical ACA and PCA territory, by coordinates, where no ASPECTS region is."""
    x, y, z = head.axes_mm
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
    acute: Float32Array,
    tissue: Float32Array,
    drop: Float32Array,
    own: UInt8Array,
    old: Float32Array,
) -> dict[str, Any]:
    x, _, _ = person.brain_grid.axes_mm
    voxel_ml = voxel_volume_ml((FINE_MM, FINE_MM, FINE_MM))

    def half_ml(mask: BoolArray) -> dict[str, float]:
        return {side: round(float(mask[:, :, on_side(x, side)].sum() * voxel_ml), 2) for side in SIDES}

    def row(region: RegionId) -> dict[str, Any]:
        place = own == region.label
        here = place & (tissue > 0.5)
        involved = float((acute[here] >= 0.5).mean()) if here.any() else 0.0
        lost = float((old[place] > 0.5).mean()) if place.any() else 0.0
        affected = involved >= AFFECTED_SHARE if spec.involvement else region in spec.affected
        return {
            "name": region.name,
            "side": region.side,
            "affected": affected,
            "involved_fraction": round(involved, 3),
            "judged": (affected or involved < TOUCHED_SHARE) and lost < AFFECTED_SHARE,
            "mean_drop_hu": round(float(drop[here].mean()), 3) if here.any() else None,
        }

    return {
        "infarct_ml": half_ml(acute * tissue > 0.5),
        "old_infarct_ml": half_ml(old > 0.5),
        "regions": [row(region) for region in ALL_REGIONS],
    }
