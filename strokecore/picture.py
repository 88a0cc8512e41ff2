"""Slices of the scan with regions and lesion drawn on them, as RGB arrays.

Pictures follow the radiological convention: the patient's right is on the image's left, anterior is up.
Orientation is computed from the series' direction cosines, never from array shapes or slice names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from strokecore.anatomy.regions import ALL_REGIONS, GANGLIONIC, SUPRAGANGLIONIC, RegionId
from strokecore.result import Result, SourceMasks
from strokecore.series import Series

Rgb = tuple[int, int, int]
Level = Literal["ganglionic", "supraganglionic"]
LEVELS: Final[tuple[Level, Level]] = ("ganglionic", "supraganglionic")
Rgb8 = npt.NDArray[np.uint8]

# The narrow window that shows early ischaemic change (the "stroke window", centre 35-40, width 40)
WINDOW_CENTRE_HU: Final = 36.0
WINDOW_WIDTH_HU: Final = 44.0
# Between air and skin: where the head begins in a picture
SKIN_HU: Final = -300.0
# Empty rim around the head, as a fraction of its larger extent
MARGIN: Final = 0.04
# Overlays are drawn this much larger and shrunk, which smooths their edges
OVERSAMPLING: Final = 2

BACKGROUND: Final[Rgb] = (0, 0, 0)
TEXT: Final[Rgb] = (236, 239, 244)
AFFECTED: Final[Rgb] = (255, 146, 43)
UNAFFECTED: Final[Rgb] = (92, 190, 206)
NOT_ASSESSABLE: Final[Rgb] = (150, 156, 168)
# by SourceMasks.lesion value
LESION_COLOURS: Final[Mapping[int, Rgb]] = {1: (240, 62, 62), 2: (240, 62, 62), 3: (116, 143, 252)}
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
LESION_OPACITY: Final = 0.30
LINE_OPACITY: Final = 0.85


@dataclass(frozen=True)
class DisplayAxes:
    """How a stored slice becomes a displayed one: transpose first, then the flips."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool


@dataclass(frozen=True)
class View:
    """Part of a displayed slice: (left, top, right, bottom) in displayed pixels, and their size in mm."""

    box: tuple[float, float, float, float]
    spacing_mm: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """(height, width)."""
        left, top, right, bottom = self.box
        return (bottom - top) * self.spacing_mm[0], (right - left) * self.spacing_mm[1]


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


def head_view(series: Series) -> View:
    """The smallest view that holds the head on every slice, with a margin; the whole slice without one."""
    axes = display_axes(series)
    # every second slice and pixel are enough to find the head, and four times quicker
    head = oriented((series.hu[::2] > SKIN_HU).any(axis=0), axes)
    row_mm, column_mm = series.pixel_spacing_mm
    spacing = (column_mm, row_mm) if axes.transpose else (row_mm, column_mm)
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    height, width = head.shape
    if not len(rows):
        return View((0.0, 0.0, float(width), float(height)), spacing)
    margin_mm = MARGIN * max((rows[-1] - rows[0]) * spacing[0], (columns[-1] - columns[0]) * spacing[1])
    return View(
        (
            max(0.0, columns[0] - margin_mm / spacing[1]),
            max(0.0, rows[0] - margin_mm / spacing[0]),
            min(float(width), columns[-1] + 1 + margin_mm / spacing[1]),
            min(float(height), rows[-1] + 1 + margin_mm / spacing[0]),
        ),
        spacing,
    )


def level_slice(masks: SourceMasks, level: Level) -> int:
    """Index k of the slice that shows most of a level's regions; the middle slice when none is there."""
    names = GANGLIONIC if level == "ganglionic" else SUPRAGANGLIONIC
    shown = np.zeros(len(masks.regions))
    for region in ALL_REGIONS:
        if region.name in names:
            area = np.count_nonzero(masks.regions == region.label, axis=(1, 2)).astype(float)
            # each region counts the same, so that the large cortical ones do not decide alone
            shown += area / max(area.max(), 1.0)
    return int(shown.argmax()) if shown.any() else len(shown) // 2


def draw_slice(
    series: Series,
    masks: SourceMasks,
    result: Result,
    k: int,
    size: int,
    *,
    view: View | None = None,
    labels: bool = True,
    outlines: bool = True,
) -> Rgb8:
    """Slice ``k`` with lesion, region outlines and R/L letters; uint8 [size, size, 3].

    Affected regions are orange, others teal, regions that were not assessed grey. Where the score is
    withheld no region is marked, so that it cannot be read off the picture.
    """
    view = view or head_view(series)
    axes = display_axes(series)
    height_mm, width_mm = view.size_mm
    scale = size / max(height_mm, width_mm)
    shape = (max(1, round(height_mm * scale)), max(1, round(width_mm * scale)))
    picture = _grey(oriented(series.hu[k], axes), view, shape)
    regions, lesion = oriented(masks.regions[k], axes), oriented(masks.lesion[k], axes)
    anchors: list[tuple[RegionId, Rgb, float, float]] = []
    if outlines:
        for region in ALL_REGIONS:
            mask = _enlarged(regions == region.label, view, shape)
            if mask is None:
                continue
            colour, affected = _region_colour(result, region)
            _blend(picture, _outline(mask, 2 if affected else 1), colour, LINE_OPACITY)
            rows, columns = np.nonzero(np.asarray(mask))
            anchors.append((region, colour, columns.mean() / OVERSAMPLING, rows.mean() / OVERSAMPLING))
    for value, colour in LESION_COLOURS.items():
        mask = _enlarged(lesion == value, view, shape)
        if mask is not None:
            _blend(picture, mask, colour, LESION_OPACITY)
            _blend(picture, _outline(mask, 1), colour, 1.0)
    canvas = Image.new("RGB", (size, size), BACKGROUND)
    left, top = (size - shape[1]) // 2, (size - shape[0]) // 2
    canvas.paste(picture, (left, top))
    draw = ImageDraw.Draw(canvas)
    if labels:
        for region, colour, x, y in anchors:
            text(draw, (left + x, top + y), region.name, max(11, size // 38), colour, anchor="mm", halo=2)
    letter = max(12, size // 22)
    text(draw, (letter * 0.35, size / 2), "R", letter, TEXT, anchor="lm", halo=2)
    text(draw, (size - letter * 0.35, size / 2), "L", letter, TEXT, anchor="rm", halo=2)
    return np.asarray(canvas)


def region_contour(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Outer boundary of the largest part of ``mask`` [j, i], float64 [n, 2] as (column, row), closed.

    The polygon runs along the pixels' edges in DICOM's image coordinates (PS3.3 C.18.6: the top left
    corner of the top left pixel is 0, 0), so filling it gives back the mask without its holes.

    Raises ValueError when the mask is empty.
    """
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if count == 0:
        raise ValueError("an empty mask has no contour")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = ndimage.binary_fill_holes(parts == int(sizes.argmax()))
    return _trace(np.pad(part, 1)) - 1.0


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


def _grey(plane: npt.NDArray[np.generic], view: View, shape: tuple[int, int]) -> Image.Image:
    low = WINDOW_CENTRE_HU - WINDOW_WIDTH_HU / 2
    # clipping before scaling keeps bone from ringing into the brain
    shown = np.clip((plane.astype(np.float32) - low) / WINDOW_WIDTH_HU, -0.5, 1.5)
    scaled = Image.fromarray(shown).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=view.box)
    values = np.clip(np.asarray(scaled) * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(values[..., None], 3, axis=2))


def _enlarged(mask: npt.NDArray[np.bool_], view: View, shape: tuple[int, int]) -> Image.Image | None:
    """Mask at OVERSAMPLING times the displayed size, with smooth edges; None when nothing is left."""
    if not mask.any():
        return None
    target = (shape[1] * OVERSAMPLING, shape[0] * OVERSAMPLING)
    scaled = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        target, Image.Resampling.BICUBIC, box=view.box
    )
    smooth = scaled.filter(ImageFilter.GaussianBlur(1.5)).point(lambda level: 255 if level > 127 else 0)
    return smooth if smooth.getbbox() else None


def _outline(mask: Image.Image, width: int) -> Image.Image:
    """The inner rim of an enlarged mask, ``width`` displayed pixels wide."""
    box = mask.getbbox()
    assert box is not None, "masks without a pixel are dropped before"
    part = np.pad(np.asarray(mask.crop(box)), width * OVERSAMPLING)
    inner = part
    for _ in range(width * OVERSAMPLING):
        rows = inner[1:-1] & inner[:-2] & inner[2:]
        inner = rows[:, 1:-1] & rows[:, :-2] & rows[:, 2:]
    rim = np.zeros((mask.height, mask.width), np.uint8)
    whole = np.asarray(mask.crop(box))
    rim[box[1] : box[3], box[0] : box[2]] = whole & ~inner
    return Image.fromarray(rim)


def _blend(picture: Image.Image, mask: Image.Image, colour: Rgb, opacity: float) -> None:
    """Paint ``colour`` where the enlarged ``mask`` is, in place."""
    alpha = mask.resize(picture.size, Image.Resampling.BOX).point(lambda level: int(level * opacity))
    picture.paste(colour, (0, 0), alpha)


def _region_colour(result: Result, region: RegionId) -> tuple[Rgb, bool]:
    finding = next((f for f in result.regions if (f.name, f.side) == tuple(region)), None)
    if finding is None or result.status == "withheld":
        return UNAFFECTED, False
    if not finding.assessable:
        return NOT_ASSESSABLE, False
    return (AFFECTED, True) if finding.affected else (UNAFFECTED, False)


def _trace(part: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Walk the pixel edges around one filled part, keeping it on the right; corners only."""
    # edges from corner to corner, in walking direction, for the four sides of every pixel
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(mask: npt.NDArray[np.bool_], start: tuple[int, int], end: tuple[int, int]) -> None:
        for row, column in np.argwhere(mask).tolist():
            follow.setdefault((row + start[0], column + start[1]), []).append((row + end[0], column + end[1]))

    inside = part
    add(inside & ~np.roll(inside, 1, 0), (0, 0), (0, 1))
    add(inside & ~np.roll(inside, -1, 1), (0, 1), (1, 1))
    add(inside & ~np.roll(inside, -1, 0), (1, 1), (1, 0))
    add(inside & ~np.roll(inside, 1, 1), (1, 0), (0, 0))
    start = min(follow)
    corners = [start]
    here, direction = start, (0, 1)
    while True:
        choices = follow[here]
        # where two pixels touch at a corner, turn right: 4-connected parts stay on their own boundary
        right = (here[0] + direction[1], here[1] - direction[0])
        there = right if right in choices else choices[0]
        choices.remove(there)
        step = (there[0] - here[0], there[1] - here[1])
        if step != direction:
            corners.append(here)
            direction = step
        here = there
        if here == start and not follow[here]:
            break
    corners.append(start)
    return np.asarray(corners, np.float64)[:, ::-1]
