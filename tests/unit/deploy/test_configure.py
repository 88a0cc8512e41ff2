"""deploy/configure.py: the configuration that deploy/run and the tests start Orthanc with."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from orthanc_plugin.settings import parse_settings

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("deploy_configure", DEPLOY / "configure.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "deploy_configure", module)
    specification.loader.exec_module(module)
    # Where Orthanc is not installed, its plugins are not either.
    monkeypatch.setattr(module, "find_plugin", lambda name: Path(f"/plugins/{name}.so"))
    return module


def test_the_node_is_closed(configure: ModuleType, tmp_path: Path) -> None:
    node = configure.write_configuration(tmp_path / "node", Path(sys.executable))
    values = json.loads(node.configuration.read_text())
    assert values["AuthenticationEnabled"] is True
    assert values["RegisteredUsers"] == {node.user: node.password}
    assert len(node.password) >= 20
    assert values["RemoteAccessAllowed"] is False
    assert values["DicomCheckCalledAet"] is True
    assert values["DicomCheckModalityHost"] is True
    assert [name for name, value in values.items() if name.startswith("DicomAlwaysAllow") and value] == []
    assert [m["Host"] for m in values["DicomModalities"].values()] == ["127.0.0.1"]
    for name in ("orthanc.json", "password"):
        assert (tmp_path / "node" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_the_plugin_accepts_it(configure: ModuleType, tmp_path: Path) -> None:
    node = configure.write_configuration(tmp_path, Path(sys.executable), strokecore={"Workers": 2})
    settings = parse_settings(json.loads(node.configuration.read_text()))
    assert (settings.workers, settings.http_port) == (2, node.http_port)


def test_each_node_has_its_own_password_and_free_ports(configure: ModuleType, tmp_path: Path) -> None:
    nodes = [configure.write_configuration(tmp_path / name, Path(sys.executable)) for name in "ab"]
    assert nodes[0].password != nodes[1].password
    with socket.socket() as probe:
        probe.bind(("", nodes[0].dicom_port))
