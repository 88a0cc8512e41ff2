"""Studies that want attention: each once, urgent ones first, never handed to two threads at a time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Final

URGENT: Final = 0  # a patient may be on the table
LATER: Final = 1  # found by the start-up scan, or a retry


@dataclass
class _Entry:
    priority: int
    due: float
    order: int


@dataclass
class StudyQueue:
    """Thread-safe. A study that is put while it is being worked on is handed out again afterwards."""

    _waiting: dict[str, _Entry] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    _count: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False

    def put(self, study: str, priority: int = URGENT, delay_s: float = 0.0) -> None:
        """Add a study; one that waits already keeps the better priority and the earlier time."""
        with self._changed:
            self._count += 1
            entry = _Entry(priority, time.monotonic() + delay_s, self._count)
            if old := self._waiting.get(study):
                entry = _Entry(min(priority, old.priority), min(entry.due, old.due), old.order)
            self._waiting[study] = entry
            self._changed.notify_all()

    def take(self) -> str | None:
        """Wait for a study that is due; None when the queue was closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                free = [(e, s) for s, e in self._waiting.items() if s not in self._busy]
                due = [(e.priority, e.order, s) for e, s in free if e.due <= now]
                if due:
                    study = min(due)[2]
                    del self._waiting[study]
                    self._busy.add(study)
                    return study
                self._changed.wait(min((e.due - now for e, _ in free), default=None))
            return None

    def done(self, study: str) -> None:
        with self._changed:
            self._busy.discard(study)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def lengths(self) -> tuple[int, int]:
        """(waiting, being worked on)."""
        with self._changed:
            return len(self._waiting), len(self._busy)
