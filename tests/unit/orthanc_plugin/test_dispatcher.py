"""orthanc_plugin/dispatcher.py: nothing ends the main loop, nothing is forgotten, what is wrong is said."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin import dispatcher as module
from orthanc_plugin.dispatcher import Dispatcher
from orthanc_plugin.health import Health
from orthanc_plugin.ledger import Ledger
from orthanc_plugin.open_studies import OpenStudies
from orthanc_plugin.orthanc_api import OrthancApi, OrthancError, Response
from orthanc_plugin.state import SeriesState
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import FakeOrthanc, make_settings, time_text


class FakeNodeCheck:
    fit = True
    fault: str | None = None
    proving = False

    def look(self) -> None:
        """The node is as it is."""


class Bench:
    """A dispatcher whose scoring does what ``handle`` says, over an Orthanc in memory."""

    def __init__(self, folder: Path) -> None:
        self.orthanc = FakeOrthanc()
        self.broken: Callable[[str], bool] = lambda path: False
        self.handled: list[str] = []
        self.announced: list[tuple[str, str]] = []
        self.announce_fails = False
        self.action: Callable[[str], float | None] = lambda study: None
        self.saved: list[int] = []
        self.save: Callable[[int], None] = self.saved.append
        self.node_check = FakeNodeCheck()
        self.tally = Tally()
        self.ledger = Ledger()
        self.dispatcher = self.make(folder)

    def make(self, folder: Path, **options: Any) -> Dispatcher:
        api = OrthancApi(self._transport)
        return Dispatcher(
            make_settings(folder, **{"reconcile_s": 0.05, "alarm_s": 3600.0, **options}),
            self,  # type: ignore[arg-type]
            self.node_check,  # type: ignore[arg-type]
            OpenStudies(api, 0, 24, 0.0, 0.0),
            Health(),
            self.tally,
            self.ledger,
            threading.Event(),
            lambda number: self.save(number),
        )

    def announce(self, study: str, code: str) -> bool:
        self.announced.append((study, code))
        if self.announce_fails:
            raise OrthancError(500, "PUT /series")
        return True

    def handle(self, study: str, *, again: bool = False, moved: bool = False) -> float | None:
        del again, moved
        self.handled.append(study)
        return self.action(study)

    def _transport(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        return Response(500, b"") if self.broken(path) else self.orthanc(method, path, body, headers)

    def wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def codes(self) -> list[str]:
        return [c.code for c in self.dispatcher.conditions()]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "ROUND_S", 0.02)
    monkeypatch.setattr(module, "START_ROUND_S", 0.02)
    monkeypatch.setattr(module, "BACKOFF_S", (0.01,))
    bench = Bench(tmp_path)
    yield bench
    bench.dispatcher.stop()


@pytest.mark.parametrize(
    ("error", "code", "detail"),
    [
        (OrthancError(500, "PUT /series"), "orthanc_error", "PUT /series: HTTP 500"),
        (ValueError("the patient is DOE^JANE"), "plugin_error", "ValueError at"),
    ],
)
def test_an_error_is_named_said_and_never_given_up(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception, code: str, detail: str
) -> None:
    bad = True

    def action(study: str) -> None:
        if study == "bad" and bad:
            raise error

    bench.action = action
    bench.orthanc.add("bad", "bad")
    bench.orthanc.add("good", "good")
    with caplog.at_level(logging.ERROR, "orthanc_plugin"):
        bench.dispatcher.start()
        bench.wait(lambda: bench.handled.count("bad") > 20)
    assert bench.handled.count("good") == 1
    assert bench.codes() == [code]
    assert bench.saved in ([], [0])  # the mark stands before what has no end
    assert bench.tally.last_error == code
    assert f"{code}: {detail}" in caplog.text
    assert "JANE" not in caplog.text
    bad = False
    bench.wait(lambda: bench.saved[-1:] == [2])
    assert bench.codes() == []


def test_a_mark_that_cannot_be_saved_ends_nothing(bench: Bench) -> None:
    """SetGlobalProperty raises on a full disk."""

    def full(number: int) -> None:
        raise RuntimeError

    bench.save = full
    bench.orthanc.add("a", "a")
    bench.dispatcher.start()
    bench.wait(lambda: "mark_not_saved" in bench.codes())
    bench.orthanc.add("b", "b")
    bench.wait(lambda: "b" in bench.handled)
    bench.save = bench.saved.append
    bench.wait(lambda: bench.saved == [2] and not bench.codes())


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyError, OSError])
@pytest.mark.parametrize("place", ["follow", "mark", "all", "look", "sweep"])
def test_nothing_that_a_step_raises_ends_the_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[Exception], place: str
) -> None:
    raised = threading.Event()

    def broken(*_: object) -> Any:
        raised.set()
        raise error

    target: Any = {"look": bench.node_check, "sweep": module}.get(place, bench.dispatcher._open)
    with monkeypatch.context() as patch:
        patch.setattr(target, place, broken)
        bench.dispatcher.start()
        assert raised.wait(20)
        if place != "sweep":
            bench.wait(lambda: bool(bench.codes()))
    bench.orthanc.add("later", "later")
    bench.wait(lambda: bench.handled == ["later"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("which", ["loop", "worker"])
def test_a_thread_that_ends_is_started_again(bench: Bench, which: str) -> None:
    """By whoever comes by: an event, the loop, a question for the health."""
    if which == "worker":
        bench.action = lambda study: sys.exit() if len(bench.handled) == 1 else None
    else:
        bench.save = lambda number: sys.exit() if not bench.saved.append(number) else None
    bench.orthanc.add("a", "a")
    bench.dispatcher.start()
    if which == "worker":
        bench.wait(lambda: bench.handled == ["a", "a"])
    else:
        bench.wait(lambda: bool(bench.saved))
        bench.save = bench.saved.append
        loop = bench.dispatcher._loop
        assert loop is not None
        loop.join(20)
        bench.orthanc.add("b", "b")
        bench.dispatcher.series_changed()
        bench.wait(lambda: "b" in bench.handled)
    assert bench.tally.last_error == "thread_ended"
    assert bench.codes() == []


def test_an_event_whose_calls_fail_is_found_by_the_next_round(bench: Bench) -> None:
    bench.dispatcher.start()
    bench.wait(lambda: bench.dispatcher._read_once)
    bench.broken = lambda path: path.startswith("/series/a")
    bench.orthanc.add("a", "study-a")
    bench.dispatcher.series_changed()
    bench.wait(lambda: bench.dispatcher.oldest_waiting_s() is not None)
    assert bench.handled == []
    bench.broken = lambda path: False
    bench.wait(lambda: bench.handled == ["study-a"])
    bench.wait(lambda: bench.saved[-1:] == [1])


def test_an_orthanc_that_does_not_answer_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_PATIENCE_S", 0.0)
    bench.broken = lambda path: True
    bench.dispatcher.start()
    bench.wait(lambda: bench.codes() == ["change_log_unread"])
    bench.broken = lambda path: False
    bench.wait(lambda: not bench.codes())


def test_what_has_no_terminal_state_is_looked_at_again_and_again(bench: Bench) -> None:
    """A look that finds work left gives a time; what nobody holds any more, the next round takes up."""
    bench.orthanc.add("a", "a")
    bench.action = lambda study: 3600.0
    bench.dispatcher.start()
    bench.wait(lambda: bench.handled == ["a"])
    bench.dispatcher._studies._waiting.clear()  # lost, however
    bench.action = lambda study: None
    bench.wait(lambda: bench.handled == ["a", "a"])


def test_patients_wait_while_the_node_is_ill(bench: Bench) -> None:
    bench.node_check.fit = False
    bench.orthanc.add("a", "a")
    bench.dispatcher.start()
    bench.wait(lambda: bench.dispatcher.lengths()[0] == 1)
    time.sleep(0.1)
    assert bench.handled == []
    bench.node_check.fit = True
    bench.wait(lambda: bench.handled == ["a"])


def test_who_waits_for_an_ill_node_is_told_once_each_illness(bench: Bench, tmp_path: Path) -> None:
    bench.dispatcher = bench.make(tmp_path, alarm_s=60.0)
    bench.node_check.fit, bench.node_check.fault = False, "work_folder_full"
    bench.orthanc.add("a", "a")  # five minutes ago
    bench.orthanc.add("b", "b")
    bench.orthanc.change("NewSeries", "Series", "b", datetime.now(UTC))
    bench.orthanc.add("c", "c")
    bench.orthanc.changes[-1]["Date"] = time_text(datetime.now(UTC))  # just arrived
    bench.dispatcher.start()
    bench.wait(lambda: len(bench.announced) == 2)
    bench.node_check.fault = "work_folder_unusable"
    time.sleep(0.2)
    assert sorted(bench.announced) == [("a", "work_folder_full"), ("b", "work_folder_full")]
    assert bench.codes() == ["patient_waits"]
    bench.node_check.fit = True
    bench.wait(lambda: sorted(bench.handled) == ["a", "b", "c"])


def test_what_could_not_be_announced_is_tried_again(bench: Bench, tmp_path: Path) -> None:
    bench.dispatcher = bench.make(tmp_path, alarm_s=60.0)
    bench.node_check.fit, bench.node_check.fault = False, "work_folder_full"
    bench.announce_fails = True
    bench.orthanc.add("a", "a")
    bench.dispatcher.start()
    bench.wait(lambda: len(bench.announced) > 2)
    bench.announce_fails = False
    count = len(bench.announced)
    bench.wait(lambda: len(bench.announced) > count)
    bench.wait(lambda: "announcement_failed" not in bench.codes())


@pytest.mark.parametrize("fault", [None, "storage_full"])
def test_nothing_is_announced_where_nothing_can_be_stored(
    bench: Bench, tmp_path: Path, fault: str | None
) -> None:
    bench.dispatcher = bench.make(tmp_path, alarm_s=60.0)
    bench.node_check.fit, bench.node_check.fault = False, fault
    bench.orthanc.add("a", "a")
    bench.dispatcher.start()
    bench.wait(lambda: bench.dispatcher.lengths()[0] == 1)
    time.sleep(0.2)
    assert bench.announced == []


def test_who_waits_too_long_is_said(bench: Bench, tmp_path: Path) -> None:
    bench.dispatcher = bench.make(tmp_path, alarm_s=60.0)
    bench.action = lambda study: 0.05
    bench.orthanc.add("a", "a")  # five minutes ago
    bench.dispatcher.start()
    bench.wait(lambda: bench.codes() == ["patient_waits"])
    bench.action = lambda study: None
    bench.wait(lambda: bench.codes() == [])


def test_outputs_that_are_refused_are_said_until_the_series_is_gone(bench: Bench) -> None:
    bench.ledger.place("a", ["series"])
    bench.ledger.note("series", SeriesState("failed", reason="output_refused"))
    bench.dispatcher.start()
    bench.wait(lambda: bench.codes() == ["output_refused"])
    bench.ledger.forget("a")
    assert bench.codes() == []


def test_a_stalled_loop_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.dispatcher.start()
    bench.wait(lambda: bench.dispatcher._read_once)
    monkeypatch.setattr(module, "STALL_S", -1.0)
    assert "reconcile_stalled" in bench.codes()
