"""What an administrator must know of a node, in one table: what was looked at, what was found, what to do.

It looks from outside, as whoever calls it: at this machine, at Orthanc's configuration and, over HTTP, at the
Orthanc that runs. It changes nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore._version import __version__
from strokecore.errors import UsageError

OK, WARNING, FAILED = "ok", "warning", "failed"
DEFAULT_CONFIGURATION: Final = Path("/etc/orthanc")
OLDEST_PYTHON: Final = (3, 11)
TIMEOUT_S: Final = 10.0
ENGINE_TIMEOUT_S: Final = 600.0  # an engine that is compiled for this machine takes minutes, once
WORK_BYTES: Final = 2**30  # a thin head of 500 slices, its resampled volumes and outputs
STORAGE_BYTES: Final = 5 * 2**30
CLOCK_S: Final = 30.0
FEWEST_DICOM_THREADS: Final = 16
_USER_METADATA: Final = "StrokeCore"
_USER_CONTENT: Final = ("StrokeCoreResult", "StrokeCoreReport")
# A text, or a comment, which Orthanc's configuration may hold.
_JSON_PARTS: Final = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


@dataclass(frozen=True)
class Check:
    """One row. ``level``: OK, WARNING or FAILED; ``remedy``: what to do, "" when nothing."""

    name: str
    level: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Orthanc:
    """How to reach Orthanc. ``configuration``: its whole configuration; empty when it is not known."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    configuration: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def section(self) -> Mapping[str, Any]:
        found = self.configuration.get("StrokeCore")
        return found if isinstance(found, dict) else {}

    def get(self, path: str) -> Any:
        """The answer to a GET, from JSON where it is JSON. Raises OSError, and of it HTTPError."""
        request = urllib.request.Request(self.url.rstrip("/") + path)
        if self.user:
            credentials = b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        context = ssl.create_default_context()
        if urllib.parse.urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost"):
            # the certificate names the server's public name; the packets never leave the machine
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        no_proxy = urllib.request.ProxyHandler({})
        opener = urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                text = answer.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:  # something else listens there
            raise ConnectionError(type(error).__name__) from error
        try:
            return json.loads(text)
        except ValueError:
            return text


def examine(orthanc: Orthanc, engine: str | None = None, model: str | None = None) -> Iterator[Check]:
    """Every check, as it is made. ``engine``, ``model``: instead of those of the configuration."""
    yield from _python(orthanc.section)
    if orthanc.configuration:
        yield from _configuration(orthanc.configuration)
    yield from _folders(orthanc)
    yield from _engine(orthanc.section, engine, model)
    yield from _running(orthanc)
    yield from _ports(orthanc)


def print_checks(checks: list[Check], console: Console) -> None:
    table = Table("check", "", "found", "what to do", box=None)
    colours = {OK: "green", WARNING: "yellow", FAILED: "bold red"}
    for check in checks:
        level = f"[{colours[check.level]}]{check.level}[/]"
        table.add_row(escape(check.name), level, escape(check.found), escape(check.remedy))
    console.print(table)


def as_json(checks: list[Check]) -> str:
    return json.dumps({"ok": is_well(checks), "checks": [asdict(check) for check in checks]}, indent=1)


def is_well(checks: list[Check]) -> bool:
    return all(check.level != FAILED for check in checks)


def find_orthanc(
    configuration: Path | None, url: str | None, user: str | None, password_file: Path | None
) -> Orthanc:
    """What is known of Orthanc, from its configuration (a file or a folder of files) and what was given.

    Raises UsageError where something that was given cannot be read.
    """
    known: dict[str, Any] = {}
    if configuration is not None:
        known = read_configuration(configuration)
    elif DEFAULT_CONFIGURATION.is_dir() and url is None:
        try:
            known = read_configuration(DEFAULT_CONFIGURATION)
        except UsageError:
            known = {}
    password = ""
    users = known.get("RegisteredUsers")
    if isinstance(users, dict) and users and user is None:
        user, password = next((str(k), str(v)) for k, v in users.items())
    elif isinstance(users, dict) and user in users:
        password = str(users[user])
    if password_file is not None:
        try:
            password = password_file.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(f"The password file cannot be read ({type(error).__name__}).") from error
    scheme = "https" if known.get("SslEnabled") is True else "http"
    url = url or f"{scheme}://127.0.0.1:{_number(known.get('HttpPort'), 8042)}"
    if not url.startswith(("http://", "https://")):
        raise UsageError("--url begins with http:// or https://.")
    return Orthanc(url, user or "", password, known)


def read_configuration(path: Path) -> dict[str, Any]:
    """Orthanc's configuration with comments, of one file or of all files of a folder. Raises UsageError."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UsageError("The configuration folder holds no file *.json; name Orthanc's own.")
    found: dict[str, Any] = {}
    for file in files:
        try:
            text = _JSON_PARTS.sub(lambda m: m[0] if m[0].startswith('"') else " ", file.read_text("utf-8"))
            values = json.loads(text)
        except OSError as error:
            remedy = "call doctor as a user who may, such as root or Orthanc's own"
            raise UsageError(f"{file} cannot be read ({type(error).__name__}); {remedy}.") from error
        except ValueError as error:
            raise UsageError(f"{file} is not JSON with comments; Orthanc would not start with it.") from error
        if not isinstance(values, dict):
            raise UsageError(f"{file} is not a JSON object; Orthanc would not start with it.")
        found.update(values)
    return found


def _python(section: Mapping[str, Any]) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    too_old = sys.version_info[:2] < OLDEST_PYTHON
    remedy = (
        f"Make the environment with Python {'.'.join(map(str, OLDEST_PYTHON))} or newer." if too_old else ""
    )
    yield Check("Python", FAILED if too_old else OK, f"{version}, {sys.prefix}", remedy)
    yield Check("StrokeCore", OK, __version__)
    missing = sorted(_missing_packages())
    if missing:
        found, remedy = f"missing: {', '.join(missing)}", f"{sys.executable} -m pip install strokecore"
        yield Check("packages", FAILED, found, remedy)
    else:
        yield Check("packages", OK, "all that it needs are installed")
    python = section.get("Python")
    if isinstance(python, str) and python and shutil.which(python) is None:
        remedy = "Name the virtual environment's python in StrokeCore.Python."
        yield Check("StrokeCore.Python", FAILED, f"{python} is not a program", remedy)


def _missing_packages() -> Iterator[str]:
    try:
        required = metadata.requires("strokecore") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        return
    for requirement in required:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name


def _configuration(configuration: Mapping[str, Any]) -> Iterator[Check]:
    """What the plugin relies on in Orthanc's own options; docs/orthanc.md says why."""
    wrong = []
    if "StrokeCore" not in configuration:
        wrong.append("there is no section StrokeCore")
    if configuration.get("CheckRevisions") is not True:
        wrong.append("CheckRevisions is not true")
    if configuration.get("HttpServerEnabled", True) is not True:
        wrong.append("HttpServerEnabled is not true")
    names = {"UserMetadata": (_USER_METADATA,), "UserContentType": _USER_CONTENT}
    for table, wanted in names.items():
        registered = configuration.get(table)
        missing = [n for n in wanted if not isinstance(registered, dict) or n not in registered]
        wrong += [f"{table} lacks {name}" for name in missing]
    script = configuration.get("PythonScript")
    if not isinstance(script, str) or not os.path.isabs(script):
        wrong.append("PythonScript names no absolute path")
    elif not os.path.isfile(script):
        wrong.append("the file of PythonScript is not there")
    remedy = (
        "Take these options from deploy/orthanc.json (docs/orthanc.md) and start Orthanc again."
        if wrong
        else ""
    )
    yield Check("configuration", FAILED if wrong else OK, "; ".join(wrong) or "Orthanc's options fit", remedy)
    if (age := _number(configuration.get("StableAge"), 60)) > 60:
        remedy = (
            "A little more than the scanner's longest pause is enough: what is not recognised as a whole "
            "head waits for it."
        )
        yield Check("StableAge", WARNING, f"{age} s", remedy)
    if (threads := _number(configuration.get("DicomThreadsCount"), 4)) < FEWEST_DICOM_THREADS:
        remedy = "Set DicomThreadsCount to 64: senders leave associations open, and each holds a thread."
        yield Check("DicomThreadsCount", WARNING, f"{threads} threads", remedy)
    if configuration.get("AuthenticationEnabled") is False:
        remedy = "Set AuthenticationEnabled and RegisteredUsers."
        yield Check("authentication", WARNING, "anybody may read and delete everything", remedy)


def _folders(orthanc: Orthanc) -> Iterator[Check]:
    given = orthanc.section.get("TemporaryDirectory")
    work = given if isinstance(given, str) and given else tempfile.gettempdir()
    yield _folder("work folder", work, WORK_BYTES, write=True)
    cache = orthanc.section.get("CacheDirectory")
    if isinstance(cache, str) and os.path.isdir(cache):
        yield _folder("cache folder", cache, 0, write=True)
    kept = [orthanc.configuration.get(name) for name in ("StorageDirectory", "IndexDirectory")]
    paths = [path for path in kept if isinstance(path, str) and os.path.isabs(path)]
    for path in dict.fromkeys(paths):
        yield _folder("Orthanc's storage", path, STORAGE_BYTES, write=False)


def _folder(name: str, path: str, wanted_bytes: int, *, write: bool) -> Check:
    try:
        found = os.statvfs(path)
        free = found.f_bavail * found.f_frsize
        said = f"{path}, {free / 2**30:.1f} GB free"
        if found.f_files > 0 and found.f_favail == 0:
            return Check(name, FAILED, f"{said}, but no inode", "Remove files of that file system.")
        if write:
            with tempfile.TemporaryFile(dir=path) as probe:
                probe.write(b"\0" * 4096)
    except FileNotFoundError:
        return Check(name, FAILED, f"{path} is not there", "Make it, or name another in the configuration.")
    except OSError as error:
        remedy = "Give Orthanc's user the right to write there; call doctor as that user."
        return Check(name, FAILED, f"{path}: {os.strerror(error.errno or 0)}", remedy)
    if free < wanted_bytes:
        level = FAILED if free < wanted_bytes / 50 else WARNING
        return Check(name, level, said, f"Make room: {wanted_bytes / 2**30:.0f} GB should be free.")
    return Check(name, OK, said)


def _engine(section: Mapping[str, Any], engine: str | None, model: str | None) -> Iterator[Check]:
    """By a process of its own, as the plugin does: an engine that crashes must not end the doctor."""
    engine, model = engine or section.get("Engine") or "auto", model or section.get("Model")
    python = section.get("Python")
    program = python if isinstance(python, str) and shutil.which(python) else sys.executable
    command = [program, "-I", "-m", "strokecore", "engines", "--json", "--engine", str(engine)]
    command += ["--model", str(model)] if model else []
    named = f"engine {engine}, model {model or 'none'}"
    by_hand = "Run by hand: strokecore " + " ".join(c for c in command[4:] if c != "--json")
    try:
        done = subprocess.run(command, capture_output=True, timeout=ENGINE_TIMEOUT_S, check=False, cwd="/")
        chosen = json.loads(done.stdout)["chosen"] if done.stdout else None
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        yield Check("engine", FAILED, f"{named}: {type(error).__name__}", by_hand)
        return
    if done.returncode != 0 or not chosen or chosen.get("engine") is None:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        why = (chosen or {}).get("why") or (words[0] if words else f"exit status {done.returncode}")
        yield Check("engine", FAILED, f"{named}: {why}", by_hand)
        return
    served = f"{chosen['engine']} {chosen.get('precision', '')}".strip()
    passed_over = [str(text) for text in chosen.get("fallbacks") or ()]
    if passed_over:
        yield Check("engine", WARNING, f"{served} serves; passed over: {'; '.join(passed_over)}", by_hand)
    else:
        yield Check("engine", OK, f"{served} serves ({named})")


def _running(orthanc: Orthanc) -> Iterator[Check]:
    try:
        system = orthanc.get("/system")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = "Name a user with --user and --password-file, or the configuration with --config."
            yield Check("Orthanc", FAILED, f"{orthanc.url} wants another user or password", remedy)
        else:
            yield Check(
                "Orthanc", FAILED, f"{orthanc.url}: HTTP status {error.code}", "Look at Orthanc's log."
            )
        return
    except OSError as error:
        why = getattr(error, "reason", error)
        remedy = "Start it (systemctl start orthanc) or name it with --url or --config; then its log."
        yield Check("Orthanc", FAILED, f"{orthanc.url}: {type(why).__name__}", remedy)
        return
    version = system.get("Version") if isinstance(system, dict) else None
    if version is None:
        yield Check("Orthanc", FAILED, f"{orthanc.url} is no Orthanc", "Name Orthanc's own port with --url.")
        return
    yield Check("Orthanc", OK, f"{version} at {orthanc.url}")
    yield from _clock(orthanc)
    yield from _plugins(orthanc)
    yield from _plugin(orthanc)


def _clock(orthanc: Orthanc) -> Iterator[Check]:
    with_clock = _asked(lambda: orthanc.get("/tools/now"))
    try:
        now = datetime.strptime(str(with_clock).strip(), "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return
    apart = abs(time.time() - now.timestamp())
    if apart > CLOCK_S:
        remedy = "Let both machines follow a time server: waiting and alarms go by the clock."
        yield Check("clock", WARNING, f"{apart:.0f} s from Orthanc's", remedy)
    else:
        yield Check("clock", OK, f"Orthanc's says {now:%Y-%m-%d %H:%M} UTC too")


def _plugins(orthanc: Orthanc) -> Iterator[Check]:
    plugins = _asked(lambda: orthanc.get("/plugins"))
    names = {str(name) for name in plugins} if isinstance(plugins, list) else set()
    if not names & {"gdcm"}:
        remedy = "Install orthanc-gdcm and name it in Plugins."
        yield Check("compressed CT", WARNING, "Orthanc's gdcm plugin is not loaded", remedy)


def _plugin(orthanc: Orthanc) -> Iterator[Check]:
    log = "Orthanc's log, lines with StrokeCore."
    try:
        status = orthanc.get("/strokecore/status")
    except urllib.error.HTTPError as error:
        remedy = "Name orthanc_plugin/plugin.py in PythonScript and the python plugin in Plugins; then " + log
        yield Check("plugin", FAILED, f"not loaded (HTTP status {error.code})", remedy)
        return
    except OSError as error:
        yield Check("plugin", FAILED, f"no answer: {type(error).__name__}", log)
        return
    if not isinstance(status, dict) or "state" not in status:
        yield Check(
            "plugin", FAILED, "its answer is not understood", "Update both, Orthanc's script and this."
        )
        return
    version, state = str(status.get("version")), str(status.get("state"))
    if version != __version__:
        remedy = "Install the same version for both and start Orthanc again."
        yield Check("plugin", WARNING, f"version {version}, this command is {__version__}", remedy)
    level = {"ready": OK, "starting": WARNING}.get(state, FAILED)
    found = f"{version}, {state}, {status.get('queue')} waiting, {status.get('busy')} being worked on"
    yield Check("plugin", level, found, "" if level == OK else "See the next rows.")
    for problem in status.get("problems") or ():
        remedy = "Correct the configuration and start Orthanc again."
        yield Check(str(problem.get("code")), FAILED, str(problem.get("message")), remedy)
    for condition in status.get("codes") or ():
        remedy = "docs/orthanc.md, Health, says what to do."
        yield Check(str(condition.get("code")), FAILED, f"since {condition.get('since')}", remedy)
    reached = status.get("reached_since_start")
    if failed := reached.get("failed") if isinstance(reached, dict) else None:
        remedy = "GET /strokecore/studies?state=failed names them with reasons."
        yield Check("failed scans", WARNING, f"{failed} series since the start", remedy)


def _ports(orthanc: Orthanc) -> Iterator[Check]:
    if not orthanc.configuration or orthanc.configuration.get("DicomServerEnabled") is False:
        return
    port = _number(orthanc.configuration.get("DicomPort"), 4242)
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
    except OSError as error:
        remedy = "See that Orthanc runs and that nothing else holds the port (ss -ltnp)."
        yield Check("DICOM port", FAILED, f"{port}: {type(error).__name__}", remedy)
        return
    aet = orthanc.configuration.get("DicomAet", "ORTHANC")
    yield Check("DICOM port", OK, f"{port} answers on this machine, AE title {aet}")


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except OSError:
        return None


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else default
