"""The TensorRT engine on stand-ins for libcuda and tensorrt; tests/gpu is for the real ones."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from strokecore.errors import EngineError
from strokecore.learned import tensorrt_lanes
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.tensorrt import TensorRtRuntime
from tests.unit.learned.cuda_fake import ECC, LAUNCH_FAILED
from tests.unit.learned.tensorrt_cases import INPUT, SPEC, slices, stand_ins, write_small_package
from tests.unit.learned.tensorrt_fake import FakeTensorRt
from tests.unit.learned.tensorrt_fake_base import VERSIONS
from tests.unit.learned.tensorrt_fake_run import SCRATCH

# Bytes of one slice in and out.
SLICE = 4 * (len(SPEC.channels) + 9 + 6) * int(np.prod(SPEC.size))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_small_package(tmp_path_factory.mktemp("trt") / "model"))


@pytest.fixture(scope="module")
def reference(package: ModelPackage) -> OnnxRuntime:
    return OnnxRuntime(package, threads=1)


@pytest.fixture(params=["10.3.0", "11.4.0.106"])
def trt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeTensorRt]:
    with stand_ins(request.param, tmp_path / "cache", monkeypatch) as module:
        yield module


def same(engine: TensorRtRuntime, reference: OnnxRuntime, count: int, seed: int = 0) -> None:
    given = slices(count, seed)
    for found, expected in zip(engine.run(given), reference.run(given), strict=True):
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        # ONNX Runtime may pick another kernel for another batch size
        assert np.abs(found - expected).max() < 1e-5


def test_the_answer_is_the_networks(package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        assert (engine.engine, engine.precision) == ("tensorrt", "fp32")
        assert engine.device == "NVIDIA H100 80GB HBM3"
        assert engine.library == f"tensorrt {trt.__version__}"
        assert engine.sha256 == package.sha256
        for seed, count in enumerate((30, 30, 1, 70, 5, 30)):
            same(engine, reference, count, seed)


def test_batches_are_padded_to_powers_of_two(package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        engine.run(slices(30))
        assert set(trt._runs) == {32}
        trt._runs.clear()
        engine.run(slices(69))
        assert set(trt._runs) == {64, 4, 1}


def test_a_graph_is_captured_once_for_each_size(package: ModelPackage, trt: FakeTensorRt) -> None:
    calls = trt._cuda.calls
    with TensorRtRuntime(package, "fp32") as engine:
        for count in (32, 30, 29, 32):
            engine.run(slices(count))
        assert calls["cuStreamBeginCapture_v2"] == calls["cuGraphInstantiateWithFlags"] == 1
        assert calls["cuGraphLaunch"] == 4
        engine.run(slices(4))
        engine.run(slices(32))
        assert calls["cuStreamBeginCapture_v2"] == 2
        assert trt._contexts == 2


def test_every_answer_comes_from_the_graph(package: ModelPackage, trt: FakeTensorRt) -> None:
    """The parity gate sees what serves: also the first call of a size is a launch of its graph."""
    with TensorRtRuntime(package, "fp32") as engine:
        for launches, count in enumerate((32, 16, 8), start=1):
            engine.run(slices(count))
            assert trt._cuda.calls["cuGraphLaunch"] == launches


def test_graphs_are_bounded(
    package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_lanes, "MAX_LANES", 2)
    with TensorRtRuntime(package, "fp32") as engine:
        for count in (32, 16, 32, 8):
            same(engine, reference, count)
        assert engine._lanes is not None
        assert engine._lanes.sizes == (32, 8)
        assert len(trt._cuda.executables) == 2
        same(engine, reference, 16)


def test_larger_batches_get_larger_buffers(
    package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt
) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        same(engine, reference, 4)
        small = sum(size for _, size in trt._cuda.device.values())
        same(engine, reference, 64)
        assert sum(size for _, size in trt._cuda.device.values()) == small * 16
        same(engine, reference, 4)
        assert sum(size for _, size in trt._cuda.device.values()) == small * 16


def test_an_unknown_need_of_memory_is_the_largest(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._unknown_scratch = True
    with TensorRtRuntime(package, "fp32") as engine:
        engine.run(slices(1))
        assert 64 * SCRATCH in [size for _, size in trt._cuda.device.values()]


def test_out_of_memory_halves_the_batch(
    package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        trt._cuda.memory = 9 * (SLICE + SCRATCH)
        same(engine, reference, 30)
        assert engine.most == 8
        assert "no memory for 32 slices at once; going on with 16" in caplog.text
        trt._cuda.memory = 2**31
        same(engine, reference, 30)
        assert engine.most == 8


def test_out_of_memory_in_the_context_halves_too(package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        trt._no_context = True
        with pytest.raises(EngineError, match=r"no memory left for even one slice of 16 x 24"):
            engine.run(slices(2))
        trt._no_context = False
        trt._execute_error = "Error Code 1: Cuda Runtime (out of memory)"
        with pytest.raises(EngineError, match="no memory left for even one slice"):
            engine.run(slices(2))


def test_no_memory_at_all_is_an_engine_error(package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        trt._cuda.memory = SLICE // 2
        with pytest.raises(EngineError, match="no memory left for even one slice"):
            engine.run(slices(3))


@pytest.mark.parametrize("code", [ECC, LAUNCH_FAILED, 46, 700])
def test_a_lost_device_is_said_and_stays_lost(code: int, package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        engine.run(slices(8))
        trt._fault = code
        with pytest.raises(
            EngineError, match=r"NVIDIA H100 80GB HBM3 is lost to this process: .*Another engine"
        ):
            engine.run(slices(8))
        calls = sum(trt._cuda.calls.values())
        with pytest.raises(EngineError, match="is lost to this process"):
            engine.run(slices(8))
        assert sum(trt._cuda.calls.values()) == calls  # the device is left alone
    engine.close()


def test_a_device_lost_between_runs(package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        trt._cuda.lost = 46
        with pytest.raises(EngineError, match="CUDA_ERROR_DEVICE_UNAVAILABLE"):
            engine.run(slices(8))


def test_a_network_that_cannot_be_captured_runs_without_a_graph(
    package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    trt._cannot_capture = True
    with TensorRtRuntime(package, "fp32") as engine:
        same(engine, reference, 8)
        same(engine, reference, 8, seed=1)
        assert trt._cuda.calls["cuGraphLaunch"] == 0
    assert caplog.text.count("no CUDA graph for 8 slices") == 1


def test_what_tensorrt_says_is_in_the_error(package: ModelPackage, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        trt._execute_error = "Error Code 7: Internal Error (shape machine)"
        with pytest.raises(EngineError, match=r"refuses 8 slices: Error Code 7.*build-engine --force"):
            engine.run(slices(8))


def test_a_closed_engine_says_so(package: ModelPackage, trt: FakeTensorRt) -> None:
    engine = TensorRtRuntime(package, "fp32")
    engine.run(slices(2))
    engine.close()
    engine.close()
    assert trt._cuda.left_over == {}
    with pytest.raises(EngineError, match="is closed"):
        engine.run(slices(2))


def test_a_forgotten_engine_frees_the_gpu(package: ModelPackage, trt: FakeTensorRt) -> None:
    engine = TensorRtRuntime(package, "fp32")
    engine.run(slices(2))
    assert trt._cuda.left_over
    del engine
    gc.collect()
    assert trt._cuda.left_over == {}


def test_another_process_cannot_use_it(
    package: ModelPackage, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            with pytest.raises(EngineError, match="forked"):
                engine.run(slices(2))
        engine.run(slices(2))


@pytest.mark.parametrize("shape", [(0, *INPUT), (2, 1, *SPEC.size), (3, *SPEC.size), (1, 3, 8, 8)])
def test_slices_of_another_shape_are_refused(
    shape: tuple[int, ...], package: ModelPackage, trt: FakeTensorRt
) -> None:
    with TensorRtRuntime(package, "fp32") as engine, pytest.raises(ValueError, match="expected"):
        engine.run(np.zeros(shape, np.float32))


def test_threads_take_turns(package: ModelPackage, reference: OnnxRuntime, trt: FakeTensorRt) -> None:
    with TensorRtRuntime(package, "fp32") as engine:
        failures: list[Exception] = []

        def work(seed: int) -> None:
            try:
                same(engine, reference, 5 + seed, seed)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


@pytest.mark.parametrize("version", VERSIONS)
def test_all_recorded_versions_work(
    version: str,
    package: ModelPackage,
    reference: OnnxRuntime,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with stand_ins(version, tmp_path, monkeypatch), TensorRtRuntime(package, "tf32") as engine:
        same(engine, reference, 3)
