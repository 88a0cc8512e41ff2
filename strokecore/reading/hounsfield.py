"""Whether pixels can be Hounsfield units of a head: air, fat and bone lie where they must.

A header can be wrong: a lost sign, bits that were not counted, an offset that a converter dropped or applied
twice, padding that nothing declares, a picture windowed to 8 bits. Each fault that can be undone is a
``Correction``; it is made only where everything then lies where it must, and never without a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset

from strokecore.arrays import Float32Array
from strokecore.flags import QualityFlag
from strokecore.reading import tags
from strokecore.reading.pixels import Override, SlicePixels, stored_bits

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
# Brain, muscle, skin and CSF fill a twentieth of the widest picture. An offset that was applied twice puts
# some bone here, 0.5 % on a real head.
SOFT_HU: Final = (-20.0, 100.0)
MIN_SOFT_SHARE: Final = 0.02
# Of offsets that converters drop or apply, the nearest are 24 HU apart: air and brain tell which is right.
# Padding and clipped air lie at -1024 and tell nothing.
UNPADDED_AIR_HU: Final = (-1023.0, AIR_HU)
AIR_OFF_HU: Final = 10.0
BRAIN_PEAK_HU: Final = (22.0, 44.0)
BRAIN_PEAK_WIDTH_HU: Final = 10
OFFSETS: Final = (0.0, -1024.0, -1000.0)
# Values that lost their highest bits lie thousands beside their neighbours, the right ones hundreds.
SMOOTHER: Final = 0.75
LEAST_BITS: Final = 12  # of a CT from -1024 to 3071 HU


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
    if (corners := _corners(pixels)) > BONE_HU[0]:
        return f"the corners of the picture are as dense as bone (about {corners:.0f} HU)"
    if bone and _share(hu, *BONE_HU) < MIN_BONE_SHARE:
        return f"no bone (the brightest pixels are about {np.percentile(hu, 99.9):.0f} HU)"
    return None


def shows_fat(pixels: Sequence[SlicePixels | None]) -> bool:
    """Whether most slices have the density of fat. True when no slice is readable."""
    return _on_most(pixels, FAT_HU, MIN_FAT_SHARE)


def shows_soft_tissue(pixels: Sequence[SlicePixels | None]) -> bool:
    """Whether most slices have the density of brain and muscle. True when no slice is readable."""
    return _on_most(pixels, SOFT_HU, MIN_SOFT_SHARE)


def _on_most(pixels: Sequence[SlicePixels | None], between_hu: tuple[float, float], share: float) -> bool:
    shown = [_share(p.hu[::STEP, ::STEP], *between_hu) >= share for p in pixels if p is not None]
    return 2 * sum(shown) >= len(shown)


_REMEDY: Final = "Check the series on a viewer; let the software that wrote the files be corrected."


@dataclass(frozen=True)
class Correction:
    """Another reading of stored values, and what is said when it is made."""

    override: Override
    flag: QualityFlag


_PADDED_CORNERS: Final = Correction(
    Override(padded_corners=True),
    QualityFlag(
        "padding_corrected",
        "warning",
        "The value outside the field of view is no density of air, and nothing declares it as padding: "
        "it was read as air.",
        _REMEDY,
    ),
)


def corrections(header: Dataset, *, sound: bool) -> list[Correction]:
    """Every single fault of a header that can be undone; those that change less come first.

    Where slices look ``sound``, only what could have turned dense bone alone into air: its highest bit is
    taken for a sign, or cut.
    """
    if not sound:
        return [_PADDED_CORNERS, *_stored_otherwise(header), *_offsets(header)]
    stored, _ = stored_bits(header)
    allocated = int(tags.number(header, "BitsAllocated") or 0)
    signed = tags.number(header, "PixelRepresentation") == 1
    if stored >= allocated or not (signed or stored < LEAST_BITS):
        return []
    whole = (None, (allocated, allocated - 1))
    return [c for c in _stored_otherwise(header) if c.override.bits in whole]


def _stored_otherwise(header: Dataset) -> list[Correction]:
    """Another sign, another number of bits, and both."""
    signed = tags.number(header, "PixelRepresentation") == 1
    allocated = int(tags.number(header, "BitsAllocated") or 0)
    stored, high = stored_bits(header)
    said, right = ("signed", "unsigned") if signed else ("unsigned", "signed")
    found = [
        Correction(
            Override(signed=not signed),
            QualityFlag(
                "sign_corrected",
                "warning",
                f"PixelRepresentation says {said}, but only {right} values give air, fat and bone in "
                f"Hounsfield units: they were read as {right}.",
                _REMEDY,
            ),
        ),
    ]
    layouts = [(stored, stored - 1), (stored, allocated - 1), (allocated, allocated - 1)]
    found += [
        Correction(
            Override(signed=sign, bits=layout),
            QualityFlag(
                "stored_bits_corrected",
                "warning",
                f"BitsStored {stored} and HighBit {high} do not fit the stored values; only {layout[0]} "
                f"{said if sign is None else right} bits up to bit {layout[1]} give air, fat and bone in "
                "Hounsfield units: they were read so.",
                _REMEDY,
            ),
        )
        for layout in layouts
        if layout != (stored, high)
        for sign in (None, not signed)
    ]
    return found


def _offsets(header: Dataset) -> list[Correction]:
    slope, intercept = tags.number(header, "RescaleSlope"), tags.number(header, "RescaleIntercept")
    offsets = OFFSETS if intercept is None else tuple(dict.fromkeys((intercept, *OFFSETS)))
    return [
        Correction(
            Override(rescale=(slope or 1.0, offset)),
            QualityFlag(
                "rescale_corrected",
                "warning",
                f"The rescale does not fit the stored values; only slope {slope or 1.0:g} and intercept "
                f"{offset:g} give air, fat, brain and bone in Hounsfield units: they were read so.",
                _REMEDY,
            ),
        )
        for offset in offsets
        if (slope, intercept) != (slope or 1.0, offset)
    ]


def fits(correction: Correction, pixels: Sequence[SlicePixels | None]) -> bool:
    """Whether air, fat and bone lie where they must in slices read so; with another offset, brain as well."""
    if None in pixels or not (plausible(pixels) and shows_fat(pixels) and shows_soft_tissue(pixels)):
        return False
    if correction.override.rescale is None:
        return True
    hu = _sample(pixels)
    low, high = UNPADDED_AIR_HU
    air = hu[(hu > low) & (hu < high)]
    if air.size < MIN_AIR_SHARE * hu.size or abs(float(np.median(air)) + 1000.0) > AIR_OFF_HU:
        return False
    low, high = BRAIN_PEAK_HU
    return low <= _soft_peak(hu) <= high


def smoother(other: Sequence[SlicePixels | None], declared: Sequence[SlicePixels | None]) -> bool:
    """Whether pixels that two readings see differently fit their neighbours far better in ``other``."""
    jumps = np.zeros(2)
    for a, b in zip(other, declared, strict=True):
        if a is None or b is None:
            return False
        differ = a.hu != b.hu
        for axis in (0, 1):
            edge = np.diff(differ, axis=axis)
            jumps += [float(np.abs(np.diff(p.hu, axis=axis))[edge].sum()) for p in (a, b)]
    return bool(jumps[0] < SMOOTHER * jumps[1])


def _soft_peak(hu: Float32Array) -> float:
    """Most frequent density of soft tissue, HU."""
    low, high = int(SOFT_HU[0]), int(SOFT_HU[1])
    counts, _ = np.histogram(hu, bins=high - low, range=(low, high))
    smooth = np.convolve(counts, np.ones(BRAIN_PEAK_WIDTH_HU), mode="same")
    return float(low + int(smooth.argmax()))


def _sample(pixels: Sequence[SlicePixels | None]) -> Float32Array:
    readable = [p for p in pixels if p is not None]
    some = readable[:: max(1, len(readable) // LOOKED_AT)]
    return np.concatenate([p.hu[::STEP, ::STEP].ravel() for p in some]) if some else np.empty(0, np.float32)


def _corners(pixels: Sequence[SlicePixels | None]) -> float:
    """Median density of the pictures' corners, HU: air or padding, since no head is square."""
    return float(np.median([p.hu[[0, 0, -1, -1], [0, -1, 0, -1]] for p in pixels if p is not None]))


def _share(hu: Float32Array, low: float, high: float) -> float:
    return float(((hu >= low) & (hu < high)).mean())
