"""The pages a radiologist looks at: summary, all slices, or why there is no score.

The summary holds both ASPECTS levels, the region table and the warnings; the montage every slice that
crosses a region or a lesion. They are drawn once here, for the Secondary Capture and for the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from strokecore.anatomy.regions import Side
from strokecore.reading import tags
from strokecore.reading.series import Series
from strokecore.reports import picture
from strokecore.reports.picture import Rgb, Rgb8, draw_slice, text
from strokecore.reports.wording import (
    doubtful,
    haemorrhage,
    marked,
    number,
    other_volumes,
    probability,
    reasons,
    region_rows,
    summary_line,
)
from strokecore.result import (
    HAEMORRHAGE,
    INFARCT,
    OLD_INFARCT,
    OTHER_HYPODENSITY,
    RegionFinding,
    Result,
    SourceMasks,
)

RESEARCH_USE: Final = "RESEARCH USE ONLY"
PAGE: Final = 1024
PANEL: Final = 496
GAP: Final = 16
# Montage: legible tiles; a head of 150 mm at 5 mm is 30 slices, two pages
TILES_ACROSS: Final = 4
LEGEND_COLUMNS: Final = 3
BORDERLINE_NAME: Final = "borderline"
MAXIMUM_TILES: Final = 2 * TILES_ACROSS**2

# Side of a slice in the HTML report, pixels.
_REPORT_SIDE: Final = 512

PAPER: Final[Rgb] = (13, 17, 23)
CARD: Final[Rgb] = (22, 27, 36)
RULE: Final[Rgb] = (48, 56, 70)
MUTED: Final[Rgb] = (150, 160, 175)
WARNING: Final[Rgb] = (255, 200, 87)
ALARM: Final[Rgb] = (255, 107, 107)
GOOD: Final[Rgb] = (99, 214, 137)
AFFECTED_ROW: Final[Rgb] = (74, 40, 22)


def summary_page(series: Series, result: Result, masks: SourceMasks) -> Rgb8:
    """Scores, both levels, table and warnings; uint8 [1024, 1024, 3]."""
    page, draw = _page()
    _header(draw, result)
    panel_top = 92
    shown_slices = [picture.level_slice(masks, level) for level in picture.LEVELS]
    views = picture.head_views(series, shown_slices)
    for column, (level, k) in enumerate(zip(picture.LEVELS, shown_slices, strict=True)):
        left = GAP // 2 + column * (PANEL + GAP)
        shown = draw_slice(series, masks, result, k, PANEL, views[k])
        page.paste(Image.fromarray(shown), (left, panel_top))
        draw.rectangle((left, panel_top, left + PANEL - 1, panel_top + PANEL - 1), outline=RULE)
        caption = f"{level.capitalize()} level{_image_name(series, k)}"
        text(draw, (left + 10, panel_top + PANEL - 10), caption, 15, MUTED, anchor="ld", halo=2)
    _table(draw, result, (GAP // 2, panel_top + PANEL + 12))
    _notes(draw, result, (PANEL + GAP + GAP // 2, panel_top + PANEL + 12))
    _footer(draw, result)
    return np.asarray(page)


def montage_pages(series: Series, result: Result, masks: SourceMasks) -> list[Rgb8]:
    """Every slice that crosses a region or a lesion, from below upwards, 16 to a page."""
    shown = _montage_slices(series, masks)
    views = picture.head_views(series, shown)
    per_page = TILES_ACROSS**2
    tile = (PAGE - 2 * 32) // TILES_ACROSS
    pages = []
    for first in range(0, len(shown), per_page):
        page, draw = _page()
        text(draw, (GAP, 8), "All slices through the ASPECTS regions, from below upwards", 15, MUTED)
        text(draw, (PAGE - GAP, 8), RESEARCH_USE, 15, WARNING, anchor="ra", bold=True)
        for index, k in enumerate(shown[first : first + per_page]):
            left = 32 + (index % TILES_ACROSS) * tile
            top = 36 + (index // TILES_ACROSS) * tile
            image = draw_slice(series, masks, result, k, tile - 6, views[k], labels=False)
            page.paste(Image.fromarray(image), (left, top))
            name = _image_name(series, k).lstrip(" ,")
            text(draw, (left + 6, top + 4), name, 13, MUTED, halo=2)
        pages.append(np.asarray(page))
    return pages


def refusal_page(result: Result) -> Rgb8:
    """ "ASPECTS NOT SCORED - reason - what to do"; uint8 [1024, 1024, 3]."""
    page, draw = _page()
    draw.rectangle((0, 0, PAGE, 10), fill=ALARM)
    text(draw, (64, 120), "ASPECTS NOT SCORED", 64, ALARM, bold=True)
    text(draw, (64, 204), "StrokeCore received this head CT and could not score it.", 24, picture.TEXT)
    y = 300
    for flag in reasons(result)[:3]:
        text(draw, (64, y), "Reason", 20, MUTED)
        y = _paragraph(draw, (64, y + 30), flag.message, 30, picture.TEXT, PAGE - 128)
        if flag.remedy:
            text(draw, (64, y + 24), "What to do", 20, MUTED)
            y = _paragraph(draw, (64, y + 54), flag.remedy, 30, WARNING, PAGE - 128)
        text(draw, (64, y + 24), f"Code: {flag.code}", 18, MUTED)
        y += 84
    text(draw, (64, PAGE - 150), "The images themselves are unchanged: read them as usual.", 24, picture.TEXT)
    _footer(draw, result)
    return np.asarray(page)


def _page() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    page = Image.new("RGB", (PAGE, PAGE), PAPER)
    return page, ImageDraw.Draw(page)


def _header(draw: ImageDraw.ImageDraw, result: Result) -> None:
    text(draw, (GAP, 14), "ASPECTS", 34, picture.TEXT, bold=True)
    text(draw, (GAP, 58), "non-contrast head CT", 16, MUTED)
    text(draw, (PAGE - GAP, 14), RESEARCH_USE, 22, WARNING, anchor="ra", bold=True)
    text(draw, (PAGE - GAP, 46), "Not for diagnosis. Check the images.", 16, MUTED, anchor="ra")
    if result.status == "withheld":
        blood = haemorrhage(result)
        text(draw, (216, 10), "SUSPECTED HAEMORRHAGE" if blood else "SCORE WITHHELD", 34, ALARM, bold=True)
        if blood:
            _paragraph(draw, (216, 50), f"{blood}. ASPECTS withheld.", 16, ALARM, 560)
        return
    # as on the image below: the patient's right is on the left
    sides: tuple[Side, Side] = ("right", "left")
    for side, left in zip(sides, (216, 456), strict=True):
        score = result.aspects[side]
        text(draw, (left, 12), side.upper(), 17, picture.TEXT, bold=True)
        partial = score.assessed < 10
        assessed = f"{score.assessed} of 10 assessed" if partial else "of 10"
        if score.score is None:
            text(draw, (left, 36), "not scored", 28, WARNING, bold=True)
            text(draw, (left, 70), f"({assessed})", 15, WARNING)
            continue
        colour = GOOD if score.score == 10 else picture.AFFECTED
        text(draw, (left, 82), str(score.score), 58, colour, anchor="ls", bold=True)
        beside = left + picture.font(58).getlength(str(score.score)) + 12
        if score.doubt:
            text(draw, (beside, 62), f"({score.doubt})", 28, WARNING, anchor="ls", bold=True)
        text(draw, (beside, 82), assessed, 16, WARNING if partial else MUTED, anchor="ls")


def _table(draw: ImageDraw.ImageDraw, result: Result, corner: tuple[int, int]) -> None:
    left, top = corner
    bottom = PAGE - 44
    draw.rounded_rectangle((left, top, left + PANEL, bottom), 8, fill=CARD)
    columns = {"right": left + 74, "left": left + 290}
    for side, x in columns.items():
        text(draw, (x, top + 10), side.upper(), 16, picture.TEXT, bold=True)
        text(draw, (x + 112, top + 33), "prob.", 14, MUTED, anchor="ra")
        text(draw, (x + 188, top + 33), "diff. HU", 14, MUTED, anchor="ra")
    rows = region_rows(result)
    height = (bottom - top - 62) / max(1, len(rows))
    for row, (name, right, left_finding) in enumerate(rows):
        y = top + 66 + (row + 0.35) * height
        draw.line((left + 12, y - height / 2, left + PANEL - 12, y - height / 2), fill=RULE)
        text(draw, (left + 18, y), name, 19, picture.TEXT, anchor="lm", bold=True)
        _cells(draw, result, right, columns["right"], y)
        _cells(draw, result, left_finding, columns["left"], y)


def _cells(draw: ImageDraw.ImageDraw, result: Result, finding: RegionFinding, x: int, y: float) -> None:
    note = (finding.reason or "").replace("_", " ")
    if not finding.assessable:
        text(draw, (x, y), f"n/a {note}".strip(), 16, MUTED, anchor="lm")
        return
    affected, borderline = marked(result, finding), doubtful(result, finding)
    if affected:
        draw.rounded_rectangle((x - 8, y - 13, x + 194, y + 13), 5, fill=AFFECTED_ROW)
        draw.ellipse((x, y - 6, x + 12, y + 6), fill=picture.AFFECTED)
    elif borderline:
        draw.ellipse((x, y - 6, x + 12, y + 6), outline=picture.BORDERLINE, width=2)
    elif result.status == "scored":
        draw.ellipse((x + 3, y - 3, x + 9, y + 3), fill=RULE)
    colour = picture.AFFECTED if affected else picture.BORDERLINE if borderline else picture.TEXT
    difference = number(finding.contralateral_difference_hu, "{:+.1f}")
    text(draw, (x + 112, y), probability(result, finding), 17, colour, anchor="rm")
    text(draw, (x + 188, y), difference, 17, colour, anchor="rm")
    if borderline:
        text(draw, (x + 18, y), "borderline", 11, picture.BORDERLINE, anchor="lm")
    elif note:
        text(draw, (x + 18, y), note, 11, MUTED, anchor="lm")


def _notes(draw: ImageDraw.ImageDraw, result: Result, corner: tuple[int, int]) -> None:
    left, top = corner
    bottom, width = PAGE - 44, PANEL - 32
    draw.rounded_rectangle((left, top, left + PANEL, bottom), 8, fill=CARD)
    x, y = left + 16, top + 12
    y = _paragraph(draw, (x, y), summary_line(result), 18, picture.TEXT, width) + 4
    if haemorrhage(result):
        y = _paragraph(draw, (x, y), f"Suspected haemorrhage: {haemorrhage(result)}", 16, ALARM, width)
    if result.status == "scored":
        volumes = (
            f"Infarct: right {result.infarct_volume_ml.get('right', 0.0):.1f} ml, "
            f"left {result.infarct_volume_ml.get('left', 0.0):.1f} ml"
        )
        y = _paragraph(draw, (x, y), volumes, 16, picture.TEXT, width)
    others = other_volumes(result)
    if others:
        y = _paragraph(draw, (x, y + 2), "; ".join(others).capitalize(), 15, MUTED, width)
    y += 10
    order = {"refusal": 0, "warning": 1, "info": 2}
    flags = sorted(result.quality, key=lambda flag: order[flag.severity])
    if not any(flag.severity != "info" for flag in flags):
        y = _paragraph(draw, (x, y), "No warnings.", 16, GOOD, width) + 4
    legend = _legend(result)
    legend_top = bottom - 10 - 24 * -(-len(legend) // LEGEND_COLUMNS)
    for position, flag in enumerate(flags):
        colour = {"refusal": ALARM, "warning": WARNING, "info": MUTED}[flag.severity]
        words = f"{flag.message} {flag.remedy}".strip()
        needed = len(_wrapped(words, 15, width - 16)) * 20 + 6
        if y + needed > legend_top - 22:
            rest = len(flags) - position
            text(draw, (x, legend_top - 24), f"and {rest} more in the report", 15, MUTED)
            break
        draw.rectangle((x, y + 2, x + 4, y + needed - 8), fill=colour)
        y = _paragraph(
            draw, (x + 16, y), words, 15, picture.TEXT if flag.severity != "info" else MUTED, width - 16
        )
        y += 6
    draw.line((x, legend_top, left + PANEL - 16, legend_top), fill=RULE)
    for index, (colour, name) in enumerate(legend):
        entry_x = x + (index % LEGEND_COLUMNS) * 156
        entry_y = legend_top + 18 + (index // LEGEND_COLUMNS) * 24
        draw.rectangle((entry_x, entry_y - 6, entry_x + 12, entry_y + 6), fill=colour)
        if name == BORDERLINE_NAME:  # dashed, as its outline is
            draw.rectangle((entry_x + 5, entry_y - 6, entry_x + 7, entry_y + 6), fill=CARD)
        text(draw, (entry_x + 20, entry_y), name, 15, MUTED, anchor="lm")


def _legend(result: Result) -> list[tuple[Rgb, str]]:
    """Colours and names of what this result's pictures can show."""
    if result.status == "withheld":  # the outlines then say nothing of the regions
        entries = [(picture.UNAFFECTED, "region")]
    else:
        entries = [
            (picture.AFFECTED, "affected"),
            (picture.BORDERLINE, BORDERLINE_NAME),
            (picture.UNAFFECTED, "not affected"),
            (picture.NOT_ASSESSABLE, "not assessed"),
            (picture.LESION_COLOURS[INFARCT["left"]], "infarct"),
        ]
    marks = (
        (OLD_INFARCT, "old infarct", result.old_infarct_volume_ml > 0),
        (OTHER_HYPODENSITY, "other hypodensity", result.other_hypodensity_volume_ml > 0),
        (HAEMORRHAGE, "haemorrhage", result.haemorrhage is not None),
    )
    return entries + [(picture.LESION_COLOURS[value], name) for value, name, there in marks if there]


def _footer(draw: ImageDraw.ImageDraw, result: Result) -> None:
    y = PAGE - 22
    model = f"{result.model.name} {result.model.version}, " if result.model is not None else ""
    words = f"StrokeCore {result.software.version}, {model}result {(result.result_key or '-')[:8]}"
    text(draw, (GAP, y), words, 14, MUTED, anchor="lm")
    text(draw, (PAGE - GAP, y), f"{RESEARCH_USE}. Unverified.", 14, WARNING, anchor="rm")


def _paragraph(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], words: str, size: int, colour: Rgb, width: float
) -> int:
    """Write wrapped text and return the y below it."""
    x, y = corner
    for line in _wrapped(words, size, width):
        text(draw, (x, y), line, size, colour)
        y += round(size * 1.33)
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
    instance_number = tags.number(series.datasets[k], "InstanceNumber")
    return f", slice {k + 1}" if instance_number is None else f", image {instance_number:.0f}"


@dataclass(frozen=True, eq=False)
class Drawing:
    """The pictures of a scored or withheld result; uint8 [rows, columns, 3] each.

    Attributes
    ----------
    summary, montage: the pages of the Secondary Capture.
    levels: both ASPECTS levels side by side, for the report, which has its own table.
    """

    summary: Rgb8
    montage: tuple[Rgb8, ...]
    levels: Rgb8

    @classmethod
    def of(cls, series: Series, result: Result, masks: SourceMasks) -> Drawing:
        shown = [picture.level_slice(masks, level) for level in picture.LEVELS]
        views = picture.head_views(series, shown)
        levels = [draw_slice(series, masks, result, k, _REPORT_SIDE, views[k]) for k in shown]
        return cls(
            summary=summary_page(series, result, masks),
            montage=tuple(montage_pages(series, result, masks)),
            levels=np.concatenate(levels, axis=1),
        )
