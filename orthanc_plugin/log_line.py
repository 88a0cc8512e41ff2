"""What a line of the log looks like, and which scoring run it belongs to. Never a patient's data."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

log = logging.getLogger(__name__)

TEXT: Final = "text"
JSON_LINES: Final = "json"
FORMATS: Final = (TEXT, JSON_LINES)
_PREFIX: Final = "StrokeCore: "


@dataclass
class ScoringRun:
    """One look at one acquisition that works on it. ``fields``: what its last line says."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)


_present: ContextVar[ScoringRun | None] = ContextVar("strokecore_run", default=None)


def run_id() -> str | None:
    """Id of the scoring run that this thread is at."""
    run = _present.get()
    return run.id if run else None


def note(**fields: Any) -> None:
    """Add to what the last line of the present run says; what was said before is replaced."""
    if run := _present.get():
        run.fields.update(fields)


@contextlib.contextmanager
def scoring_run(**fields: Any) -> Iterator[None]:
    """Give a run its id, which every line of this thread carries, and say at the end what became of it."""
    run = ScoringRun(uuid.uuid4().hex[:12], dict(fields))
    token = _present.set(run)
    start = time.monotonic()
    try:
        yield
    except BaseException as error:
        run.fields.setdefault("outcome", type(error).__name__)
        raise
    finally:
        run.fields["seconds"] = round(time.monotonic() - start, 3)
        log.warning("run ended: %s", run.fields.get("outcome", "unknown"), extra={"fields": run.fields})
        _present.reset(token)


def formatted(record: logging.LogRecord, form: str) -> str:
    """The line of a record, in this thread's run."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    run = run_id()
    if form == JSON_LINES:
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **({"run": run} if run else {}),
            **fields,
        }
        return _PREFIX + json.dumps(values, default=str)
    said = {name: value for name, value in fields.items() if name != "outcome" and value is not None}
    words = [f"{name}={_word(value)}" for name, value in said.items()]
    return " ".join([_PREFIX + record.getMessage(), *words, *([f"[run {run}]"] if run else [])])


def _word(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, (dict, list, tuple)) else str(value)
