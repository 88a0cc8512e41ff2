"""Stored pixels to Hounsfield units, for every way a CT writes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from strokecore.arrays import BoolArray, Float32Array
from strokecore.reading import tags

AIR_HU: Final = -1024.0  # darkest value of Series.hu; what padding becomes
MAX_PIXELS: Final = 4096 * 4096  # CT matrices end at 2048; a damaged header must not fill the memory
_NATIVE: Final = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


class UnreadablePixelsError(Exception):
    """Pixel data absent, truncated, in no known compression, or no CT slice. Never leaves this package."""


@dataclass(frozen=True)
class Override:
    """What is taken instead of the header's word for stored values; None leaves a word as it is.

    Attributes
    ----------
    signed: PixelRepresentation.
    bits: (BitsStored, HighBit).
    rescale: (slope, intercept).
    padded_corners: whether the stored value that all four corners of a slice share is padding.
    """

    signed: bool | None = None
    bits: tuple[int, int] | None = None
    rescale: tuple[float, float] | None = None
    padded_corners: bool = False


AS_DECLARED: Final = Override()


@dataclass(frozen=True, eq=False)
class SlicePixels:
    """One decoded slice.

    Attributes
    ----------
    hu: float32 [j, i], clamped to >= -1024, padding -1024.
    digest: sha256 of the stored values and the rescale, the same for every transfer syntax.
    rescaled: False when the header had no usable rescale, so that stored values were taken as they are.
    """

    hu: Float32Array
    digest: bytes
    rescaled: bool


def decode(dataset: Dataset, *, frame: int | None = None, override: Override = AS_DECLARED) -> SlicePixels:
    """Decode one greyscale slice: ``frame``, or the only one. Raises UnreadablePixelsError, nothing else."""
    try:
        if override.signed is not None:
            dataset.PixelRepresentation = int(override.signed)
        return _decode(dataset, frame, override)
    except UnreadablePixelsError:
        raise
    except Exception as error:  # codecs and pydicom raise many kinds on damaged data
        raise UnreadablePixelsError(type(error).__name__) from error


def _decode(dataset: Dataset, frame: int | None, override: Override) -> SlicePixels:
    rows, columns = tags.number(dataset, "Rows"), tags.number(dataset, "Columns")
    if not rows or not columns or rows * columns > MAX_PIXELS:
        raise UnreadablePixelsError("matrix size")
    stored, padding = _stored_values(dataset, frame, override)
    if stored.shape != (int(rows), int(columns)):
        raise UnreadablePixelsError("not one greyscale frame")

    declared = tags.number(dataset, "RescaleSlope"), tags.number(dataset, "RescaleIntercept")
    slope, intercept = override.rescale or declared
    rescaled = slope is not None and slope != 0 and intercept is not None
    if not rescaled:
        slope, intercept = 1.0, 0.0
    hu = stored.astype(np.float32)
    hu *= np.float32(slope)
    hu += np.float32(intercept)
    hu[padding] = AIR_HU
    np.maximum(hu, np.float32(AIR_HU), out=hu)

    digest = hashlib.sha256(np.ascontiguousarray(stored, "<i4").tobytes())
    digest.update(repr((stored.shape, slope, intercept, _padding_range(dataset))).encode())
    return SlicePixels(hu, digest.digest(), rescaled)


def _stored_values(
    dataset: Dataset, frame: int | None, override: Override
) -> tuple[npt.NDArray[np.int32], BoolArray]:
    """Stored values, int32 [j, i], freed of bits above BitsStored (overlays in old files), and padding.

    Padding is looked for before the bits are cut: writers use values that BitsStored cannot hold.
    """
    _name_transfer_syntax(dataset)
    values = pixel_array(dataset, index=frame, raw=True, correct_unused_bits=False).astype(np.int32)
    low, high = _padding_range(dataset) or (1, 0)
    padding = (values >= low) & (values <= high)
    if override.padded_corners and len(set(_corners(values).tolist())) == 1:
        padding |= values == values[0, 0]
    bits_allocated = int(dataset.BitsAllocated)
    bits_stored, high_bit = override.bits or stored_bits(dataset)
    if not 0 < bits_stored < bits_allocated:
        return values, padding
    if dataset.file_meta.TransferSyntaxUID in _NATIVE and high_bit >= bits_stored:
        values >>= high_bit + 1 - bits_stored
    values &= (1 << bits_stored) - 1
    if _signed(dataset):
        values = values - ((values >> (bits_stored - 1)) << bits_stored)
    return values, padding


def stored_bits(header: Dataset) -> tuple[int, int]:
    """BitsStored and HighBit; where one is absent, what the standard asks for."""
    bits_stored = int(tags.number(header, "BitsStored") or tags.number(header, "BitsAllocated") or 0)
    return bits_stored, int(tags.number(header, "HighBit") or bits_stored - 1)


def _corners(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return values[[0, 0, -1, -1], [0, -1, 0, -1]]


def _signed(dataset: Dataset) -> bool:
    return tags.number(dataset, "PixelRepresentation") == 1


def _name_transfer_syntax(dataset: Dataset) -> None:
    """A file without file meta group cannot be compressed: pydicom found out how it is encoded."""
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little = dataset.original_encoding
    native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native


def _padding_range(dataset: Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding; None when the header declares none."""
    value = tags.number(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = tags.number(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_as_stored(dataset, v) for v in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(dataset: Dataset, value: float) -> int:
    """Some writers put the padding's bit pattern with the wrong sign: 63536 for -2000 and back."""
    number, size = int(value), 1 << int(dataset.BitsAllocated)
    if _signed(dataset) and number >= size // 2:
        return number - size
    if not _signed(dataset) and number < 0:
        return number + size
    return number
