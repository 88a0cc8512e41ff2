"""A result as text: the run record, the one line to copy, the terminal table and the HTML report."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from strokecore.anatomy.regions import FULL_NAMES, REGION_NAMES, SIDES, Side
from strokecore.files import write_atomically
from strokecore.flags import QualityFlag
from strokecore.result import AspectsScore, RegionFinding, Result

if TYPE_CHECKING:
    from jinja2 import Template
    from jsonschema.protocols import Validator
    from rich.console import Console

    from strokecore.reports.drawing import Drawing
    from strokecore.reports.picture import Rgb8

SCHEMA_VERSION: Final = 1
# The flag that withholds a score (quality.py)
WITHHOLDING: Final = "suspected_haemorrhage"


def to_json(result: Result) -> dict[str, Any]:
    """``result`` as result.json says it, in plain JSON values."""
    none = AspectsScore(None, 0)
    record = {
        "schema": SCHEMA_VERSION,
        "status": result.status,
        "aspects": {side: asdict(result.aspects.get(side, none)) for side in SIDES},
        "affected_side": result.affected_side,
        "regions": [asdict(finding) for finding in result.regions],
        "infarct_volume_ml": {side: result.infarct_volume_ml.get(side, 0.0) for side in SIDES},
        "old_infarct_volume_ml": result.old_infarct_volume_ml,
        "outside_regions_volume_ml": result.outside_regions_volume_ml,
        "quality": [asdict(flag) for flag in result.quality],
        "series": asdict(result.series) if result.series else None,
        "not_selected": [
            {"series_instance_uid": uid, "reason": reason} for uid, reason in result.not_selected
        ],
        "model": asdict(result.model) if result.model else None,
        "software": asdict(result.software),
        "supersedes": result.supersedes,
        "result_key": result.result_key,
        "content_datetime": result.content_datetime,
        "timings_s": result.timings_s,
    }
    # numpy scalars become numbers and tuples lists; a NaN is a defect and raises
    plain: dict[str, Any] = json.loads(
        json.dumps(record, allow_nan=False, default=lambda value: value.item())
    )
    return plain


def write_json(result: Result, path: Path) -> None:
    """Write result.json, complete or not at all.

    Raises ValueError for a value that is not finite and jsonschema.ValidationError for a result that
    breaks its own contract: both are defects.
    """
    record = to_json(result)
    _validator().validate(record)
    write_atomically(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of result.json, as shipped."""
    text = resources.files("strokecore").joinpath("result.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def _validator() -> Validator:
    """Of results; that the schema itself is sound is for the tests."""
    import jsonschema

    return jsonschema.Draft202012Validator(schema())


def summary_line(result: Result) -> str:
    """One line to copy into a report: "ASPECTS right 7: I, M1, M2; left 10"."""
    if result.status == "withheld":
        reason = reasons(result)[0]
        why = ", haemorrhage suspected" if reason.code == WITHHOLDING else ""
        return f"ASPECTS withheld{why}: {reason.message}"
    if result.status != "scored":
        reason = reasons(result)[0]
        return f"ASPECTS NOT SCORED: {reason.message} {reason.remedy}".strip()
    first: Side = "left" if result.affected_side == "left" else "right"
    second: Side = "left" if first == "right" else "right"
    # scored all the same where the site asked for it; what is copied must still say so
    blood = "; haemorrhage suspected" if any(flag.code == WITHHOLDING for flag in result.quality) else ""
    return f"ASPECTS {_hemisphere(result, first)}; {_hemisphere(result, second)}{blood}"


def reasons(result: Result) -> list[QualityFlag]:
    """Why there is no score, most important first; never empty."""
    withholding = [flag for flag in result.quality if flag.code == WITHHOLDING]
    if result.status == "withheld" and withholding:
        return withholding
    for severity in ("refusal", "warning"):
        flags = [flag for flag in result.quality if flag.severity == severity]
        if flags:
            return flags
    return [
        QualityFlag(
            "failed",
            "refusal",
            "The scoring run ended with an error.",
            "Read the scan without it and tell the administrator.",
        )
    ]


def print_table(result: Result, console: Console) -> None:
    """The region table, the quality flags and the summary line, for a terminal."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    if result.regions:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("region")
        for side in ("right", "left"):
            table.add_column(f"{side}")
            table.add_column("prob.", justify="right")
            table.add_column("diff. HU", justify="right")
        for name, right, left in region_rows(result):
            cells = [name]
            for finding in (right, left):
                style = "bold red" if marked(result, finding) else ""
                words = [
                    statement(result, finding),
                    probability(result, finding),
                    number(finding.contralateral_difference_hu, "{:+.1f}"),
                ]
                cells += [f"[{style}]{escape(word)}[/]" if style else escape(word) for word in words]
            table.add_row(*cells)
        console.print(table)
    for flag in result.quality:
        console.print(escape(f"{flag.severity}: {flag.message} {flag.remedy}".strip()), style="yellow")
    console.print(escape(summary_line(result)), style="bold")
    console.print("Research use only.", style="dim")


def write_html(result: Result, path: Path, drawing: Drawing | None = None) -> None:
    """Write the report: one self-contained file without any patient identifier."""
    page = _template().render(
        result=result,
        summary=summary_line(result),
        rows=region_rows(result),
        full_names=FULL_NAMES,
        pictures=[_png(shown) for shown in (drawing.levels, *drawing.montage)] if drawing else [],
        reasons=reasons(result) if result.status != "scored" else [],
    )
    write_atomically(path, page.encode())


def region_rows(result: Result) -> list[tuple[str, RegionFinding, RegionFinding]]:
    """(name, right, left) in the order of REGION_NAMES; right first, as on the pictures."""
    findings = {(finding.name, finding.side): finding for finding in result.regions}
    return [
        (name, findings[name, "right"], findings[name, "left"])
        for name in REGION_NAMES
        if (name, "right") in findings and (name, "left") in findings
    ]


def marked(result: Result, finding: RegionFinding) -> bool:
    """Whether a region is shown as affected; never where the score is withheld, or it could be counted."""
    return finding.affected and finding.assessable and result.status == "scored"


def statement(result: Result, finding: RegionFinding) -> str:
    """What a table says of one region."""
    note = f" ({finding.reason.replace('_', ' ')})" if finding.reason else ""
    if not finding.assessable:
        return f"not assessed{note}"
    if result.status == "withheld":
        return "withheld"
    return f"affected{note}" if finding.affected else f"normal{note}"


def probability(result: Result, finding: RegionFinding) -> str:
    """The region's probability as a table shows it; hidden with the score, which it would give away."""
    return number(None if result.status == "withheld" else finding.probability, "{:.2f}")


def number(value: float | None, form: str) -> str:
    """``value`` written by ``form``, "-" for a value that is not there; never "-0.0"."""
    if value is None:
        return "-"
    words = form.format(value)
    return form.format(0.0) if float(words) == 0.0 else words


def _hemisphere(result: Result, side: Side) -> str:
    names = ", ".join(f.name for f in result.regions if f.side == side and marked(result, f))
    score = result.aspects[side]
    return f"{side} {score}: {names}" if names and score.score is not None else f"{side} {score}"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("strokecore.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, marked=marked, statement=statement, probability=probability)
    return environment.get_template("report.html")


def _png(pixels: Rgb8) -> str:
    """As base64."""
    import base64
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
