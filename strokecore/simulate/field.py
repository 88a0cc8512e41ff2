"""Density that is not tissue: what the scanner's correction for beam hardening leaves, and smooth shading."""

from __future__ import annotations

from typing import Final

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array
from strokecore.simulate.shape import FineGrid
from strokecore.simulate.spec import SampleSpec

# Heights of cupping are counted from the ganglionic level, head coordinates.
_MIDDLE_Z_MM: Final = 15.0
_HEIGHT_SPAN_MM: Final = 60.0
_LEAST_SHARE: Final = 0.2  # cupping fades with height, it does not turn round
# Shading reaches its full amount where the skull is: half width and half length of the brain.
_HALF_WIDTH_MM: Final = 72.0
_HALF_LENGTH_MM: Final = 88.0
_CENTRE_Y_MM: Final = 18.0
# The skull hides the end of the field: it is gone this far outside the inner table.
_FADE_MM: Final = 4.0
# A label map may leave fluid in sulci and fissures out of the intracranial space. No bone is there that
# hardens a beam: clefts twice as wide as this, and what is enclosed, are inside for the field.
_CLEFT_MM: Final = 8.0


def added_density(spec: SampleSpec, intracranial_mm: Float32Array, grid: FineGrid) -> Float32Array:
    """Cupping and shading of one scan, HU.

    Parameters
    ----------
    intracranial_mm: signed distance to the inner table [z, y, x] on ``grid``, negative inside.

    Returns
    -------
    float32 [z, y, x]; smooth inside the skull, zero outside.
    """
    field = np.zeros(grid.shape, np.float32)
    x, y, z = grid.axes_mm
    if spec.cupping_hu > 0:
        rise = (z - _MIDDLE_Z_MM) / _HEIGHT_SPAN_MM
        share = np.clip(1 + spec.cupping_height * rise, _LEAST_SHARE, None)[:, None, None]
        intracranial_mm = np.minimum(intracranial_mm, _without_clefts(intracranial_mm < 0, grid.spacing_mm))
        depth = np.maximum(-intracranial_mm, 0)
        field += np.float32(spec.cupping_hu) * share * np.exp(-depth / np.float32(spec.cupping_depth_mm))
    field += np.float32(spec.left_right_shading_hu) * _across(x, 0.0, _HALF_WIDTH_MM)
    field += np.float32(-spec.front_back_shading_hu) * _across(y, _CENTRE_Y_MM, _HALF_LENGTH_MM)[:, None]
    return np.asarray(field * np.clip(1 - intracranial_mm / _FADE_MM, 0, 1), np.float32)


def _without_clefts(inside: BoolArray, spacing_mm: float) -> Float32Array:
    """Signed distance to the border of a mask without its clefts and holes, mm, negative inside."""
    reach = int(np.ceil(_CLEFT_MM / spacing_mm)) + 1
    inside = np.pad(inside, reach)  # or the border of the grid would be a cleft
    widened = _distance(inside, spacing_mm) < _CLEFT_MM
    closed = inside | (_distance(widened, spacing_mm) < -_CLEFT_MM)
    # smoothed, or the surface would show a staircase
    distance = _distance(np.asarray(ndimage.binary_fill_holes(closed)), spacing_mm)
    within = (slice(reach, -reach),) * 3
    return np.asarray(ndimage.gaussian_filter(distance, 0.8)[within], np.float32)


def _distance(mask: BoolArray, spacing_mm: float) -> Float32Array:
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing((spacing_mm,) * 3)
    signed = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(sitk.GetArrayFromImage(signed), np.float32)


def _across(axis_mm: Float32Array, centre_mm: float, half_mm: float) -> Float32Array:
    """From -1 on one side to 1 on the other, bent like a quarter of a wave rather than a straight ramp."""
    return np.asarray(np.sin(np.pi / 2 * np.clip((axis_mm - centre_mm) / half_mm, -1, 1)), np.float32)
