from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import onnx
from strokecore.learned.devices import Gpu
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.onnx import OnnxCudaRuntime, OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.preprocessing import to_channels
from tests.unit.learned.package_cases import SPEC, mirror_answers, mirror_network, write_package
from tests.unit.scoring.heads import darken, flat_head, region_slices

RIGHT_M1 = RegionId("M1", "right")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("onnx") / "model"))


@pytest.fixture(scope="module")
def runtime(package: ModelPackage) -> OnnxRuntime:
    return OnnxRuntime(package, threads=1)


@pytest.fixture(scope="module")
def engine(runtime: OnnxRuntime) -> LearnedEngine:
    return LearnedEngine(runtime.package, runtime)


def noisy_slices(number: int) -> Any:
    hu = np.random.default_rng(0).normal(35, 6, (number, *SPEC.size))
    return to_channels(hu.astype(np.float32)[:, None], np.zeros(hu.shape, np.uint8), SPEC)


def test_it_computes_what_the_network_means(runtime: OnnxRuntime) -> None:
    slices = noisy_slices(3)
    for found, expected in zip(runtime.run(slices), mirror_answers(slices), strict=True):
        assert np.abs(found - expected).max() < 1e-5


def test_a_dark_region_is_found_on_its_own_side(engine: LearnedEngine) -> None:
    lesion = engine.segment(darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0))
    found = [r for r, e in lesion.evidence.items() if (e.probability or 0.0) >= 0.5]
    assert found == [RIGHT_M1]
    assert lesion.acute[region_slices(RIGHT_M1)].mean() > 0.7


def test_batches_do_not_change_the_answer(runtime: OnnxRuntime, package: ModelPackage) -> None:
    slices = noisy_slices(7)
    whole = runtime.run(slices)
    assert [arm.shape for arm in whole] == [(7, 9, *SPEC.size), (7, 6, *SPEC.size)]
    small = OnnxRuntime(package, threads=1)
    small.batch = 3
    for arm, same in zip(whole, small.run(slices), strict=True):
        assert np.array_equal(arm, same)
        assert arm.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_same_head_gives_the_same_bytes(engine: LearnedEngine) -> None:
    head = darken(flat_head(), RIGHT_M1, 4.0)
    first, second = engine.segment(head), engine.segment(head)
    assert np.array_equal(first.probability, second.probability)


@pytest.mark.parametrize("broken", [b"not a graph", b""])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, broken: bytes) -> None:
    package = write_package(tmp_path / "model", network=broken or mirror_network()[:-200])
    with pytest.raises(ModelPackageError, match=r"cannot load model.onnx"):
        OnnxRuntime(load_package(package))


def test_a_graph_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "model", network=mirror_network(classes=(6, 6)))
    with pytest.raises(ModelPackageError, match=r"has tensors .*expected"):
        OnnxRuntime(load_package(package))


def test_it_says_what_it_is(runtime: OnnxRuntime) -> None:
    import onnxruntime

    assert (runtime.name, runtime.precision) == ("onnx", "fp32")
    assert runtime.device.endswith(", 1 thread")
    assert runtime.library == f"onnxruntime {onnxruntime.__version__}"


def test_without_onnxruntime_the_command_that_installs_it_is_said(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install 'strokecore\[cpu\]'"):
        OnnxRuntime(package)


CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """ONNX Runtime for CUDA on a machine with a GPU; the CPU computes, and what was asked for is kept.

    The dictionary holds the providers of the last session, and "starts": whether the CUDA provider does.
    """
    import onnxruntime

    state: dict[str, Any] = {"starts": True}
    on_cpu = onnxruntime.InferenceSession

    def session(graph: Path, options: Any, *, providers: list[Any], enable_fallback: int) -> Any:
        assert enable_fallback == 0  # or a provider that fails while running is replaced without a word
        state["providers"] = providers
        found = on_cpu(graph, options, providers=CUDA[1:])
        if state["starts"]:
            monkeypatch.setattr(found, "get_providers", lambda: CUDA)
        return found

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: CUDA)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda directory: print("no libcudnn"))
    monkeypatch.setattr(onnx, "gpus", lambda: (Gpu(0, "NVIDIA Test", (9, 0), 2**30, ""),))
    return state


@pytest.mark.parametrize(("precision", "tf32"), [("tf32", "1"), ("fp32", "0")])
def test_on_a_gpu_it_asks_for_the_first_one_and_rounds_only_where_that_is_said(
    precision: str, tf32: str, cuda: dict[str, Any], package: ModelPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = OnnxCudaRuntime(package, precision, 1)
    ((provider, options),) = cuda["providers"]
    assert (provider, options["device_id"], options["use_tf32"]) == (CUDA[0], "0", tf32)
    assert (runtime.name, runtime.precision, runtime.device) == ("onnx-cuda", precision, "NVIDIA Test")
    assert capsys.readouterr().out == ""  # what strokecore engines --json prints is JSON
    slices = noisy_slices(2)
    for found, expected in zip(runtime.run(slices), mirror_answers(slices), strict=True):
        assert np.abs(found - expected).max() < 1e-5


def test_the_cuda_provider_is_never_replaced_by_the_cpu_in_silence(
    cuda: dict[str, Any], package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda["starts"] = False  # as where CUDA's libraries are missing
    with pytest.raises(EngineError, match=r"cannot start its CUDAExecutionProvider.*strokecore\[gpu\]"):
        OnnxCudaRuntime(package, "fp32")
    monkeypatch.setattr(onnx, "gpus", lambda: ())
    with pytest.raises(EngineError, match="no NVIDIA GPU"):
        OnnxCudaRuntime(package, "fp32")


def test_a_build_for_the_cpu_is_named_with_the_command_that_replaces_it(package: ModelPackage) -> None:
    with pytest.raises(EngineError, match=r"no CUDAExecutionProvider; run: pip uninstall -y onnxruntime"):
        OnnxCudaRuntime(package, "fp32")


def test_memory_that_runs_out_at_the_start_is_not_the_packages_fault(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def session(*_: object, **__: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError, match="no memory"):
        OnnxRuntime(package)
