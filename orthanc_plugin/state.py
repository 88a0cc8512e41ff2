"""The state of one CT series, kept as JSON in its user metadata: Orthanc's database is the memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from orthanc_plugin.orthanc_api import OrthancApi
from orthanc_plugin.settings import METADATA_NAME

SCHEMA: Final = 1
TERMINAL: Final = frozenset(
    {"scored", "withheld", "refused", "ineligible", "not_selected", "failed", "superseded"}
)
WAITING: Final = frozenset({"queued", "claimed"})
HISTORY_LENGTH: Final = 20  # a sender that dribbles slices must not make the metadata grow for ever


@dataclass(frozen=True)
class StoredResult:
    """A score in the PACS.

    Attributes
    ----------
    outputs: Orthanc ids of its instances.
    fingerprint: of the acquisition it was made from.
    content_datetime, supersedes: as its outputs say; needed to make the same bytes again.
    """

    result_key: str
    status: str
    content_datetime: str
    fingerprint: str
    supersedes: str | None = None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeriesState:
    """What is known of one series. No patient data.

    Attributes
    ----------
    status: "queued", "claimed" or one of TERMINAL.
    fingerprint: hash of the acquisition's instances and of patient and study, see study.py.
    attempts: attempts made on this fingerprint, the running one included.
    deaths: how many of them ended with the death of the scorer's process or of the server.
    reason: code of the refusal, failure or exclusion.
    selected_series: Orthanc id of the series that was scored for the acquisition.
    instances: number of instances of this series when it was read.
    content_datetime: ISO 8601; fixed at the first attempt, so that a retry writes the same bytes.
    owner: which run of which Orthanc claimed it.  claimed_at: seconds since the epoch.
    run: id of the scoring run that last worked on it, which the lines of the log carry.
    provisional: scored while more slices could still come; nothing that was said then is final.
    refused_since: since when Orthanc has answered with errors to its outputs; seconds since the epoch.
    result: the present score made from this series; it stays while a new one is being made.
    notices: Orthanc ids of NOT SCORED pictures that are stored.
    history: superseded results, oldest first.
    """

    status: str
    fingerprint: str = ""
    attempts: int = 0
    deaths: int = 0
    reason: str | None = None
    selected_series: str | None = None
    instances: int = 0
    content_datetime: str | None = None
    owner: str | None = None
    claimed_at: float | None = None
    run: str | None = None
    provisional: bool = False
    refused_since: float | None = None
    result: StoredResult | None = None
    notices: tuple[str, ...] = ()
    history: tuple[StoredResult, ...] = field(default=())

    @property
    def present(self) -> tuple[str, ...]:
        """Orthanc ids of the outputs that speak for the series now."""
        return (*(self.result.outputs if self.result else ()), *self.notices)

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)

    def public(self) -> dict[str, Any]:
        """For REST: everything but the bookkeeping of claims."""
        values = asdict(self)
        for name in ("fingerprint", "owner", "claimed_at", "refused_since"):
            del values[name]
        return values

    def with_result(self, result: StoredResult | None) -> SeriesState:
        """This state naming another result (or none); the one it named moves to the history."""
        old = self.result
        if old is None or (result is not None and result.result_key == old.result_key):
            return replace(self, result=result)
        past = replace(old, status="superseded")
        kept = tuple(p for p in self.history if p.result_key != past.result_key)
        return replace(self, result=result, history=(*kept, past)[-HISTORY_LENGTH:])


def from_json(text: str) -> SeriesState | None:
    """The state, or None when the text is not one: an unreadable state is worth as much as none."""
    try:
        values = json.loads(text)
        if values.pop("schema") != SCHEMA:
            return None
        result = values.pop("result")
        state = SeriesState(
            **{
                **values,
                "notices": tuple(values["notices"]),
                "result": None if result is None else _stored_result(result),
                "history": tuple(_stored_result(past) for past in values["history"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return state if state.status in TERMINAL | WAITING else None


def _stored_result(values: dict[str, Any]) -> StoredResult:
    return StoredResult(**{**values, "outputs": tuple(values["outputs"])})


@dataclass(frozen=True)
class Versioned:
    """A state as read, and the ETag that a write must name. ``etag`` None: there is no metadata yet."""

    state: SeriesState | None
    etag: str | None


class StateStore:
    """Reads and writes states; a write fails with Conflict when somebody wrote in between.

    Parameters
    ----------
    seen: called with each series and its state as read or written.
    """

    def __init__(
        self, api: OrthancApi, seen: Callable[[str, SeriesState | None], None] = lambda series, state: None
    ) -> None:
        self._api = api
        self._seen = seen

    def read(self, series: str) -> Versioned:
        found = self._api.metadata(series, METADATA_NAME)
        text, etag = found if found is not None else ("", None)
        state = from_json(text)
        self._seen(series, state)
        return Versioned(state, etag)

    def write(self, series: str, state: SeriesState, etag: str | None) -> Versioned:
        """Raises Conflict, NotFound."""
        written = self._api.put_metadata(series, METADATA_NAME, state.to_json(), etag)
        self._seen(series, state)
        return Versioned(state, written)
