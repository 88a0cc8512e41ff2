"""orthanc_plugin/open_studies.py: what the change log leaves open, in which order; where the mark stands."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from orthanc_plugin import open_studies
from orthanc_plugin.open_studies import OpenStudies, acquisition_moment, first_change_after
from orthanc_plugin.orthanc_api import OrthancApi, OrthancError, Response
from orthanc_plugin.state import SeriesState
from tests.unit.orthanc_plugin.fakes import FakeOrthanc


def opened(orthanc: FakeOrthanc, mark: int = 0, hours: float = 24) -> OpenStudies:
    return OpenStudies(orthanc.api, mark, hours, 1.0, 3.0)


def found(orthanc: FakeOrthanc, mark: int = 0, hours: float = 24) -> list[str]:
    return [s.study for s in opened(orthanc, mark, hours).follow()]


def test_a_series_whose_stable_event_never_came_is_found() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct", "study-1")
    orthanc.add("sr", "study-2", Modality="SR")
    assert found(orthanc) == ["study-1"]


def test_older_changes_than_the_limit_are_left_alone() -> None:
    orthanc = FakeOrthanc()
    now = datetime.now(UTC)
    for hours in (72, 48, 30, 20, 1):
        orthanc.add(f"s{hours}", f"study-{hours}")
        orthanc.changes[-1]["Date"] = (now - timedelta(hours=hours)).strftime("%Y%m%dT%H%M%S")
    assert found(orthanc) == ["study-20", "study-1"]
    assert found(orthanc, mark=1) == ["study-48", "study-30", "study-20", "study-1"]
    # nothing is skipped when the mark is newer than the age limit
    assert found(orthanc, mark=5) == ["study-20", "study-1"]


def test_slices_added_to_an_old_series_are_found() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("old", "study", slices=3)
    orthanc.changes.clear()
    orthanc.change("NewInstance", "Instance", "old-2")
    orthanc.change("NewInstance", "Instance", "deleted")
    assert found(orthanc) == ["study"]


def test_slices_of_a_series_that_is_being_received_cost_no_call_each() -> None:
    orthanc = FakeOrthanc()
    calls: list[str] = []

    def counting(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        calls.append(path)
        return orthanc(method, path, body, headers)

    studies = OpenStudies(OrthancApi(counting), 0, 24, 60.0, 3.0)
    list(studies.follow())
    orthanc.add("ct", slices=30)
    for index in range(30):
        orthanc.change("NewInstance", "Instance", f"ct-{index}", datetime.now(UTC))
        list(studies.follow())
    assert sum(path.startswith("/instances/") for path in calls) == 0
    assert sum(path == "/series/ct" for path in calls) == 1


def test_slices_that_came_again_are_found_and_new_ones_are_not_taken_for_them() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct", slices=30)
    orthanc.add("sr", Modality="SR")
    studies = opened(orthanc)
    list(studies.follow())
    studies.settled("study", studies.get("study"))
    orthanc.add("new", "study-2", slices=1)
    orthanc.change("NewInstance", "Instance", "new-0", datetime.now(UTC))
    for instance in (*(f"ct-{i}" for i in range(30)), "new-0", "sr-0", "deleted"):
        studies.received(instance)
    assert [(s.study, s.again) for s in studies.follow()] == [("study-2", False), ("study", True)]
    assert list(studies.follow()) == []  # said once


def test_slices_that_came_again_are_asked_for_until_orthanc_answers() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct")
    answers = [Response(500, b"")]

    def failing(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        if path.startswith("/instances/") and answers:
            return answers.pop()
        return orthanc(method, path, body, headers)

    studies = OpenStudies(OrthancApi(failing), 0, 24, 1.0, 3.0)
    list(studies.follow())
    studies.received("ct-0")
    assert list(studies.follow()) == []
    assert [s.again for s in studies.follow()] == [True]


@pytest.mark.parametrize(
    ("kind", "begun_s_ago", "moved"),
    [("SplitStudy", 1, True), ("MergeStudy", 1, True), ("SplitStudy", -1, False), ("Archive", 1, False)],
)
def test_a_study_is_looked_at_whose_images_a_job_has_moved(
    kind: str, begun_s_ago: float, *, moved: bool
) -> None:
    orthanc = FakeOrthanc()
    begun = datetime.now(UTC) - timedelta(seconds=begun_s_ago)

    def with_jobs(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        if path == "/jobs/job":
            created = begun.strftime("%Y%m%dT%H%M%S.%f")
            return Response(200, json.dumps({"Type": kind, "CreationTime": created}).encode())
        return orthanc(method, path, body, headers)

    studies = OpenStudies(OrthancApi(with_jobs), 0, 24, 1.0, 3.0)
    studies.images_gone("study")
    assert list(studies.follow()) == []  # by hand, for all that is known
    studies.job_done("forgotten")
    studies.job_done("job")
    assert [(s.study, s.moved) for s in studies.follow()] == [("study", True)] * moved


def test_long_logs_are_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_studies, "PAGE", 3)
    orthanc = FakeOrthanc()
    for number in range(10):
        orthanc.add(f"s{number}", f"study-{number}")
    assert len(found(orthanc)) == 10


def test_an_empty_log() -> None:
    assert found(FakeOrthanc()) == []
    assert first_change_after(FakeOrthanc().api, datetime.now(UTC)) == 0


def test_deleted_series_are_passed_over() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("gone")
    del orthanc.series["gone"]
    assert found(orthanc) == []


def test_the_mark_moves_only_over_what_is_settled() -> None:
    orthanc = FakeOrthanc()
    for number in range(3):
        orthanc.add(f"s{number}", f"study-{number}")
    studies = opened(orthanc)
    assert studies.mark() == 0
    list(studies.follow())
    assert studies.mark() == 0
    studies.settled("study-0", studies.get("study-0"))
    studies.settled("study-2", studies.get("study-2"))
    assert studies.mark() == 1  # study-1 is open
    studies.settled("study-1", studies.get("study-1"))
    assert studies.mark() == 3


def test_a_study_that_is_named_while_it_is_looked_at_stays_open() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct")
    studies = opened(orthanc)
    list(studies.follow())
    seen = studies.get("study")
    orthanc.change("StableSeries", "Series", "ct")
    list(studies.follow())
    studies.settled("study", seen)
    assert studies.get("study") is not None
    studies.settled("study", studies.get("study"))
    assert studies.get("study") is None


@pytest.mark.parametrize("status", [0, 500, 503])
def test_a_series_whose_call_fails_is_asked_for_again_and_holds_the_mark(status: int) -> None:
    """One event whose one REST call fails; nothing else may suffer from it, and no restart forgets it."""
    orthanc = FakeOrthanc()
    broken = {"/series/a"}

    def failing(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        if path in broken:
            if not status:
                raise OSError
            return Response(status, b"")
        return orthanc(method, path, body, headers)

    orthanc.add("a", "study-a")
    orthanc.add("b", "study-b")
    studies = OpenStudies(OrthancApi(failing), 0, 24, 1.0, 3.0)
    assert [s.study for s in studies.follow()] == ["study-b"]
    studies.settled("study-b", studies.get("study-b"))
    assert studies.mark() == 0
    assert studies.waiting_since() is not None
    assert list(studies.follow()) == []
    broken.clear()
    assert [s.study for s in studies.follow()] == ["study-a"]
    studies.settled("study-a", studies.get("study-a"))
    assert studies.mark() == 2


def test_a_slice_whose_call_fails_holds_up_nobody_but_the_mark() -> None:
    orthanc = FakeOrthanc()
    broken = {"/instances/a-0"}

    def failing(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        return Response(500, b"") if path in broken else orthanc(method, path, body, headers)

    orthanc.add("a", "study-a")
    orthanc.add("b", "study-b")
    orthanc.changes.clear()
    orthanc.change("NewInstance", "Instance", "a-0")
    orthanc.change("NewInstance", "Instance", "b-0")
    studies = OpenStudies(OrthancApi(failing), 0, 24, 1.0, 3.0)
    assert [s.study for s in studies.follow()] == ["study-b"]
    studies.settled("study-b", studies.get("study-b"))
    assert studies.mark() == 0
    broken.clear()
    assert [s.study for s in studies.follow()] == ["study-a"]


def test_an_orthanc_that_does_not_answer_loses_nothing() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("a")
    down = True

    def failing(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        return Response(500, b"") if down else orthanc(method, path, body, headers)

    studies = OpenStudies(OrthancApi(failing), 0, 24, 1.0, 3.0)
    with pytest.raises(OrthancError):
        list(studies.follow())
    assert studies.mark() == 0
    down = False
    assert [s.study for s in studies.follow()] == ["study"]


def test_own_states_name_nothing_and_orders_do() -> None:
    orthanc = FakeOrthanc()
    series = orthanc.add("ct")
    studies = opened(orthanc)
    list(studies.follow())
    for status in ("claimed", "scored"):
        series.metadata["StrokeCore"] = SeriesState(status).to_json()
        orthanc.change("UpdatedMetadata", "Series", "ct")
        assert list(studies.follow()) == []
    studies.settled("study", studies.get("study"))
    assert studies.get("study") is None
    for status in ("queued", "claimed"):  # by another Orthanc on the same database
        series.metadata["StrokeCore"] = SeriesState(status).to_json()
        orthanc.change("UpdatedMetadata", "Series", "ct")
        assert len(list(studies.follow())) == 1
        studies.settled("study", studies.get("study"))


def test_what_a_start_finds_waits_only_once_a_look_says_so() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct")
    studies = opened(orthanc)
    list(studies.follow())
    assert studies.waiting_since() is None
    studies.unsettled("study")
    arrived = studies.waiting_since()
    assert arrived is not None
    assert 250 < time.time() - arrived < 350  # the fake's changes are five minutes old


def test_who_is_being_received_does_not_wait_yet() -> None:
    orthanc = FakeOrthanc()
    studies = opened(orthanc)
    list(studies.follow())
    orthanc.add("ct")
    (found,) = studies.follow()
    studies.unsettled("study")
    assert studies.waiting_since() is None
    orthanc.change("StableSeries", "Series", "ct", datetime.now(UTC))
    list(studies.follow())
    since = studies.waiting_since()
    assert since is not None
    assert time.time() - since < 5 < time.time() - found.arrived


def ranks(orthanc: FakeOrthanc) -> list[str]:
    return [s.study for s in sorted(opened(orthanc).follow(), key=lambda s: s.rank)]


def acquired(ago: timedelta) -> dict[str, str]:
    moment = datetime.now() - ago
    return {"SeriesDate": moment.strftime("%Y%m%d"), "SeriesTime": moment.strftime("%H%M%S")}


def test_the_newest_acquisition_comes_first_and_priors_last() -> None:
    orthanc = FakeOrthanc()
    for number in range(50):
        orthanc.add(f"prior-{number}", f"prior-{number}", **acquired(timedelta(days=400 - number)))
    orthanc.add("hour", "hour", **acquired(timedelta(hours=1)))
    orthanc.add("stroke", "stroke", **acquired(timedelta(minutes=7)))
    orthanc.add("undated", "undated")
    orthanc.add("wrong", "wrong", SeriesDate="29990101")
    assert set(ranks(orthanc)[:3]) == {"stroke", "undated", "wrong"}
    assert ranks(orthanc)[3] == "hour"


def test_the_study_date_serves_where_the_series_has_none() -> None:
    orthanc = FakeOrthanc()
    orthanc.study_tags = {"StudyDate": "20200101", "StudyTime": "101112.5"}
    orthanc.add("old", "old")
    orthanc.add("new", "new", **acquired(timedelta(minutes=5)))
    assert ranks(orthanc) == ["new", "old"]


def test_a_prior_that_has_waited_for_a_day_comes_before_a_new_one() -> None:
    orthanc = FakeOrthanc()
    now = datetime.now(UTC)
    orthanc.add("new", "new", **acquired(timedelta(minutes=1)))
    orthanc.add("aged", "aged", **acquired(timedelta(days=900)))
    orthanc.changes[-1]["Date"] = (now - timedelta(hours=25)).strftime("%Y%m%dT%H%M%S")
    found = sorted(opened(orthanc, hours=48).follow(), key=lambda s: s.rank)
    assert [s.study for s in found] == ["aged", "new"]


def test_a_later_change_keeps_the_first_arrival() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("ct")
    studies = opened(orthanc)
    (first,) = studies.follow()
    orthanc.change("StableSeries", "Series", "ct", datetime.now(UTC))
    (second,) = studies.follow()
    assert (second.arrived, second.rank, second.first_change) == (first.arrived, first.rank, 1)


def test_dates_and_times_of_dicom() -> None:
    assert acquisition_moment("20260102", "030405.123") == datetime(2026, 1, 2, 3, 4, 5)
    assert acquisition_moment("20260102", "0304") == datetime(2026, 1, 2, 3, 4)
    assert acquisition_moment("20260102", None) == datetime(2026, 1, 2)
    for wrong in (None, "", "2026", "00000000"):
        assert acquisition_moment(wrong, "120000") is None
