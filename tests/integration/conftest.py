"""Fixtures with a real Orthanc."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.orthanc_server import FAKE_SCORER, OrthancServer


@pytest.fixture(autouse=True)
def _needs_orthanc() -> None:
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed: run ./deploy/test, which installs it")


class FakeNode(OrthancServer):
    """An Orthanc whose scorer does what ``plan`` says."""

    def __init__(
        self,
        folder: Path,
        *,
        locale: str = "C.UTF-8",
        orthanc: Mapping[str, Any] | None = None,
        **strokecore: Any,
    ) -> None:
        self.plan_folder = folder / "plan"
        command = [sys.executable, str(FAKE_SCORER), str(self.plan_folder)]
        super().__init__(
            folder,
            orthanc=orthanc,
            strokecore={"Command": command, "Outputs": ["sc", "sr"], **strokecore},
            locale=locale,
        )
        self.plan_folder.mkdir()

    def plan(self, *behaviours: str) -> None:
        (self.plan_folder / "plan").write_text("\n".join(behaviours))

    def clear(self) -> None:
        for study in self.get("/studies"):
            self.request("DELETE", f"/studies/{study}")
        self.wait_idle()
        self.plan()
        (self.plan_folder / "runs").unlink(missing_ok=True)

    @property
    def runs(self) -> list[dict[str, Any]]:
        path = self.plan_folder / "runs"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def make_fake_node(tmp_path: Path) -> Iterator[Callable[..., FakeNode]]:
    """Start an Orthanc with the fake scorer; keywords are StrokeCore options, ``orthanc`` and ``locale``."""
    nodes: list[FakeNode] = []

    def make(*behaviours: str, start: bool = True, **options: Any) -> FakeNode:
        node = FakeNode(tmp_path / f"nöde with space {len(nodes)}", **options)
        nodes.append(node)
        node.plan(*behaviours)
        if start:
            node.start()
        return node

    yield make
    for node in nodes:
        node.kill()  # Orthanc's orderly stop takes 3 s; the tests that are about it do it themselves


@pytest.fixture(scope="session")
def _shared_fake_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeNode]:
    node = FakeNode(tmp_path_factory.mktemp("fake") / "node with space", MaxAttempts=2, TimeoutSeconds=4)
    node.plan()
    node.start()
    yield node
    node.stop()


@pytest.fixture
def fake_node(_shared_fake_node: FakeNode) -> FakeNode:
    """A running Orthanc with the fake scorer, emptied before each test: starting one costs seconds."""
    _shared_fake_node.clear()
    return _shared_fake_node


@pytest.fixture(scope="session")
def real_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    """One Orthanc with the real scorer for all tests that only add studies to it."""
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed: run ./deploy/test, which installs it")
    server = OrthancServer(tmp_path_factory.mktemp("orthanc") / "node")
    server.start()
    yield server
    server.stop()
