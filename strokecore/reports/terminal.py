"""A result as a table in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore.reports.wording import (
    INTENDED_USE,
    decision,
    doubtful,
    flags,
    headline,
    marked,
    number,
    probability,
    region_rows,
    statement,
    summary_line,
)
from strokecore.result import Result


def print_table(result: Result, console: Console) -> None:
    """The region table, the quality flags and the summary line, for a terminal."""
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
                style = style or ("yellow" if doubtful(result, finding) else "")
                words = [
                    statement(result, finding),
                    probability(result, finding),
                    number(finding.contralateral_difference_hu, "{:+.1f}"),
                ]
                cells += [f"[{style}]{escape(word)}[/]" if style else escape(word) for word in words]
            table.add_row(*cells)
        console.print(table)
    for flag in flags(result):
        console.print(escape(f"{flag.severity}: {flag.message} {flag.remedy}".strip()), style="yellow")
    if decision(result):
        console.print(escape(decision(result)))
    console.print(escape(summary_line(result)), style="bold red" if headline(result) else "bold")
    console.print(INTENDED_USE, style="dim")
