"""orthanc_plugin/recovery.py: what the start-up scan finds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orthanc_plugin import recovery
from orthanc_plugin.recovery import first_change_after, pending_studies
from tests.unit.orthanc_plugin.fakes import FakeOrthanc


def found(orthanc: FakeOrthanc, mark: int = 0, hours: float = 24) -> list[str]:
    return list(pending_studies(orthanc.api, mark, hours))


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
    # nothing is skipped when the quiet mark is newer than the age limit
    assert found(orthanc, mark=5) == ["study-20", "study-1"]


def test_slices_added_to_an_old_series_are_found() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("old", "study", slices=3)
    orthanc.changes.clear()
    orthanc.change("NewInstance", "Instance", "old-2")
    orthanc.change("NewInstance", "Instance", "deleted")
    assert found(orthanc) == ["study"]


def test_long_logs_are_read_in_pages(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(recovery, "PAGE", 3)
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
