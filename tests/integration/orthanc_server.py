"""A real Orthanc for tests: own folder, free ports, the shipped configuration."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "deploy"))
from configure import write_configuration

FAKE_SCORER = Path(__file__).with_name("fake_scorer.py")
STABLE_AGE_S = 1
SETTLE_S = 2 * STABLE_AGE_S + 0.5  # an output that triggered again would do it within this time


class OrthancServer:
    """Start, kill and ask one Orthanc. Its folder outlives a kill, so that it can be started again."""

    def __init__(
        self,
        folder: Path,
        *,
        orthanc: Mapping[str, Any] | None = None,
        strokecore: Mapping[str, Any] | None = None,
        locale: str = "C.UTF-8",
    ) -> None:
        self.folder = folder
        self._locale = locale
        temporary = folder / "jobs"
        temporary.mkdir(parents=True)
        self.node = write_configuration(
            folder,
            Path(sys.executable),
            orthanc={"StableAge": STABLE_AGE_S, **(orthanc or {})},
            strokecore={
                "RetryDelaySeconds": 0.2,
                "TemporaryDirectory": str(temporary),
                **(strokecore or {}),
            },
        )
        self.jobs = temporary
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, until: str | None = "ready") -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["Orthanc", str(self.node.configuration)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1", "LC_ALL": self._locale},
            )
        if until:
            self.wait(lambda: self.status()["state"] == until, f"the plugin to be {until}", 30)

    def kill(self) -> None:
        """kill -9: what a crash or a power cut leaves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def request(
        self, method: str, path: str, body: bytes | None = None, *, authorized: bool = True
    ) -> tuple[int, bytes]:
        status, content, _ = self.exchange(method, path, body, {}, authorized=authorized)
        return status, content

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        authorized: bool = True,
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        """A request with headers; answers status, body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.node.http_port, timeout=30)
        credentials = base64.b64encode(f"{self.node.user}:{self.node.password}".encode()).decode()
        own = {"Authorization": f"Basic {credentials}"} if authorized else {}
        try:
            connection.request(method, path, body, {**own, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheaders()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, f"GET {path}: {status}"
        return json.loads(body)

    def status(self) -> Any:
        try:
            return self.get("/strokecore/status")
        except (OSError, http.client.HTTPException, AssertionError):
            return {"state": "unreachable"}

    def states(self) -> dict[str, Any]:
        """Orthanc id of every CT series -> its state."""
        return {s: self.get(f"/strokecore/series/{s}") for s in self.series("CT")}

    def series(self, modality: str | None = None) -> list[str]:
        found = self.get("/series?expand&since=0&limit=1000")
        return [s["ID"] for s in found if modality in (None, s["MainDicomTags"].get("Modality"))]

    def instances(self, modality: str) -> list[str]:
        return [i for s in self.series(modality) for i in self.get(f"/series/{s}")["Instances"]]

    def wait(self, done: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}; log:\n{self.log[-4000:]}"
            time.sleep(0.05)

    def wait_for(self, status: str, series: int = 1, seconds: float = 60) -> None:
        """Until so many CT series have this state."""
        self.wait(
            lambda: [s["status"] for s in self.states().values()].count(status) == series,
            f"{series} series {status}",
            seconds,
        )

    def wait_idle(self, settle_s: float = 0, seconds: float = 60) -> None:
        """Until nothing is queued and every CT series is in a terminal state; again after ``settle_s``."""

        def idle() -> bool:
            status = self.status()
            waiting = {"pending", "queued", "claimed"}
            return (
                status["queue"] == status["busy"] == 0
                and not {s["status"] for s in self.states().values()} & waiting
            )

        self.wait(idle, "an empty queue", seconds)
        if settle_s:
            time.sleep(settle_s)
            self.wait(idle, "an empty queue", seconds)
