"""``strokecore engines``: what is here, what scores and why, with the gate's figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strokecore.cli import main
from strokecore.errors import EngineError
from strokecore.learned import overview as module
from strokecore.learned import selection
from strokecore.learned.parity import LIMITS
from tests.unit.learned.engine_cases import NO_GPU, ONNX, OPENVINO, fault_of, pretend_machine
from tests.unit.learned.package_cases import write_package


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("overview") / "model")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    faults = pretend_machine(monkeypatch, tmp_path / "cache", *NO_GPU, OPENVINO, ONNX)
    yield faults
    selection._kept.cache_clear()


@pytest.fixture
def no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package runs when none is named."""
    for where in (module, selection):
        monkeypatch.setattr(where, "default_package", lambda: None)


def record(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert main(["engines", "--json", *words]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def passed(found: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{engine['engine']} {one['precision']}": one["passed"]
        for engine in found["engines"]
        for one in engine["precisions"]
    }


@pytest.mark.usefixtures("no_default")
def test_without_a_package_it_says_what_is_here(
    machine: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(capsys)
    assert [engine["engine"] for engine in found["engines"]] == ["tensorrt", "onnx-cuda", "openvino", "onnx"]
    assert found["engines"][0]["install"] == "pip install 'strokecore[gpu]'"
    assert found["engines"][0]["reason"] == "no NVIDIA GPU is visible"
    assert passed(found) == {"openvino bf16": None, "openvino fp32": None, "onnx fp32": None}
    assert found["chosen"]["engine"] == "asymmetry"
    assert main(["engines"]) == 0
    printed = capsys.readouterr().out
    assert "pip install 'strokecore[gpu]'" in printed
    assert "--engine auto: asymmetry fp32." in printed


def test_with_a_package_it_says_what_scores_and_what_is_remembered(
    machine: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine["openvino bf16"] = fault_of("mirrored answers")
    found = record(capsys, "--model", str(folder))
    assert (found["chosen"]["engine"], found["chosen"]["precision"]) == ("openvino", "fp32")
    assert found["chosen"]["fallbacks"][0].startswith("openvino bf16: refused by the parity gate (")
    assert found["model"]["name"] == "mirror"
    assert passed(found) == {"openvino bf16": False, "openvino fp32": True, "onnx fp32": None}
    assert main(["engines", "--model", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "refused, 20" in printed
    assert "passed over: openvino bf16: refused by the parity gate" in printed


def test_a_check_runs_the_whole_gate_on_every_engine(
    machine: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine["openvino bf16"] = fault_of("a bias of +0.03")
    machine["openvino fp32"] = EngineError("no memory")
    found = record(capsys, "--model", str(folder), "--check")
    assert passed(found) == {"openvino bf16": False, "openvino fp32": False, "onnx fp32": True}
    by_name = {engine["engine"]: engine["precisions"] for engine in found["engines"]}
    assert by_name["openvino"][1]["error"] == "no memory"
    criteria = by_name["openvino"][0]["report"]["criteria"]
    assert criteria["systematic_error"]["value"] == pytest.approx(0.03, abs=0.002)
    assert not criteria["systematic_error"]["passed"]
    assert set(by_name["onnx"][0]["report"]["criteria"]) == set(LIMITS)
    machine["openvino bf16"] = None  # repaired: a check does not believe what is remembered
    selection._kept.cache_clear()
    assert main(["engines", "--model", str(folder), "--check"]) == 0
    printed = capsys.readouterr().out
    assert "probability_difference" in printed
    assert "--engine auto: openvino bf16" in printed


@pytest.mark.usefixtures("no_default")
def test_a_check_without_a_package_takes_the_one_that_ships(
    machine: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHIPPED", folder)
    found = record(capsys, "--check")
    assert found["model"]["name"] == "mirror"
    assert passed(found)["onnx fp32"] is True


def test_it_begins_at_the_engine_that_is_asked_for(
    machine: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(capsys, "--model", str(folder), "--engine", "onnx")
    assert (found["chosen"]["wanted"], found["chosen"]["engine"]) == ("onnx", "onnx")


def test_when_nothing_may_score_the_status_says_so(
    machine: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("openvino bf16", "openvino fp32", "onnx fp32"):
        machine[name] = EngineError("broken installation")
    found = record(capsys, "--model", str(folder), status=1)
    assert found["chosen"]["engine"] is None
    assert "onnx fp32: could not be started" in found["chosen"]["why"]


def test_a_package_that_is_damaged_is_wrong_usage(
    machine: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engines", "--model", str(tmp_path / "none")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_the_real_machine_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys)
    onnx = found["engines"][-1]
    assert onnx["available"]
    assert onnx["library"].startswith("onnxruntime ")
    assert main(["info"]) == 0
    assert "engine openvino" in capsys.readouterr().out
