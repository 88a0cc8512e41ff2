"""The REST routes under /strokecore/: plain functions from a request to a status and JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from orthanc_plugin.dispatcher import Dispatcher
from orthanc_plugin.health import OK, Condition, level
from orthanc_plugin.ledger import PENDING, STATES, Ledger
from orthanc_plugin.metrics import Missing, exposition
from orthanc_plugin.orthanc_api import Conflict, NotFound, OrthancApi, OrthancError
from orthanc_plugin.settings import REPORT_ATTACHMENT, RESULT_ATTACHMENT, Problem, Settings
from orthanc_plugin.state import SeriesState, StateStore
from orthanc_plugin.terminal_states import Tally

JSON = "application/json"
# With every answer. A browser runs no script of a report, whoever wrote it, and keeps nothing of a patient.
HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
}
WRITES_AT_ONCE: Final = 4
LISTED: Final = 1000


@dataclass(frozen=True)
class Reply:
    """An answer. ``allow``: the method to use, for status 405, whose body Orthanc writes itself."""

    status: int
    body: bytes
    content_type: str = JSON
    allow: str = ""


@dataclass
class Node:
    """What the routes speak about; mostly None while the configuration is wrong.

    Attributes
    ----------
    reads: Orthanc's REST interface without HTTP. A route holds one of Orthanc's HTTP threads; if it asked for
        another to read from, some fifty requests at once would wait for each other.
    api: the interface over HTTP, for writes, which name what they replace; ``WRITES_AT_ONCE`` at a time.
    """

    version: str
    tally: Tally
    problems: tuple[Problem, ...] = ()
    reads: OrthancApi | None = None
    api: OrthancApi | None = None
    settings: Settings | None = None
    dispatcher: Dispatcher | None = None
    ledger: Ledger = field(default_factory=Ledger)
    started: float = field(default_factory=time.time)
    writes: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(WRITES_AT_ONCE)
    )


def refused(method: str, headers: Mapping[str, str]) -> Reply | None:
    """The answer to an order that another site's page makes a reader's browser send; None for any other.

    A browser adds the reader's password by itself. What it says of the page no page can change: whether it is
    this server's (Sec-Fetch-Site, over TLS and to localhost only), and else from which server it is.
    Programs such as curl say nothing of the kind.
    """
    if method == "GET":
        return None
    said = {name.lower(): text for name, text in headers.items()}
    site = said.get("sec-fetch-site")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        page = said.get("origin", said.get("referer"))
        own = page is None or _server_of(page) == said.get("host", "").lower()
    return None if own else _error(403, "cross_site", "Orders are not taken from another site's page.")


def _server_of(page: str) -> str | None:
    """Host and port of an address; None when it names none, as a page in a sandbox does."""
    try:
        return urlsplit(page).netloc.lower() or None
    except ValueError:
        return None


def status(node: Node, method: str) -> Reply:
    """GET /strokecore/status. From memory: it answers when Orthanc itself does not. No patient data."""
    return Reply(405, b"", allow="GET") if method != "GET" else _json(200, _status(node))


def _status(node: Node) -> dict[str, Any]:
    reached, last_error = node.tally.snapshot()
    waiting, busy = node.dispatcher.lengths() if node.dispatcher else (0, 0)
    return {
        "version": node.version,
        "state": _state(node),
        **_health(node),
        "problems": [{"code": p.code, "message": p.message} for p in node.problems],
        "workers": node.settings.workers if node.settings else 0,
        "busy": busy,
        "queue": waiting,
        "reached_since_start": reached,
        "last_error": last_error,
    }


def metrics(node: Node, method: str) -> Reply:
    """GET /strokecore/metrics, for Prometheus. From memory. No patient data."""
    if method != "GET":
        return Reply(405, b"", allow="GET")
    try:
        text, content_type = exposition(node, _status(node))
    except Missing:
        return _error(503, "metrics_unavailable", "prometheus-client is not installed beside StrokeCore.")
    return Reply(200, text, content_type)


def studies(node: Node, method: str, query: Mapping[str, str]) -> Reply:
    """GET /strokecore/studies?state=...&limit=...: series by state, from memory, the one met last first.

    Orthanc's own identifiers only.
    """
    if method != "GET":
        return Reply(405, b"", allow="GET")
    if unknown := set(query) - {"state", "limit"}:
        return _error(400, "unknown_option", f"{len(unknown)} options are not state or limit.")
    wanted, limit = query.get("state"), query.get("limit", str(LISTED))
    if wanted is not None and wanted not in STATES:
        return _error(400, "unknown_state", f"state is one of {', '.join(sorted(STATES))}.")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= LISTED:
        return _error(400, "option_invalid", f"limit is a whole number from 1 to {LISTED}.")
    known = node.ledger.entries()
    met = {e.study for e in known}
    unmet = node.dispatcher.open_studies() if node.dispatcher else ()
    rows: list[dict[str, Any]] = [
        {
            "study": e.study,
            "series": e.series,
            "state": e.status,
            "reason": e.reason,
            "attempts": e.attempts,
            "since": _moment(e.since),
        }
        for e in known
    ]
    rows += [
        {"study": s.study, "series": None, "state": PENDING, "since": _moment(s.arrived)}
        for s in unmet
        if s.study not in met
    ]
    found = [row for row in rows if wanted in (None, row["state"])]
    return _json(200, {"found": len(found), "series": found[: int(limit)]})


def health(node: Node, method: str) -> Reply:
    """GET /strokecore/health: status 200 when all is well, else 503 with the codes. From memory."""
    if method != "GET":
        return Reply(405, b"", allow="GET")
    found = _health(node)
    return _json(200 if found["health"] == OK else 503, found)


def _health(node: Node) -> dict[str, Any]:
    conditions = _conditions(node)
    oldest = node.dispatcher.oldest_waiting_s() if node.dispatcher else None
    return {
        "health": level(conditions),
        "codes": [{"code": c.code, "since": _moment(c.since)} for c in conditions],
        "oldest_waiting_s": None if oldest is None else round(oldest, 1),
    }


def _conditions(node: Node) -> tuple[Condition, ...]:
    if node.problems:
        code = "start_failed" if any(p.code == "start_failed" for p in node.problems) else "misconfigured"
        return (Condition(code, node.started),)
    if node.dispatcher is None:
        return (Condition("starting", node.started),)
    found = node.dispatcher.conditions()
    # not looked at yet, and nothing wrong so far
    return found if found or node.dispatcher.fit else (Condition("starting", node.started),)


def _state(node: Node) -> str:
    """What the node does now: misconfigured, starting, ready to score, or degraded: patients wait."""
    if node.problems:
        return "misconfigured"
    if node.dispatcher is not None and node.dispatcher.fit:
        return "ready"
    return "starting" if all(c.code == "starting" for c in _conditions(node)) else "degraded"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def series(node: Node, method: str, identifier: str) -> Reply:
    """GET /strokecore/series/{id}: the state of one series."""
    if method != "GET":
        return Reply(405, b"", allow="GET")
    return _answered(node, lambda api: _state_reply(api, identifier))


def attachment(node: Node, method: str, identifier: str, kind: str) -> Reply:
    """GET /strokecore/series/{id}/result or /report, of the series that was scored for this one."""
    if method != "GET":
        return Reply(405, b"", allow="GET")
    name, content_type = {"result": (RESULT_ATTACHMENT, JSON), "report": (REPORT_ATTACHMENT, "text/html")}[
        kind
    ]

    def read(api: OrthancApi) -> Reply:
        _require_series(api, identifier)
        state = StateStore(api).read(identifier).state
        home = state.selected_series if state and state.selected_series else identifier
        try:
            return Reply(200, api.get_bytes(f"/series/{home}/attachments/{name}/data"), content_type)
        except NotFound:
            return _error(404, "no_result", "This series has no result.")

    return _answered(node, read)


def score(node: Node, method: str, identifier: str) -> Reply:
    """POST /strokecore/series/{id}/score: score its acquisition again, whatever its state is."""
    if method != "POST":
        return Reply(405, b"", allow="POST")
    dispatcher, api = node.dispatcher, node.api
    if dispatcher is None or api is None:
        return _misconfigured(node)

    def queue(reads: OrthancApi) -> Reply:
        description = _require_series(reads, identifier)
        if description["MainDicomTags"].get("Modality") != "CT":
            return _error(409, "not_ct", "Only CT series are scored.")
        states = StateStore(api, node.ledger.note)
        found = states.read(identifier)
        # Written first, so that the wish survives a crash. The fingerprint is emptied: nothing is settled.
        state = replace(
            found.state or SeriesState("queued"),
            status="queued",
            fingerprint="",
            attempts=0,
            deaths=0,
            reason=None,
            content_datetime=None,
            refused_since=None,
        )
        states.write(identifier, state, found.etag)
        dispatcher.study_wanted(description["ParentStudy"])
        return _json(202, {"id": identifier, "status": "queued"})

    if not node.writes.acquire(blocking=False):
        return _error(503, "busy", "Several orders are being taken at this moment; ask again.")
    try:
        return _answered(node, queue)
    finally:
        node.writes.release()


def _state_reply(api: OrthancApi, identifier: str) -> Reply:
    description = _require_series(api, identifier)
    state = StateStore(api).read(identifier).state
    if state is not None:
        return _json(200, {"id": identifier, **state.public()})
    is_ct = description["MainDicomTags"].get("Modality") == "CT"
    return _json(200, {"id": identifier, "status": "pending" if is_ct else "ignored"})


def _require_series(api: OrthancApi, identifier: str) -> Any:
    """Raises NotFound."""
    return api.get(f"/series/{identifier}")


def _answered(node: Node, route: Callable[[OrthancApi], Reply]) -> Reply:
    if node.reads is None:
        return _misconfigured(node)
    try:
        return route(node.reads)
    except NotFound:
        return _error(404, "unknown_series", "Orthanc has no series with this identifier.")
    except Conflict:
        return _error(409, "state_changed", "The state changed at this moment; ask again.")
    except (OrthancError, ValueError, KeyError):
        return _error(502, "orthanc_error", "Orthanc's own REST interface gave no usable answer.")


def _misconfigured(node: Node) -> Reply:
    code = node.problems[0].code if node.problems else "starting"
    return _error(503, code, "The plugin does not score; see /strokecore/status.")


def _error(status_code: int, code: str, message: str) -> Reply:
    return _json(status_code, {"code": code, "message": message})


def _json(status_code: int, value: object) -> Reply:
    return Reply(status_code, json.dumps(value, indent=1).encode())
