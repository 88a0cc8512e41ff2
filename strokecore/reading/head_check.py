"""A cheap look at the pixels: is there a skull with a brain in it?

Slice by slice, before any geometry is trusted, so that it answers for damaged series too. The brain
itself is segmented later (brain.py); this only keeps chests and plastic heads away.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array

COARSE_MM: Final = 2.0  # the skull is 4-10 mm thick: 2 mm pixels keep it and quieten thin slices
BONE_HU: Final = 200.0  # thin or oblique skull keeps this after averaging to 2 mm
CLOSING_STEPS: Final = 3  # closes gaps of 12 mm in the ring: burr holes, sutures, foramina
SOFT_HU: Final = (-10.0, 100.0)  # CSF to fresh blood
MIN_BRAIN_AREA_CM2: Final = 30.0  # orbits, sinuses, vertebral canal and limbs enclose less
MIN_SOFT_FRACTION: Final = 0.6  # real head 0.8-0.98 (bone rims are the rest), plastic phantom 0.1

# Vessels after contrast measure 120-400 HU, clots and sinuses of a native head 50-80 and brain 20-45. Bone's
# partial volume reaches as far as VESSEL_STEPS blocks.
VESSEL_HU: Final = 90.0
VESSEL_STEPS: Final = 4
MIN_VESSEL_AREA_CM2: Final = 0.12

# A skull opened by surgery: 12 cm of its 50-55 cm are missing, the rest still goes round.
SECTORS: Final = 72
MIN_SECTORS_WITH_BONE: Final = 0.65
OPEN_SKULL_AREA_CM2: Final = (100.0, 330.0)  # jaw and spine enclose less, ribs and pelvis more


def shows_brain(hu: Float32Array, pixel_spacing_mm: tuple[float, float], *, open_skull: bool = False) -> bool:
    """Whether one slice [j, i] shows soft tissue of brain's density and size inside a ring of bone.

    ``open_skull`` accepts a ring with a wide gap, as after decompressive craniectomy. Jaw and spine can
    look like that, so it is meant for series that are declared as a head.
    """
    coarse, area_cm2 = _coarsen(hu, pixel_spacing_mm)
    bone = coarse > BONE_HU
    if not bone.any():
        return False
    inside = _largest_part(_enclosed(bone) & ~bone)
    if inside.sum() * area_cm2 >= MIN_BRAIN_AREA_CM2 and _is_soft(coarse[inside]):
        return True
    if not open_skull:
        return False
    inside = _within_open_ring(bone) & ~bone
    low, high = OPEN_SKULL_AREA_CM2
    return bool(low <= inside.sum() * area_cm2 <= high) and _is_soft(coarse[inside])


def shows_opacified_vessels(hu: Float32Array, pixel_spacing_mm: tuple[float, float]) -> bool | None:
    """Whether a slice [j, i] has vessels as dense as only a contrast agent makes them; None without a brain.

    Calcium of the plexus and the pineal body is as dense, but on a slice or two: ask all slices.
    """
    coarse, area_cm2 = _coarsen(hu, pixel_spacing_mm)
    bone = coarse > BONE_HU
    if not bone.any():
        return None
    inside = _largest_part(_enclosed(bone) & ~bone)
    if inside.sum() * area_cm2 < MIN_BRAIN_AREA_CM2 or not _is_soft(coarse[inside]):
        return None
    inside &= ~ndimage.binary_dilation(bone, iterations=VESSEL_STEPS)
    return float((coarse[inside] > VESSEL_HU).sum()) * area_cm2 >= MIN_VESSEL_AREA_CM2


def _is_soft(values: Float32Array) -> bool:
    return float(((values > SOFT_HU[0]) & (values < SOFT_HU[1])).mean()) >= MIN_SOFT_FRACTION


def _enclosed(bone: BoolArray) -> BoolArray:
    margin = CLOSING_STEPS + 1
    closed = ndimage.binary_closing(np.pad(bone, margin), iterations=CLOSING_STEPS)
    filled: BoolArray = ndimage.binary_fill_holes(closed)
    return filled[margin:-margin, margin:-margin]


def _largest_part(mask: BoolArray) -> BoolArray:
    labels, count = ndimage.label(mask)
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: BoolArray = labels == sizes.argmax()
    return largest


def _within_open_ring(bone: BoolArray) -> BoolArray:
    """Pixels nearer to the bone's centre than the outermost bone in their direction; gaps are bridged."""
    rows, columns = np.nonzero(bone)
    dj = np.arange(bone.shape[0])[:, None] - rows.mean()
    di = np.arange(bone.shape[1])[None, :] - columns.mean()
    radius = np.hypot(dj, di)
    sector = ((np.arctan2(dj, di) / (2 * np.pi) * SECTORS) % SECTORS).astype(int) % SECTORS
    outermost = np.zeros(SECTORS)
    np.maximum.at(outermost, sector[bone], radius[bone])
    present = np.flatnonzero(outermost)
    if present.size < MIN_SECTORS_WITH_BONE * SECTORS:
        return np.zeros_like(bone)
    bridged = np.interp(np.arange(SECTORS), present, outermost[present], period=SECTORS)
    within: BoolArray = radius < bridged[sector]
    return within


def _coarsen(hu: Float32Array, pixel_spacing_mm: tuple[float, float]) -> tuple[Float32Array, float]:
    """Block means of about 2 mm, and the area of one block in cm2."""
    factors = [max(1, round(COARSE_MM / s)) for s in pixel_spacing_mm]
    rows, columns = (n // f for n, f in zip(hu.shape, factors, strict=True))
    blocks = hu[: rows * factors[0], : columns * factors[1]].reshape(rows, factors[0], columns, factors[1])
    area_mm2 = pixel_spacing_mm[0] * factors[0] * pixel_spacing_mm[1] * factors[1]
    return blocks.mean(axis=(1, 3)), area_mm2 / 100
