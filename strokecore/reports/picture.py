"""Slices of the scan with regions and lesion drawn on them, as RGB arrays.

Pictures follow the radiological convention: the patient's right is on the image's left, anterior is up.
Orientation is computed from the series' direction cosines, never from array shapes or slice names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage
from scipy.spatial import cKDTree

from strokecore.anatomy.regions import ALL_REGIONS, GANGLIONIC, SUPRAGANGLIONIC, RegionId
from strokecore.arrays import BoolArray, UInt8Array
from strokecore.reading.series import Series
from strokecore.reports.dicom.contour import region_contour
from strokecore.reports.palette import (
    AFFECTED,
    BORDERLINE,
    MARKS,
    NOT_ASSESSABLE,
    TEXT,
    UNAFFECTED,
    Mark,
    Rgb,
)
from strokecore.result import Result, SourceMasks

Level = Literal["ganglionic", "supraganglionic"]
LEVELS: Final[tuple[Level, Level]] = ("ganglionic", "supraganglionic")
Rgb8 = UInt8Array

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
LESION_OPACITY: Final = 0.24
LINE_OPACITY: Final = 0.85
# Distance of the lines that hatch a mark, and their width, in picture pixels
HATCH: Final = 7
HATCH_WIDTH: Final = 1.5
# Width of a clot's outline: its inside stays bare, because its brightness is the finding
CLOT_WIDTH: Final = 3
# Dashes of a borderline region's outline, and the gaps between them, in picture pixels
DASH: Final = 6


@dataclass(frozen=True)
class Window:
    """Centre and width of a grey scale, HU."""

    centre: float
    width: float

    def __str__(self) -> str:
        return f"W {self.width:.0f} L {self.centre:.0f}"


# The narrow window that shows early ischaemic change, and a wider one, in which a clot is told from its
# oedema and from the skull
STROKE_WINDOW: Final = Window(40.0, 40.0)
BLOOD_WINDOW: Final = Window(50.0, 100.0)


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
    marks: bool = True,
    window: Window = STROKE_WINDOW,
) -> Rgb8:
    """Slice ``k`` with marks, region outlines and R/L letters; uint8 [size, size, 3].

    ``marks``: False shows the bare scan, for the picture beside a marked one. Affected regions are orange,
    others teal, regions that were not assessed grey. Where the score is withheld no region is marked, so
    that it cannot be read off the picture.
    """
    axes = display_axes(series)
    canvas = _grey(oriented(series.hu[k], axes), view, size, window)
    if marks:
        _draw_marks(canvas, series, masks, result, k, view, labels)
    draw = ImageDraw.Draw(canvas)
    letter = max(12, size // 18)
    text(draw, (letter * 0.35, size / 2), "R", letter, TEXT, anchor="lm", halo=2)
    text(draw, (size - letter * 0.35, size / 2), "L", letter, TEXT, anchor="rm", halo=2)
    return np.asarray(canvas)


def _draw_marks(
    canvas: Image.Image,
    series: Series,
    masks: SourceMasks,
    result: Result,
    k: int,
    view: View,
    labels: bool,
) -> None:
    axes, size = display_axes(series), canvas.width
    regions, lesion = oriented(masks.regions[k], axes), oriented(masks.lesion[k], axes)
    names: list[tuple[str, Rgb, tuple[float, float]]] = []
    for region in ALL_REGIONS:
        mask = _enlarged(regions == region.label, view, size)
        if mask is None:
            continue
        colour, width, dashed = _region_line(result, region)
        rim = mask.dashed_outline(width) if dashed else mask.outline(width)
        _blend(canvas, rim, colour, LINE_OPACITY)
        names.append((f"{region.name}?" if dashed else region.name, colour, mask.centre))
    for value, mark in reversed(list(MARKS.items())):
        mask = _enlarged(lesion == value, view, size)
        if mask is not None:
            _paint(canvas, mask, mark)
    draw = ImageDraw.Draw(canvas)
    for name, colour, centre in names if labels else ():
        text(draw, centre, name, max(11, size // 26), colour, anchor="mm", halo=2)


def _paint(canvas: Image.Image, mask: _Mask, mark: Mark) -> None:
    if mark.pattern == "outlined":
        _blend(canvas, mask.outline(CLOT_WIDTH), mark.colour, 1.0)
        return
    if mark.pattern == "filled":
        _blend(canvas, mask, mark.colour, LESION_OPACITY)
    else:
        _blend(canvas, mask.hatched(both_ways=mark.pattern == "crossed"), mark.colour, LINE_OPACITY)
    _blend(canvas, mask.outline(1), mark.colour, 1.0)


def sample(mark: Mark, width: int, height: int, paper: Rgb) -> Rgb8:
    """A patch that is painted as tissue is, for a legend; uint8 [height, width, 3]."""
    canvas = Image.new("RGB", (width, height), paper)
    whole = np.ones((height * OVERSAMPLING, width * OVERSAMPLING), bool)
    _paint(canvas, _Mask(whole, (0, 0)), mark)
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

    def hatched(self, *, both_ways: bool) -> _Mask:
        """Diagonal lines through it, that run on from one mark to the next."""
        rows, columns = np.ogrid[: self.values.shape[0], : self.values.shape[1]]
        x, y = self.corner
        step, width = HATCH * OVERSAMPLING, HATCH_WIDTH * OVERSAMPLING
        lines = (rows + y + columns + x) % step < width
        if both_ways:
            lines = lines | ((rows + y - columns - x) % step < width)
        return _Mask(self.values & lines, self.corner)

    def dashed_outline(self, width: int) -> _Mask:
        """The inner rim, every other stretch of DASH picture pixels along it."""
        rim = self.outline(width).values
        path = region_contour(self.values)
        # the path runs along pixel edges, so the way from corner to corner is a difference of one coordinate
        length = np.concatenate([[0.0], np.abs(np.diff(path, axis=0)).sum(axis=1).cumsum()])
        along = np.arange(length[-1])
        points = np.stack([np.interp(along, length, path[:, axis]) for axis in (1, 0)], axis=1)
        pixels = np.argwhere(rim)
        nearest = cKDTree(points).query(pixels + 0.5)[1]
        shown = pixels[(nearest // (DASH * OVERSAMPLING)) % 2 == 0]
        values = np.zeros_like(rim)
        values[shown[:, 0], shown[:, 1]] = True
        return _Mask(values, self.corner)


def _grey(plane: npt.NDArray[np.generic], view: View, size: int, window: Window) -> Image.Image:
    low = window.centre - window.width / 2
    # clipping before scaling keeps bone from ringing into the brain
    shown = np.clip((plane.astype(np.float32) - low) / window.width, -0.5, 1.5)
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
