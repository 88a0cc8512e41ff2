"""The table in the terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from strokecore.flags import QualityFlag
from strokecore.reports import terminal
from tests.unit.reports import output_cases as cases


def printed(result) -> str:
    console = Console(file=io.StringIO(), width=120)
    terminal.print_table(result, console)
    return console.file.getvalue()


def test_table_in_the_terminal(result):
    said = printed(result)
    assert len(re.findall(r"\baffected\b", said)) == 3
    assert "affected, borderline" in said
    assert "borderline (not outlined)" in said
    assert "not assessed (old infarct)" in said
    assert "ASPECTS right 7 (6-8): I, M1, M2" in said
    assert "Send 5 mm slices." in said
    assert "research use only." in said


def test_square_brackets_in_messages_are_printed_as_they_are():
    flag = QualityFlag("odd", "warning", "Kernel [bold]B60[/bold].", "")
    assert "Kernel [bold]B60[/bold]." in printed(cases.refused(flag))


def test_terminal_withholds(result):
    said = printed(cases.withheld(result))
    assert "0.91" not in said
    assert not re.search(r"\baffected\b", said)
    assert "12.3 ml" in said
