"""TensorRT on a real GPU: built, compared with ONNX Runtime, killed and rebuilt; for deploy/gpu-acceptance.

Needs an NVIDIA GPU and TensorRT; skipped with the reason where either is missing. Nothing is timed.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from strokecore.learned.cuda import Cuda, CudaError

from strokecore.errors import EngineError
from strokecore.learned import plans, tensorrt_plan
from strokecore.learned.devices import driver_version, gpus
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.tensorrt import TensorRtRuntime, build, ready, unavailable
from strokecore.learned.tensorrt_build import PRECISIONS, check_precision
from tests.unit.learned.tensorrt_cases import INPUT, slices, write_small_package
from tests.unit.learned.tensorrt_uses import SOURCE

pytestmark = pytest.mark.gpu

# Of a class probability, against ONNX Runtime in fp32.
LARGEST = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 0.1}
# The parity gate's own measure, of the whole answer.
AT_999 = 0.02
SHIPPED = [path.parent for path in sorted((SOURCE / "models").glob("*/model.json"))]


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own; the folder of the plans."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_small_package(tmp_path_factory.mktemp("gpu") / "model"))


@pytest.fixture(scope="module")
def plan_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the tests that only need an engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STROKECORE_CACHE", str(tmp_path_factory.mktemp("plans")))
        yield


@pytest.fixture
def engine(package: ModelPackage, plan_cache: None) -> Iterator[TensorRtRuntime]:
    with TensorRtRuntime(package, "fp32") as made:
        yield made


def possible(precision: str) -> None:
    try:
        check_precision(precision, gpus()[0])
    except EngineError as error:
        pytest.skip(str(error))


def inputs(package: ModelPackage, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    shape = (count, len(package.spec.channels), *package.spec.size)
    return np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)


def differences(
    found: tuple[npt.NDArray[np.float32], ...], expected: tuple[npt.NDArray[np.float32], ...]
) -> npt.NDArray[np.float32]:
    for arm, reference in zip(found, expected, strict=True):
        assert arm.shape == reference.shape
        assert arm.dtype == np.float32
        assert np.isfinite(arm).all()
        assert np.abs(arm.sum(axis=1) - 1.0).max() < 0.02
    return np.concatenate([np.abs(a - b).ravel() for a, b in zip(found, expected, strict=True)])


def test_the_driver_is_there() -> None:
    version = driver_version()
    assert version is not None
    assert version >= (12, 0)
    for gpu in gpus():
        assert gpu.name
        assert gpu.memory_bytes > 2**30
        assert gpu.compute_capability >= (7, 0)
        assert len(gpu.uuid) == 32


def test_memory_goes_there_and_back() -> None:
    cuda = Cuda(0)
    sent, received = cuda.allocate_pinned((1000,)), cuda.allocate_pinned((1000,))
    address = cuda.allocate(sent.nbytes)
    try:
        sent[:] = np.random.default_rng(0).normal(size=1000)
        received[:] = 0
        cuda.upload(address, sent)
        cuda.download(received, address)
        cuda.synchronize()
        assert np.array_equal(sent, received)
        graph = cuda.capture(lambda: cuda.download(received, address))
        received[:] = 0
        cuda.launch(graph)
        cuda.synchronize()
        assert np.array_equal(sent, received)
        cuda.free_graph(graph)
        with pytest.raises(CudaError) as found:
            cuda.allocate(2**50)
        assert found.value.out_of_memory
        assert cuda.free_bytes() > 0
    finally:
        cuda.free(address)
        cuda.free_pinned(sent)
        cuda.free_pinned(received)
        cuda.close()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_small_network(precision: str, package: ModelPackage, plan_cache: None) -> None:
    possible(precision)
    reference = OnnxRuntime(package)
    with TensorRtRuntime(package, precision) as engine:
        assert engine.device == gpus()[0].name
        for seed, count in enumerate((30, 1, 70, 5, 33, 30)):
            given = slices(count, seed)
            found = differences(engine.run(given), reference.run(given))
            assert found.max() <= LARGEST[precision]
            assert np.quantile(found, 0.999) <= AT_999


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_shipped_model(precision: str, folder: Path, plan_cache: None) -> None:
    possible(precision)
    package = load_package(folder)
    with np.load(package.golden, allow_pickle=False) as golden:
        given = golden["slices"]
    with TensorRtRuntime(package, precision) as engine:
        found = differences(engine.run(given), OnnxRuntime(package).run(given))
    assert np.quantile(found, 0.999) <= AT_999


def test_the_same_input_gives_the_same_bytes(engine: TensorRtRuntime) -> None:
    given = slices(30)
    first, second = engine.run(given), engine.run(given)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_graph_is_captured_once_for_each_size(
    engine: TensorRtRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = []
    capture = Cuda.capture

    def counted(self: Cuda, queue: Any) -> int:
        graph = capture(self, queue)
        captured.append(graph)
        return graph

    monkeypatch.setattr(Cuda, "capture", counted)
    for count in (32, 30, 32, 16, 32, 16):
        engine.run(slices(count))
    assert len(captured) == 2
    assert all(captured)


def test_graphs_answer_as_the_plain_calls_do(
    package: ModelPackage, plan_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [slices(count, count) for count in (32, 4, 32, 64, 16, 8, 2, 32)]
    with TensorRtRuntime(package, "fp32") as engine:
        by_graph = [engine.run(part) for part in given]

    def never(self: Cuda, queue: Any) -> int:
        raise EngineError("no graphs in this test")

    monkeypatch.setattr(Cuda, "capture", never)
    with TensorRtRuntime(package, "fp32") as engine:
        plainly = [engine.run(part) for part in given]
    for one, other in zip(by_graph, plainly, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_plan_is_built_once(package: ModelPackage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ready(package, "fp32")
    built = build(package, "fp32")
    assert built.seconds is not None
    assert ready(package, "fp32")
    assert list(cache.glob("*.timing"))

    def never(*arguments: Any) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as only_cache:
        only_cache.setattr(tensorrt_plan, "build_plan", never)
        TensorRtRuntime(package, "fp32").close()
    plan = plans.path_of(built.key)
    plan.write_bytes(plan.read_bytes()[:-1])
    assert not ready(package, "fp32")
    with TensorRtRuntime(package, "fp32") as engine:
        engine.run(slices(2))
    assert ready(package, "fp32")


def test_a_killed_build_leaves_nothing_in_the_way(package: ModelPackage, cache: Path) -> None:
    command = tensorrt_plan.background_command(package.folder, "fp32", 0)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not plans.being_built(gpus()[0]) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not plans.being_built(gpus()[0])
    with TensorRtRuntime(package, "fp32") as engine:
        engine.run(slices(2))


def test_two_processes_build_once(package: ModelPackage, cache: Path) -> None:
    command = [sys.executable, "-m", "strokecore", "build-engine", str(package.folder), "--precision", "fp32"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("was there" in text for text in said) == [False, True]


def test_engines_work_side_by_side(package: ModelPackage, plan_cache: None) -> None:
    reference = OnnxRuntime(package)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with TensorRtRuntime(package, "fp32") as engine:
                for count in (8, 3, 30):
                    given = slices(count, seed)
                    found = differences(engine.run(given), reference.run(given))
                    assert found.max() <= LARGEST["fp32"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_little_memory_makes_small_batches(engine: TensorRtRuntime) -> None:
    """Fills the GPU for a moment; another program on it may fail meanwhile."""
    hog = Cuda(0)
    held: list[int] = []
    # what 16 slices take in and out: more than one fits, and fewer than 64
    room = 16 * 4 * (INPUT[0] + 15) * INPUT[1] * INPUT[2]
    try:
        size = 2**32
        while size >= 2**14:
            try:
                if hog.free_bytes() - size < room:
                    raise CudaError("", 2, "")
                held.append(hog.allocate(size))
            except CudaError:
                size //= 2
        with contextlib.suppress(EngineError):  # other programs may take what is left
            for arm in engine.run(slices(64)):
                assert np.isfinite(arm).all()
    finally:
        for address in held:
            hog.free(address)
        hog.close()
    given = slices(64)
    assert all(np.isfinite(arm).all() for arm in engine.run(given))


def test_an_engine_after_another(package: ModelPackage, plan_cache: None) -> None:
    """The gate tries one precision, closes it and tries the next, all in one process."""
    reference = OnnxRuntime(package).run(slices(5))
    for precision in ("fp32", "tf32", "fp32"):
        if precision == "tf32" and gpus()[0].compute_capability < (8, 0):
            continue
        with TensorRtRuntime(package, precision) as engine:
            assert differences(engine.run(slices(5)), reference).max() <= LARGEST[precision]
