"""A result as a PDF of two pages, for systems that show documents and for paper; without any patient
identifier.

Light, and as wide as A4 and as high as letter, so that it prints on both without scaling.
"""

from __future__ import annotations

from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import Image

from strokecore.anatomy.regions import FULL_NAMES
from strokecore.reports.pages import TOP, Drawing
from strokecore.reports.palette import Rgb
from strokecore.reports.picture import Rgb8, printable
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
    statement,
    summary_line,
)
from strokecore.result import Result

if TYPE_CHECKING:
    from fpdf import FPDF

PAGE_MM: Final = (210.0, 279.0)
MARGIN_MM: Final = 14.0
PICTURE_MM: Final = 122.0
MONTAGE_MM: Final = 150.0
_FONT: Final = "helvetica"  # one of the fonts that every reader has: nothing depends on the machine's
# on white paper
_INK: Final[Rgb] = (20, 24, 32)
_MUTED: Final[Rgb] = (96, 104, 118)
_ALARM: Final[Rgb] = (190, 20, 20)
_AFFECTED: Final[Rgb] = (255, 228, 204)
_BORDERLINE: Final[Rgb] = (255, 246, 204)


def pdf_bytes(result: Result, drawing: Drawing | None = None) -> bytes:
    """The document; the same result and drawing give the same bytes."""
    # it takes longer to import than most commands to run
    from fpdf import FPDF

    pdf = FPDF(format=PAGE_MM)
    if result.content_datetime:
        pdf.set_creation_date(datetime.fromisoformat(result.content_datetime))
    pdf.set_title("ASPECTS report (research)")
    pdf.set_producer("StrokeCore")
    pdf.set_lang("en")
    pdf.set_margins(MARGIN_MM, MARGIN_MM, MARGIN_MM)
    pdf.set_auto_page_break(True, MARGIN_MM)
    pdf.add_page()
    _first_page(pdf, result, drawing)
    pdf.add_page()
    _second_page(pdf, result, drawing)
    return bytes(pdf.output())


def _first_page(pdf: FPDF, result: Result, drawing: Drawing | None) -> None:
    _line(pdf, f"{RESEARCH_USE}. Not for diagnosis. Unverified.", 9, _ALARM, "B")
    _line(
        pdf,
        headline(result) or "ASPECTS, non-contrast head CT",
        19,
        _ALARM if headline(result) else _INK,
        "B",
    )
    if not headline(result) or result.status == "scored":
        _line(pdf, summary_line(result), 12, _INK, "B")
    if result.supersedes:
        _line(pdf, SUPERSEDES, 10, _ALARM)
    if result.status == "scored":
        volumes = f" Early ischaemic change: {drawing.volumes.early_words}." if drawing else ""
        _line(pdf, f"Affected: {affected_regions(result)}.{volumes} {NO_ALL_CLEAR}", 10, _INK)
    if haemorrhage(result):
        _line(pdf, f"Suspected haemorrhage: {haemorrhage(result)}.", 10, _ALARM)
    if result.status not in ("scored", "withheld"):
        for flag in reasons(result):
            _line(pdf, flag.message, 12, _INK, "B")
            _line(pdf, f"What to do: {flag.remedy or 'read the scan without ASPECTS.'}", 11, _INK)
    if drawing is not None:
        top = pdf.get_y() + 1
        _picture(pdf, drawing.levels, (PAGE_MM[0] - PICTURE_MM) / 2, top, PICTURE_MM)
        pdf.set_y(top + PICTURE_MM + 1)
        _line(
            pdf,
            f"{drawing.windows}. Marked above, bare below; the patient's right is on the left.",
            8,
            _MUTED,
        )
        _legend(pdf, drawing)
    _table(pdf, result)
    _line(pdf, INTENDED_USE, 8, _MUTED)


def _second_page(pdf: FPDF, result: Result, drawing: Drawing | None) -> None:
    named = flags(result)
    if named:
        _line(pdf, "Warnings and notes", 12, _INK, "B")
    for flag in named:
        words = f"{flag.message} {flag.remedy}".strip()
        _line(pdf, f"- {words}", 9, _MUTED if flag.severity == "info" else _INK)
    if drawing is not None and drawing.montage:
        # what does not fit is in the Secondary Capture and the page for a browser
        pages = drawing.montage[:2]
        side = min(MONTAGE_MM, (PAGE_MM[0] - 2 * MARGIN_MM - 2) / len(pages))
        top = pdf.get_y() + 2
        if top + side + 40 > PAGE_MM[1] - MARGIN_MM:
            side = max(40.0, PAGE_MM[1] - MARGIN_MM - 40 - top)
        for index, page in enumerate(pages):
            # what viewers write over is empty
            _picture(pdf, page[TOP - 8 :], MARGIN_MM + index * (side + 2), top, side)
        pdf.set_y(top + side + 2)
    _line(pdf, "Run", 12, _INK, "B")
    for words in _run(result):
        _line(pdf, words, 9, _MUTED)
    _line(pdf, f"{INTENDED_USE} {RESEARCH_USE}.", 8, _ALARM)


def _run(result: Result) -> list[str]:
    said = [f"Status: {result.status}"]
    if result.series:
        said.append(
            f"Series: {result.series.slices} slices, tilt {result.series.tilt_deg:.1f} degrees. "
            f"{result.series.chosen_because}"
        )
    if result.model:
        passed = f"; fallbacks: {'; '.join(result.model.fallbacks)}" if result.model.fallbacks else ""
        said.append(
            f"Model: {result.model.name} {result.model.version}, engine {result.model.engine}, "
            f"{result.model.precision}{passed}"
        )
    said.append(f"Software: StrokeCore {result.software.version}")
    said += [decision(result)] if decision(result) else []
    said.append(f"Result: {result.result_key or 'none'}")
    return said


def _table(pdf: FPDF, result: Result) -> None:
    rows = region_rows(result)
    if not rows:
        return
    widths = (52.0, 45.0, 13.0, 45.0, 13.0, 14.0)
    height = 5.2
    pdf.set_font(_FONT, "B", 8)
    pdf.set_text_color(*_INK)
    for words, width in zip(("Region", "Right", "prob.", "Left", "prob.", "R - L"), widths, strict=True):
        pdf.cell(width, height, words, border="B")
    pdf.ln(height)
    for name, right, left in rows:
        pdf.set_font(_FONT, "", 8)
        pdf.cell(widths[0], height, f"{name}  {FULL_NAMES[name]}", border="B")
        for finding, first in ((right, 1), (left, 3)):
            called, unsure = marked(result, finding), doubtful(result, finding)
            pdf.set_fill_color(*(_AFFECTED if called else _BORDERLINE))
            pdf.set_font(_FONT, "B" if called or unsure else "", 8)
            for words, width in (
                (statement(result, finding), widths[first]),
                (probability(result, finding), widths[first + 1]),
            ):
                pdf.cell(width, height, printable(words), border="B", fill=called or unsure)
        pdf.set_font(_FONT, "", 8)
        mirrored = right.contralateral_difference_hu
        pdf.cell(
            widths[5], height, number(mirrored, "{:+.1f}") if mirrored is not None else "none", border="B"
        )
        pdf.ln(height)
    _line(
        pdf,
        "R - L: mean density of the right region minus the left, HU; negative: the right side is darker; "
        "none: judged without a mirror.",
        8,
        _MUTED,
    )
    if result.status == "scored":
        _line(
            pdf,
            "Borderline: the call could as well be the other one; the range beside a score allows for it.",
            8,
            _MUTED,
        )


def _legend(pdf: FPDF, drawing: Drawing) -> None:
    volumes = dict(drawing.volumes.uncounted)
    for label, patch in drawing.legend:
        words = f"{label}: {volumes[label]}" if label in volumes else label
        _picture(pdf, patch, pdf.l_margin + 1, pdf.get_y() + 0.4, 4.5)
        pdf.set_x(pdf.get_x() + 8)
        _line(pdf, words, 8, _INK)


def _picture(pdf: FPDF, pixels: Rgb8, x: float, y: float, width: float) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    pdf.image(buffer, x=x, y=y, w=width)


def _line(pdf: FPDF, words: str, size: int, colour: Rgb, style: str = "") -> None:
    pdf.set_font(_FONT, style, size)
    pdf.set_text_color(*colour)
    pdf.multi_cell(0, size * 0.46, printable(words), align="L", new_x="LMARGIN", new_y="NEXT")
