"""Entry point: the script that Orthanc's Python plugin loads (``"PythonScript"``).

Orthanc runs the system's interpreter, without the virtual environment. Only the standard library and
StrokeCore's own pure-Python files are imported here; they are found beside this folder, or where the
environment variable STROKECORE_SITE points.
"""

from __future__ import annotations

import json
import logging
import os
import site
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orthanc  # type: ignore[import-not-found]

_HERE = Path(__file__).resolve().parent
# Orthanc puts this folder itself on the path, where "state" or "rest" would become top-level modules.
sys.path[:] = [p for p in sys.path if not p or Path(p).resolve() != _HERE]
if os.environ.get("STROKECORE_SITE"):
    site.addsitedir(os.environ["STROKECORE_SITE"])
sys.path.insert(0, str(_HERE.parent))

from orthanc_plugin import rest  # noqa: E402
from orthanc_plugin.dispatcher import Dispatcher  # noqa: E402
from orthanc_plugin.health import Health, describe  # noqa: E402
from orthanc_plugin.log_line import JSON_LINES, TEXT, formatted  # noqa: E402
from orthanc_plugin.node_check import NodeCheck  # noqa: E402
from orthanc_plugin.open_studies import OpenStudies  # noqa: E402
from orthanc_plugin.orthanc_api import Loopback, OrthancApi, Response  # noqa: E402
from orthanc_plugin.scoring import Scoring  # noqa: E402
from orthanc_plugin.settings import Problem, SettingsError, parse_settings  # noqa: E402
from orthanc_plugin.terminal_states import Tally  # noqa: E402
from strokecore import __version__  # noqa: E402

# Global properties of Orthanc's database; numbers from 1024 on are free.
_PROPERTY_QUIET_MARK = 7101
_PROPERTY_CLEAN_RUN = 7102

log = logging.getLogger("orthanc_plugin")


class _OrthancHandler(logging.Handler):
    """Our log lines into Orthanc's log."""

    form = TEXT

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = formatted(record, self.form)
            if record.levelno >= logging.ERROR:
                orthanc.LogError(line)
            elif record.levelno >= logging.WARNING:
                orthanc.LogWarning(line)
            else:
                orthanc.LogInfo(line)
        except Exception:  # a line that cannot be written must not end the thread that writes it
            self.handleError(record)


def _in_process(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
    """Orthanc's REST interface without HTTP, in the caller's own thread: for reads, as it has no headers."""
    del body, headers
    if method != "GET":
        raise ValueError(f"{method} needs HTTP")
    try:
        return Response(200, orthanc.RestApiGet(path))
    except orthanc.OrthancException as error:
        unknown = (orthanc.ErrorCode.UNKNOWN_RESOURCE, orthanc.ErrorCode.INEXISTENT_ITEM)
        return Response(404 if error.args and error.args[0] in unknown else 500, b"")


def _start(node: rest.Node, configuration: dict[str, Any], run: str) -> None:
    """Check the configuration and start the threads. Raises SettingsError."""
    settings = parse_settings(configuration)
    transport = Loopback(settings.http_port, orthanc.GenerateRestApiAuthorizationToken(), settings.tls)
    stop = threading.Event()
    clean = frozenset({orthanc.GetGlobalProperty(_PROPERTY_CLEAN_RUN, "")} - {""})
    mark = orthanc.GetGlobalProperty(_PROPERTY_QUIET_MARK, "")
    api = OrthancApi(transport)
    health = Health()
    node_check = NodeCheck(settings, stop, health, node.tally)
    dispatcher = Dispatcher(
        settings,
        Scoring(api, settings, run, clean, stop, node.tally, node.ledger, node_check.fit_after),
        node_check,
        OpenStudies(
            api,
            int(mark) if mark.isdigit() else 0,
            settings.recovery_hours,
            settings.stable_age_s,
            settings.quiet_s,
        ),
        health,
        node.tally,
        node.ledger,
        stop,
        lambda number: orthanc.SetGlobalProperty(_PROPERTY_QUIET_MARK, str(number)),
    )
    node.settings, node.dispatcher = settings, dispatcher
    node.reads, node.api = OrthancApi(_in_process), api
    dispatcher.start()


def _register() -> None:
    handler = _OrthancHandler()
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
    configuration = json.loads(orthanc.GetConfiguration())
    section = configuration.get("StrokeCore")
    if isinstance(section, dict) and section.get("LogFormat") == JSON_LINES:
        handler.form = JSON_LINES  # before the settings are checked: their problems are lines too
    node = rest.Node(__version__, Tally())
    name = str(configuration.get("Name", "Orthanc")).replace("/", "_")
    run = f"{name}/{uuid.uuid4()}"
    changes, kinds = orthanc.ChangeType, orthanc.ResourceType

    def on_change(change: int, level: int, resource: str) -> None:
        if change in (changes.NEW_SERIES, changes.STABLE_SERIES) and node.dispatcher:
            node.dispatcher.series_changed()
        elif change == changes.DELETED and level in (kinds.SERIES, kinds.STUDY):
            if node.dispatcher and (study := node.ledger.study_of(resource)):
                node.dispatcher.series_deleted(study)
            node.ledger.forget(resource)
        elif change == changes.JOB_SUCCESS and node.dispatcher:
            node.dispatcher.job_done(resource)
        elif change == changes.ORTHANC_STARTED:
            try:
                _start(node, configuration, run)
            except SettingsError as error:
                node.problems = error.problems
            except Exception as error:  # said instead of "starting" for ever
                node.problems = (Problem("start_failed", f"The plugin could not start: {describe(error)}."),)
            for problem in node.problems:
                log.error("%s: %s", problem.code, problem.message)
        elif change == changes.ORTHANC_STOPPED and node.dispatcher:
            node.dispatcher.stop()
            orthanc.SetGlobalProperty(_PROPERTY_CLEAN_RUN, run)

    def on_stored(instance_in_memory: Any, instance: str) -> None:
        """Called for every instance, also one that is there already, of which no change speaks."""
        del instance_in_memory
        if node.dispatcher:
            node.dispatcher.instance_received(instance)

    orthanc.RegisterOnChangeCallback(on_change)
    orthanc.RegisterOnStoredInstanceCallback(on_stored)
    _register_routes(node)


def _register_routes(node: rest.Node) -> None:
    def answer(output: Any, reply: rest.Reply) -> None:
        for name, text in rest.HEADERS.items():
            output.SetHttpHeader(name, text)
        if reply.status == 200:
            output.AnswerBuffer(reply.body, reply.content_type)
        elif reply.allow:
            output.SendMethodNotAllowed(reply.allow)
        else:
            output.SetHttpHeader("Content-Type", reply.content_type)
            text = reply.body.decode("ascii")  # JSON, escaped
            try:
                output.SendHttpStatus(reply.status, text, len(text))
            except TypeError:  # plugins newer than 4.0 may count themselves
                output.SendHttpStatus(reply.status, text)

    def register(path: str, route: Callable[[dict[str, Any]], rest.Reply]) -> None:
        def called(output: Any, uri: str, **request: Any) -> None:
            del uri
            answer(output, rest.refused(request["method"], request.get("headers") or {}) or route(request))

        orthanc.RegisterRestCallback(path, called)

    identifier = "([0-9a-f-]{44})"
    register("/strokecore/status", lambda r: rest.status(node, r["method"]))
    register("/strokecore/health", lambda r: rest.health(node, r["method"]))
    register("/strokecore/metrics", lambda r: rest.metrics(node, r["method"]))
    register("/strokecore/studies", lambda r: rest.studies(node, r["method"], r.get("get") or {}))
    register(f"/strokecore/series/{identifier}", lambda r: rest.series(node, r["method"], *r["groups"]))
    register(
        f"/strokecore/series/{identifier}/(result|report)",
        lambda r: rest.attachment(node, r["method"], *r["groups"]),
    )
    register(f"/strokecore/series/{identifier}/score", lambda r: rest.score(node, r["method"], *r["groups"]))


_register()
