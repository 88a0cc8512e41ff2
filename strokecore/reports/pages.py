"""The pages a radiologist looks at: summary, all slices, or why there is no score.

The summary holds both ASPECTS levels, marked beside bare, the region table and the warnings; the montage
every slice that crosses a region or a mark. They are drawn once here, for the Secondary Capture and for the
report.

Viewers write over their pictures: OHIF has text in the corners and, for this modality, its cine bar at the
top centre. So the top and the corners of every page hold nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from strokecore.anatomy.regions import Side
from strokecore.reading import tags
from strokecore.reading.series import Series
from strokecore.reports import picture
from strokecore.reports.marks import Volumes
from strokecore.reports.palette import (
    AFFECTED,
    AFFECTED_ROW,
    ALARM,
    BORDERLINE,
    CARD,
    MARKS,
    MUTED,
    NOT_ASSESSABLE,
    PAPER,
    RULE,
    TEXT,
    UNAFFECTED,
    WARNING,
    Mark,
    Rgb,
)
from strokecore.reports.picture import BLOOD_WINDOW, STROKE_WINDOW, Rgb8, Window, draw_slice, text
from strokecore.reports.wording import (
    INTENDED_USE,
    NO_ALL_CLEAR,
    RESEARCH_USE,
    SUPERSEDES,
    affected_regions,
    decision,
    doubtful,
    flags,
    haemorrhage,
    headline,
    marked,
    number,
    probability,
    reasons,
    region_rows,
)
from strokecore.result import HAEMORRHAGE, RegionFinding, Result, SourceMasks

PAGE: Final = 1024
GAP: Final = 16
# What viewers write over: the top of a page, and its lower corners (width, height)
TOP: Final = 112
CORNER: Final = (226, 72)
# Side of a slice on the summary, and between two of a pair
PANEL: Final = 302
PAIR_GAP: Final = 6
# Montage: a head of 150 mm at 5 mm is 30 slices, two pages
TILES_ACROSS: Final = 4
TILE: Final = 204
MAXIMUM_TILES: Final = 2 * TILES_ACROSS**2
BORDERLINE_NAME: Final = "borderline"

# Side of a slice in the HTML report, pixels.
_REPORT_SIDE: Final = 512


@dataclass(frozen=True)
class _Shown:
    """A slice of the summary: what it is, its index k, and the window it is seen in."""

    title: str
    k: int
    window: Window


def summary_page(series: Series, result: Result, masks: SourceMasks) -> Rgb8:
    """Scores, both levels, table and warnings; uint8 [1024, 1024, 3]. ``masks`` as marks.shown gives them."""
    page, draw = _page()
    top = _header(draw, result)
    shown = _shown_slices(result, masks)
    views = picture.head_views(series, [one.k for one in shown])
    for row, one in enumerate(shown):
        for column, marks in enumerate((True, False)):
            left, upper = GAP + column * (PANEL + PAIR_GAP), top + row * (PANEL + PAIR_GAP)
            panel = draw_slice(
                series, masks, result, one.k, PANEL, views[one.k], marks=marks, window=one.window
            )
            page.paste(Image.fromarray(panel), (left, upper))
            draw.rectangle((left, upper, left + PANEL - 1, upper + PANEL - 1), outline=RULE)
            caption = f"{one.title}{_image_name(series, one.k)}" if marks else str(one.window)
            text(draw, (left + 6, upper + PANEL - 5), caption, 17, TEXT, anchor="ld", halo=2)
    right = GAP + 2 * PANEL + PAIR_GAP + 12
    bottom = top + 2 * PANEL + PAIR_GAP
    table_bottom = _table(draw, result, (right, top))
    _legend(page, draw, series, result, masks, (right, table_bottom + 8), bottom)
    _notes(draw, series, result, masks, bottom + 8)
    _footer(draw, result, _series_words(series))
    return np.asarray(page)


def montage_pages(series: Series, result: Result, masks: SourceMasks) -> list[Rgb8]:
    """Every slice that crosses a region or a mark, from below upwards, 16 to a page."""
    shown = _montage_slices(series, masks)
    views = picture.head_views(series, shown)
    per_page = TILES_ACROSS**2
    left_edge = (PAGE - TILES_ACROSS * TILE) // 2
    window = BLOOD_WINDOW if _blood_slice(result, masks) is not None else STROKE_WINDOW
    pages = []
    for first in range(0, len(shown), per_page):
        page, draw = _page()
        title = headline(result) or "All slices through the ASPECTS regions, from below upwards"
        colour = ALARM if headline(result) else TEXT
        text(draw, (left_edge, TOP - 2), title, _fitting(title, 26, TILES_ACROSS * TILE), colour)
        for index, k in enumerate(shown[first : first + per_page]):
            left = left_edge + (index % TILES_ACROSS) * TILE
            top = TOP + 34 + (index // TILES_ACROSS) * TILE
            image = draw_slice(series, masks, result, k, TILE - 4, views[k], labels=False, window=window)
            page.paste(Image.fromarray(image), (left, top))
            name = _image_name(series, k).lstrip(" ,")
            text(draw, (left + 5, top + 3), name, 15, TEXT, halo=2)
        _footer(draw, result, f"{_series_words(series)}, {window}")
        pages.append(np.asarray(page))
    return pages


def refusal_page(result: Result) -> Rgb8:
    """ "ASPECTS NOT SCORED - reason - what to do"; uint8 [1024, 1024, 3]."""
    page, draw = _page()
    text(draw, (64, 120), "ASPECTS NOT SCORED", 64, ALARM, bold=True)
    text(draw, (64, 204), "StrokeCore received this head CT and could not score it.", 24, TEXT)
    y = 300
    for flag in reasons(result)[:3]:
        text(draw, (64, y), "Reason", 20, MUTED)
        y = _paragraph(draw, (64, y + 30), flag.message, 30, TEXT, PAGE - 128)
        if flag.remedy:
            text(draw, (64, y + 24), "What to do", 20, MUTED)
            y = _paragraph(draw, (64, y + 54), flag.remedy, 30, WARNING, PAGE - 128)
        text(draw, (64, y + 24), f"Code: {flag.code}", 18, MUTED)
        y += 84
    text(draw, (64, PAGE - 150), "The images themselves are unchanged: read them as usual.", 24, TEXT)
    _footer(draw, result, "")
    return np.asarray(page)


def _page() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (PAGE, PAGE), PAPER)
    return page, ImageDraw.Draw(page)


def _header(draw: ImageDraw.ImageDraw, result: Result) -> int:
    """The scores, or why there is none, in the page's largest letters; returns the y below."""
    y = TOP
    if headline(result):
        size = _fitting(headline(result), 46, PAGE - 2 * GAP)
        text(draw, (GAP, y), headline(result), size, ALARM, bold=True)
        y += 52
    if result.status == "withheld":
        if haemorrhage(result):
            text(draw, (GAP, y), haemorrhage(result), 24, ALARM)
        return y + 36
    # as on the image below: the patient's right is on the left
    sides: tuple[Side, Side] = ("right", "left")
    for side, left in zip(sides, (GAP, PAGE // 2), strict=True):
        score = result.aspects[side]
        words = f"ASPECTS {side.upper()}"
        text(draw, (left, y + 58), words, 24, TEXT, anchor="ls", bold=True)
        x = left + picture.font(24).getlength(words) + 14
        partial = score.assessed < 10
        assessed = f"{score.assessed} of 10 assessed" if partial else "of 10"
        if score.score is None:
            text(draw, (x, y + 58), "not scored", 32, WARNING, anchor="ls", bold=True)
            text(draw, (x, y + 78), f"({assessed})", 18, WARNING, anchor="ls")
            continue
        # no green: a full score is no all-clear
        colour = TEXT if score.score == 10 else AFFECTED
        text(draw, (x, y + 58), str(score.score), 68, colour, anchor="ls", bold=True)
        beside = x + picture.font(68).getlength(str(score.score)) + 12
        if score.doubt:
            text(draw, (beside, y + 32), f"({score.doubt})", 30, WARNING, anchor="ls", bold=True)
        text(draw, (beside, y + 58), assessed, 18, WARNING if partial else MUTED, anchor="ls")
    return y + 82


def _shown_slices(result: Result, masks: SourceMasks) -> tuple[_Shown, _Shown]:
    """The slices of the summary: both levels, or the blood and the level below."""
    ganglionic, above = (picture.level_slice(masks, level) for level in picture.LEVELS)
    blood = _blood_slice(result, masks)
    first = _Shown("Ganglionic", ganglionic, STROKE_WINDOW)
    if blood is not None:
        return _Shown("Most blood", blood, BLOOD_WINDOW), first
    return first, _Shown("Supraganglionic", above, STROKE_WINDOW)


def _blood_slice(result: Result, masks: SourceMasks) -> int | None:
    """Index k of the slice that shows most of the haemorrhage that withholds the score."""
    areas = (masks.lesion == HAEMORRHAGE).sum(axis=(1, 2))
    return int(areas.argmax()) if result.status == "withheld" and areas.any() else None


def _table(draw: ImageDraw.ImageDraw, result: Result, corner: tuple[int, int]) -> int:
    """Regions, and the y below."""
    left, top = corner
    right = PAGE - GAP
    rows = region_rows(result)
    height = 33
    bottom = top + 54 + height * len(rows) + 44
    draw.rounded_rectangle((left, top, right, bottom), 8, fill=CARD)
    columns = {"right": left + 62, "left": left + 168}
    for side, x in columns.items():
        text(draw, (x, top + 6), side.upper(), 19, TEXT, bold=True)
        text(draw, (x + 92, top + 30), "prob.", 16, MUTED, anchor="ra")
    text(draw, (right - 10, top + 6), "R - L", 19, TEXT, anchor="ra", bold=True)
    text(draw, (right - 10, top + 30), "HU", 16, MUTED, anchor="ra")
    for row, (name, right_finding, left_finding) in enumerate(rows):
        y = top + 54 + (row + 0.5) * height
        draw.line((left + 8, y - height / 2, right - 8, y - height / 2), fill=RULE)
        _cells(draw, result, right_finding, columns["right"], y)
        _cells(draw, result, left_finding, columns["left"], y)
        text(draw, (left + 12, y), name, 22, TEXT, anchor="lm", bold=True)
        difference = right_finding.contralateral_difference_hu
        mirrored = difference is not None
        words = number(difference, "{:+.1f}") if mirrored else "no mirror"
        size, colour = (20, TEXT) if mirrored else (14, WARNING)
        text(draw, (right - 10, y), words, size, colour, anchor="rm")
    text(draw, (left + 12, bottom - 40), "R - L: mean density right minus left;", 15, MUTED)
    text(draw, (left + 12, bottom - 22), "negative: the right side is darker.", 15, MUTED)
    return bottom


def _cells(draw: ImageDraw.ImageDraw, result: Result, finding: RegionFinding, x: int, y: float) -> None:
    note = (finding.reason or "").replace("_", " ")
    if not finding.assessable:
        text(draw, (x, y), "n/a", 18, MUTED, anchor="lm")
        text(draw, (x + 32, y), note, 11, MUTED, anchor="lm")
        return
    affected, borderline = marked(result, finding), doubtful(result, finding)
    if affected:
        draw.rounded_rectangle((x - 6, y - 15, x + 98, y + 15), 5, fill=AFFECTED_ROW)
        draw.ellipse((x, y - 7, x + 14, y + 7), fill=AFFECTED)
    if borderline:
        draw.ellipse((x, y - 7, x + 14, y + 7), outline=BORDERLINE, width=3)
        text(draw, (x + 20, y), "?", 20, BORDERLINE, anchor="lm", bold=True)
    colour = AFFECTED if affected else BORDERLINE if borderline else TEXT
    text(draw, (x + 92, y), probability(result, finding), 20, colour, anchor="rm")


def _notes(draw: ImageDraw.ImageDraw, series: Series, result: Result, masks: SourceMasks, top: int) -> None:
    """Volumes and warnings, as many as there is room for."""
    bottom, width, size = PAGE - CORNER[1], PAGE - 2 * GAP, 17
    y = top
    if result.status == "scored":
        volumes = Volumes.of(series, masks)
        words = f"Affected: {affected_regions(result)}. Early ischaemic change: {volumes.early_words}."
        y = _paragraph(draw, (GAP, y), words, 21, TEXT, width)
    if decision(result):
        y = _paragraph(draw, (GAP, y), decision(result), size, MUTED, width)
    if result.supersedes:
        y = _paragraph(draw, (GAP, y), SUPERSEDES, size, WARNING, width)
    named = flags(result)
    for position, flag in enumerate(named):
        colour = {"refusal": ALARM, "warning": WARNING, "info": MUTED}[flag.severity]
        rest = len(named) - position
        room = bottom - y - (_line(size) if rest > 1 else 0)
        # the remedy gives way to another warning
        for words in (f"{flag.message} {flag.remedy}".strip(), flag.message):
            needed = len(_wrapped(words, size, width - 14)) * _line(size)
            if needed <= room:
                break
        else:
            text(draw, (GAP, y), f"and {rest} more in the report", size, MUTED)
            break
        draw.rectangle((GAP, y + 2, GAP + 4, y + needed - 4), fill=colour)
        y = _paragraph(
            draw, (GAP + 14, y), words, size, TEXT if flag.severity != "info" else MUTED, width - 14
        )


def _legend(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    series: Series,
    result: Result,
    masks: SourceMasks,
    corner: tuple[int, int],
    bottom: int,
) -> None:
    """What lines and patterns mean, as far as this result's pictures show them."""
    left, y = corner
    draw.rounded_rectangle((left, y, PAGE - GAP, bottom), 8, fill=CARD)
    lines = [(UNAFFECTED, "region")]
    if result.status == "scored":  # otherwise the outlines say nothing of the regions
        lines = [
            (AFFECTED, "affected"),
            (BORDERLINE, BORDERLINE_NAME),
            (UNAFFECTED, "not affected"),
            (NOT_ASSESSABLE, "not assessed"),
        ]
    for index, (colour, name) in enumerate(lines):
        x, middle = left + 12 + (index % 2) * 184, y + 18 + (index // 2) * 24
        draw.rectangle((x, middle - 2, x + 24, middle + 1), fill=colour)
        if name == BORDERLINE_NAME:  # dashed, as its outline is
            draw.rectangle((x + 9, middle - 2, x + 15, middle + 1), fill=CARD)
        text(draw, (x + 34, middle), name, 17, TEXT, anchor="lm")
    y += 18 + 24 * -(-len(lines) // 2)
    volumes = dict(Volumes.of(series, masks).uncounted)
    for mark, label in _legend_marks(masks):
        page.paste(Image.fromarray(picture.sample(mark, 24, 16, CARD)), (left + 12, y - 8))
        words = f"{label}: {volumes[label]}" if label in volumes else label
        text(draw, (left + 46, y), words, _fitting(words, 17, PAGE - GAP - left - 54), TEXT, anchor="lm")
        y += 24
    if result.status == "scored":
        text(draw, (left + 12, bottom - 30), NO_ALL_CLEAR, _fitting(NO_ALL_CLEAR, 17, 350), WARNING)


def _legend_marks(masks: SourceMasks) -> list[tuple[Mark, str]]:
    """Marks that the pictures show; both sides of one kind look alike and are one entry."""
    named = {}
    for value, mark in MARKS.items():
        if (masks.lesion == value).any():
            label = mark.label.removesuffix(" left").removesuffix(" right")
            named[label] = mark
    return [(mark, label) for label, mark in named.items()]


def _footer(draw: ImageDraw.ImageDraw, result: Result, scan: str) -> None:
    """Between the lower corners."""
    middle, width = PAGE / 2, PAGE - 2 * CORNER[0]
    y = PAGE - CORNER[1] + 4
    model = f", {result.model.name} {result.model.version}" if result.model is not None else ""
    words = f"StrokeCore {result.software.version}{model}"
    words = ", ".join(filter(None, (words, scan, f"result {(result.result_key or '-')[:8]}")))
    text(draw, (middle, y), f"{RESEARCH_USE}. Unverified.", 16, WARNING, anchor="ma", bold=True)
    text(draw, (middle, y + 20), words, _fitting(words, 13, width), MUTED, anchor="ma")
    for row, line in enumerate(_wrapped(INTENDED_USE, 13, width)):
        text(draw, (middle, y + 35 + row * 15), line, 13, MUTED, anchor="ma")


def _series_words(series: Series) -> str:
    """How the reader finds the scan: "series 4, scanned 03:12"."""
    first = series.datasets[0]
    series_number = tags.number(first, "SeriesNumber")
    time = tags.text(first, "AcquisitionTime") or tags.text(first, "AcquisitionDateTime")[8:]
    words = [] if series_number is None else [f"series {series_number:.0f}"]
    if re.match(r"([01]\d|2[0-3])[0-5]\d", time):
        words.append(f"scanned {time[:2]}:{time[2:4]}")
    return ", ".join(words)


def _fitting(words: str, size: int, width: float) -> int:
    """The largest size up to ``size`` at which the words are not wider than ``width``."""
    while size > 8 and picture.font(size).getlength(picture.printable(words)) > width:
        size -= 1
    return size


def _line(size: int) -> int:
    return round(size * 1.25)


def _paragraph(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], words: str, size: int, colour: Rgb, width: float
) -> int:
    """Write wrapped text and return the y below it."""
    x, y = corner
    for line in _wrapped(words, size, width):
        text(draw, (x, y), line, size, colour)
        y += _line(size)
    return round(y)


def _wrapped(words: str, size: int, width: float) -> list[str]:
    lines = [""]
    for word in picture.printable(words).split():
        longer = f"{lines[-1]} {word}".strip()
        if picture.font(size).getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _montage_slices(series: Series, masks: SourceMasks) -> list[int]:
    shown = np.flatnonzero((masks.regions > 0).any(axis=(1, 2)) | (masks.lesion > 0).any(axis=(1, 2)))
    if len(shown) == 0:
        shown = np.arange(len(series.hu))
    if len(shown) > MAXIMUM_TILES:
        shown = shown[np.linspace(0, len(shown) - 1, MAXIMUM_TILES).round().astype(int)]
    upwards = series.normal[2] >= 0
    return [int(k) for k in (shown if upwards else shown[::-1])]


def _image_name(series: Series, k: int) -> str:
    """How a viewer names the slice: its InstanceNumber."""
    numbers = [tags.number(header, "InstanceNumber") for header in series.datasets]
    mine = numbers[k]
    if mine is None:
        return f", slice {k + 1}"
    # several stacks in one series count from 1 again: then only the position tells
    place = f" at {series.positions_mm[k][2]:.1f} mm" if numbers.count(mine) > 1 else ""
    return f", image {mine:.0f}{place}"


@dataclass(frozen=True, eq=False)
class Drawing:
    """The pictures of a scored or withheld result; uint8 [rows, columns, 3] each.

    Attributes
    ----------
    summary, montage: the pages of the Secondary Capture.
    levels: the summary's slices, marked above bare, for the report, which has its own table.
    volumes: what the marks measure.
    windows: the windows of ``levels`` in words.
    legend: name and patch of each mark that the pictures show.
    """

    summary: Rgb8
    montage: tuple[Rgb8, ...]
    levels: Rgb8
    volumes: Volumes
    windows: str
    legend: tuple[tuple[str, Rgb8], ...]

    @classmethod
    def of(cls, series: Series, result: Result, masks: SourceMasks) -> Drawing:
        """``masks`` as marks.shown gives them."""
        shown = _shown_slices(result, masks)
        views = picture.head_views(series, [one.k for one in shown])
        rows = [
            [
                draw_slice(
                    series, masks, result, one.k, _REPORT_SIDE, views[one.k], marks=marks, window=one.window
                )
                for one in shown
            ]
            for marks in (True, False)
        ]
        return cls(
            summary=summary_page(series, result, masks),
            montage=tuple(montage_pages(series, result, masks)),
            levels=np.concatenate([np.concatenate(row, axis=1) for row in rows]),
            volumes=Volumes.of(series, masks),
            windows="; ".join(f"{one.title}{_image_name(series, one.k)}, {one.window}" for one in shown),
            legend=tuple((label, picture.sample(mark, 32, 20, CARD)) for mark, label in _legend_marks(masks)),
        )
