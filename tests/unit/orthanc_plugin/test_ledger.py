"""orthanc_plugin/ledger.py: which series are known, in which state; short however long the node runs."""

from __future__ import annotations

import pytest

from orthanc_plugin import ledger as module
from orthanc_plugin.ledger import Ledger
from orthanc_plugin.state import SeriesState


def names(ledger: Ledger, status: str | None = None) -> set[str]:
    return {e.series for e in ledger.entries(status)}


def test_states_as_they_were_met() -> None:
    ledger = Ledger()
    ledger.place("study", ["a", "b"])
    ledger.note("a", SeriesState("refused", reason="missing_slice", attempts=1))
    ledger.note("stranger", SeriesState("scored"))
    assert names(ledger) == {"a", "b"}
    (found,) = ledger.entries("refused")
    assert (found.study, found.reason, found.attempts) == ("study", "missing_slice", 1)
    assert names(ledger, "pending") == {"b"}


def test_the_time_of_a_status_is_that_of_its_first_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    ledger = Ledger()
    ledger.place("study", ["a"])
    for status, moment in (("queued", 110.0), ("queued", 120.0), ("scored", 130.0), ("scored", 140.0)):
        now[0] = moment
        ledger.note("a", SeriesState(status))
    assert ledger.entries()[0].since == 130.0


def test_what_left_its_study_and_what_was_deleted_is_forgotten() -> None:
    ledger = Ledger()
    ledger.place("one", ["a", "b"])
    ledger.place("two", ["c"])
    ledger.place("one", ["b"])
    assert names(ledger) == {"b", "c"}
    ledger.forget("two")
    ledger.forget("b")
    assert names(ledger) == set()


def test_it_stays_short_and_keeps_what_is_open_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 3)
    ledger = Ledger()
    for number, status in enumerate(["failed", "scored", "queued", "scored", "scored"]):
        ledger.place(f"study-{number}", [f"s{number}"])
        ledger.note(f"s{number}", SeriesState(status))
    assert names(ledger) == {"s0", "s2", "s4"}
