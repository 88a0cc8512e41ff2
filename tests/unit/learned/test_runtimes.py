"""The table of engines: what is here, what is missing and the command that brings it, and starting one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata

import pytest

from strokecore.errors import EngineError
from strokecore.learned import runtimes
from strokecore.learned.devices import Gpu, cpu_name
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtime import BatchedRuntime
from strokecore.learned.runtimes import (
    ENGINE_CHOICES,
    RUNTIME_NAMES,
    RUNTIMES,
    Availability,
    RuntimeKind,
    availability,
    library_versions,
    start,
)
from tests.unit.learned.package_cases import write_package

INSTALL_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'strokecore[gpu]'"
HOPPER = Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, "a" * 32)
TURING = Gpu(0, "Tesla T4", (7, 5), 16 * 2**30, "b" * 32)
# Distributions of a machine with everything, by the module that each brings.
MODULES = {"tensorrt": "tensorrt", "onnxruntime": "onnxruntime", "onnxruntime-gpu": "onnxruntime"} | {
    "openvino": "openvino",
    "cuda-bindings": "cuda.bindings",
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends a machine: distributions that are installed, its GPUs, and whether its CPU has bf16."""

    def pretend(*installed: str, gpus: tuple[Gpu, ...] = (), bf16: bool = False, driver: bool = True) -> None:
        def version(name: str) -> str:
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return "1.2.3"

        modules = {MODULES[name] for name in installed}
        monkeypatch.setattr(runtimes, "_installed", modules.__contains__)
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(runtimes, "gpus", lambda: gpus)
        monkeypatch.setattr(runtimes, "has_nvidia_driver", lambda: driver)
        monkeypatch.setattr(runtimes, "cpu_computes_in", lambda precision: bf16 or precision == "fp32")

    return pretend


def test_names_come_in_the_order_of_auto() -> None:
    assert RUNTIME_NAMES == ("tensorrt", "onnx-cuda", "openvino", "onnx")
    assert ENGINE_CHOICES == ("auto", "tensorrt", "onnx-cuda", "openvino", "onnx", "asymmetry")


@pytest.mark.parametrize("kind", RUNTIMES, ids=lambda kind: kind.name)
def test_each_line_of_the_table_is_true(kind: RuntimeKind) -> None:
    found = getattr(importlib.import_module(kind.module), kind.class_name)
    assert issubclass(found, BatchedRuntime)
    assert found.name == kind.name
    assert kind.precisions[-1] == "fp32"  # what all have


def test_a_bare_machine_has_none_and_says_how_to_get_each(machine: Callable[..., None]) -> None:
    machine()
    found = {name: availability(name) for name in RUNTIME_NAMES}
    assert not any(one.available for one in found.values())
    assert {name: one.reason for name, one in found.items() if one.device} == {
        "openvino": "OpenVINO is not installed",
        "onnx": "ONNX Runtime is not installed",
    }
    assert found["onnx"].install == found["openvino"].install == "pip install 'strokecore[cpu]'"
    assert found["tensorrt"].install == found["onnx-cuda"].install == INSTALL_GPU
    assert found["tensorrt"].reason == found["onnx-cuda"].reason
    assert "cuda-bindings" in found["tensorrt"].reason
    for bare in ((), ("cuda-bindings",)):
        machine(*bare, driver=bool(bare))
        assert "no NVIDIA GPU is visible" in availability("onnx-cuda").reason
        assert not availability("onnx-cuda").install  # a command alone brings no GPU


def test_bf16_is_offered_where_the_cpu_computes_in_it(machine: Callable[..., None]) -> None:
    machine("openvino", "onnxruntime", bf16=True)
    assert availability("openvino").precisions == ("bf16", "fp32")
    assert availability("onnx").precisions == ("fp32",)
    machine("openvino", "onnxruntime")
    assert availability("openvino").precisions == ("fp32",)
    assert availability("openvino").library == "openvino 1.2.3"


@pytest.mark.parametrize(
    ("gpu", "tensorrt", "onnx"),
    [
        (HOPPER, ("bf16", "fp16", "tf32", "fp32"), ("tf32", "fp32")),
        (TURING, ("fp16", "fp32"), ("fp32",)),
    ],
)
def test_a_gpu_offers_what_its_matrix_units_have(
    gpu: Gpu, tensorrt: tuple[str, ...], onnx: tuple[str, ...], machine: Callable[..., None]
) -> None:
    machine("tensorrt", "onnxruntime-gpu", "cuda-bindings", gpus=(gpu,))
    assert availability("tensorrt").precisions == tensorrt
    assert availability("onnx-cuda").precisions == onnx
    assert availability("onnx-cuda").device == str(gpu)
    assert availability("onnx").available  # the build for a GPU has the CPU too


def test_a_gpu_without_libraries_names_them(machine: Callable[..., None]) -> None:
    machine("cuda-bindings", gpus=(HOPPER,))
    for name, library in (("tensorrt", "TensorRT"), ("onnx-cuda", "ONNX Runtime for CUDA")):
        found = availability(name)
        assert (found.available, found.reason) == (False, f"{library} is not installed")
        assert (found.install, found.device) == (INSTALL_GPU, str(HOPPER))


def test_a_build_for_the_cpu_that_is_in_the_way_is_named(machine: Callable[..., None]) -> None:
    """Both builds of ONNX Runtime write the same module: the one installed last is the one that is there."""
    machine("onnxruntime", "cuda-bindings", gpus=(HOPPER,))
    found = availability("onnx-cuda")
    assert (found.available, found.library) == (False, "onnxruntime 1.2.3")
    assert found.reason == "ONNX Runtime for CUDA shares its module with onnxruntime, which is installed"
    assert found.install == INSTALL_GPU
    machine("onnxruntime", "onnxruntime-gpu", "cuda-bindings", gpus=(HOPPER,))
    assert not availability("onnx-cuda").available
    assert availability("onnx").available


def test_versions_are_those_of_the_installed_packages() -> None:
    assert library_versions("onnx")["onnxruntime"] == metadata.version("onnxruntime")
    assert availability("onnx") == Availability(
        "onnx", f"onnxruntime {metadata.version('onnxruntime')}", cpu_name(), ("fp32",)
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("runtimes") / "model"))


def test_one_is_started_by_its_name(package: ModelPackage) -> None:
    runtime = start(package, "onnx", "fp32", 1)
    assert (runtime.name, runtime.precision, runtime.fallbacks) == ("onnx", "fp32", ())
    runtime.close()


def test_a_precision_that_an_engine_has_not_is_refused(package: ModelPackage) -> None:
    with pytest.raises(EngineError, match="openvino engine has no precision 'int8'; expected one of bf16"):
        start(package, "openvino", "int8", 1)
    with pytest.raises(EngineError, match="onnx engine has no precision 'tf32'"):
        start(package, "onnx", "tf32", 1)


def test_looking_loads_no_library() -> None:
    code = (
        "import sys\nfrom strokecore.learned.runtimes import RUNTIME_NAMES, availability\n"
        "for name in RUNTIME_NAMES: availability(name)\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt', 'onnx', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
