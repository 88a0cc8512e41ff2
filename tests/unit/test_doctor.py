"""strokecore doctor: each thing that can be wrong is named, with what to do, and decides the exit status."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from strokecore import __version__, doctor
from strokecore.cli import main
from strokecore.doctor import Check, Orthanc, examine, find_orthanc, is_well, read_configuration
from strokecore.errors import UsageError

READY = {
    "version": __version__,
    "state": "ready",
    "health": "ok",
    "codes": [],
    "problems": [],
    "queue": 0,
    "busy": 0,
    "reached_since_start": {"scored": 3},
}


class FakeOrthanc:
    """Answers by path; anything else is 404."""

    def __init__(self) -> None:
        self.password = ""
        self.answers: dict[str, Any] = {
            "/system": {"Version": "1.10.1"},
            "/plugins": ["explorer.js", "gdcm", "python"],
            "/tools/now": datetime.now(UTC).strftime("%Y%m%dT%H%M%S"),
            "/strokecore/status": dict(READY),
        }
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = base64.b64encode(f"user:{fake.password}".encode()).decode()
                answer = fake.answers.get(self.path)
                if fake.password and self.headers.get("Authorization") != f"Basic {wanted}":
                    self.send_response(401)
                else:
                    self.send_response(404 if answer is None else 200)
                self.end_headers()
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.answers["/strokecore/status"]
        return found


@pytest.fixture
def fake() -> Iterator[FakeOrthanc]:
    fake = FakeOrthanc()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has tests of its own below, and the disk of the machine that tests is not looked at."""
    monkeypatch.setattr(doctor, "_engine", lambda *_: iter(()))
    monkeypatch.setattr(doctor, "WORK_BYTES", 0)
    monkeypatch.setattr(doctor, "STORAGE_BYTES", 0)


def configuration(fake: FakeOrthanc, folder: Path, **options: Any) -> dict[str, Any]:
    root = Path(__file__).resolve().parents[2]
    values: dict[str, Any] = json.loads((root / "deploy" / "orthanc.json").read_text())
    values.update(
        HttpPort=fake.port,
        DicomPort=fake.port,
        StorageDirectory=str(folder),
        IndexDirectory=str(folder),
        PythonScript=str(root / "orthanc_plugin" / "plugin.py"),
    )
    values["StrokeCore"].update(Python="python3", TemporaryDirectory=str(folder))
    for name, value in options.items():
        (values["StrokeCore"] if name in values["StrokeCore"] else values)[name] = value
    return values


def rows(fake: FakeOrthanc, folder: Path, **options: Any) -> list[Check]:
    values = configuration(fake, folder, **options)
    return list(examine(Orthanc(f"http://127.0.0.1:{fake.port}", "user", fake.password, values)))


def not_ok(checks: list[Check]) -> list[tuple[str, str]]:
    for check in checks:
        assert check.level == "ok" or check.remedy, check
    return [(check.name, check.level) for check in checks if check.level != "ok"]


def test_a_node_that_is_well(fake: FakeOrthanc, tmp_path: Path) -> None:
    checks = rows(fake, tmp_path)
    assert not_ok(checks) == []
    assert is_well(checks)
    expected = {"Python", "StrokeCore", "packages", "configuration", "work folder", "Orthanc's storage"}
    assert {check.name for check in checks} == {*expected, "Orthanc", "clock", "plugin", "DICOM port"}


Change = Callable[[FakeOrthanc], Any]
FAULTS: dict[str, tuple[Change, list[tuple[str, str]]]] = {
    "plugin not loaded": (lambda f: f.answers.pop("/strokecore/status"), [("plugin", "failed")]),
    "another version": (lambda f: f.status.update(version="0.0.1"), [("plugin", "warning")]),
    "misconfigured": (
        lambda f: f.status.update(
            state="misconfigured", problems=[{"code": "python_missing", "message": "Name it."}]
        ),
        [("plugin", "failed"), ("python_missing", "failed")],
    ),
    "ill": (
        lambda f: f.status.update(state="degraded", codes=[{"code": "work_folder_full", "since": "now"}]),
        [("plugin", "failed"), ("work_folder_full", "failed")],
    ),
    "failed scans": (
        lambda f: f.status.update(reached_since_start={"failed": 2}),
        [("failed scans", "warning")],
    ),
    "no gdcm": (lambda f: f.answers.update({"/plugins": ["python"]}), [("compressed CT", "warning")]),
    "clock": (lambda f: f.answers.update({"/tools/now": "20200101T000000"}), [("clock", "warning")]),
    "something else": (lambda f: f.answers.update({"/system": "<html>"}), [("Orthanc", "failed")]),
    "odd answer": (
        lambda f: f.answers.update({"/strokecore/status": [1]}),
        [("plugin", "failed")],
    ),
    "server error": (lambda f: f.answers.pop("/system"), [("Orthanc", "failed")]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_orthanc_says_is_wrong(fake: FakeOrthanc, tmp_path: Path, fault: str) -> None:
    change, expected = FAULTS[fault]
    change(fake)
    checks = rows(fake, tmp_path)
    assert not_ok(checks) == expected
    assert is_well(checks) == all(level == "warning" for _, level in expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"CheckRevisions": False}, [("configuration", "failed")]),
        ({"UserMetadata": {}}, [("configuration", "failed")]),
        ({"UserContentType": {"StrokeCoreResult": 1102}}, [("configuration", "failed")]),
        ({"PythonScript": "/no/such/plugin.py"}, [("configuration", "failed")]),
        ({"PythonScript": "plugin.py"}, [("configuration", "failed")]),
        ({"StableAge": 600}, [("StableAge", "warning")]),
        ({"DicomThreadsCount": 4}, [("DicomThreadsCount", "warning")]),
        ({"AuthenticationEnabled": False}, [("authentication", "warning")]),
        ({"Python": "/no/such/python"}, [("StrokeCore.Python", "failed")]),
        ({"TemporaryDirectory": "/no/such/folder"}, [("work folder", "failed")]),
        ({"StorageDirectory": "/no/such/folder"}, [("Orthanc's storage", "failed")]),
    ],
)
def test_what_is_wrong_with_the_configuration(
    fake: FakeOrthanc, tmp_path: Path, options: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert not_ok(rows(fake, tmp_path, **options)) == expected


def test_a_disk_with_little_room(fake: FakeOrthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, level in ((2**60, "failed"), (None, "warning")):
        free = doctor.os.statvfs(tmp_path).f_bavail * doctor.os.statvfs(tmp_path).f_frsize
        monkeypatch.setattr(doctor, "WORK_BYTES", wanted or free * 2)
        assert not_ok(rows(fake, tmp_path)) == [("work folder", level)]


def test_a_wrong_password_and_nobody_there(fake: FakeOrthanc, tmp_path: Path) -> None:
    fake.password = "right"
    assert not_ok(list(examine(Orthanc(f"http://127.0.0.1:{fake.port}", "user", "wrong")))) == [
        ("Orthanc", "failed")
    ]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        values = configuration(fake, tmp_path, DicomPort=port)
        checks = list(examine(Orthanc(f"http://127.0.0.1:{port}", configuration=values)))
    assert not_ok(checks) == [("Orthanc", "failed"), ("DICOM port", "failed")]


def test_a_port_of_something_else_is_no_crash() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        checks = list(examine(Orthanc(f"http://127.0.0.1:{listener.getsockname()[1]}")))
    assert ("Orthanc", "failed") in not_ok(checks)


def test_a_configuration_with_comments_in_several_files(tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text(
        '{"Name": "http://x // no comment", // one\n /* two\n */ "HttpPort": 1234}'
    )
    (tmp_path / "strokecore.json").write_text(
        '{"StrokeCore": {"Engine": "asymmetry"}, "RegisteredUsers": {"u": "p"}}'
    )
    values = read_configuration(tmp_path)
    assert values["Name"] == "http://x // no comment"
    found = find_orthanc(tmp_path, None, None, None)
    assert (found.url, found.user, found.password) == ("http://127.0.0.1:1234", "u", "p")
    assert "'p'" not in repr(found)
    (tmp_path / "password").write_text("q\n")
    found = find_orthanc(tmp_path, "https://node:8043", "v", tmp_path / "password")
    assert (found.url, found.user, found.password) == ("https://node:8043", "v", "q")


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "orthanc.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError):
        find_orthanc(path, None, None, None)
    with pytest.raises(UsageError):
        find_orthanc(None, "ftp://x", None, None)


def test_the_command(fake: FakeOrthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "orthanc.json"
    path.write_text(json.dumps(configuration(fake, tmp_path)))
    assert main(["doctor", "--config", str(path)]) == 0
    assert "what to do" in capsys.readouterr().out
    fake.status["state"] = "degraded"
    assert main(["doctor", "--config", str(path), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["ok"], {"name", "level", "found", "remedy"}) == (False, set(record["checks"][0]))
    assert main(["doctor", "--config", str(tmp_path / "none.json")]) == 2


ENGINES = """
import json, sys, time
{body}
"""


@pytest.mark.parametrize(
    ("body", "level", "words"),
    [
        (
            "print(json.dumps({'chosen': {'engine': 'onnx', 'precision': 'fp32', 'fallbacks': []}}))",
            "ok",
            "onnx fp32",
        ),
        (
            "print(json.dumps({'chosen': {'engine': 'onnx', 'fallbacks': ['openvino: refused']}}))",
            "warning",
            "openvino: refused",
        ),
        (
            "print(json.dumps({'chosen': {'engine': None, 'why': 'no library'}})); sys.exit(1)",
            "failed",
            "no library",
        ),
        ("sys.stderr.write('strokecore: the package is damaged'); sys.exit(2)", "failed", "damaged"),
        ("print('no json')", "failed", "JSONDecodeError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "failed", "exit status -11"),
        ("time.sleep(60)", "failed", "TimeoutExpired"),
    ],
)
def test_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, level: str, words: str
) -> None:
    monkeypatch.undo()  # the real check
    monkeypatch.setattr(doctor, "ENGINE_TIMEOUT_S", 3.0)
    python = tmp_path / "python"
    python.write_text(f"#!/usr/bin/env python3\n{ENGINES.format(body=body)}")
    python.chmod(0o755)
    (check,) = doctor._engine({"Python": str(python), "Model": "shipped"}, None, None)
    assert (check.level, words in check.found) == (level, True), check
    assert bool(check.remedy) == (level != "ok")
