"""deploy/demo.py: whatever interrupts the demonstration, its Orthanc ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
# Takes half a second to stop, as the real one takes three, and leaves its number.
ORTHANC = """#!/bin/sh
echo $$ > "$1.pid"
trap 'sleep 0.5; exit 0' TERM
for _ in $(seq 400); do sleep 0.05; done
"""
# A test run in the background or under nohup hands down ignored signals; the demonstration respects them.
DEMO = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
from pathlib import Path
sys.path.insert(0, {deploy!r})
import demo
from configure import Node

folder = Path({folder!r})
demo.NODE, demo.SAMPLE = folder, folder / "sample"
demo._configure = lambda options: Node(folder / "orthanc.json", 1, 2, "AET", "user", "password")

def wait(*arguments):
    (folder / "waiting").touch()
    time.sleep(60)

demo._strokecore = wait
{more}
sys.argv[1:] = []
sys.exit(demo.main())
"""


def start(folder: Path, more: str = "") -> subprocess.Popen[str]:
    (folder / "bin").mkdir()
    (folder / "bin" / "Orthanc").write_text(ORTHANC)
    (folder / "bin" / "Orthanc").chmod(0o755)
    return subprocess.Popen(
        [sys.executable, "-c", DEMO.format(deploy=str(DEPLOY), folder=str(folder), more=more)],
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_interrupt_does_not_leave_orthanc_running(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path) as demo:
        until((tmp_path / "waiting").exists)
        until((tmp_path / "orthanc.json.pid").exists)
        demo.send_signal(number)
        time.sleep(0.2)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=20)
    assert demo.returncode == 128 + number
    assert "Traceback" not in errors
    assert not is_running(int((tmp_path / "orthanc.json.pid").read_text()))
    assert not (tmp_path / "pid").exists()


def test_an_interrupt_while_orthanc_starts_ends_it(tmp_path: Path) -> None:
    more = """
write = demo.write_private
def interrupted(*arguments):
    signal.raise_signal(signal.SIGINT)
    while not (folder / "orthanc.json.pid").exists():
        time.sleep(0.01)
    write(*arguments)
demo.write_private = interrupted
"""
    with start(tmp_path, more) as demo:
        demo.communicate(timeout=20)
    assert demo.returncode == 128 + signal.SIGINT
    assert not (tmp_path / "waiting").exists()
    assert not is_running(int((tmp_path / "orthanc.json.pid").read_text()))


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
