"""Whether pixels can be Hounsfield units of a head: air, fat and bone lie where they must.

A header can be wrong: a lost sign, an offset that a converter dropped, a picture windowed to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from strokecore.arrays import Float32Array
from strokecore.reading.pixels import SlicePixels

LOOKED_AT: Final = 40  # slices; more add time, not certainty
STEP: Final = 4  # pixels

# A head CT is mostly air, at -1000 (padding is read as air); padding alone is none.
AIR_HU: Final = -900.0
MIN_AIR_SHARE: Final = 0.01
# Crowns, clips and coils fill a thousandth of the picture; a lost sign puts all air here.
METAL_HU: Final = 2500.0
MAX_METAL_SHARE: Final = 0.03
# Skull, also at 10 mm and at the vertex; a picture windowed to 8 bits ends at 255.
BONE_HU: Final = (300.0, 2500.0)
MIN_BONE_SHARE: Final = 0.002
# Subcutaneous and orbital fat.
FAT_HU: Final = (-150.0, -50.0)
MIN_FAT_SHARE: Final = 0.0005


def plausible(pixels: Sequence[SlicePixels | None]) -> bool:
    """Whether slices hold air and bone, and no more metal than a head can. True when none is readable."""
    return implausible(pixels) is None


def implausible(pixels: Sequence[SlicePixels | None], *, bone: bool = True) -> str | None:
    """What is not where it must be, in words; None when all is, or when no slice is readable.

    ``bone``: whether there must be any, which is not so in a phantom.
    """
    hu = _sample(pixels)
    if not hu.size:
        return None
    if _share(hu, -np.inf, AIR_HU) < MIN_AIR_SHARE:
        return f"no air near -1000 HU (the darkest pixels are about {np.percentile(hu, 1):.0f})"
    if (metal := _share(hu, METAL_HU, np.inf)) > MAX_METAL_SHARE:
        return f"{metal:.0%} of the picture is as dense as metal"
    if bone and _share(hu, *BONE_HU) < MIN_BONE_SHARE:
        return f"no bone (the brightest pixels are about {np.percentile(hu, 99.9):.0f} HU)"
    return None


def shows_fat(pixels: Sequence[SlicePixels | None]) -> bool:
    return _share(_sample(pixels), *FAT_HU) >= MIN_FAT_SHARE


def _sample(pixels: Sequence[SlicePixels | None]) -> Float32Array:
    readable = [p for p in pixels if p is not None]
    some = readable[:: max(1, len(readable) // LOOKED_AT)]
    return np.concatenate([p.hu[::STEP, ::STEP].ravel() for p in some]) if some else np.empty(0, np.float32)


def _share(hu: Float32Array, low: float, high: float) -> float:
    return float(((hu >= low) & (hu < high)).mean())
