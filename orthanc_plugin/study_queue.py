"""Studies that want attention: each once, lowest rank first, never handed to two threads at a time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class _Entry:
    rank: float
    due: float
    order: int


@dataclass
class StudyQueue:
    """Thread-safe. A study that is put while it is being worked on is handed out again afterwards."""

    _waiting: dict[str, _Entry] = field(default_factory=dict)
    _busy: dict[str, float] = field(default_factory=dict)  # study -> when it was handed out
    _count: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _held: bool = False

    def put(self, study: str, rank: float, delay_s: float = 0.0) -> None:
        """Add a study; one that waits already keeps the better rank and the earlier time."""
        with self._changed:
            self._count += 1
            entry = _Entry(rank, time.monotonic() + delay_s, self._count)
            if old := self._waiting.get(study):
                entry = _Entry(min(rank, old.rank), min(entry.due, old.due), old.order)
            self._waiting[study] = entry
            self._changed.notify_all()

    def put_missing(self, study: str, rank: float) -> None:
        """Add a study that neither waits nor is worked on."""
        with self._changed:
            if study not in self._waiting and study not in self._busy:
                self.put(study, rank)

    def take(self) -> str | None:
        """Wait for a study that is due; None when the queue was closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                free = [(e, s) for s, e in self._waiting.items() if s not in self._busy and not self._held]
                due = [(e.rank, e.order, s) for e, s in free if e.due <= now]
                if due:
                    study = min(due)[2]
                    del self._waiting[study]
                    self._busy[study] = now
                    return study
                self._changed.wait(min((e.due - now for e, _ in free), default=None))
            return None

    def done(self, study: str) -> None:
        with self._changed:
            self._busy.pop(study, None)
            self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """While held, nothing is handed out."""
        with self._changed:
            if held != self._held:
                self._held = held
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def lengths(self) -> tuple[int, int]:
        """(waiting, being worked on)."""
        with self._changed:
            return len(self._waiting), len(self._busy)

    def is_busy(self, study: str) -> bool:
        with self._changed:
            return study in self._busy

    def longest_busy_s(self) -> float:
        """How long the oldest of those that are worked on has been."""
        with self._changed:
            return time.monotonic() - min(self._busy.values()) if self._busy else 0.0
