"""A cheap look at the pixels: is there a skull with a brain in it?

Slice by slice, before any geometry is trusted, so that it answers for damaged series too. The brain
itself is segmented later (brain.py); this only keeps chests and plastic heads away.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

COARSE_MM: Final = 2.0  # the skull is 4-10 mm thick: 2 mm pixels keep it and quieten thin slices
BONE_HU: Final = 200.0  # thin or oblique skull keeps this after averaging to 2 mm
CLOSING_STEPS: Final = 3  # closes gaps of 12 mm in the ring: burr holes, sutures, foramina
SOFT_HU: Final = (-10.0, 100.0)  # CSF to fresh blood
MIN_BRAIN_AREA_CM2: Final = 30.0  # orbits, sinuses, vertebral canal and limbs enclose less
MIN_SOFT_FRACTION: Final = 0.6  # real head 0.8-0.98 (bone rims are the rest), plastic phantom 0.1


def shows_brain(hu: npt.NDArray[np.float32], pixel_spacing_mm: tuple[float, float]) -> bool:
    """Whether one slice [j, i] shows soft tissue of brain's density and size inside a ring of bone."""
    coarse, area_cm2 = _coarsen(hu, pixel_spacing_mm)
    bone = np.pad(coarse > BONE_HU, CLOSING_STEPS + 1)
    enclosed = ndimage.binary_fill_holes(ndimage.binary_closing(bone, iterations=CLOSING_STEPS))
    inside = (enclosed & ~bone)[
        CLOSING_STEPS + 1 : -CLOSING_STEPS - 1, CLOSING_STEPS + 1 : -CLOSING_STEPS - 1
    ]
    labels, count = ndimage.label(inside)
    if not count:
        return False
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = labels == sizes.argmax()
    if sizes.max() * area_cm2 < MIN_BRAIN_AREA_CM2:
        return False
    values = coarse[largest]
    return float(((values > SOFT_HU[0]) & (values < SOFT_HU[1])).mean()) >= MIN_SOFT_FRACTION


def _coarsen(
    hu: npt.NDArray[np.float32], pixel_spacing_mm: tuple[float, float]
) -> tuple[npt.NDArray[np.float32], float]:
    """Block means of about 2 mm, and the area of one block in cm2."""
    factors = [max(1, round(COARSE_MM / s)) for s in pixel_spacing_mm]
    rows, columns = (n // f for n, f in zip(hu.shape, factors, strict=True))
    blocks = hu[: rows * factors[0], : columns * factors[1]].reshape(rows, factors[0], columns, factors[1])
    area_mm2 = pixel_spacing_mm[0] * factors[0] * pixel_spacing_mm[1] * factors[1]
    return blocks.mean(axis=(1, 3)), area_mm2 / 100
