"""Tissue shares to a CT-like head: Hounsfield units, skull and scalp around the brain."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.arrays import BoolArray, UInt8Array


class HeadClass(IntEnum):
    """Values of the head volume."""

    AIR = 0
    SCALP = 1
    BONE = 2
    DIPLOE = 3
    INTRACRANIAL = 4


# Hounsfield units at 120 kVp. Cortex and white matter differ by 6-9 HU on head CT.
GREY_HU = 37.0
WHITE_HU = 29.0
CSF_HU = 8.0
SCALP_HU = 40.0
BONE_HU = 1100.0
DIPLOE_HU = 600.0
AIR_HU = -1000.0

# Thicknesses in mm, adult head.
SUBARACHNOID_MM = 1.5
CISTERN_RADIUS_MM = 15.0
"""Clefts and cisterns narrower than twice this belong to the inside of the skull."""
TABLE_MM = 2.0
DIPLOE_MM = 3.0
SKULL_MM = 2 * TABLE_MM + DIPLOE_MM
SCALP_MM = 5.5


def head_classes(brain: BoolArray, spacing_mm: tuple[float, float, float]) -> UInt8Array:
    """HeadClass of every voxel around a brain mask; uint8 [z, y, x].

    ``brain`` covers the brain with its ventricles and sulci.
    """
    filled = ndimage.binary_fill_holes(_closed(brain, CISTERN_RADIUS_MM, spacing_mm))
    outside = ndimage.distance_transform_edt(~filled, sampling=spacing_mm)
    classes = np.full(brain.shape, HeadClass.AIR, dtype=np.uint8)
    inner = SUBARACHNOID_MM
    classes[outside <= inner + SKULL_MM + SCALP_MM] = HeadClass.SCALP
    classes[outside <= inner + SKULL_MM] = HeadClass.BONE
    classes[outside <= inner + TABLE_MM + DIPLOE_MM] = HeadClass.DIPLOE
    classes[outside <= inner + TABLE_MM] = HeadClass.BONE
    classes[outside <= inner] = HeadClass.INTRACRANIAL
    return classes


def _closed(mask: BoolArray, radius_mm: float, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Closing with a ball, by distance so that a large radius is cheap."""
    grown = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= radius_mm
    closed: BoolArray = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    return closed | mask


def hounsfield(
    grey: npt.NDArray[np.floating], white: npt.NDArray[np.floating], classes: UInt8Array
) -> npt.NDArray[np.int16]:
    """CT-like volume from tissue shares (0-1) and head classes; int16 [z, y, x], HU."""
    csf = np.clip(1.0 - grey - white, 0.0, 1.0)
    hu = np.select(
        [classes == HeadClass.SCALP, classes == HeadClass.BONE, classes == HeadClass.DIPLOE],
        [SCALP_HU, BONE_HU, DIPLOE_HU],
        AIR_HU,
    )
    inside = grey * GREY_HU + white * WHITE_HU + csf * CSF_HU
    result: npt.NDArray[np.int16] = np.rint(np.where(classes == HeadClass.INTRACRANIAL, inside, hu)).astype(
        np.int16
    )
    return result
