"""What to look at after a start: events lost in a crash are the normal case.

Orthanc's change log outlives a crash, its events do not: STABLE never comes for a series that was being
received. The scan reads the log from the last moment at which nothing was pending, and at least as far
back as the age limit; every CT study it names is looked at again, which costs little where nothing is due.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from orthanc_plugin.orthanc_api import NotFound, OrthancApi
from orthanc_plugin.study import parse_orthanc_time

log = logging.getLogger(__name__)

PAGE: Final = 1000
# What can leave work behind: new and completed series, states written, slices added to an old series.
_SERIES_CHANGES: Final = frozenset({"NewSeries", "StableSeries", "UpdatedMetadata"})


def pending_studies(api: OrthancApi, quiet_mark: int, recovery_hours: float) -> Iterator[str]:
    """Studies with CT series named by the change log, oldest first, each once.

    ``quiet_mark``: number of the last change at a moment when nothing was pending; 0 when unknown.
    """
    by_age = first_change_after(api, datetime.now(UTC) - timedelta(hours=recovery_hours))
    start = min(quiet_mark, by_age) if quiet_mark else by_age
    seen_series: set[str] = set()
    known_instances: set[str] = set()
    seen_studies: set[str] = set()
    for change in _changes(api, start):
        series = _series_of(api, change, known_instances, by_age)
        if series is None or series in seen_series:
            continue
        seen_series.add(series)
        try:
            description = api.get(f"/series/{series}")
        except NotFound:
            continue
        known_instances.update(description.get("Instances", ()))
        study = description.get("ParentStudy")
        is_ct = description.get("MainDicomTags", {}).get("Modality") == "CT"
        if is_ct and study and study not in seen_studies:
            seen_studies.add(study)
            yield study


def last_change(api: OrthancApi) -> int:
    """Number of the newest change; 0 when there is none."""
    return int(api.get("/changes?last")["Last"])


def first_change_after(api: OrthancApi, moment: datetime) -> int:
    """Number just below the first change at or after ``moment``: what ``since`` wants. Bisects the log."""
    low, high = 0, last_change(api)
    while low < high:
        middle = (low + high) // 2
        page = api.get(f"/changes?since={middle}&limit=1")["Changes"]
        date = parse_orthanc_time(page[0].get("Date")) if page else None
        if date is None or date >= moment:
            high = middle
        else:
            low = max(middle + 1, int(page[0]["Seq"]))
    return low


def _changes(api: OrthancApi, since: int) -> Iterator[dict[str, Any]]:
    done = False
    while not done:
        page = api.get(f"/changes?since={since}&limit={PAGE}")
        yield from page["Changes"]
        done = page.get("Done") is True or int(page["Last"]) <= since
        since = int(page["Last"])


def _series_of(api: OrthancApi, change: dict[str, Any], known_instances: set[str], by_age: int) -> str | None:
    """The series a change may have left work in."""
    kind, level, identifier = change.get("ChangeType"), change.get("ResourceType"), str(change.get("ID"))
    if level == "Series" and kind in _SERIES_CHANGES:
        return identifier
    if kind == "NewInstance" and identifier not in known_instances:
        # Slices of a series that began before the scan's first change.
        try:
            series = str(api.get(f"/instances/{identifier}")["ParentSeries"])
        except NotFound:
            return None
        return series
    return None
