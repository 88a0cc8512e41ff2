"""Definitions and tissue maps to a label volume of one hemisphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import BoolArray, Float64Array, UInt8Array
from strokecore.atlas_tools import definitions as d

TISSUE_SHARE = 0.5
"""A voxel belongs to a tissue that fills at least half of it."""
CAUDATE_GREY_SHARE = 0.5
OPENING_RADIUS_MM = 1.5
"""Removes the rim of mixed white matter and CSF along the ventricle, which looks grey in the maps."""


@dataclass(frozen=True, eq=False)
class Hemisphere:
    """Tissue of one hemisphere on a 1 mm MNI grid.

    Attributes
    ----------
    grey, white: float64 [z, y, x], shares 0-1; x counts from the midline.
    height, anterior, lateral: MNI z, MNI y and distance from the midline in mm;
        float64 [z, 1, 1], [1, y, 1], [1, 1, x].
    """

    grey: Float64Array
    white: Float64Array
    height: Float64Array
    anterior: Float64Array
    lateral: Float64Array


def inside_outline(hemisphere: Hemisphere, outline: d.Outline) -> BoolArray:
    """Voxels inside an outline; bool [z, y, x]."""
    heights = np.array(sorted(outline.planes))
    vertices = np.array([outline.planes[z] for z in heights], dtype=float)
    inside = np.zeros(hemisphere.grey.shape, dtype=bool)
    for k, z in enumerate(hemisphere.height.ravel()):
        if outline.bottom_mm <= z <= outline.top_mm:
            polygon = np.array(
                [[np.interp(z, heights, vertices[:, v, c]) for c in (0, 1)] for v in range(vertices.shape[1])]
            )
            inside[k] = _inside_polygon(hemisphere.lateral[0], hemisphere.anterior[0], polygon)
    return inside


def _inside_polygon(x: Float64Array, y: Float64Array, polygon: Float64Array) -> BoolArray:
    """Even-odd rule."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def anterior_of(hemisphere: Hemisphere, border: d.Border, level_border_mm: float = 0.0) -> BoolArray:
    """Voxels in front of a border that runs from deep to lateral; bool [z or 1, y, x]."""
    (x0, y0), (x1, y1) = border.deep, border.surface
    line = y0 + (y1 - y0) / (x1 - x0) * (hemisphere.lateral - x0)
    if border.recedes:
        line = line - border.recedes * (hemisphere.height - level_border_mm)
    front: BoolArray = hemisphere.anterior > line
    return front


def lateral_of(hemisphere: Hemisphere, border: d.Border) -> BoolArray:
    """Voxels lateral to a border that runs from deep to the anterior or posterior surface; bool [1, y, x]."""
    (x0, y0), (x1, y1) = border.deep, border.surface
    return hemisphere.lateral > x0 + (x1 - x0) / (y1 - y0) * (hemisphere.anterior - y0)


def label_hemisphere(hemisphere: Hemisphere, definition: d.Definition) -> UInt8Array:
    """Index in REGION_NAMES + 1 of every voxel, 0 outside all regions; uint8 [z, y, x]."""
    h = hemisphere
    grey, white = h.grey, h.white
    brain = grey + white >= TISSUE_SHARE

    nucleus = _opened(inside_outline(h, d.CAUDATE) & (grey >= CAUDATE_GREY_SHARE))
    caudate = _grown(nucleus, definition.caudate) & (h.height <= definition.caudate_top_mm) & brain
    putamen_and_pallidum = inside_outline(h, d.LENTIFORM)
    lentiform = _grown(putamen_and_pallidum, definition.lentiform) & brain & ~caudate
    thalamus = inside_outline(h, d.THALAMUS) & brain
    grey_matter = nucleus | caudate | putamen_and_pallidum | lentiform | thalamus
    capsule = inside_outline(h, d.INTERNAL_CAPSULE) & (white >= TISSUE_SHARE) & ~grey_matter
    capsule &= h.anterior < definition.capsule_front_mm
    insula_space = _grown(inside_outline(h, d.INSULA), definition.insula)
    insula = insula_space & brain & ~_grown(lentiform, d.Growth(lateral_mm=definition.claustrum_mm))

    masks = {"C": caudate, "L": lentiform, "IC": capsule, "I": insula}
    masks |= _ganglionic_sectors(h, definition, brain, _medial_of_operculum(h, definition, insula_space))
    masks |= _supraganglionic_sectors(h, definition, brain)
    labels = np.zeros(grey.shape, dtype=np.uint8)
    for name in reversed(REGION_NAMES):  # deep structures are written last and win
        labels[masks[name]] = REGION_NAMES.index(name) + 1
    return labels


def _opened(mask: BoolArray) -> BoolArray:
    radius = int(np.ceil(OPENING_RADIUS_MM))
    offsets = np.mgrid[(slice(-radius, radius + 1),) * 3]
    ball = (offsets**2).sum(axis=0) <= OPENING_RADIUS_MM**2
    opened: BoolArray = ndimage.binary_opening(mask, ball)
    return opened


def _grown(mask: BoolArray, growth: d.Growth) -> BoolArray:
    """A mask on the 1 mm grid that reaches further (or less far, where negative) in each direction."""
    moves = (  # axis, direction of one step in voxels, millimetres
        (2, -1, growth.medial_mm),
        (2, 1, growth.lateral_mm),
        (1, -1, growth.front_mm),
        (1, 1, growth.back_mm),
    )
    for axis, step, distance_mm in moves:
        sign = 1 if distance_mm > 0 else -1
        copies = [np.roll(mask, sign * n * step, axis) for n in range(1, abs(distance_mm) + 1)]
        for copy in copies:
            mask = mask | copy if distance_mm > 0 else mask & copy
    return mask


def _medial_of_operculum(
    hemisphere: Hemisphere, definition: d.Definition, insula_space: BoolArray
) -> BoolArray:
    """Voxels medial to the insula's outer side on rows that cross it, and all medial temporal tissue."""
    outer = np.where(insula_space, hemisphere.lateral, 0.0).max(axis=2, keepdims=True)
    medial: BoolArray = hemisphere.lateral <= np.maximum(outer, definition.m2_medial_mm)
    return medial


def _ganglionic_sectors(
    h: Hemisphere, definition: d.Definition, brain: BoolArray, medial: BoolArray
) -> dict[str, BoolArray]:
    level = brain & (h.height >= definition.ganglionic_bottom_mm) & (h.height < definition.level_border_mm)
    front = anterior_of(h, definition.ganglionic_anterior)
    back = ~anterior_of(h, definition.ganglionic_posterior)
    return {
        "M1": level & front & lateral_of(h, definition.ganglionic_aca),
        "M2": level & ~front & ~back & ~medial,
        "M3": level & back & lateral_of(h, definition.ganglionic_pca),
    }


def _supraganglionic_sectors(
    h: Hemisphere, definition: d.Definition, brain: BoolArray
) -> dict[str, BoolArray]:
    heights, limits = zip(*definition.supraganglionic_medial, strict=True)
    level = brain & (h.height >= definition.level_border_mm) & (h.height < definition.supraganglionic_top_mm)
    level &= h.lateral >= np.interp(h.height, heights, limits)
    level &= lateral_of(h, definition.supraganglionic_aca)
    front = anterior_of(h, definition.supraganglionic_anterior, definition.level_border_mm)
    back = ~anterior_of(h, definition.supraganglionic_posterior, definition.level_border_mm)
    return {
        "M4": level & front,
        "M5": level & ~front & ~back,
        "M6": level & back & lateral_of(h, definition.supraganglionic_pca),
    }
