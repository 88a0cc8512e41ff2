"""TensorRT's runtime on stand-ins for CUDA's driver and TensorRT; tests/gpu is for the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtimes import start
from strokecore.learned.tensorrt.engine_files import ready
from strokecore.learned.tensorrt.runtime import TensorRtRuntime
from tests.unit.learned.cuda_fake import T4
from tests.unit.learned.tensorrt.cases import SPEC, Machine, machine, slices, write_small_package
from tests.unit.learned.tensorrt.fakes import SCRATCH

# Bytes of one slice in and out.
SLICE = 4 * (len(SPEC.channels) + 9 + 6) * int(np.prod(SPEC.size))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_small_package(tmp_path_factory.mktemp("trt") / "model"))


@pytest.fixture(scope="module")
def reference(package: ModelPackage) -> OnnxRuntime:
    return OnnxRuntime(package, threads=1)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "cache", monkeypatch) as made:
        yield made


@pytest.fixture
def runtime(package: ModelPackage, here: Machine) -> Iterator[TensorRtRuntime]:
    made = TensorRtRuntime(package, "fp32")
    yield made
    made.close()


def same(runtime: TensorRtRuntime, reference: OnnxRuntime, count: int, seed: int = 0) -> None:
    given = slices(count, seed)
    for found, expected in zip(runtime.run(given), reference.run(given), strict=True):
        assert found.shape == expected.shape
        # ONNX Runtime may pick another kernel for another batch size
        assert np.abs(found - expected).max() < 1e-5


def test_the_answer_is_the_networks(runtime: TensorRtRuntime, reference: OnnxRuntime) -> None:
    assert (runtime.name, runtime.precision) == ("tensorrt", "fp32")
    assert runtime.device == "NVIDIA L4"
    assert runtime.library == "tensorrt 11.4.0.106"
    for seed, count in enumerate((30, 30, 1, 70, 5)):
        same(runtime, reference, count, seed)


def test_the_table_starts_it(package: ModelPackage, here: Machine) -> None:
    made = start(package, "tensorrt", "tf32", 1)
    assert isinstance(made, TensorRtRuntime)
    made.close()
    assert here.builds == [("tf32", b"")]
    with pytest.raises(ModelPackageError, match="has no bf16 graph; make one with trainer export --typed"):
        package.typed("bf16")


@pytest.mark.parametrize(
    ("number", "batches"),
    [
        (1, [1]),
        (3, [4]),
        (5, [4, 1]),
        (7, [8]),
        (23, [16, 8]),
        (24, [32]),
        (30, [32]),
        (34, [32, 2]),
        (64, [64]),
        (69, [64, 4, 1]),
        (130, [64, 64, 2]),
    ],
)
def test_batches_are_powers_of_two_and_a_quarter_padding_at_most(
    number: int, batches: list[int], runtime: TensorRtRuntime, here: Machine
) -> None:
    assert len(runtime.run(slices(number)).bg) == number
    assert here.trt.ran == batches


def test_memory_is_given_back_after_each_batch(runtime: TensorRtRuntime, here: Machine) -> None:
    runtime.run(slices(4))
    assert here.driver.memory == {}
    here.trt.run_error = "Error Code 7: Internal Error"
    with pytest.raises(EngineError):
        runtime.run(slices(4))
    assert here.driver.memory == {}


def test_an_unknown_need_of_memory_is_the_largest(runtime: TensorRtRuntime, here: Machine) -> None:
    here.trt.unknown_scratch = True
    here.driver.free = 64 * SCRATCH + SLICE
    runtime.run(slices(1))
    here.driver.free -= 1
    with pytest.raises(EngineError, match="no memory left"):
        runtime.run(slices(1))


def test_out_of_memory_halves_the_batch(
    runtime: TensorRtRuntime, reference: OnnxRuntime, here: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    here.driver.free = 9 * (SLICE + SCRATCH)
    same(runtime, reference, 30)
    assert runtime.batch == 8
    assert "going on with 32" in caplog.text
    here.driver.free = SLICE // 2
    with pytest.raises(EngineError, match=r"NVIDIA L4 has no memory left for even one slice of 16 x 24"):
        runtime.run(slices(3))


def test_out_of_memory_in_tensorrts_words_halves_too(runtime: TensorRtRuntime, here: Machine) -> None:
    here.trt.run_error = "Error Code 1: Cuda Runtime (out of memory)"
    with pytest.raises(EngineError, match="no memory left for even one slice"):
        runtime.run(slices(2))
    assert runtime.batch == 1


@pytest.mark.parametrize(
    "function", ["cuStreamSynchronize", "cuMemcpyHtoDAsync", "cuCtxSetCurrent", "cuMemAlloc"]
)
def test_a_lost_device_is_said(function: str, runtime: TensorRtRuntime, here: Machine) -> None:
    here.driver.fail[function] = "CUDA_ERROR_ECC_UNCORRECTABLE"
    with pytest.raises(
        EngineError, match=r"failed on NVIDIA L4: CUDA_ERROR_ECC_UNCORRECTABLE. Another engine takes over"
    ):
        runtime.run(slices(8))
    runtime.close()  # must not raise where nothing works any more


def test_what_tensorrt_says_is_in_the_error(runtime: TensorRtRuntime, here: Machine) -> None:
    here.trt.run_error = "Error Code 7: Internal Error (shape machine)"
    with pytest.raises(EngineError, match=r"it refuses 8 slices: Error Code 7"):
        runtime.run(slices(8))


def test_a_closed_engine_says_so(runtime: TensorRtRuntime, here: Machine) -> None:
    assert here.driver.streams == 1
    runtime.close()
    runtime.close()
    assert here.driver.streams == 0
    with pytest.raises(EngineError, match="is closed"):
        runtime.run(slices(2))


def test_an_engine_that_tensorrt_refuses_is_removed(package: ModelPackage, here: Machine) -> None:
    TensorRtRuntime(package, "fp32").close()
    assert ready(package, "fp32")
    here.trt.load_error = "Error Code 6: the engine plan file is not compatible"
    with pytest.raises(EngineError, match=r"cannot load its engine; start again to build it\): Error Code 6"):
        TensorRtRuntime(package, "fp32")
    assert not ready(package, "fp32")
    assert here.driver.streams == 0


def test_an_engine_that_does_not_fit_the_memory_is_kept(package: ModelPackage, here: Machine) -> None:
    TensorRtRuntime(package, "fp32").close()
    here.trt.load_error = "Error Code 2: OutOfMemory"
    with pytest.raises(EngineError, match="OutOfMemory; look at nvidia-smi"):
        TensorRtRuntime(package, "fp32")
    assert ready(package, "fp32")


def test_wrong_tensors_are_refused(tmp_path: Path, package: ModelPackage, here: Machine) -> None:
    wrong = load_package(write_small_package(tmp_path / "model", classes=(9, 7)))
    with pytest.raises(ModelPackageError, match=r"sg_probability"):
        TensorRtRuntime(wrong, "fp32")
    here.trt.kind = "HALF"
    with pytest.raises(ModelPackageError, match="HALF"):
        TensorRtRuntime(package, "fp32")
    assert here.driver.streams == 0


def test_kernels_of_tensorrt_for_rtx_are_compiled_before_they_answer(
    package: ModelPackage, here: Machine
) -> None:
    TensorRtRuntime(package, "fp32").close()
    assert here.trt.strategy is None
    here.trt.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    TensorRtRuntime(package, "fp32").close()
    assert here.trt.strategy == "eager"


def test_precisions_are_the_gpus(
    package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(tmp_path, monkeypatch, T4):
        with pytest.raises(EngineError, match=r"Tesla T4 .* has no tf32, which came with .* 8.0 \(Ampere\)"):
            TensorRtRuntime(package, "tf32")
        TensorRtRuntime(package, "fp32").close()
