"""The shape of an infarct: one smooth volume that takes a wanted share of each of several regions.

An infarct ends where collateral blood arrives, not at a region's border: its shape is the level set of a
random field that falls with the distance from the vessels' ways through it, with one level per region so
that the wanted share of it is reached. It wanders into neighbours and into white matter outside all regions.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, special

from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.head.grid import on_side
from strokecore.simulate.shape import FineGrid, enlarged, smooth_noise

_STEP: Final = 2  # levels are found on every second voxel
# The field: (correlation length mm, weight), and the distance from the vessels over which it falls by one.
_FIELD: Final = ((14.0, 1.0), (6.0, 0.45))
_CORE_MM: Final = 18.0
# Levels change from region to region over this length; outside the regions the field falls by one over this.
_LEVEL_MM: Final = 5.0
_OUTSIDE_MM: Final = 5.0
_REACH_MM: Final = 10.0
_ROUNDS: Final = 6
_MOST: Final = 0.97  # the level of a whole region is set by its last voxel, far down the field
_SMALL_SHARE: Final = 0.15  # a part smaller than this share of the infarct is no infarct of its own
_MARGIN_MM: Final = 14.0  # beyond three times the widest blur


def infarct_profile(
    rng: np.random.Generator,
    regions: UInt8Array,
    tissue: Float32Array,
    grid: FineGrid,
    wanted: dict[Side, dict[int, float]],
    edge_mm: float,
) -> Float32Array:
    """How much of its full depth the infarct has at each voxel, 0-1; 0.5 at its border.

    Parameters
    ----------
    regions: labels [z, y, x] of the person's true regions, on ``grid``; tissue: 0-1, not fluid.
    wanted: per side, the share to take of the tissue of each label.
    edge_mm: the border's blur, Gaussian sigma.
    """
    profile = np.zeros(regions.shape, np.float32)
    for side in SIDES:
        here = on_side(grid.axes_mm[0], side)[None, None, :]
        shares = wanted.get(side, {})
        present = {label: min(share, _MOST) for label, share in shares.items() if (regions == label).any()}
        if not present:
            continue
        inside = _level_set(rng, regions, tissue > 0.5, here, grid, present)
        profile = np.maximum(profile, _blurred(inside, grid.spacing_mm, edge_mm))
    return profile


def _level_set(
    rng: np.random.Generator,
    regions: UInt8Array,
    tissue: BoolArray,
    here: BoolArray,
    grid: FineGrid,
    wanted: dict[int, float],
) -> BoolArray:
    """The infarct of one side without blur; bool [z, y, x]."""
    coarse = np.s_[::_STEP, ::_STEP, ::_STEP]
    labels, spacing = regions[coarse], grid.spacing_mm * _STEP
    union = np.isin(labels, list(wanted))
    height = sum(weight * smooth_noise(rng, labels.shape, spacing, length) for length, weight in _FIELD)
    height = np.asarray(height, np.float32)
    height -= _from_vessels(rng, [labels == label for label in wanted], spacing) / np.float32(_CORE_MM)
    out_mm, nearest = ndimage.distance_transform_edt(~union, sampling=spacing, return_indices=True)
    height -= (out_mm / _OUTSIDE_MM).astype(np.float32)
    height[~np.broadcast_to(here[..., ::_STEP], labels.shape) | (out_mm > _REACH_MM)] = -np.inf
    owner = labels[tuple(nearest)]
    places = {label: (labels == label) & tissue[coarse] for label in wanted}
    levels = {
        label: np.quantile(height[place], 1 - wanted[label]) for label, place in places.items() if place.any()
    }
    above = height
    for _ in range(_ROUNDS):
        table = np.zeros(256, np.float32)
        table[list(levels)] = list(levels.values())
        above = height - ndimage.gaussian_filter(table[owner], _LEVEL_MM / spacing)
        kept = _without_small_parts(above > 0)
        above = np.where(kept | (above <= 0), above, -1)
        for label, place in places.items():
            if place.any():
                levels[label] += np.quantile(above[place], 1 - wanted[label])
    above = np.maximum(above, -5)
    return np.asarray(enlarged(np.asarray(above, np.float32), _STEP, regions.shape) > 0)


def _from_vessels(rng: np.random.Generator, places: list[BoolArray], spacing_mm: float) -> Float32Array:
    """Millimetres from the infarct's core, a random point of it, or from a straight way to each region.

    Parts in several regions hang together because they reach each other along these ways.
    """
    points = [np.argwhere(place) for place in places]
    start = points[int(rng.integers(len(points)))]
    core = start[int(rng.integers(len(start)))].astype(np.float32)
    grid = [
        np.arange(n, dtype=np.float32).reshape([-1 if a == k else 1 for k in range(3)])
        for a, n in enumerate(places[0].shape)
    ]
    nearest = np.full(places[0].shape, np.inf, np.float32)
    for here in points:
        entry = here[np.argmin(((here - core) ** 2).sum(axis=1))]
        way = (entry + here.mean(axis=0)) / 2 - core
        from_core = [g - c for g, c in zip(grid, core, strict=True)]
        along = sum(d * w for d, w in zip(from_core, way, strict=True)) / max(float(way @ way), 1.0)
        along = np.clip(along, 0, 1)
        squared = sum((d - along * w) ** 2 for d, w in zip(from_core, way, strict=True))
        nearest = np.minimum(nearest, squared)
    return np.asarray(np.sqrt(nearest) * spacing_mm, np.float32)


def _without_small_parts(mask: BoolArray) -> BoolArray:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= _SMALL_SHARE * sizes.sum())[parts])


def _blurred(inside: BoolArray, spacing_mm: float, edge_mm: float) -> Float32Array:
    """A border whose profile is a Gaussian's integral over the distance to it: blur that does not shrink."""
    profile = np.zeros(inside.shape, np.float32)
    if not inside.any():
        return profile
    margin = int(np.ceil(_MARGIN_MM / spacing_mm))
    box = tuple(
        slice(max(0, found.start - margin), found.stop + margin)
        for found in ndimage.find_objects(inside.astype(np.uint8))[0]
    )
    image = sitk.GetImageFromArray(inside[box].astype(np.uint8))
    image.SetSpacing([spacing_mm] * 3)
    distance = sitk.GetArrayFromImage(
        sitk.SignedMaurerDistanceMap(
            image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
        )
    )
    # The filter counts from the last voxel inside; the border lies half a voxel further out.
    from_border = np.asarray(distance, np.float32) + np.float32(spacing_mm / 2)
    profile[box] = special.ndtr(from_border / np.float32(edge_mm))
    return profile
