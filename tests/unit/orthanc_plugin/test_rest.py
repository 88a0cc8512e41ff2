"""orthanc_plugin/rest.py: status, state, and orders, as JSON with codes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orthanc_plugin import rest
from orthanc_plugin.health import Condition
from orthanc_plugin.open_studies import OpenStudy
from orthanc_plugin.orthanc_api import OrthancApi, Response
from orthanc_plugin.settings import Problem
from orthanc_plugin.state import SeriesState
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import FakeOrthanc


class FakeDispatcher:
    fit = True

    def __init__(self) -> None:
        self.wanted: list[str] = []
        self.wrong: tuple[Condition, ...] = ()

    def conditions(self) -> tuple[Condition, ...]:
        return self.wrong

    def oldest_waiting_s(self) -> float | None:
        return 12.34 if self.wrong else None

    def lengths(self) -> tuple[int, int]:
        return 2, 1

    def open_studies(self) -> tuple[OpenStudy, ...]:
        return (OpenStudy("unmet", 1, 0.0, 0.0, 0.0, None), OpenStudy("study", 1, 0.0, 0.0, 0.0, None))

    def study_wanted(self, study: str) -> None:
        self.wanted.append(study)


@pytest.fixture
def orthanc() -> FakeOrthanc:
    orthanc = FakeOrthanc()
    orthanc.add("ct")
    orthanc.add("sr", Modality="SR")
    return orthanc


@pytest.fixture
def node(orthanc: FakeOrthanc) -> rest.Node:
    def reads(method: str, *request: Any) -> Response:
        assert method == "GET"
        return orthanc(method, *request)

    def writes(method: str, path: str, *request: Any) -> Response:
        """What goes through HTTP holds a second of Orthanc's threads."""
        assert "metadata" in path
        return orthanc(method, path, *request)

    return rest.Node(
        "1.2.3",
        Tally(),
        reads=OrthancApi(reads),
        api=OrthancApi(writes),
        dispatcher=FakeDispatcher(),  # type: ignore[arg-type]
    )


def body(reply: rest.Reply) -> Any:
    return json.loads(reply.body)


def test_status(node: rest.Node) -> None:
    node.tally.reached("scored")
    node.tally.error("worker_died")
    answer = body(rest.status(node, "GET"))
    assert answer == {
        "version": "1.2.3",
        "state": "ready",
        "health": "ok",
        "codes": [],
        "oldest_waiting_s": None,
        "problems": [],
        "workers": 0,
        "busy": 1,
        "queue": 2,
        "reached_since_start": {"scored": 1},
        "last_error": "worker_died",
    }


@pytest.mark.parametrize(
    ("fit", "codes", "state", "level", "status"),
    [
        (True, (), "ready", "ok", 200),
        (True, ("patient_waits",), "ready", "degraded", 503),
        (False, ("work_folder_full",), "degraded", "degraded", 503),
        (True, ("reconcile_stalled", "orthanc_error"), "ready", "failed", 503),
        (False, (), "starting", "degraded", 503),
    ],
)
def test_health(
    node: rest.Node, fit: bool, codes: tuple[str, ...], state: str, level: str, status: int
) -> None:
    dispatcher: Any = node.dispatcher
    dispatcher.fit = fit
    dispatcher.wrong = tuple(Condition(code, 0.0) for code in codes)
    reply = rest.health(node, "GET")
    assert (reply.status, body(reply)["health"]) == (status, level)
    assert [c["code"] for c in body(reply)["codes"]] == list(codes if codes or fit else ("starting",))
    assert body(rest.status(node, "GET"))["state"] == state
    if codes:
        assert body(reply)["codes"][0]["since"] == "1970-01-01T00:00:00+00:00"
        assert body(reply)["oldest_waiting_s"] == 12.3


def test_a_wrong_configuration_is_said(orthanc: FakeOrthanc) -> None:
    node = rest.Node("1.2.3", Tally(), problems=(Problem("python_missing", "no python"),))
    assert body(rest.status(node, "GET"))["state"] == "misconfigured"
    for reply in (rest.series(node, "GET", "ct"), rest.score(node, "POST", "ct")):
        assert (reply.status, body(reply)["code"]) == (503, "python_missing")
    reply = rest.health(node, "GET")
    assert (reply.status, body(reply)["health"]) == (503, "failed")
    assert body(reply)["codes"][0]["code"] == "misconfigured"


def test_states(node: rest.Node, orthanc: FakeOrthanc) -> None:
    assert body(rest.series(node, "GET", "ct")) == {"id": "ct", "status": "pending"}
    assert body(rest.series(node, "GET", "sr")) == {"id": "sr", "status": "ignored"}
    orthanc.series["ct"].metadata["StrokeCore"] = SeriesState("refused", reason="missing_slice").to_json()
    assert body(rest.series(node, "GET", "ct"))["reason"] == "missing_slice"


def test_unknown_series(node: rest.Node) -> None:
    for reply in (
        rest.series(node, "GET", "x"),
        rest.score(node, "POST", "x"),
        rest.attachment(node, "GET", "x", "result"),
    ):
        assert (reply.status, body(reply)["code"]) == (404, "unknown_series")


def test_an_order_is_written_before_it_is_queued(node: rest.Node, orthanc: FakeOrthanc) -> None:
    state = SeriesState("failed", "print", attempts=3, content_datetime="2026-01-01")
    orthanc.series["ct"].metadata["StrokeCore"] = state.to_json()
    reply = rest.score(node, "POST", "ct")
    assert (reply.status, body(reply)) == (202, {"id": "ct", "status": "queued"})
    written = orthanc.state("ct")
    assert (written["status"], written["attempts"], written["content_datetime"]) == ("queued", 0, None)
    assert node.dispatcher.wanted == ["study"]  # type: ignore[union-attr]


def test_orders_do_not_hold_all_of_orthancs_threads(node: rest.Node) -> None:
    for _ in range(rest.WRITES_AT_ONCE):
        assert node.writes.acquire(blocking=False)
    reply = rest.score(node, "POST", "ct")
    assert (reply.status, body(reply)["code"]) == (503, "busy")
    node.writes.release()
    for _ in range(3):  # each order gives its place back, also one that fails
        assert rest.score(node, "POST", "x").status == 404
    assert rest.score(node, "POST", "ct").status == 202


def test_reading_needs_no_http(node: rest.Node) -> None:
    node.api = None
    assert rest.series(node, "GET", "ct").status == 200
    assert rest.attachment(node, "GET", "ct", "result").status == 404


def test_series_by_state(node: rest.Node) -> None:
    node.ledger.place("study", ["ct", "thin"])
    node.ledger.note("thin", SeriesState("queued", reason="worker_died", attempts=1))
    node.ledger.note("ct", SeriesState("failed", reason="quarantined", attempts=2))
    answer = body(rest.studies(node, "GET", {"state": "failed"}))
    (row,) = answer["series"]
    assert answer["found"] == 1
    assert {k: row[k] for k in ("study", "series", "state", "reason", "attempts")} == {
        "study": "study",
        "series": "ct",
        "state": "failed",
        "reason": "quarantined",
        "attempts": 2,
    }
    everything = body(rest.studies(node, "GET", {}))
    assert [(r["series"], r["state"]) for r in everything["series"]] == [
        ("ct", "failed"),
        ("thin", "queued"),
        (None, "pending"),  # a study that nobody has looked at yet
    ]
    assert body(rest.studies(node, "GET", {"limit": "1"})) == {"found": 3, "series": [answer["series"][0]]}
    assert body(rest.studies(node, "GET", {"state": "scored"})) == {"found": 0, "series": []}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"state": "<script>"}, "unknown_state"),
        ({"state": ""}, "unknown_state"),
        ({"limit": "0"}, "option_invalid"),
        ({"limit": "1001"}, "option_invalid"),
        ({"limit": "9" * 5000}, "option_invalid"),
        ({"limit": "²"}, "option_invalid"),
        ({"status": "failed"}, "unknown_option"),
    ],
)
def test_a_question_that_cannot_be_answered(node: rest.Node, query: dict[str, str], code: str) -> None:
    reply = rest.studies(node, "GET", query)
    assert (reply.status, body(reply)["code"]) == (400, code)
    assert b"script" not in reply.body


def test_only_ct_can_be_ordered(node: rest.Node) -> None:
    reply = rest.score(node, "POST", "sr")
    assert (reply.status, body(reply)["code"]) == (409, "not_ct")


def test_results_are_those_of_the_selected_series(node: rest.Node, orthanc: FakeOrthanc) -> None:
    assert body(rest.attachment(node, "GET", "ct", "result"))["code"] == "no_result"
    orthanc.add("thin").metadata["StrokeCore"] = SeriesState("not_selected", selected_series="ct").to_json()
    orthanc.series["ct"].attachments = {"StrokeCoreResult": b"{}", "StrokeCoreReport": b"<html>"}
    assert rest.attachment(node, "GET", "thin", "result").body == b"{}"
    report = rest.attachment(node, "GET", "thin", "report")
    assert (report.body, report.content_type) == (b"<html>", "text/html")


def test_methods(node: rest.Node) -> None:
    assert rest.studies(node, "PUT", {}) == rest.Reply(405, b"", allow="GET")
    for route in (rest.status, rest.health, rest.metrics):
        assert route(node, "PUT") == rest.Reply(405, b"", allow="GET")
    assert rest.score(node, "GET", "ct") == rest.Reply(405, b"", allow="POST")


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),  # curl, the command line
        ({"content-type": "application/x-www-form-urlencoded"}, True),  # curl -d ''
        ({"sec-fetch-site": "same-origin", "origin": "https://pacs", "host": "inner:8042"}, True),  # a proxy
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://PACS:8042", "host": "pacs:8042"}, True),
        ({"origin": "http://pacs:8043", "host": "pacs:8042"}, False),
        ({"origin": "http://evil.example", "host": "pacs:8042"}, False),
        ({"Origin": "null", "Host": "pacs:8042"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[", "host": "pacs:8042"}, False),
        ({"referer": "http://evil.example/page", "host": "pacs:8042"}, False),
        ({"referer": "http://pacs:8042/app/explorer.html", "host": "pacs:8042"}, True),
    ],
)
def test_orders_from_another_sites_page_are_refused(headers: dict[str, str], *, taken: bool) -> None:
    reply = rest.refused("POST", headers)
    if taken:
        assert reply is None
    else:
        assert reply is not None
        assert (reply.status, body(reply)["code"]) == (403, "cross_site")
    assert rest.refused("GET", headers) is None  # reading is the browser's to guard
