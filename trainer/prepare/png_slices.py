"""8-bit slices: reading them, finding them again in a DICOM series, and a series made of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from strokecore.arrays import BoolArray, Float64Array, UInt8Array
from strokecore.reading import tags
from strokecore.reading.series import Series
from trainer.prepare.case_file import UnusableError

# A copy of a slice in another grey scale correlates with it better than 0.99, noise included; the slice's
# mirror image, or that of another slice, stays below 0.3 (simulated heads, 0-80 HU).
LEAST_CORRELATION: Final = 0.90
LEAST_MARGIN: Final = 0.05
# Every second pixel decides as well as all of them.
_STEP: Final = 2
_LEAST_PIXELS: Final = 500

FLIPS: Final[dict[str, tuple[int, ...]]] = {
    "none": (),
    "left-right": (2,),
    "up-down": (1,),
    "left-right and up-down": (1, 2),
}

# Without DICOM: what is assumed of a slice. 230 mm is the usual field of view of a head CT.
ASSUMED_WINDOW_HU: Final = (0.0, 80.0)
ASSUMED_SLICE_MM: Final = 5.0
ASSUMED_FIELD_MM: Final = 230.0
# What the window cut off: air around the head, and bone where it is white.
_AIR_HU: Final = -1000.0
_BONE_HU: Final = 1000.0
# The vertex is the end at which the head is smaller; a scan that ends in the middle of the head at both ends
# does not show which way up it is.
_END_SHARE: Final = 6
_VERTEX_RATIO: Final = 0.8


@dataclass(frozen=True, eq=False)
class SliceMatch:
    """Where PNG slices lie in a series.

    Attributes
    ----------
    order: int [n], slice index k of the series for each PNG slice.
    order_name: that order in words.
    flip: key of FLIPS: how the PNG's pixels must be flipped to lie on the DICOM's.
    correlation: of the matching slices.
    window_hu: what 0 and 255 stand for, by a straight line through the matching pixels; None without images.
    """

    order: npt.NDArray[np.intp]
    order_name: str
    flip: str
    correlation: float
    window_hu: tuple[float, float] | None

    def on_series(self, png: UInt8Array) -> UInt8Array:
        """PNG slices [n, j, i] in the order and orientation of the series, [k, j, i]."""
        out = np.empty_like(png)
        out[self.order] = np.flip(png, FLIPS[self.flip])
        return out


def read_slices(paths: Sequence[Path], *, labels: bool) -> UInt8Array:
    """PNG slices as uint8 [n, j, i]; raw values when they are ``labels``. Raises UnusableError."""
    numbers = [int(path.stem) for path in paths]
    if numbers != list(range(len(numbers))):
        missing = sorted(set(range(max(numbers) + 1)) - set(numbers))
        raise UnusableError(
            f"slices are numbered {numbers[0]} to {numbers[-1]} and {missing[:3]} are missing"
            if missing
            else "two files have the same slice number"
        )
    slices = [_read(path, labels) for path in paths]
    if len({s.shape for s in slices}) != 1:
        raise UnusableError("slices differ in size")
    return np.stack(slices)


def _read(path: Path, labels: bool) -> UInt8Array:
    try:
        with Image.open(path) as image:
            values = np.asarray(image.convert("L") if image.mode == "P" and not labels else image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and zlib's own
        raise UnusableError(f"{path.parent.parent.name} slice {path.name} cannot be read") from error
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]  # grey saved as colour
    if values.ndim != 2 or values.min() < 0 or values.max() > 255:
        raise UnusableError(f"{path.parent.parent.name} slice {path.name} is not an 8-bit grey image")
    return values.astype(np.uint8)


def match_slices(png: UInt8Array, series: Series) -> SliceMatch | None:
    """Find the PNG slices among those of the series, by their pixels; None when no order fits clearly.

    Only pixels that the window left grey are compared: there the PNG is a straight line of the HU, whatever
    the window was. png: uint8 [n, j, i] of the same size and number as the series' slices.
    """
    png_grey = png[:, ::_STEP, ::_STEP]
    used = (png_grey > 0) & (png_grey < 255)
    if int(used.sum()) < _LEAST_PIXELS:
        return None
    grey = png_grey[used].astype(np.float64)
    orders = slice_orders(series)
    found: list[tuple[float, str, str]] = []
    for flip, axes in FLIPS.items():
        flipped = np.flip(series.hu, axes)
        for name, order in orders.items():
            hu = flipped[order, ::_STEP, ::_STEP][used].astype(np.float64)
            found.append((_correlation(grey, hu), flip, name))
    found.sort(reverse=True)
    (best, flip, name), second = found[0], found[1][0]
    if best < LEAST_CORRELATION or best - second < LEAST_MARGIN:
        return None
    matching = np.flip(series.hu, FLIPS[flip])[orders[name], ::_STEP, ::_STEP][used]
    slope, offset = np.polyfit(matching.astype(np.float64), grey, 1)
    window = (float(-offset / slope), float((255 - offset) / slope))
    return SliceMatch(orders[name], name, flip, best, window)


def instance_order(series: Series) -> SliceMatch | None:
    """The order of InstanceNumber, unproven, for slices without images; None when there is no such order."""
    order = slice_orders(series).get("instance number")
    return None if order is None else SliceMatch(order, "instance number", "none", float("nan"), None)


def slice_orders(series: Series) -> dict[str, npt.NDArray[np.intp]]:
    """The orders in which the slices of a series may have been numbered: name -> k of each number."""
    numbers = [tags.number(header, "InstanceNumber") for header in series.datasets]
    up = np.argsort(series.positions_mm[:, 2], kind="stable")
    orders: dict[str, npt.NDArray[np.intp]] = {}
    if len(set(numbers)) == len(series.hu) and None not in numbers:
        by_number = np.argsort(np.array(numbers, dtype=np.float64))
        orders |= {"instance number": by_number, "reversed instance number": by_number[::-1]}
    for name, order in (("feet to head", up), ("head to feet", up[::-1])):
        if not any(np.array_equal(order, other) for other in orders.values()):
            orders[name] = order
    return orders


def _correlation(a: Float64Array, b: Float64Array) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def vertex_first(png: UInt8Array) -> bool | None:
    """Whether the first slice is the head's upper end; None when the slices do not show it."""
    area = _head(png).sum(axis=(1, 2)).astype(np.float64)
    ends = max(1, len(png) // _END_SHARE)
    first, last = area[:ends].mean(), area[-ends:].mean()
    if min(first, last) > _VERTEX_RATIO * max(first, last):
        return None
    return bool(first < last)


def png_series(png: UInt8Array, window_hu: tuple[float, float], *, top_first: bool) -> Series:
    """A series of nothing but 8-bit slices: assumed spacing, and the image's left is the patient's right.

    Black around the head becomes air and white becomes bone; grey values follow ``window_hu``. What the
    window cut off (fat, calcium, depth of air) is lost.
    """
    low, high = window_hu
    hu = (low + png.astype(np.float32) / 255.0 * (high - low)).astype(np.float32)
    hu[png == 255] = _BONE_HU
    hu[~_head(png)] = _AIR_HU
    if top_first:  # k rises along row x column, which is upwards here
        hu = hu[::-1]
    count, rows, columns = hu.shape
    pixel_mm = ASSUMED_FIELD_MM / columns
    corner = np.array([-(columns - 1) / 2 * pixel_mm, -(rows - 1) / 2 * pixel_mm, 0.0])
    return Series(
        hu=np.ascontiguousarray(hu),
        positions_mm=corner + np.arange(count)[:, None] * np.array([0.0, 0.0, ASSUMED_SLICE_MM]),
        row_direction=np.array([1.0, 0.0, 0.0]),
        column_direction=np.array([0.0, 1.0, 0.0]),
        pixel_spacing_mm=(pixel_mm, pixel_mm),
        slice_thickness_mm=ASSUMED_SLICE_MM,
        tilt_deg=0.0,
        datasets=(),
        chosen_because="8-bit slices; there is no usable DICOM series.",
        digest=hashlib.sha256(png.tobytes()).hexdigest(),
    )


def _head(png: UInt8Array) -> BoolArray:
    """The head in the slices: their largest bright piece with what it encloses; without the head holder."""
    labels, count = ndimage.label(png > 0)
    if count == 0:
        return np.zeros(png.shape, np.bool_)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(one == largest) for one in labels])
