from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strokecore.bench import engines
from strokecore.bench.engines import choose_engines, golden_slices
from strokecore.errors import UsageError
from strokecore.learned.golden import read_golden
from strokecore.learned.package import load_package
from strokecore.learned.runtimes import RUNTIMES, Availability
from tests.unit.learned.package_cases import write_package


@pytest.fixture(autouse=True)
def _a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime and OpenVINO in fp32, and no GPU."""
    here = {"onnx": ("fp32",), "openvino": ("fp32",)}
    monkeypatch.setattr(
        engines, "availability", lambda name: Availability(name, name, "a device", here.get(name, ()), "", "")
    )
    monkeypatch.setattr(engines, "gpus", lambda: ())


def names(*asked: str, precisions: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in choose_engines(asked, precisions)]


def test_the_reference_is_first_and_always_there() -> None:
    assert names() == ["onnx fp32", "openvino fp32"]
    assert names("openvino") == ["onnx fp32", "openvino fp32"]
    assert names("onnx") == ["onnx fp32"]


def test_a_precision_is_tried_when_it_is_asked_for() -> None:
    assert names(precisions=("bf16",)) == ["onnx fp32", "openvino bf16"]


def test_engines_for_a_gpu_need_one_or_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorrt, cuda = (f"{kind.name} {kind.precisions[0]}" for kind in RUNTIMES if kind.device == "gpu")
    assert names("onnx-cuda") == ["onnx fp32", cuda]
    monkeypatch.setattr(engines, "gpus", lambda: ("a GPU",))
    assert names() == ["onnx fp32", tensorrt, cuda, "openvino fp32"]


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown engine magic; expected some of tensorrt"):
        names("magic", "onnx")
    with pytest.raises(UsageError, match="Unknown precision fp4; expected some of bf16"):
        names(precisions=("fp4",))


def test_golden_slices_are_chosen_evenly_or_repeated(tmp_path: Path) -> None:
    package = load_package(write_package(tmp_path / "model"))
    golden = read_golden(package).slices
    assert len(golden) == 9
    assert np.array_equal(golden_slices(package, 3), golden[[0, 3, 6]])
    assert np.array_equal(golden_slices(package, 20), golden[np.arange(20) % 9])


def test_an_engine_that_is_not_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Availability("openvino", None, "a device", (), "OpenVINO is not installed", "pip install it")
    monkeypatch.setattr(engines, "availability", lambda name: absent)
    (_, openvino) = choose_engines(["openvino"], ())
    assert (openvino.name, openvino.error) == (
        "openvino bf16",
        "OpenVINO is not installed; run: pip install it",
    )
