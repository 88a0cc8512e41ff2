"""What a head and the atlas's template have in common, as images that can be aligned."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array
from strokecore.head.alignment import Image

if TYPE_CHECKING:
    from strokecore.anatomy.atlas import Atlas

Spacing = tuple[float, float, float]

# Relative to brain. Outside the skull counts as a little darker than CSF (-25), so that both skull and
# ventricles guide; brighter than brain is calcium, blood or contrast, which the template does not have.
OUTSIDE_HU: Final = -45.0
_BRIGHT_HU: Final = 12.0
# Share of the smoothing that must lie inside the scan.
_SEEN: Final = 0.98


def brain_image(
    hu: Float32Array,
    intracranial: BoolArray,
    spacing_mm: Spacing,
    origin_mm: tuple[float, float, float],
    smoothing_mm: float,
    thinned_mm: float = 0.0,
) -> Image:
    """Smoothed density inside the skull relative to this brain's median, and one level outside.

    hu, intracranial: [z, y, x]; spacing_mm: (z, y, x); origin_mm: (x, y, z); thinned_mm: every
    n-th voxel is kept, for a spacing of about that much; 0 keeps all.
    """
    level = float(np.median(hu[intracranial]))
    inside = np.where(intracranial, np.clip(hu - level, OUTSIDE_HU, _BRIGHT_HU), OUTSIDE_HU)
    values = inside.astype(np.float32)
    every = _every(thinned_mm, spacing_mm)
    for axis, (step, part) in enumerate(zip(spacing_mm, every, strict=True)):
        # a line that is left out along one axis need not be smoothed along the next
        smooth = ndimage.gaussian_filter1d(values, smoothing_mm / step, axis=axis)
        values = smooth[(slice(None),) * axis + (part,)]
    return Image(np.ascontiguousarray(values), _thinned_spacing(spacing_mm, every), origin_mm)


def clearly_seen(
    covered: BoolArray, spacing_mm: Spacing, smoothing_mm: float, thinned_mm: float
) -> Float32Array:
    """Where a smoothed and thinned image of a scan shows the head and not the scan's end; 1 or 0, [z, y, x].

    Near the end the smoothing brings the darkness beyond it in, which looks like the brain's surface and
    would squeeze the atlas into what was scanned.
    """
    every = _every(thinned_mm, spacing_mm)
    sigma = [smoothing_mm / step for step in _thinned_spacing(spacing_mm, every)]
    seen = ndimage.gaussian_filter(covered[every].astype(np.float32), sigma, mode="nearest")
    return np.asarray(seen > _SEEN, dtype=np.float32)


def _every(thinned_mm: float, spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    z, y, x = (slice(None, None, max(1, round(thinned_mm / step))) for step in spacing_mm)
    return z, y, x


def _thinned_spacing(spacing_mm: Spacing, every: tuple[slice, slice, slice]) -> Spacing:
    z, y, x = (step * part.step for step, part in zip(spacing_mm, every, strict=True))
    return z, y, x


@lru_cache(maxsize=4)
def template_image(atlas: Atlas, spacing_mm: float, smoothing_mm: float) -> tuple[Image, BoolArray]:
    """The atlas's head as ``brain_image`` shows it, and the voxels to compare: inside and rim."""
    hu = atlas.template_hu.astype(np.float32)
    image = brain_image(hu, atlas.intracranial, atlas.spacing_mm, atlas.origin_mm, smoothing_mm, spacing_mm)
    step = max(1, round(spacing_mm / atlas.spacing_mm[0]))
    rim = ndimage.binary_dilation(atlas.intracranial, iterations=max(2, step))
    return image, np.ascontiguousarray(rim[::step, ::step, ::step])
