"""CT studies that are not known to be settled, read from Orthanc's change log.

Orthanc's change log outlives a crash and a lost event. It is followed from the last change below which every
CT series had a terminal state, and at first at least as far back as the age limit; every CT study that it
names stays open here until a look finds each of its acquisitions settled. An event only says that there is
something new to read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from orthanc_plugin.orthanc_api import NotFound, OrthancApi, OrthancError, parse_orthanc_time
from orthanc_plugin.state import TERMINAL, StateStore
from orthanc_plugin.strays import is_copy, is_output_series

log = logging.getLogger(__name__)

PAGE: Final = 1000
# What can leave work behind: new and completed series, states written, slices added to an old series.
_SERIES_CHANGES: Final = frozenset({"NewSeries", "StableSeries", "UpdatedMetadata"})
_RECEIVED_AGAIN: Final = "ReceivedAgain"  # no change of Orthanc's: the slice was there already
_MOVED: Final = "Moved"  # nor this: a job of Orthanc's has moved images out of the study
_MOVING_JOBS: Final = frozenset({"SplitStudy", "MergeStudy", "ResourceModification"})
_GONE_AT_MOST: Final = 1000  # studies that lost a series, remembered until a job says that it moved it
_RECEIVED_AT_MOST: Final = 100_000  # instances remembered until the change log was read
SLICE_MARGIN_S: Final = 5.0  # on top of StableAge, for the change that says that a series is complete

RECEIVING_S: Final = 3600.0  # longer than a sender takes for a series

# Who is served first: the earliest of arrival plus age at arrival. The newest acquisition comes first, priors
# after every present patient; one that has waited for a day is no prior any more.
OLDEST_S: Final = 24 * 3600.0
# A server on UTC receives pictures in the scanner's local time; what lies further ahead is a wrong date.
AHEAD_S: Final = 14 * 3600.0


@dataclass(frozen=True)
class OpenStudy:
    """A CT study that may have series without a terminal state.

    Attributes
    ----------
    first_change: number of the first change that named it.
    arrived: when that was; seconds since the epoch, like ``due``, when it wants to be looked at.
    rank: lower is served first.
    waits_since: when it was complete. None: what the first reading of the log names may be settled. Later
        than now: it is being received.
    again: slices came that Orthanc had already, so that what was made of them may be asked for.
    moved: images of it were moved into another study, so that results may speak of none that are here.
    """

    study: str
    first_change: int
    arrived: float
    rank: float
    due: float
    waits_since: float | None
    again: bool = False
    moved: bool = False


@dataclass(frozen=True)
class _Named:
    """A series or a slice as changes named it. ``kinds``: the kinds of these changes."""

    identifier: str
    first_change: int
    arrived: float
    kinds: frozenset[str]


class OpenStudies:
    """Follows the change log; thread-safe, but only one thread calls ``follow``.

    Parameters
    ----------
    mark: number of the change below which everything was settled; 0 when unknown.
    first_look_s: how long after its first slice a study is looked at.
    """

    def __init__(
        self, api: OrthancApi, mark: int, recovery_hours: float, stable_age_s: float, first_look_s: float
    ) -> None:
        self._api = api
        self._states = StateStore(api)
        self._mark = mark
        self._recovery_hours = recovery_hours
        self._stable_age_s = stable_age_s
        self._first_look_s = min(first_look_s, stable_age_s)
        self._read_to: int | None = None
        self._caught_up = False
        self._open: dict[str, OpenStudy] = {}
        self._unanswered: dict[str, _Named] = {}  # series whose REST call failed
        self._slices: dict[str, _Named] = {}  # slices whose series no change has named yet
        self._gone: dict[str, float] = {}  # studies that lost a series -> when
        self._jobs: set[str] = set()  # jobs of Orthanc's that are done and were not looked at yet
        self._received: set[str] = set()  # instances that came, and that no change has named as new
        self._lock = threading.Lock()

    def follow(self) -> Iterator[OpenStudy]:
        """Read the log to its end; yields the studies that want a look. Raises OrthancError."""
        with self._lock:
            received = tuple(self._received)  # of these the log says by now which are new
        if self._read_to is None:
            self._read_to = self._start()
        for named in list(self._unanswered.values()):
            yield from self._ask(named)
        done = False
        while not done:
            page = self._api.get(f"/changes?since={self._read_to}&limit={PAGE}")
            for named in self._note(page["Changes"]):
                yield from self._ask(named)
            last = int(page["Last"])
            done = page.get("Done") is True or last <= self._read_to
            self._read_to = max(self._read_to, last)
        yield from self._ask_for_slices()
        yield from self._ask_for_received(received)
        yield from self._ask_for_jobs()
        self._caught_up = True

    def received(self, instance: str) -> None:
        """An instance came, new or not: Orthanc's change log passes over what it had already."""
        with self._lock:
            if len(self._received) < _RECEIVED_AT_MOST:
                self._received.add(instance)

    def images_gone(self, study: str) -> None:
        """A CT series of a study was deleted: by hand, or by a job that has moved it."""
        with self._lock:
            self._gone[study] = time.time()
            if len(self._gone) > _GONE_AT_MOST:
                del self._gone[next(iter(self._gone))]

    def job_done(self, job: str) -> None:
        with self._lock:
            self._jobs.add(job)

    def wanted(self, study: str) -> OpenStudy:
        """A study that somebody asks for: as if it had just been acquired."""
        now = time.time()
        named = _Named("", self._read_to or self._mark, now, frozenset())
        return self._name(study, named, now, complete=True)

    def get(self, study: str) -> OpenStudy | None:
        with self._lock:
            return self._open.get(study)

    def all(self) -> tuple[OpenStudy, ...]:
        with self._lock:
            return tuple(self._open.values())

    def settled(self, study: str, seen: OpenStudy | None) -> None:
        """Close a study, unless a change has named it since it was ``seen``."""
        with self._lock:
            if seen is not None and self._open.get(study) is seen:
                del self._open[study]

    def unsettled(self, study: str) -> None:
        """A look has found work left."""
        with self._lock:
            if (found := self._open.get(study)) and found.waits_since is None:
                self._open[study] = replace(found, waits_since=found.arrived)

    def mark(self) -> int:
        """Number of the last change such that everything up to it is settled."""
        with self._lock:
            if not self._caught_up or self._read_to is None:
                return self._mark
            unread = (*self._unanswered.values(), *self._slices.values())
            first = [s.first_change for s in self._open.values()] + [n.first_change for n in unread]
            # never back: what is older than the mark was settled when it moved past
            self._mark = max(self._mark, min(first) - 1 if first else self._read_to)
            return self._mark

    def waiting_since(self) -> float | None:
        """Since when the first of those waits that are complete; None when nobody waits."""
        with self._lock:
            since = [s.waits_since for s in self._open.values() if s.waits_since is not None]
            since += [n.arrived for n in self._unanswered.values()]
        now = time.time()
        return min((s for s in since if s <= now), default=None)

    def _start(self) -> int:
        by_age = first_change_after(self._api, datetime.now(UTC) - timedelta(hours=self._recovery_hours))
        return min(self._mark, by_age) if self._mark else by_age

    def _note(self, changes: list[dict[str, Any]]) -> list[_Named]:
        """The series of one page, each once; slices are kept until their series is named."""
        series: dict[str, _Named] = {}
        for change in changes:
            kind, level, identifier = change["ChangeType"], change["ResourceType"], str(change["ID"])
            moment = parse_orthanc_time(change.get("Date"))
            arrived = moment.timestamp() if moment else time.time()
            named = _Named(identifier, int(change["Seq"]), arrived, frozenset({kind}))
            if level == "Series" and kind in _SERIES_CHANGES:
                old = series.get(identifier, named)
                series[identifier] = replace(old, kinds=old.kinds | named.kinds)
            elif kind == "NewInstance":
                with self._lock:
                    self._slices[identifier] = named
                    self._received.discard(identifier)
        return list(series.values())

    def _ask(self, named: _Named) -> Iterator[OpenStudy]:
        """What Orthanc says of a series that a change named; asked again later when that fails."""
        try:
            found = self._look_up(named)
        except NotFound:
            found = None
        except (OrthancError, KeyError, ValueError, TypeError, AttributeError) as error:
            if named.identifier not in self._unanswered:
                log.warning("a series is asked for again: %s", type(error).__name__)
            with self._lock:
                old = self._unanswered.get(named.identifier, named)
                self._unanswered[named.identifier] = replace(old, kinds=old.kinds | named.kinds)
            return
        with self._lock:
            self._unanswered.pop(named.identifier, None)
        if found is not None:
            yield found

    def _look_up(self, named: _Named) -> OpenStudy | None:
        """The study of a CT series that may have work left. Raises OrthancError."""
        description = self._api.get(f"/series/{named.identifier}")
        with self._lock:
            for instance in description["Instances"]:
                self._slices.pop(instance, None)
            if _RECEIVED_AGAIN in named.kinds:
                self._received.difference_update(description["Instances"])
        tags = description["MainDicomTags"]
        study = str(description["ParentStudy"])
        if tags.get("Modality") != "CT" and not self._is_copied_result(named, description):
            return None
        if named.kinds == {"UpdatedMetadata"} and not self._asks_for_work(named.identifier, study):
            return None
        complete = not named.kinds <= {"NewSeries", "NewInstance"}
        return self._name(study, named, self._rank(named.arrived, tags, study), complete=complete)

    def _is_copied_result(self, named: _Named, series: dict[str, Any]) -> bool:
        """Whether somebody has modified, merged or split a result into a study, which may have its own."""
        if "StableSeries" not in named.kinds or not is_output_series(series):
            return False
        return is_copy(self._api, series["Instances"][0])

    def _asks_for_work(self, series: str, study: str) -> bool:
        """Whether a state that was written leaves work: most are our own, of what is open already or done."""
        state = self._states.read(series).state
        if state is None or state.status in TERMINAL:
            return False
        return state.status != "claimed" or self.get(study) is None

    def _name(self, study: str, named: _Named, rank: float, *, complete: bool) -> OpenStudy:
        """Open a study, or note that it was named again, by a new object; the first arrival is kept."""
        since = named.arrived + (0.0 if complete else RECEIVING_S)
        with self._lock:
            old = self._open.get(study)
            new = OpenStudy(
                study,
                min(named.first_change, old.first_change if old else named.first_change),
                min(named.arrived, old.arrived if old else named.arrived),
                min(rank, old.rank if old else rank),
                named.arrived + (0.0 if complete else self._first_look_s),
                min(since, old.waits_since if old and old.waits_since is not None else since)
                if self._caught_up
                else None,
                _RECEIVED_AGAIN in named.kinds or (old is not None and old.again),
                _MOVED in named.kinds or (old is not None and old.moved),
            )
            self._open[study] = new
            return new

    def _rank(self, arrived: float, tags: dict[str, str], study: str) -> float:
        acquired = acquisition_moment(tags.get("SeriesDate"), tags.get("SeriesTime"))
        if acquired is None:
            texts = self._api.get(f"/studies/{study}").get("MainDicomTags", {})
            acquired = acquisition_moment(texts.get("StudyDate"), texts.get("StudyTime"))
        if acquired is None:
            return arrived  # a patient may be on the table
        age_s = (datetime.fromtimestamp(arrived) - acquired).total_seconds()
        return arrived + (0.0 if age_s < -AHEAD_S else min(age_s, OLDEST_S))

    def _ask_for_slices(self) -> Iterator[OpenStudy]:
        """Slices whose series no change named in time: added to an old one, or a crash came between."""
        limit = time.time() - (self._stable_age_s + SLICE_MARGIN_S if self._caught_up else 0.0)
        with self._lock:
            late = [n for n in self._slices.values() if n.arrived <= limit]
        for named in late:
            with self._lock:
                if named.identifier not in self._slices:
                    continue  # explained by the series of another one
            try:
                series = str(self._api.get(f"/instances/{named.identifier}")["ParentSeries"])
            except NotFound:
                with self._lock:
                    self._slices.pop(named.identifier, None)
                continue
            except OrthancError as error:
                if not error.status:
                    raise  # Orthanc itself does not answer
                continue  # this one is asked for again; it must not hold up the others
            yield from self._ask(replace(named, identifier=series))
            with self._lock:
                self._slices.pop(named.identifier, None)

    def _ask_for_received(self, instances: Iterable[str]) -> Iterator[OpenStudy]:
        """Of instances that came and are not new, the study; each series is asked for once."""
        for instance in instances:
            with self._lock:
                if instance not in self._received:
                    continue
            try:
                series = str(self._api.get(f"/instances/{instance}")["ParentSeries"])
            except NotFound:
                series = ""
            except OrthancError as error:
                if not error.status:
                    raise
                continue
            if series:
                kinds = frozenset({_RECEIVED_AGAIN})
                yield from self._ask(_Named(series, self._read_to or self._mark, time.time(), kinds))
            with self._lock:
                self._received.discard(instance)

    def _ask_for_jobs(self) -> Iterator[OpenStudy]:
        """Studies whose images a job has moved into another study."""
        with self._lock:
            jobs = tuple(self._jobs)
        for job in jobs:
            try:
                found = self._api.get(f"/jobs/{job}")
            except NotFound:  # Orthanc keeps a few
                found = {}
            except OrthancError as error:
                if not error.status:
                    raise
                continue
            with self._lock:
                self._jobs.discard(job)
                begun = parse_orthanc_time(found.get("CreationTime"))
                if found.get("Type") not in _MOVING_JOBS or begun is None:
                    continue
                studies = [s for s, moment in self._gone.items() if moment >= begun.timestamp()]
                for study in studies:
                    del self._gone[study]
            for study in studies:
                now = time.time()
                named = _Named("", self._read_to or self._mark, now, frozenset({_MOVED}))
                yield self._name(study, named, now, complete=True)


def acquisition_moment(date: str | None, time_of_day: str | None) -> datetime | None:
    """DICOM date and time as a local wall clock's; None when there is no date."""
    day = date or ""
    digits = "".join(c for c in (time_of_day or "") if c.isdigit())[:6].ljust(6, "0")
    if len(day) != 8 or not day.isdigit():
        return None
    try:
        return datetime.strptime(day + digits, "%Y%m%d%H%M%S")
    except ValueError:
        return None


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
