"""One scoring process: started, watched, ended, and its answer read.

Every attempt is a process of its own, in its own process group, so that a crash or a hang costs that
attempt and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orthanc_plugin.settings import Settings
from strokecore.config import OUTPUT_KINDS
from strokecore.files import CACHE_VARIABLE

log = logging.getLogger(__name__)

SUPERVISOR: Final = Path(__file__).with_name("supervise.py")
NOTICE: Final = Path(__file__).with_name("notice.py")
POLL_S: Final = 0.05
CHECK_TIMEOUT_S: Final = 120.0  # the first import after an installation compiles everything
PROOF_TIMEOUT_S: Final = 600.0  # an engine that is compiled for this machine takes minutes, once
# A service manager that stops Orthanc signals the scorer at the same moment: what looks like a death is
# the first sign of an orderly stop, of which Orthanc tells its plugins a moment later.
DIED_BY_SIGTERM: Final = 128 + signal.SIGTERM
STOP_FOLLOWS_S: Final = 5.0
THREADS_VARIABLES: Final = ("STROKECORE_THREADS", "OMP_NUM_THREADS")
DIED: Final = "worker_died"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
# What each exit status of ``strokecore score`` lets result.json say.
STATUSES: Final[Mapping[int, frozenset[str]]] = {
    0: frozenset({"scored", "withheld"}),
    3: frozenset({"refused", "ineligible"}),
}
_TRACE_LINE: Final = re.compile(r'^\s*File "(?:[^"]*/)?([^"/]+)", line (\d+)', re.MULTILINE)
_ERROR_KIND: Final = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt))(?::|$)", re.MULTILINE
)


class AttemptError(Exception):
    """The attempt gave no result. ``code`` is stable; ``detail`` goes to the log. Neither names a patient."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Stopped(Exception):
    """The server stops; the attempt does not count."""


@dataclass(frozen=True)
class Answer:
    """What the scorer left. ``result``: result.json; ``files``: DICOM instances in the order of storing."""

    result: Mapping[str, Any]
    files: tuple[Path, ...]
    report: Path | None

    @property
    def status(self) -> str:
        return str(self.result["status"])

    @property
    def result_key(self) -> str | None:
        """Key of the score; None when there is none."""
        key = self.result.get("result_key")
        return key if isinstance(key, str) and key and self.status in STATUSES[0] else None

    @property
    def series_uid(self) -> str | None:
        """SeriesInstanceUID of the scored series."""
        series = self.result.get("series")
        uid = series.get("series_instance_uid") if isinstance(series, dict) else None
        return uid if isinstance(uid, str) else None

    @property
    def engine(self) -> str | None:
        """Which engine served."""
        model = self.result.get("model")
        found = model.get("engine") if isinstance(model, dict) else None
        return str(found)[:32] if found else None

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds of each step."""
        found = self.result.get("timings_s")
        steps = found.items() if isinstance(found, dict) else ()
        return {str(k)[:32]: v for k, v in steps if isinstance(v, (int, float))}

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Engines that were passed over, each with the reason; see docs/engines.md."""
        model = self.result.get("model")
        found = model.get("fallbacks") if isinstance(model, dict) else None
        return tuple(str(text)[:200] for text in found) if isinstance(found, list) else ()

    @property
    def warnings(self) -> frozenset[str]:
        """Codes of what a reader should know about the scan."""
        flags = self.result.get("quality")
        found = (f for f in flags if isinstance(f, dict)) if isinstance(flags, list) else ()
        return frozenset(str(flag.get("code"))[:64] for flag in found if flag.get("severity") == "warning")

    @property
    def reason(self) -> str | None:
        """Code of the refusal, if there is one."""
        flags = self.result.get("quality")
        for flag in flags if isinstance(flags, list) else ():
            if isinstance(flag, dict) and flag.get("severity") == "refusal":
                return str(flag.get("code"))[:64]
        return None


def score(
    settings: Settings,
    folder: Path,
    stop: threading.Event,
    content_datetime: str,
    supersedes: str | None,
) -> Answer:
    """Score ``folder/in`` into ``folder/out``. Raises AttemptError, Stopped."""
    command = [*settings.command, "score", str(folder / "in"), "--out", str(folder / "out")]
    command += ["--engine", settings.engine, "--content-datetime", content_datetime]
    if settings.model:
        command += ["--model", settings.model]
    if settings.region_cut:
        command += ["--region-cut", settings.region_cut]
    if settings.outputs != OUTPUT_KINDS:
        command += ["--outputs", ",".join(settings.outputs)]
    if supersedes:
        command += ["--supersedes", supersedes]
    status = run(settings, command, folder, stop, settings.timeout_s)
    if status not in STATUSES:
        raise AttemptError(_failure(status), _trace(folder))
    return _answer(folder / "out", status, settings.outputs)


def check_scorer(settings: Settings, folder: Path, stop: threading.Event) -> None:
    """Check that the scorer starts at all. Raises AttemptError, Stopped."""
    try:
        status = run(settings, [*settings.command, "info"], folder, stop, CHECK_TIMEOUT_S)
    except AttemptError as error:
        raise AttemptError("scorer_unusable", str(error)) from error
    if status != 0:
        raise AttemptError("scorer_unusable", f"exit status {status}; {_trace(folder)}")


def prove_engine(settings: Settings, folder: Path, stop: threading.Event) -> None:
    """Have the engine chosen, compiled and proved before the first patient waits for it.

    Which one it is decides nothing here: each scan selects for itself, and its result says what served.
    Raises AttemptError when none serves, Stopped.
    """
    command = [*settings.command, "engines", "--engine", settings.engine]
    if settings.model:
        command += ["--model", settings.model]
    try:
        status = run(settings, command, folder, stop, max(settings.timeout_s, PROOF_TIMEOUT_S))
    except AttemptError as error:
        raise AttemptError("engine_unusable", str(error)) from error
    if status != 0:
        detail = f"exit status {status}; run strokecore engines by hand"
        raise AttemptError("engine_unusable", detail)


def notice(
    settings: Settings,
    instances: Sequence[bytes],
    stop: threading.Event,
    code: str,
    content_datetime: str,
    *,
    waits: bool = False,
) -> tuple[bytes, ...]:
    """The NOT SCORED picture of a head CT, through memory alone; () for no head CT, or where it fails.

    ``instances``: encoded, some of each series. ``waits``: it will be scored once the node is well.

    Raises Stopped.
    """
    kind = "waits" if waits else "failed"
    command = [settings.python, "-I", str(NOTICE), kind, code, content_datetime]
    given = b"".join(len(i).to_bytes(8, "big") + i for i in instances)
    environment = {**_kept_environment(), "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        log.error("no NOT SCORED picture: %s", type(error).__name__)
        return ()
    said: list[tuple[bytes, bytes]] = []
    # a thread of its own, because communicate() with a time-out does not go on where it stopped
    talk = threading.Thread(target=lambda: said.append(process.communicate(given)), daemon=True)
    talk.start()
    deadline = time.monotonic() + settings.timeout_s
    try:
        while talk.is_alive():
            if stop.is_set():
                raise Stopped
            if time.monotonic() > deadline:
                log.error("no NOT SCORED picture: no answer within %g s", settings.timeout_s)
                return ()
            talk.join(POLL_S)
    finally:
        if talk.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        talk.join()
    picture, errors = said[0] if said else (b"", b"")
    if process.returncode != 0:
        log.error(
            "no NOT SCORED picture: exit status %d %s",
            process.returncode,
            _places(errors.decode("utf-8", "replace")),
        )
        return ()
    return (picture,) if picture else ()


def run(
    settings: Settings, command: Sequence[str], folder: Path, stop: threading.Event, timeout_s: float
) -> int:
    """Run under the supervisor; returns the exit status, 128 + signal when a signal ended it.

    Raises AttemptError (timeout), Stopped.
    """
    supervised = [settings.python, "-I", str(SUPERVISOR), str(folder), *command]
    try:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                supervised,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=_environment(settings, folder),
                start_new_session=True,
            )
    except OSError as error:
        raise AttemptError("worker_not_started", type(error).__name__) from error
    deadline = time.monotonic() + timeout_s
    try:
        while (status := process.poll()) is None:
            if stop.wait(POLL_S):
                raise Stopped
            if time.monotonic() > deadline:
                raise AttemptError("worker_timeout", f"no answer within {timeout_s:g} s")
        if status == DIED_BY_SIGTERM and stop.wait(STOP_FOLLOWS_S):
            raise Stopped
    finally:
        _end(process)
    return status if status >= 0 else 128 - status


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the group, also when the supervisor is already dead."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin:
        process.stdin.close()
    process.wait()


def _environment(settings: Settings, folder: Path) -> dict[str, str]:
    """A small environment: Orthanc's PYTHONPATH is not the virtual environment's, and locales differ."""
    environment = _kept_environment()
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **environment,
        **_cache(settings, environment),
        **_threads(settings, environment),
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "LC_ALL": "C.UTF-8",
        "PYTHONFAULTHANDLER": "1",
    }


def _kept_environment() -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", CACHE_VARIABLE, *THREADS_VARIABLES)
    return {name: os.environ[name] for name in kept if name in os.environ}


def _cache(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The scorer's home is as short-lived as the attempt; what it compiled and checked is kept here."""
    path = settings.cache_directory
    if path is None or CACHE_VARIABLE in environment:
        return {}
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)  # closed to others: what lies there is run as code
    except OSError as error:
        log.warning(
            "no cache folder (%s): every scan compiles and checks its engine anew", type(error).__name__
        )
        return {}
    return {CACHE_VARIABLE: path}


def _threads(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Workers times threads fit the cores; one worker finds out for itself what it may use."""
    if settings.workers == 1 or any(name in environment for name in THREADS_VARIABLES):
        return {}
    return {THREADS_VARIABLES[0]: str(max(1, len(os.sched_getaffinity(0)) // settings.workers))}


def _answer(out: Path, status: int, kinds: Sequence[str]) -> Answer:
    try:
        result = json.loads((out / "result.json").read_text("utf-8"))
        known = result["schema"] == 1 and result["status"] in STATUSES[status]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttemptError("result_unreadable", type(error).__name__) from error
    if not known:
        raise AttemptError("result_unexpected", f"result.json does not fit exit status {status}")
    files = dicom_outputs(out)
    report = out / "report.html"
    answer = Answer(result, files, report if report.is_file() else None)
    if status == 0 and (answer.result_key is None or answer.series_uid is None):
        raise AttemptError("result_incomplete", "result key or scored series missing")
    there = {"sc" if f.parent.name == "sc" else f.stem for f in files}
    if status == 0 and (missing := {"sr", "pdf", "sc"} & set(kinds) - there):
        raise AttemptError("result_incomplete", f"missing: {', '.join(sorted(missing))}")
    return answer


def dicom_outputs(out: Path) -> tuple[Path, ...]:
    """Segmentations first, then the report that refers to them, document and pictures last."""
    order = {"seg.dcm": 0, "regions.dcm": 1, "sr.dcm": 2, "pdf.dcm": 3}
    files = [f for f in out.rglob("*.dcm") if f.is_file() and not f.is_symlink()] if out.is_dir() else []
    return tuple(sorted(files, key=lambda f: (order.get(f.name, 4), str(f))))


def _failure(status: int) -> str:
    if status == EXIT_FAILED:
        return "scorer_failed"
    if status == EXIT_USAGE:
        return "scorer_usage"
    if status == 127:
        return "worker_not_started"
    return DIED if status > 128 else "scorer_failed"


def _trace(folder: Path) -> str:
    """Where the scorer failed: file names, lines and the kind of error. Its message could name a patient."""
    try:
        text = (folder / "stderr").read_text("utf-8", "replace")[-20_000:]
    except OSError:
        return ""
    return _places(text)


def _places(text: str) -> str:
    places = [f"{name}:{line}" for name, line in _TRACE_LINE.findall(text)][-6:]
    kinds = _ERROR_KIND.findall(text)[-1:]
    return " ".join([*places, *kinds])
