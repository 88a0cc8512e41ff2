"""Slices of the scan with regions and lesion drawn on them, as RGB arrays.

Pictures follow the radiological convention: the patient's right is on the image's left, anterior is up.
Orientation is computed from the series' direction cosines, never from array shapes or slice names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, GANGLIONIC, SUPRAGANGLIONIC, RegionId
from strokecore.arrays import BoolArray, UInt8Array
from strokecore.reading.series import Series
from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, Result, SourceMasks

Rgb = tuple[int, int, int]
Level = Literal["ganglionic", "supraganglionic"]
LEVELS: Final[tuple[Level, Level]] = ("ganglionic", "supraganglionic")
Rgb8 = UInt8Array

# The narrow window that shows early ischaemic change (the "stroke window", centre 35-40, width 40)
WINDOW_CENTRE_HU: Final = 36.0
WINDOW_WIDTH_HU: Final = 44.0
# Between air and skin: where the head begins in a picture
SKIN_HU: Final = -300.0
# The head is sought on a grid of about 2 mm: near enough for a frame, and many times quicker
HEAD_STEP_MM: Final = 2.0
# Empty rim around the head, as a fraction of its larger extent
MARGIN: Final = 0.04
# Overlays are drawn this much larger and shrunk, which smooths their edges
OVERSAMPLING: Final = 2
# Blur that rounds the stairs of a mask's voxels, in enlarged pixels; thin regions still survive it
SMOOTHING: Final = 2.2

BACKGROUND: Final[Rgb] = (0, 0, 0)
TEXT: Final[Rgb] = (236, 239, 244)
AFFECTED: Final[Rgb] = (255, 146, 43)
UNAFFECTED: Final[Rgb] = (92, 190, 206)
BORDERLINE: Final[Rgb] = (255, 224, 102)
NOT_ASSESSABLE: Final[Rgb] = (150, 156, 168)
# by SourceMasks.lesion value
LESION_COLOURS: Final[Mapping[int, Rgb]] = {
    INFARCT["left"]: (240, 62, 62),
    INFARCT["right"]: (240, 62, 62),
    OLD_INFARCT: (116, 143, 252),
    OTHER_HYPODENSITY: (148, 216, 45),
    HAEMORRHAGE: (230, 73, 210),
}
# by region, for the segmentation object, where a viewer draws all twenty at once
REGION_COLOURS: Final[Mapping[str, Rgb]] = {
    "C": (255, 212, 59),
    "L": (255, 146, 43),
    "IC": (240, 240, 240),
    "I": (247, 103, 170),
    "M1": (105, 219, 124),
    "M2": (56, 217, 169),
    "M3": (59, 201, 219),
    "M4": (77, 171, 247),
    "M5": (116, 143, 252),
    "M6": (177, 151, 252),
}
LESION_OPACITY: Final = 0.24
LINE_OPACITY: Final = 0.85
# Dashes of a borderline region's outline, and the gaps between them, in picture pixels
DASH: Final = 6


@dataclass(frozen=True)
class DisplayAxes:
    """How a stored slice becomes a displayed one: transpose first, then the flips."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool


@dataclass(frozen=True)
class View:
    """A square window on a displayed slice.

    Attributes
    ----------
    centre: (row, column) of its middle, in displayed pixels.
    spacing_mm: (down, across) of a displayed pixel.
    extent_mm: length of a side.
    """

    centre: tuple[float, float]
    spacing_mm: tuple[float, float]
    extent_mm: float


def display_axes(series: Series) -> DisplayAxes:
    """Axes that put the patient's left on the image's right and posterior down."""
    transpose = abs(float(series.row_direction[0])) < abs(float(series.column_direction[0]))
    across, down = series.row_direction, series.column_direction
    if transpose:
        across, down = down, across
    return DisplayAxes(transpose, flip_rows=bool(down[1] < 0), flip_columns=bool(across[0] < 0))


def oriented(plane: npt.NDArray[np.generic], axes: DisplayAxes) -> npt.NDArray[np.generic]:
    """A stored slice [j, i] as displayed [down, across]."""
    shown = plane.T if axes.transpose else plane
    if axes.flip_rows:
        shown = shown[::-1]
    if axes.flip_columns:
        shown = shown[:, ::-1]
    return np.ascontiguousarray(shown)


def head_views(series: Series, slices: Iterable[int]) -> dict[int, View]:
    """For each slice a view centred on its head, all of one scale; without the headrest."""
    wanted = list(slices)
    axes = display_axes(series)
    row_mm, column_mm = series.pixel_spacing_mm
    spacing = (column_mm, row_mm) if axes.transpose else (row_mm, column_mm)
    step = max(1, int(HEAD_STEP_MM / max(spacing)))
    parts, count = ndimage.label(series.hu[:, ::step, ::step] > SKIN_HU)
    head = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()) if count else parts == 0
    boxes = []
    for k in wanted:
        shown = oriented(head[k] if head[k].any() else head.any(axis=0), axes)
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        boxes.append([step * edge for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)])
    extent_mm = max(
        max((bottom - top) * spacing[0], (right - left) * spacing[1]) for top, bottom, left, right in boxes
    )
    return {
        k: View(((top + bottom) / 2, (left + right) / 2), spacing, extent_mm * (1 + 2 * MARGIN))
        for k, (top, bottom, left, right) in zip(wanted, boxes, strict=True)
    }


def level_slice(masks: SourceMasks, level: Level) -> int:
    """Index k of the slice that shows most of a level's regions; the middle slice when none is there."""
    names = GANGLIONIC if level == "ganglionic" else SUPRAGANGLIONIC
    labels = len(ALL_REGIONS) + 1
    areas = np.stack([np.bincount(plane[plane > 0], minlength=labels) for plane in masks.regions])
    shown = np.zeros(len(areas))
    for region in ALL_REGIONS:
        if region.name in names:
            area = areas[:, region.label]
            # each region counts the same, so that the large cortical ones do not decide alone
            shown += area / max(area.max(), 1)
    return int(shown.argmax()) if shown.any() else len(shown) // 2


def draw_slice(
    series: Series,
    masks: SourceMasks,
    result: Result,
    k: int,
    size: int,
    view: View,
    *,
    labels: bool = True,
) -> Rgb8:
    """Slice ``k`` with lesion, region outlines and R/L letters; uint8 [size, size, 3].

    Affected regions are orange, others teal, regions that were not assessed grey. Where the score is
    withheld no region is marked, so that it cannot be read off the picture.
    """
    axes = display_axes(series)
    canvas = _grey(oriented(series.hu[k], axes), view, size)
    regions, lesion = oriented(masks.regions[k], axes), oriented(masks.lesion[k], axes)
    names: list[tuple[str, Rgb, tuple[float, float]]] = []
    for region in ALL_REGIONS:
        mask = _enlarged(regions == region.label, view, size)
        if mask is None:
            continue
        colour, width, dashed = _region_line(result, region)
        rim = mask.outline(width)
        _blend(canvas, rim.dashed(DASH * width) if dashed else rim, colour, LINE_OPACITY)
        names.append((f"{region.name}?" if dashed else region.name, colour, mask.centre))
    for value, colour in LESION_COLOURS.items():
        mask = _enlarged(lesion == value, view, size)
        if mask is not None:
            _blend(canvas, mask, colour, LESION_OPACITY)
            _blend(canvas, mask.outline(1), colour, 1.0)
    draw = ImageDraw.Draw(canvas)
    for name, colour, centre in names if labels else ():
        text(draw, centre, name, max(11, size // 38), colour, anchor="mm", halo=2)
    letter = max(12, size // 22)
    text(draw, (letter * 0.35, size / 2), "R", letter, TEXT, anchor="lm", halo=2)
    text(draw, (size - letter * 0.35, size / 2), "L", letter, TEXT, anchor="rm", halo=2)
    return np.asarray(canvas)


def text(
    draw: ImageDraw.ImageDraw,
    position: tuple[float, float],
    words: str,
    size: int,
    colour: Rgb,
    *,
    anchor: str = "la",
    halo: int = 0,
    bold: bool = False,
) -> None:
    """Write ``words`` in Pillow's own font, so that no picture depends on the machine's fonts."""
    words = printable(words)
    if bold:
        draw.text(position, words, colour, font(size), anchor=anchor, stroke_width=0.6)
        return
    draw.text(position, words, colour, font(size), anchor=anchor, stroke_width=halo, stroke_fill=BACKGROUND)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's embedded font."""
    return ImageFont.load_default(size=size)


def printable(words: str) -> str:
    """``words`` in the characters Pillow's embedded font has; others would be drawn as boxes."""
    import unicodedata

    for fancy, plain in (("–", "-"), ("—", "-"), ("−", "-"), ("≥", ">="), ("≤", "<="), ("Δ", "d")):
        words = words.replace(fancy, plain)
    return unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()


@dataclass(frozen=True, eq=False)
class _Mask:
    """Part of a picture, at OVERSAMPLING times its size: bool values and where their corner lies (x, y)."""

    values: BoolArray
    corner: tuple[int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) in the picture."""
        rows, columns = np.nonzero(self.values)
        return (
            (self.corner[0] + float(columns.mean())) / OVERSAMPLING,
            (self.corner[1] + float(rows.mean())) / OVERSAMPLING,
        )

    def outline(self, width: int) -> _Mask:
        """The inner rim, ``width`` picture pixels wide."""
        steps = width * OVERSAMPLING
        inner = np.pad(self.values, steps)
        for _ in range(steps):
            rows = inner[1:-1] & inner[:-2] & inner[2:]
            inner = rows[:, 1:-1] & rows[:, :-2] & rows[:, 2:]
        return _Mask(self.values & ~inner, self.corner)

    def dashed(self, pixels: int) -> _Mask:
        """Every other stretch of an outline, each of about ``pixels`` picture pixels of line."""
        rows, columns = np.nonzero(self.values)
        order = np.argsort(np.arctan2(rows - rows.mean(), columns - columns.mean()), kind="stable")
        shown = (np.arange(len(order)) // (pixels * OVERSAMPLING**2)) % 2 == 0
        values = np.zeros_like(self.values)
        values[rows[order[shown]], columns[order[shown]]] = True
        return _Mask(values, self.corner)


def _grey(plane: npt.NDArray[np.generic], view: View, size: int) -> Image.Image:
    low = WINDOW_CENTRE_HU - WINDOW_WIDTH_HU / 2
    # clipping before scaling keeps bone from ringing into the brain
    shown = np.clip((plane.astype(np.float32) - low) / WINDOW_WIDTH_HU, -0.5, 1.5)
    values = np.asarray(_resized(shown, view, size, Image.Resampling.BICUBIC))
    grey = Image.fromarray(np.clip(values * 255.0, 0, 255).astype(np.uint8))
    return Image.merge("RGB", (grey, grey, grey))


def _enlarged(mask: BoolArray, view: View, size: int) -> _Mask | None:
    """A slice's mask as it appears in the picture, with smooth edges; None when nothing is in view."""
    if not mask.any():
        return None
    scaled = _resized(mask.astype(np.uint8) * 255, view, size * OVERSAMPLING, Image.Resampling.BILINEAR)
    box = scaled.getbbox()
    if box is None:
        return None
    margin = 3 * int(np.ceil(SMOOTHING))
    box = (max(0, box[0] - margin), max(0, box[1] - margin), box[2] + margin, box[3] + margin)
    smooth = scaled.crop(box).filter(ImageFilter.GaussianBlur(SMOOTHING))
    values = np.asarray(smooth) > 127
    return _Mask(values, (box[0], box[1])) if values.any() else None


def _resized(
    plane: npt.NDArray[np.generic], view: View, size: int, resampling: Image.Resampling
) -> Image.Image:
    """The part of ``plane`` that ``view`` shows as a square of ``size`` pixels; edge values outside."""
    half = [view.extent_mm / 2 / spacing for spacing in view.spacing_mm]
    top, left = view.centre[0] - half[0], view.centre[1] - half[1]
    bottom, right = view.centre[0] + half[0], view.centre[1] + half[1]
    first_row, first_column = max(0, int(top)), max(0, int(left))
    last_row, last_column = min(plane.shape[0], int(bottom) + 2), min(plane.shape[1], int(right) + 2)
    part = plane[first_row:last_row, first_column:last_column]
    missing = (
        (max(0, int(np.ceil(first_row - top))), max(0, int(np.ceil(bottom - last_row)))),
        (max(0, int(np.ceil(first_column - left))), max(0, int(np.ceil(right - last_column)))),
    )
    part = np.pad(part, missing, mode="edge")
    row, column = first_row - missing[0][0], first_column - missing[1][0]
    return Image.fromarray(part).resize(
        (size, size), resampling, box=(left - column, top - row, right - column, bottom - row)
    )


def _blend(picture: Image.Image, mask: _Mask, colour: Rgb, opacity: float) -> None:
    """Paint ``colour`` where ``mask`` is, in place."""
    x, y = (corner - corner % OVERSAMPLING for corner in mask.corner)
    height, width = mask.values.shape
    rows, columns = height + mask.corner[1] - y, width + mask.corner[0] - x
    padded = np.zeros((rows + rows % OVERSAMPLING, columns + columns % OVERSAMPLING), np.float32)
    padded[mask.corner[1] - y : rows, mask.corner[0] - x : columns] = mask.values
    blocks = padded.reshape(padded.shape[0] // OVERSAMPLING, OVERSAMPLING, -1, OVERSAMPLING)
    alpha = Image.fromarray((blocks.mean(axis=(1, 3)) * opacity * 255).astype(np.uint8))
    picture.paste(colour, (x // OVERSAMPLING, y // OVERSAMPLING), alpha)


def _region_line(result: Result, region: RegionId) -> tuple[Rgb, int, bool]:
    """Colour of a region's outline, its width in picture pixels, and whether it is dashed."""
    finding = next((f for f in result.regions if (f.name, f.side) == tuple(region)), None)
    if finding is None or result.status == "withheld":
        return UNAFFECTED, 1, False
    if not finding.assessable:
        return NOT_ASSESSABLE, 1, False
    if finding.affected:
        return AFFECTED, 2, finding.borderline
    return (BORDERLINE, 2, True) if finding.borderline else (UNAFFECTED, 1, False)
