"""A result as one self-contained page for a browser, without any patient identifier."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image

from strokecore.anatomy.regions import FULL_NAMES
from strokecore.files import write_atomically
from strokecore.reports import palette
from strokecore.reports.pages import Drawing
from strokecore.reports.picture import Rgb8
from strokecore.reports.wording import (
    INTENDED_USE,
    NO_ALL_CLEAR,
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

# of the palette, as the page's style names them
_COLOURS: Final = (
    "PAPER",
    "CARD",
    "RULE",
    "TEXT",
    "MUTED",
    "WARNING",
    "ALARM",
    "AFFECTED",
    "AFFECTED_ROW",
    "BORDERLINE",
)


def write_html(result: Result, path: Path, drawing: Drawing | None = None) -> None:
    """Write the report: one self-contained file without any patient identifier."""
    page = _template().render(
        result=result,
        headline=headline(result),
        summary=summary_line(result),
        rows=region_rows(result),
        full_names=FULL_NAMES,
        pictures=[_png(shown) for shown in (drawing.levels, *drawing.montage)] if drawing else [],
        drawing=drawing,
        legend=[(label, _png(patch)) for label, patch in drawing.legend] if drawing else [],
        affected=affected_regions(result),
        reasons=reasons(result) if result.status != "scored" else [],
        haemorrhage=haemorrhage(result),
        decision=decision(result),
        flags=flags(result),
        intended_use=INTENDED_USE,
        no_all_clear=NO_ALL_CLEAR,
        supersedes=SUPERSEDES if result.supersedes else "",
    )
    write_atomically(path, page.encode())


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("strokecore.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=number, marked=marked, doubtful=doubtful, statement=statement, probability=probability
    )
    environment.globals.update(
        {name.lower(): palette.css(getattr(palette, name)) for name in _COLOURS},
    )
    return environment.get_template("report.html")


def _png(pixels: Rgb8) -> str:
    """As base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
