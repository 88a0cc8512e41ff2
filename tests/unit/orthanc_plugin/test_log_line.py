"""orthanc_plugin/log_line.py: lines that can be found again by their run, as text or as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from orthanc_plugin import log_line
from orthanc_plugin.log_line import formatted, note, run_id, scoring_run

log = logging.getLogger("orthanc_plugin.test")


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.form = "json"
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(formatted(record, self.form))

    def values(self) -> list[dict[str, Any]]:
        return [json.loads(line.removeprefix("StrokeCore: ")) for line in self.lines]


@pytest.fixture
def lines() -> Iterator[_Lines]:
    handler = _Lines()
    for logger in (log, log_line.log):
        logger.addHandler(handler)
    yield handler
    for logger in (log, log_line.log):
        logger.removeHandler(handler)


def test_every_line_of_a_run_carries_its_id(lines: _Lines) -> None:
    log.warning("before")
    with scoring_run(study="s", series=["a", "b"], attempt=1):
        inside = run_id()
        log.error("in %s", "between")
        note(outcome="attempt_failed", reason="worker_died")
        note(outcome="scored", reason=None, timings_s={"read": 0.1})
    log.warning("after")
    before, between, end, after = lines.values()
    assert (before.get("run"), between["run"], end["run"], after.get("run")) == (None, inside, inside, None)
    assert (between["message"], between["level"]) == ("in between", "error")
    assert {k: end[k] for k in ("message", "outcome", "study", "series", "attempt", "timings_s")} == {
        "message": "run ended: scored",
        "outcome": "scored",
        "study": "s",
        "series": ["a", "b"],
        "attempt": 1,
        "timings_s": {"read": 0.1},
    }
    assert end["seconds"] >= 0
    assert before["time"].endswith("+00:00")


def test_as_text(lines: _Lines) -> None:
    lines.form = "text"
    log.warning("plain")
    with scoring_run(series=["a"], reason=None):
        note(outcome="scored")
        inside = run_id()
    assert lines.lines[0] == "StrokeCore: plain"
    assert lines.lines[1].startswith('StrokeCore: run ended: scored series=["a"] seconds=0')
    assert lines.lines[1].endswith(f"[run {inside}]")


def test_one_line_each_whatever_is_said(lines: _Lines) -> None:
    log.warning("two\nlines")
    assert "\n" not in lines.lines[0]


def test_a_run_that_ends_with_an_error_says_its_kind_alone(lines: _Lines) -> None:
    with pytest.raises(ValueError, match="JANE"), scoring_run(study="s"):
        raise ValueError("the patient is DOE^JANE")
    assert lines.values()[0]["outcome"] == "ValueError"
    assert "JANE" not in lines.lines[0]
    assert run_id() is None
