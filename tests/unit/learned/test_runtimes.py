"""strokecore/learned/runtimes.py: what is here, what is missing, and the command that brings it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from strokecore.learned import runtimes as module
from strokecore.learned.devices import Gpu
from strokecore.learned.runtimes import ENGINES, Availability, availability, cpu_flags, library_versions

HOPPER = Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30, "a" * 32)
TURING = Gpu(0, "Tesla T4", (7, 5), 16 * 2**30, "b" * 32)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends a machine: what is installed, its GPUs, and what its CPU can do."""

    def pretend(
        *installed: str, gpus: tuple[Gpu, ...] = (), flags: tuple[str, ...] = (), cuda: bool = True
    ) -> None:
        monkeypatch.setattr(module, "_installed", lambda name: name in installed)
        monkeypatch.setattr(module, "library_versions", lambda engine: {"x": "1.2.3"} if installed else {})
        monkeypatch.setattr(module, "gpus", lambda: gpus)
        monkeypatch.setattr(module, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(module, "torch_sees_cuda", lambda: cuda and bool(gpus))

    return pretend


def test_a_bare_machine_has_none_and_says_how_to_get_each(machine: Callable[..., None]) -> None:
    machine()
    found = {engine: availability(engine) for engine in ENGINES}
    assert not any(one.available for one in found.values())
    assert all(one.reason for one in found.values())
    assert found["onnx"].install == found["openvino"].install == "pip install 'strokecore[cpu]'"
    assert found["torch"].install == "pip install 'strokecore[train]'"
    assert "tensorrt" in found["tensorrt"].install or "gpu" in found["tensorrt"].install
    assert "no NVIDIA GPU" in found["tensorrt"].reason


def test_bf16_is_offered_where_the_cpu_computes_in_it(machine: Callable[..., None]) -> None:
    machine("openvino", "onnxruntime", flags=("avx512f", "avx512_bf16"))
    assert availability("openvino").precisions == ("bf16", "fp32")
    machine("openvino", "onnxruntime", flags=("avx2", "avx512f"))
    assert availability("openvino").precisions == ("fp32",)
    assert availability("onnx").precisions == ("fp32",)
    assert availability("openvino").library == "openvino 1.2.3"


@pytest.mark.parametrize(
    ("gpu", "tensorrt", "torch"),
    [
        (HOPPER, ("bf16", "fp16", "tf32", "fp32"), ("bf16", "tf32", "fp32")),
        (TURING, ("fp16", "fp32"), ("fp32",)),
    ],
)
def test_a_gpu_offers_what_its_matrix_units_have(
    gpu: Gpu, tensorrt: tuple[str, ...], torch: tuple[str, ...], machine: Callable[..., None]
) -> None:
    machine("tensorrt", "torch", "onnx", gpus=(gpu,))
    found = availability("tensorrt")
    assert (found.precisions, found.device, found.on_gpu) == (tensorrt, str(gpu), True)
    found = availability("torch")
    assert (found.precisions, found.device, found.on_gpu) == (torch, str(gpu), True)


def test_a_gpu_without_libraries_names_them(machine: Callable[..., None]) -> None:
    machine("onnxruntime", gpus=(HOPPER,))
    found = availability("tensorrt")
    assert (found.available, found.reason) == (False, "TensorRT is not installed")
    assert found.install.startswith("pip install ")
    assert found.device == str(HOPPER)


def test_torch_without_cuda_runs_on_the_cpu_and_needs_onnx_to_read_the_graph(
    machine: Callable[..., None],
) -> None:
    machine("torch", "onnx", gpus=(HOPPER,), cuda=False)
    found = availability("torch")
    assert (found.precisions, found.on_gpu) == (("fp32",), False)
    machine("torch")
    assert availability("torch").reason == "onnx is not installed"
    machine()
    assert availability("torch").reason == "torch and onnx are not installed"


def test_torch_is_not_imported_to_find_that_it_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail
    monkeypatch.setattr(module, "gpus", lambda: ())
    assert not module.torch_sees_cuda()
    monkeypatch.setattr(module, "gpus", lambda: (HOPPER,))
    monkeypatch.setattr(module, "library_versions", lambda engine: {"torch": "2.13.0+cpu"})
    assert not module.torch_sees_cuda()


def test_versions_are_those_of_the_installed_packages() -> None:
    assert library_versions("onnx")["onnxruntime"] == metadata.version("onnxruntime")
    assert availability("onnx") == Availability(
        "onnx", f"onnxruntime {metadata.version('onnxruntime')}", module.cpu_name(), ("fp32",)
    )


def test_cpu_flags_are_read_as_each_architecture_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "_CPU_FACTS", facts)
    for text, expected in (
        (
            "processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n",
            {"fpu", "avx512_bf16"},
        ),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("nothing\n", set()),
    ):
        facts.write_text(text)
        cpu_flags.cache_clear()
        assert cpu_flags() == expected
    facts.unlink()
    cpu_flags.cache_clear()
    assert cpu_flags() == frozenset()
    cpu_flags.cache_clear()


def test_looking_loads_no_runtime() -> None:
    code = (
        "import sys\nfrom strokecore.learned.runtimes import ENGINES, availability\n"
        "for engine in ENGINES: availability(engine)\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'tensorrt', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {"PATH": "/usr/bin", "CUDA_VISIBLE_DEVICES": ""}  # or torch is asked for its CUDA
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
