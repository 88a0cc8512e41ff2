"""orthanc_plugin/scoring.py: terminal states, attempts, claims, what is stored; with a scorer in memory."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin import worker
from orthanc_plugin.ledger import Ledger
from orthanc_plugin.orthanc_api import OrthancError, Response
from orthanc_plugin.scoring import Scoring
from orthanc_plugin.state import SeriesState
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import LONG_AGO, FakeOrthanc, FakeSeries, make_settings


class Bench:
    """An Orthanc in memory, a scorer that gives ``answers`` in turn, and the code under test."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.orthanc = FakeOrthanc()
        self.folder = folder
        self.answers: list[Any] = []
        self.calls: list[tuple[str, str | None]] = []
        self.during: Callable[[], None] = lambda: None
        self.tally = Tally()
        self.ledger = Ledger()
        self.pictured: list[list[bytes]] = []
        self.node_is_fit: Callable[[Callable[[], None]], bool] = lambda empty: True
        monkeypatch.setattr(worker, "score", self._score)
        monkeypatch.setattr(worker, "notice", self._notice)

    def scoring(self, owner: str = "node/run", clean: tuple[str, ...] = (), **options: Any) -> Scoring:
        settings = make_settings(self.folder, **options)
        return Scoring(
            self.orthanc.api,
            settings,
            owner,
            frozenset(clean),
            threading.Event(),
            self.tally,
            self.ledger,
            lambda code, empty: self.node_is_fit(empty),
        )

    def _score(
        self, settings: object, folder: Path, stop: object, content_datetime: str, supersedes: str | None
    ) -> worker.Answer:
        del settings, stop
        self.calls.append((content_datetime, supersedes))
        self.during()
        answer = self.answers.pop(0) if self.answers else "scored:thick:key"
        if isinstance(answer, Exception):
            raise answer
        status, series, key = answer.split(":")
        out = folder / "out"
        (out / "sc").mkdir(parents=True)
        names = ["sr", "sc/01"] if key else ["sc/01"]
        files = []
        for name in names:
            path = out / f"{name}.dcm"
            path.write_text(f"{key or status}-{path.stem}@study")
            files.append(path)
        result = {
            "schema": 1,
            "status": status,
            "result_key": key or None,
            "series": {"series_instance_uid": f"uid-{series}"},
            "quality": [{"code": "because", "severity": "refusal"}],
        }
        return worker.Answer(result, tuple(files), None)

    def _notice(
        self, settings: object, instances: list[bytes], *rest: object, **kind: bool
    ) -> tuple[bytes, ...]:
        del settings, rest, kind
        self.pictured.append(instances)
        return (b"notice@study",)

    def status(self, name: str) -> str:
        return str(self.orthanc.state(name)["status"])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_scored_once(bench: Bench) -> None:
    bench.orthanc.add("thick")
    assert bench.scoring().handle("study") is None
    assert bench.scoring().handle("study") is None
    assert len(bench.calls) == 1
    assert bench.status("thick") == "scored"
    assert bench.orthanc.stored == ["key-sr", "key-01"]
    assert json.loads(bench.orthanc.series["thick"].attachments["StrokeCoreResult"])["status"] == "scored"
    assert list(bench.folder.iterdir()) == []


def test_an_unstable_series_waits_for_its_event(bench: Bench) -> None:
    bench.orthanc.add("thick").stable = False
    assert bench.scoring(quiet_s=3).handle("study") == 3  # and is not forgotten without one
    assert bench.calls == []


def arriving_head(bench: Bench, pace_s: float, quiet_s: float, **tags: str) -> FakeSeries:
    """A whole head of 30 slices that came one every ``pace_s``, the last ``quiet_s`` ago."""
    series = bench.orthanc.add("thick", slices=30, ConvolutionKernel="SOFT", SliceThickness="5", **tags)
    series.stable = False
    series.last_update = datetime.now(UTC) - timedelta(seconds=quiet_s)
    for number, name in enumerate(series.instances):
        place = {"ImagePositionPatient": f"0\\0\\{5 * number}", "ImageOrientationPatient": "1\\0\\0\\0\\1\\0"}
        series.instance_tags[name] = place
        series.received[name] = series.last_update - timedelta(seconds=pace_s * (29 - number))
    return series


def test_a_whole_head_whose_sender_has_ended_is_scored_provisionally(bench: Bench) -> None:
    series = arriving_head(bench, pace_s=0.1, quiet_s=5)
    scoring = bench.scoring(quiet_s=3, stable_age_s=60)
    assert scoring.handle("study") is None
    assert (bench.status("thick"), bench.orthanc.state("thick")["provisional"]) == ("scored", True)
    assert scoring.handle("study") is not None  # nobody forgets it before it is final
    series.stable, series.last_update = True, LONG_AGO
    assert scoring.handle("study") is None
    assert (bench.status("thick"), bench.orthanc.state("thick")["provisional"]) == ("scored", False)
    assert len(bench.calls) == 1


@pytest.mark.parametrize(
    ("pace_s", "quiet_s", "tags"),
    [(0.1, 1, {}), (2.0, 8, {}), (0.1, 5, {"SliceThickness": "1"}), (0.1, 5, {"ConvolutionKernel": "BONE"})],
    ids=["just now", "a slow sender", "thin", "bone"],
)
def test_what_may_still_become_better_waits(
    bench: Bench, pace_s: float, quiet_s: float, tags: dict[str, str]
) -> None:
    series = arriving_head(bench, pace_s, quiet_s)
    series.tags.update(tags)
    delay = bench.scoring(quiet_s=3, stable_age_s=60).handle("study")
    assert delay is not None
    assert 0 < delay <= 4
    assert bench.calls == []


def test_after_a_restart_a_half_sent_series_is_given_time(bench: Bench) -> None:
    bench.orthanc.add("thick").last_update = datetime.now(UTC)
    delay = bench.scoring(stable_age_s=60).handle("study")
    assert delay is not None
    assert 55 < delay <= 60
    assert bench.calls == []


def test_a_phase_that_is_still_received_does_not_hold_up_the_plain_one(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.orthanc.add("cta", ContrastBolusAgent="IOHEXOL").stable = False
    bench.scoring().handle("study")
    assert bench.status("thick") == "scored"
    assert bench.orthanc.state("cta")["selected_series"] == "thick"


def test_failures_are_counted_and_end_in_failed_with_a_picture(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.answers = [worker.AttemptError("scorer_failed")] * 3
    scoring = bench.scoring(max_attempts=3)
    assert [scoring.handle("study") for _ in range(4)] == [2.0, 4.0, None, None]
    assert len(bench.calls) == 3
    assert len({moment for moment, _ in bench.calls}) == 1
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["notices"]) == ("failed", "scorer_failed", ["notice"])
    assert bench.orthanc.stored == ["notice"]


def test_slices_that_come_after_a_failure_get_new_attempts(bench: Bench) -> None:
    series = bench.orthanc.add("thick")
    bench.answers = [worker.AttemptError("worker_died")]
    scoring = bench.scoring(max_attempts=1)
    scoring.handle("study")
    series.instances["thick-9"] = "file"
    scoring.handle("study")
    assert bench.status("thick") == "scored"
    assert bench.orthanc.stored == ["key-sr", "key-01"]  # the picture of the failure is gone


def test_a_claim_of_a_dead_run_counts_as_an_attempt_unless_it_stopped_in_order(bench: Bench) -> None:
    for clean, attempts in (((), 2), (("node/dead",), 1)):
        bench.orthanc.series.clear()
        bench.orthanc.add("thick")
        bench.during = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.scoring("node/dead").handle("study")
        assert bench.status("thick") == "claimed"
        bench.during = lambda: None
        bench.scoring("node/new", clean).handle("study")
        assert bench.orthanc.state("thick")["attempts"] == attempts


def dying(bench: Bench, how: str, run: int, **options: Any) -> float | None:
    """One look in which the scorer's process or the server dies."""
    if how == "worker":
        bench.answers = [worker.AttemptError("worker_died")]
        return bench.scoring(f"node/{run}", **options).handle("study")
    bench.during = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.scoring(f"node/{run}", **options).handle("study")
    bench.during = lambda: None
    return 0.0


@pytest.mark.parametrize("second", ["worker", "server"])
@pytest.mark.parametrize("first", ["worker", "server"])
def test_what_died_twice_is_not_tried_a_third_time(bench: Bench, first: str, second: str) -> None:
    bench.orthanc.add("thick")
    dying(bench, first, 1, max_attempts=5)
    dying(bench, second, 2, max_attempts=5)
    assert bench.scoring("node/3", max_attempts=5).handle("study") is None
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["deaths"]) == ("failed", "quarantined", 2)
    assert (state["attempts"], len(bench.calls)) == (2, 2)
    assert bench.orthanc.stored == ["notice"]
    queued = SeriesState("queued").to_json()  # an order is the administrator's word
    bench.orthanc.series["thick"].metadata["StrokeCore"] = queued
    bench.scoring("node/4").handle("study")
    assert bench.status("thick") == "scored"


def test_a_death_and_other_failures_are_no_quarantine(bench: Bench) -> None:
    bench.orthanc.add("thick")
    codes = ["worker_died", "scorer_failed", "worker_timeout", "scorer_failed"]
    bench.answers = [worker.AttemptError(code) for code in codes]
    scoring = bench.scoring(max_attempts=5)
    for _ in codes:
        scoring.handle("study")
    assert scoring.handle("study") is None
    assert (bench.status("thick"), bench.orthanc.state("thick")["deaths"]) == ("scored", 1)


def test_deaths_on_a_node_that_is_ill_are_nobodys(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.node_is_fit = lambda empty: False
    for run in range(5):
        assert dying(bench, "worker", run) == 2.0
    bench.node_is_fit = lambda empty: True
    bench.scoring("node/9").handle("study")
    assert bench.status("thick") == "scored"


def test_late_slices_end_a_quarantine(bench: Bench) -> None:
    series = bench.orthanc.add("thick")
    dying(bench, "worker", 1)
    dying(bench, "worker", 2)
    assert bench.orthanc.state("thick")["reason"] == "quarantined"
    series.instances["thick-9"] = "file"
    bench.scoring().handle("study")
    assert bench.status("thick") == "scored"


def test_one_death_is_the_end_where_one_attempt_is_allowed(bench: Bench) -> None:
    bench.orthanc.add("thick")
    for how, reason in (("worker", "worker_died"), ("server", "interrupted")):
        bench.orthanc.series["thick"].metadata.clear()
        dying(bench, how, 1, max_attempts=1)
        bench.scoring("node/2", max_attempts=1).handle("study")
        assert (bench.status("thick"), bench.orthanc.state("thick")["reason"]) == ("failed", reason)


def test_another_nodes_claim_is_respected_for_its_lease(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.during = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.scoring("other/run").handle("study")
    bench.during = lambda: None
    delay = bench.scoring("node/run", timeout_s=100).handle("study")
    assert delay is not None
    assert 100 < delay <= 160
    state = json.loads(bench.orthanc.series["thick"].metadata["StrokeCore"])
    state["claimed_at"] = time.time() - 1000
    bench.orthanc.series["thick"].metadata["StrokeCore"] = json.dumps(state)
    bench.scoring("node/run").handle("study")
    assert bench.status("thick") == "scored"


def test_a_lost_race_waits(bench: Bench) -> None:
    bench.orthanc.add("thick")
    first = bench.scoring("a/run")
    bench.during = lambda: second_delays.append(bench.scoring("b/run").handle("study"))
    second_delays: list[float | None] = []
    first.handle("study")
    assert len(bench.calls) == 1
    assert second_delays[0] is not None
    assert bench.status("thick") == "scored"


def test_a_change_during_scoring_drops_the_result(bench: Bench) -> None:
    series = bench.orthanc.add("thick")
    bench.during = lambda: series.instances.update({"thick-9": "file"})
    assert bench.scoring().handle("study") == 0.0
    assert bench.orthanc.stored == []
    assert bench.status("thick") == "queued"
    bench.during = lambda: None
    bench.scoring().handle("study")
    assert bench.orthanc.state("thick")["attempts"] == 1


def test_a_corrected_patient_drops_the_result(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.during = lambda: bench.orthanc.patient.update(PatientID="Q")
    assert bench.scoring().handle("study") == 0.0
    assert bench.orthanc.stored == []


def test_a_deleted_study_stays_deleted(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.during = bench.orthanc.series.clear
    bench.scoring().handle("study")
    assert bench.scoring().handle("study") is None
    assert bench.orthanc.stored == []


def test_refused_keeps_its_picture_until_a_score_comes(bench: Bench) -> None:
    series = bench.orthanc.add("thick")
    bench.answers = ["refused::"]
    bench.scoring().handle("study")
    assert bench.orthanc.state("thick")["reason"] == "because"
    assert bench.orthanc.stored == ["refused-01"]
    series.instances["thick-9"] = "file"
    bench.scoring().handle("study")
    assert bench.orthanc.stored == ["key-sr", "key-01"]


def test_ineligible_stores_nothing(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.answers = ["ineligible::"]
    bench.scoring().handle("study")
    assert bench.status("thick") == "ineligible"
    assert bench.orthanc.stored == []


def test_a_better_series_supersedes(bench: Bench) -> None:
    bench.orthanc.add("bone")
    bench.answers = ["scored:bone:k1", "scored:thick:k2"]
    bench.scoring().handle("study")
    bench.orthanc.add("thick")
    bench.scoring().handle("study")
    assert [s for _, s in bench.calls] == [None, "k1"]
    assert bench.status("bone") == "superseded"
    assert bench.orthanc.state("bone")["history"][0]["result_key"] == "k1"
    assert bench.orthanc.state("thick")["result"]["supersedes"] == "k1"


def test_a_late_series_that_is_not_taken_changes_nothing(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.scoring().handle("study")
    before = bench.orthanc.state("thick")["result"]
    bench.orthanc.add("bone")
    bench.scoring().handle("study")
    after = bench.orthanc.state("thick")["result"]
    assert {**after, "fingerprint": ""} == {**before, "fingerprint": ""}
    assert bench.status("bone") == "not_selected"
    assert bench.orthanc.stored == ["key-sr", "key-01"]


def test_deleted_outputs_are_made_with_their_own_date(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.scoring().handle("study")
    bench.orthanc.stored.clear()
    state = bench.orthanc.state("thick")
    state["result"]["content_datetime"] = "2026-01-01T00:00:00+00:00"
    bench.orthanc.series["thick"].metadata["StrokeCore"] = json.dumps(
        {**state, "status": "queued", "attempts": 0}
    )
    bench.scoring().handle("study")
    assert bench.calls[-1] == ("2026-01-01T00:00:00+00:00", None)
    assert bench.orthanc.stored == ["key-sr", "key-01"]


def test_a_result_on_a_series_of_another_acquisition_is_no_result(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.answers = ["scored:stranger:k"]
    bench.scoring().handle("study")
    assert bench.status("thick") == "queued"
    assert bench.tally.last_error == "result_incomplete"
    assert bench.orthanc.stored == []


def test_an_unreadable_state_is_as_good_as_none(bench: Bench) -> None:
    bench.orthanc.add("thick").metadata["StrokeCore"] = "???"
    bench.scoring().handle("study")
    assert bench.status("thick") == "scored"


def test_ordered_by_hand_after_failure(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.orthanc.add("thin")
    bench.answers = [worker.AttemptError("worker_died")]
    bench.scoring(max_attempts=1).handle("study")
    queued = SeriesState("queued").to_json()
    bench.orthanc.series["thin"].metadata["StrokeCore"] = queued
    bench.scoring(max_attempts=1).handle("study")
    assert bench.status("thick") == "scored"
    assert bench.status("thin") == "not_selected"


def test_a_file_that_orthanc_lost_ends_in_a_visible_failure(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.orthanc.lost_files = {"thick-0"}
    scoring = bench.scoring(max_attempts=2)
    assert scoring.handle("study") == 2.0
    assert scoring.handle("study") is None
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["attempts"]) == ("failed", "source_unreadable", 2)
    assert state["notices"] == ["notice"]
    assert bench.calls == []


def test_a_broken_series_does_not_hold_up_the_others(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.orthanc.add("broken", slices=1)
    bench.orthanc.lost_files = {"broken-0"}
    bench.scoring(max_attempts=1).handle("study")
    assert (bench.status("thick"), bench.status("broken")) == ("scored", "failed")


def test_a_study_deleted_while_results_are_stored_does_not_come_back(bench: Bench) -> None:
    bench.orthanc.add("thick")
    store = bench.orthanc._store

    def deleting_store(content: bytes) -> Response:
        bench.orthanc.series.pop("thick", None)
        return store(content)

    bench.orthanc._store = deleting_store  # type: ignore[method-assign]
    bench.scoring().handle("study")
    assert bench.scoring().handle("study") is None
    assert bench.orthanc.stored == []


def test_a_node_that_is_ill_spends_no_attempt(bench: Bench) -> None:
    bench.orthanc.add("thick")
    bench.answers = [worker.AttemptError("scorer_usage")] * 5
    bench.node_is_fit = lambda empty: False
    scoring = bench.scoring(max_attempts=2)
    assert [scoring.handle("study") for _ in range(5)] == [2.0] * 5
    state = bench.orthanc.state("thick")
    assert (state["status"], state["attempts"], state["reason"]) == ("queued", 0, "scorer_usage")
    assert bench.orthanc.stored == []
    bench.node_is_fit = lambda empty: True
    assert scoring.handle("study") is None
    assert bench.orthanc.state("thick")["attempts"] == 1
    assert len({moment for moment, _ in bench.calls}) == 1


@pytest.mark.parametrize("error", [OSError(28, "no space"), OSError(30, "read-only")])
def test_a_folder_that_cannot_be_made_spends_no_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    bench.orthanc.add("thick")

    def no_folder(*_: object, **__: object) -> str:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("orthanc_plugin.workspace.tempfile.mkdtemp", no_folder)
        for _ in range(5):
            assert bench.scoring(max_attempts=2).handle("study") == 2.0
    assert bench.orthanc.state("thick")["attempts"] == 0
    bench.scoring().handle("study")
    assert bench.status("thick") == "scored"


def test_a_study_that_fills_the_disk_by_itself_ends_failed(bench: Bench) -> None:
    """Whatever it held is gone when the node is looked at a second time; else it would wait for ever."""
    bench.orthanc.add("thick")
    bench.answers = [OSError(28, "no space")] * 2
    scoring = bench.scoring(max_attempts=2)

    def fit_without_it(empty: Callable[[], None]) -> bool:
        empty()
        return not list(bench.folder.glob("*/in"))

    bench.node_is_fit = fit_without_it
    assert [scoring.handle("study") for _ in range(2)] == [2.0, None]
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["notices"]) == ("failed", "io_error", ["notice"])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be moved by hand."""
    now = [1_800_000_000.0]
    monkeypatch.setattr("orthanc_plugin.scoring.time.time", lambda: now[0])
    return now


def refuse(bench: Bench, answer: Callable[[bytes], Response | None]) -> None:
    """Orthanc answers so to what is stored; None: as ever."""
    store = bench.orthanc._store
    bench.orthanc._store = lambda content: answer(content) or store(content)  # type: ignore[method-assign]


def silence(content: bytes) -> Response:
    raise TimeoutError


ERRORS: dict[str, Callable[[bytes], Response]] = {
    "500": lambda content: Response(500, b""),
    "507": lambda content: Response(507, b""),
    "no answer": silence,
}


@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_an_error_of_orthanc_while_results_are_stored_spends_no_attempt(
    bench: Bench, clock: list[float], kind: str
) -> None:
    bench.orthanc.add("thick")
    ill = True
    refuse(bench, lambda content: ERRORS[kind](content) if ill else None)
    scoring = bench.scoring(max_attempts=2, store_patience_s=600)
    for delay in (2.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):  # the longer it lasts, the longer the pauses
        assert scoring.handle("study") == delay
        assert bench.ledger.outputs_refused()
        clock[0] += delay
    state = bench.orthanc.state("thick")
    assert (state["status"], state["attempts"], state["reason"]) == ("queued", 0, "output_refused")
    ill = False
    assert scoring.handle("study") is None
    assert (bench.status("thick"), bench.orthanc.state("thick")["attempts"]) == ("scored", 1)
    assert len({moment for moment, _ in bench.calls}) == 1
    assert not bench.ledger.outputs_refused()


@pytest.mark.parametrize("picture", [True, False])
@pytest.mark.parametrize("kind", sorted(ERRORS))
def test_outputs_that_orthanc_refuses_for_ever_end_in_a_failure_that_is_said(
    bench: Bench, clock: list[float], kind: str, picture: bool
) -> None:
    """Also over a restart, and where the picture is refused as well; an order starts anew."""
    bench.orthanc.add("thick")
    ill = True
    taken = b"notice" if picture else b"?"
    refuse(bench, lambda content: ERRORS[kind](content) if ill and not content.startswith(taken) else None)
    looks = 0
    while (delay := bench.scoring(f"node/{looks}", store_patience_s=600).handle("study")) is not None:
        clock[0] += delay
        looks += 1
        assert looks < 30
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"]) == ("failed", "output_refused")
    assert (state["notices"], bench.orthanc.stored) == ((["notice"], ["notice"]) if picture else ([], []))
    assert state["refused_since"] is None
    assert bench.ledger.outputs_refused()
    assert bench.scoring().handle("study") is None  # and settled
    bench.ledger = Ledger()
    bench.scoring().handle("study")
    assert bench.ledger.outputs_refused()  # a restart does not silence it
    ill = False
    bench.orthanc.series["thick"].metadata["StrokeCore"] = SeriesState("queued").to_json()
    assert bench.scoring().handle("study") is None
    assert bench.status("thick") == "scored"
    assert not bench.ledger.outputs_refused()


def no_disk(*_: object, **__: object) -> str:
    raise OSError(28, "no space")


def test_a_failure_is_pictured_without_a_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that died each time, and then found the disk full."""
    bench.orthanc.add("thick", slices=9)
    bench.during = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.scoring("node/0", max_attempts=1).handle("study")
    monkeypatch.setattr("orthanc_plugin.workspace.tempfile.mkdtemp", no_disk)
    assert bench.scoring("node/1", max_attempts=1).handle("study") is None
    assert (bench.status("thick"), bench.orthanc.stored) == ("failed", ["notice"])
    assert [len(instances) for instances in bench.pictured] == [3]  # of nine, enough


def test_a_picture_of_a_score_is_no_picture_of_a_failure(bench: Bench) -> None:
    """What the scorer left of a result that could not be stored must not be stored as the failure."""
    bench.orthanc.add("thick")
    refuse(bench, lambda content: None if content.startswith(b"notice") else Response(400, b""))
    assert bench.scoring(max_attempts=1).handle("study") is None
    assert bench.orthanc.stored == ["notice"]


def test_who_waits_for_an_ill_node_is_told_once_and_scored_when_it_is_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.orthanc.add("thick")
    scoring = bench.scoring()
    with monkeypatch.context() as patch:
        patch.setattr("orthanc_plugin.workspace.tempfile.mkdtemp", no_disk)
        assert scoring.handle("study") == 2.0
        for _ in range(2):
            assert scoring.announce("study", "work_folder_full")
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["attempts"]) == ("queued", "work_folder_full", 0)
    assert (state["notices"], bench.orthanc.stored, len(bench.pictured)) == (["notice"], ["notice"], 1)
    assert scoring.handle("study") is None
    assert (bench.status("thick"), bench.orthanc.stored) == ("scored", ["key-sr", "key-01"])
    assert not scoring.announce("study", "work_folder_full")
    assert not scoring.announce("gone", "work_folder_full")


@pytest.mark.parametrize("what", ["still received", "contrast", "other node", "scored before"])
def test_nothing_is_announced_where_it_would_be_wrong(bench: Bench, what: str) -> None:
    series = bench.orthanc.add("thick", **({"ContrastBolusAgent": "IOHEXOL"} if what == "contrast" else {}))
    if what == "still received":
        series.stable = False
    if what == "other node":
        state = SeriesState("claimed", owner="other/run", claimed_at=time.time())
        series.metadata["StrokeCore"] = state.to_json()
    if what == "scored before":
        bench.scoring().handle("study")
        series.instances["thick-9"] = "file"
    bench.scoring().announce("study", "work_folder_full")
    assert bench.pictured == []


def test_an_announcement_that_nobody_would_know_of_is_taken_back(bench: Bench) -> None:
    bench.orthanc.add("thick")
    put = bench.orthanc._metadata
    written: list[bytes] = []

    def second_fails(method: str, series: Any, name: str, body: bytes, headers: Any) -> Response:
        if method == "PUT" and b"work_folder_full" in body:
            return Response(500, b"")
        written.append(body)
        return put(method, series, name, body, headers)

    bench.orthanc._metadata = second_fails  # type: ignore[method-assign]
    with pytest.raises(OrthancError):
        bench.scoring().announce("study", "work_folder_full")
    assert bench.pictured
    assert bench.orthanc.stored == []


def test_a_node_that_is_ill_lets_nobody_run_out_of_patience(bench: Bench, clock: list[float]) -> None:
    """A full storage for a day, then an error of another kind."""
    bench.orthanc.add("thick")
    refuse(bench, lambda content: Response(500, b""))
    scoring = bench.scoring(store_patience_s=600)
    scoring.handle("study")
    bench.node_is_fit = lambda empty: False
    for _ in range(3):
        clock[0] += 8 * 3600
        assert scoring.handle("study") == 2.0
    bench.node_is_fit = lambda empty: True
    assert scoring.handle("study") == 2.0
    assert bench.status("thick") == "queued"


def test_a_picture_of_a_failure_that_orthanc_refuses_is_stored_once_it_is_taken(
    bench: Bench, clock: list[float]
) -> None:
    bench.orthanc.add("thick")
    bench.answers = [worker.AttemptError("scorer_failed")]
    ill = True
    refuse(bench, lambda content: Response(500, b"") if ill else None)
    scoring = bench.scoring(max_attempts=1)
    assert scoring.handle("study") == 2.0
    assert bench.status("thick") == "queued"
    ill = False
    assert scoring.handle("study") is None
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["notices"]) == ("failed", "scorer_failed", ["notice"])
    assert len(bench.calls) == 1


def test_a_clock_that_is_set_back_ends_nothing(bench: Bench, clock: list[float]) -> None:
    bench.orthanc.add("thick")
    refuse(bench, lambda content: Response(500, b""))
    scoring = bench.scoring(store_patience_s=600)
    scoring.handle("study")
    clock[0] -= 10_000
    assert scoring.handle("study") == 2.0
    clock[0] += 599
    assert scoring.handle("study") == 60.0
    clock[0] += 1
    assert scoring.handle("study") is None


def test_what_a_filter_of_the_site_keeps_out_was_not_stored(bench: Bench) -> None:
    bench.orthanc.add("thick")
    refuse(bench, lambda content: Response(200, b'{"ID": "x", "Status": "FilteredOut"}'))
    assert bench.scoring(max_attempts=1).handle("study") is None
    assert bench.orthanc.state("thick")["reason"] == "output_rejected"


def test_an_output_that_orthanc_refuses_is_a_failed_attempt(bench: Bench) -> None:
    bench.orthanc.add("thick")
    store = bench.orthanc._store
    bench.orthanc._store = lambda content: (  # type: ignore[method-assign]
        store(content) if content.startswith(b"notice") else Response(400, b"")
    )
    scoring = bench.scoring(max_attempts=2)
    assert [scoring.handle("study") for _ in range(2)] == [2.0, None]
    state = bench.orthanc.state("thick")
    assert (state["status"], state["reason"], state["notices"]) == ("failed", "output_rejected", ["notice"])


def test_a_defect_that_a_study_brings_out_ends_for_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.orthanc.add("thick")
    bench.answers = [ValueError("the patient is DOE^JANE")] * 2
    scoring = bench.scoring(max_attempts=2)
    assert [scoring.handle("study") for _ in range(2)] == [2.0, None]
    assert bench.orthanc.state("thick")["reason"] == "plugin_error"
    assert "JANE" not in caplog.text


def test_a_file_that_only_the_index_knows_ends_in_a_visible_failure(bench: Bench) -> None:
    """Orthanc answers 404 to it, as it does for an instance that was deleted."""
    bench.orthanc.add("thick")
    answer = bench.orthanc._instance

    def without_file(method: str, name: str, what: str | None) -> Response:
        return Response(404, b"") if what == "file" else answer(method, name, what)

    bench.orthanc._instance = without_file  # type: ignore[method-assign]
    assert bench.scoring(max_attempts=1).handle("study") is None
    assert bench.orthanc.state("thick")["reason"] == "source_unreadable"


def test_files_of_which_orthanc_says_404_settle_nothing(bench: Bench) -> None:
    """What the index still knows was not deleted, whatever answers 404."""
    bench.orthanc.add("thick")
    answer = bench.orthanc._instance
    bench.orthanc._instance = lambda method, name, what: (  # type: ignore[method-assign]
        Response(404, b"") if what else answer(method, name, what)
    )
    assert bench.scoring(max_attempts=1).handle("study") is None
    assert bench.orthanc.state("thick")["reason"] == "source_unreadable"


@pytest.mark.parametrize("bad", ["first", "second"])
def test_an_acquisition_with_errors_does_not_hold_up_the_others_of_its_study(bench: Bench, bad: str) -> None:
    bench.orthanc.add("first", AcquisitionTime="080000", FrameOfReferenceUID="a")
    bench.orthanc.add("second", AcquisitionTime="120000", FrameOfReferenceUID="b")
    good = "second" if bad == "first" else "first"
    bench.answers = [f"scored:{good}:key"]
    answer = bench.orthanc._series

    def failing(method: str, name: str, what: str, *rest: Any) -> Response:
        failed = name == bad and what.startswith("metadata")
        return Response(500, b"") if failed else answer(method, name, what, *rest)

    bench.orthanc._series = failing  # type: ignore[method-assign]
    with pytest.raises(OrthancError):
        bench.scoring().handle("study")
    assert bench.status(good) == "scored"
