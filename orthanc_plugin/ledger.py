"""The state of every series that this process has met, from memory: it must not need Orthanc.

Orthanc has no index on the states. A start looks at everything of the last hours, and whatever comes later
passes by here too.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from orthanc_plugin.outputs import REFUSED
from orthanc_plugin.state import TERMINAL, SeriesState

PENDING: Final = "pending"
STATES: Final = frozenset({PENDING, "queued", "claimed"} | TERMINAL)
LONGEST: Final = 20_000  # series; the settled ones that were not met for longest go first


@dataclass(frozen=True)
class Entry:
    """One series. ``series``, ``study``: Orthanc's identifiers.  since: when this status was first met."""

    series: str
    study: str
    status: str
    reason: str | None
    attempts: int
    since: float


@dataclass
class Ledger:
    """Thread-safe."""

    _entries: dict[str, Entry] = field(default_factory=dict)  # the one met last comes last
    _refused: set[str] = field(default_factory=set)  # series whose outputs Orthanc refuses
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, study: str, series: Iterable[str]) -> None:
        """These, and no others, are the CT series of a study."""
        present = set(series)
        with self._lock:
            for gone in [e.series for e in self._entries.values() if e.study == study]:
                if gone not in present:
                    self._remove(gone)
            for name in present:
                old = self._entries.get(name) or Entry(name, study, PENDING, None, 0, time.time())
                self._entries[name] = replace(old, study=study)

    def note(self, series: str, state: SeriesState | None) -> None:
        """A series' state as it was just read or written; one that has no place is passed over."""
        with self._lock:
            old = self._entries.pop(series, None)
            if old is None:
                return
            status = state.status if state else PENDING
            reason, attempts = (state.reason, state.attempts) if state else (None, 0)
            since = old.since if old.status == status else time.time()
            self._entries[series] = Entry(series, old.study, status, reason, attempts, since)
            given_up = status == "failed" and reason == REFUSED
            if given_up or (state is not None and state.refused_since is not None):
                self._refused.add(series)
            else:
                self._refused.discard(series)
            self._keep_short()

    def forget(self, resource: str) -> None:
        """A series or a study that was deleted."""
        with self._lock:
            for name in [e.series for e in self._entries.values() if resource in (e.series, e.study)]:
                self._remove(name)

    def study_of(self, series: str) -> str | None:
        """The study of a series that was met."""
        with self._lock:
            found = self._entries.get(series)
            return found.study if found else None

    def entries(self, status: str | None = None) -> tuple[Entry, ...]:
        """All series, or those with this status; the one met last comes first."""
        with self._lock:
            found = [e for e in self._entries.values() if status in (None, e.status)]
        return tuple(reversed(found))

    def counts(self) -> dict[str, float]:
        """How many series are in each state."""
        with self._lock:
            found = Counter(e.status for e in self._entries.values())
        return {status: float(found[status]) for status in sorted(STATES)}

    def outputs_refused(self) -> bool:
        """Whether Orthanc refuses the outputs of some series with errors of its own, or did to the end."""
        with self._lock:
            return bool(self._refused)

    def _remove(self, series: str) -> None:
        self._entries.pop(series, None)
        self._refused.discard(series)

    def _keep_short(self) -> None:
        if len(self._entries) > LONGEST:
            settled = (e.series for e in self._entries.values() if e.status in TERMINAL - {"failed"})
            self._remove(next(settled, next(iter(self._entries))))
