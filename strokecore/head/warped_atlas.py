"""The registered atlas on one head's voxels: its regions, and the tissue that it expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, Float3D, Float64Array, UInt8Array
from strokecore.head.alignment import Image
from strokecore.head.brain import Brain
from strokecore.head.grid import Grid, on_side
from strokecore.head.registration import Registration
from strokecore.head.warp import LARGEST_MM

Box = tuple[slice, ...]

# For images of which only the place matters.
_NOTHING: Final = np.zeros((0, 0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class WarpedAtlas:
    """What the atlas says of each voxel of a head; [z, y, x], all 0 in what was scanned outside the cranium.

    Attributes
    ----------
    regions: uint8, RegionId.label.
    second_regions: uint8, by the atlas's second definition; all 0 where it has none.
    tissue: float32, expected share of brain tissue in everything. The atlas maps are averages of many
        people, so it falls to intermediate values in sulci rather than to zero.
    """

    regions: UInt8Array
    second_regions: UInt8Array
    tissue: Float3D


def warp_atlas(
    atlas: Atlas, registration: Registration, grid: Grid, brain: Brain, covered: BoolArray
) -> WarpedAtlas:
    """The atlas on ``grid``, inside the intracranial space and where nothing was scanned.

    A region keeps its unscanned part, or nobody could tell that it is missing (aspects.py: not_covered).

    Each voxel takes the label with the largest linearly interpolated share, so that borders do not show the
    atlas's own voxels. A label never crosses x = 0 to the other side.
    """
    where = brain.intracranial | (~covered & _near_regions(atlas, registration, grid))
    indices = _template_indices(atlas, registration, grid, where)
    regions = np.zeros(grid.shape, np.uint8)
    regions[where] = _labels(atlas, indices)
    second = np.zeros(grid.shape, np.uint8)
    if atlas.second_regions is not None:
        # It only asks whether a call holds: the nearest label is good enough and costs nothing.
        second[where] = ndimage.map_coordinates(
            atlas.second_regions, indices, output=np.uint8, order=0, mode="constant"
        )
    left = on_side(grid.axes_mm[2], "left")
    for labels in (regions, second):
        labels[(labels > 0) & ((labels <= len(ALL_REGIONS) // 2) != left)] = 0

    tissue = np.clip(_share(atlas.grey, indices) + _share(atlas.white, indices), 0.0, 1.0)
    return WarpedAtlas(regions, second, _filled(tissue, where))


def _near_regions(atlas: Atlas, registration: Registration, grid: Grid) -> BoolArray:
    """The box that holds the regions on ``grid``, refinement included; bool [z, y, x]."""
    points = Image(_NOTHING, atlas.spacing_mm, atlas.origin_mm).points(atlas.regions > 0)
    linear, offset = registration.head_from_template[:3, :3], registration.head_from_template[:3, 3]
    in_head = points @ linear.T + offset
    low, high = in_head.min(axis=0) - LARGEST_MM, in_head.max(axis=0) + LARGEST_MM
    near = np.ones((1, 1, 1), np.bool_)
    for axis, (values, a, b) in enumerate(zip(grid.axes_mm, low[::-1], high[::-1], strict=True)):
        near = near & ((values >= a) & (values <= b)).reshape([-1 if n == axis else 1 for n in range(3)])
    return near


def _labels(atlas: Atlas, indices: Float64Array) -> UInt8Array:
    boxes = ndimage.find_objects(atlas.regions)
    every = tuple(
        slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*boxes, strict=True)
    )
    share = np.zeros(indices.shape[1], np.float32)
    found = np.zeros(indices.shape[1], np.uint8)
    near = _near(every, indices)
    share[near] = _label_share(atlas, 0, every, indices[:, near])
    for region, box in zip(ALL_REGIONS, boxes, strict=True):
        near = _near(box, indices)
        mine = _label_share(atlas, region.label, box, indices[:, near])
        wins = mine > share[near]
        share[near[wins]] = mine[wins]
        found[near[wins]] = region.label
    return found


def _near(box: Box, indices: Float64Array) -> npt.NDArray[np.intp]:
    """Which of the points [3, n] lie in ``box`` or less than a voxel outside."""
    (z, y, x), (planes, rows, columns) = indices, box
    near = np.flatnonzero((z > planes.start - 1) & (z < planes.stop))
    for along, part in ((y, rows), (x, columns)):
        there = along[near]
        near = near[(there > part.start - 1) & (there < part.stop)]
    return near


def _label_share(atlas: Atlas, label: int, box: Box, indices: Float64Array) -> Float3D:
    """``_share`` of a label at points near ``box``, from the part of the atlas that they touch."""
    part = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    return _share(atlas.regions[part] == label, indices - [[s.start] for s in part])


def _template_indices(atlas: Atlas, registration: Registration, grid: Grid, where: BoolArray) -> Float64Array:
    """Fractional indices [3, n] into the atlas's volumes of the grid's voxels in ``where``."""
    in_head = Image(_NOTHING, grid.spacing_mm, grid.origin_mm).points(where)
    template = Image(_NOTHING, atlas.spacing_mm, atlas.origin_mm)
    # each axis is read often, so it lies in one piece
    return np.ascontiguousarray(template.indices(registration.template_points(in_head)))


def _share(volume: npt.NDArray[np.generic], indices: Float64Array) -> Float3D:
    """``volume`` at fractional indices [3, n], linear; 0 outside the template."""
    return np.asarray(
        ndimage.map_coordinates(
            volume.astype(np.float32, copy=False), indices, output=np.float32, order=1, mode="constant"
        )
    )


def _filled(values: Float3D, where: BoolArray) -> Float3D:
    volume = np.zeros(where.shape, np.float32)
    volume[where] = values
    return volume
