"""What is wrong with this node at this moment, in codes. Answered from memory: it must not need Orthanc."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orthanc_plugin.orthanc_api import OrthancError

OK: Final = "ok"
DEGRADED: Final = "degraded"
FAILED: Final = "failed"
# With these nothing is scored until somebody does something; the others pass with their cause.
FAILED_CODES: Final = frozenset({"misconfigured", "start_failed", "reconcile_stopped", "reconcile_stalled"})


@dataclass(frozen=True)
class Condition:
    """Something that is wrong. ``code`` is listed in docs/orthanc.md; ``since``: seconds since the epoch."""

    code: str
    since: float


@dataclass
class Health:
    """The conditions of this node. Each source says all that is wrong in its own view; thread-safe."""

    _sources: dict[str, dict[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, source: str, *codes: str) -> tuple[str, ...]:
        """What is wrong in the view of ``source``, nothing else; returns the codes that are new in it."""
        with self._lock:
            old = self._sources.get(source, {})
            now = time.time()
            self._sources[source] = {code: old.get(code, now) for code in codes}
            return tuple(code for code in codes if code not in old)

    def conditions(self) -> tuple[Condition, ...]:
        """Oldest first, each code once."""
        with self._lock:
            first: dict[str, float] = {}
            for codes in self._sources.values():
                for code, since in codes.items():
                    first[code] = min(since, first.get(code, since))
        return tuple(Condition(code, since) for code, since in sorted(first.items(), key=lambda c: c[1]))


def level(conditions: tuple[Condition, ...]) -> str:
    """ok, degraded or failed."""
    if any(c.code in FAILED_CODES for c in conditions):
        return FAILED
    return DEGRADED if conditions else OK


def describe(error: BaseException) -> str:
    """Where an error came from, not its message: that could hold a header's value."""
    if isinstance(error, OrthancError):  # its message is a method, a kind of resource and a status
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames)
    return f"{type(error).__name__} at {places}"
