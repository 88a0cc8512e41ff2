"""TensorRT on a real GPU: built, compared with ONNX Runtime, killed and built again.

Needs an NVIDIA GPU and TensorRT; skipped with the reason where either is missing. Nothing is timed.
"""

from __future__ import annotations

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

from strokecore.errors import EngineError
from strokecore.files import is_locked
from strokecore.learned.devices import checked, cuda_driver, driver_version, gpus, use_gpu
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtimes import availability, runtime_kind
from strokecore.learned.shipped import SHIPPED
from strokecore.learned.tensorrt import build as building
from strokecore.learned.tensorrt.build import build
from strokecore.learned.tensorrt.engine_files import engine_file, ready
from strokecore.learned.tensorrt.runtime import TensorRtRuntime
from tests.unit.learned.tensorrt.cases import INPUT, add_typed_graphs, slices, write_small_package

pytestmark = pytest.mark.gpu

PRECISIONS = runtime_kind("tensorrt").precisions
# Of a class probability, against ONNX Runtime in fp32.
LARGEST = {"fp32": 1e-4, "tf32": 2e-2, "fp16": 2e-2, "bf16": 0.1}
# The parity gate's own measure, of the whole answer.
AT_999 = 0.02


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    here = availability("tensorrt")
    if not here.available:
        pytest.skip(f"{here.reason}; {here.install}")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own; the folder of the engines."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return add_typed_graphs(write_small_package(tmp_path_factory.mktemp("gpu") / "model"))


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the tests that only need a runtime."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STROKECORE_CACHE", str(tmp_path_factory.mktemp("engines")))
        yield


@pytest.fixture
def runtime(package: ModelPackage, shared_cache: None) -> Iterator[TensorRtRuntime]:
    made = TensorRtRuntime(package, "fp32")
    yield made
    made.close()


def possible(precision: str) -> None:
    if precision not in availability("tensorrt").precisions:
        pytest.skip(f"this GPU has no {precision}")


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
    driver = cuda_driver()
    use_gpu(gpus()[0])
    sent, received = np.random.default_rng(0).normal(size=1000), np.zeros(1000)
    stream = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    address = checked(driver.cuMemAlloc(sent.nbytes))
    checked(driver.cuMemcpyHtoDAsync(address, sent.ctypes.data, sent.nbytes, stream))
    checked(driver.cuMemcpyDtoHAsync(received.ctypes.data, address, sent.nbytes, stream))
    checked(driver.cuStreamSynchronize(stream))
    assert np.array_equal(sent, received)
    with pytest.raises(MemoryError):
        checked(driver.cuMemAlloc(2**50))
    checked(driver.cuMemFree(address))
    checked(driver.cuStreamDestroy(stream))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_small_network(precision: str, package: ModelPackage, shared_cache: None) -> None:
    possible(precision)
    reference = OnnxRuntime(package)
    runtime = TensorRtRuntime(package, precision)
    assert runtime.device == gpus()[0].name
    for seed, count in enumerate((30, 1, 70, 5, 33, 30)):
        given = slices(count, seed)
        found = differences(runtime.run(given), reference.run(given))
        assert found.max() <= LARGEST[precision]
        assert np.quantile(found, 0.999) <= AT_999
    runtime.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_the_shipped_model(precision: str, shared_cache: None) -> None:
    possible(precision)
    package = load_package(SHIPPED)
    with np.load(package.golden, allow_pickle=False) as golden:
        given = golden["slices"]
    runtime = TensorRtRuntime(package, precision)
    found = differences(runtime.run(given), OnnxRuntime(package).run(given))
    assert np.quantile(found, 0.999) <= AT_999
    runtime.close()


def test_the_same_input_gives_the_same_bytes(runtime: TensorRtRuntime) -> None:
    given = slices(30)
    first, second = runtime.run(given), runtime.run(given)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_engine_is_built_once(package: ModelPackage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ready(package, "fp32")
    built = build(engine_file(package, "fp32"))
    assert built.seconds is not None
    assert ready(package, "fp32")

    def never(*arguments: Any) -> None:
        raise AssertionError("built again")

    with monkeypatch.context() as only_cache:
        only_cache.setattr(building, "compile_network", never)
        TensorRtRuntime(package, "fp32").close()
    path = built.file.path
    path.write_bytes(path.read_bytes()[:-1])
    assert not ready(package, "fp32")
    runtime = TensorRtRuntime(package, "fp32")
    runtime.run(slices(2))
    runtime.close()
    assert ready(package, "fp32")


def test_a_killed_build_leaves_nothing_in_the_way(package: ModelPackage, cache: Path) -> None:
    command = building.background_command(package.folder, "fp32")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = engine_file(package, "fp32").lock
    deadline = time.monotonic() + 120
    while not is_locked(lock) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not is_locked(lock)
    runtime = TensorRtRuntime(package, "fp32")
    runtime.run(slices(2))
    runtime.close()


def test_two_processes_build_once(package: ModelPackage, cache: Path) -> None:
    command = [sys.executable, "-m", "strokecore", "build-engine", str(package.folder), "--precision", "fp32"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("was there" in text for text in said) == [False, True]


def test_runtimes_work_side_by_side(package: ModelPackage, shared_cache: None) -> None:
    reference = OnnxRuntime(package)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            runtime = TensorRtRuntime(package, "fp32")
            for count in (8, 3, 30):
                given = slices(count, seed)
                found = differences(runtime.run(given), reference.run(given))
                assert found.max() <= LARGEST["fp32"]
            runtime.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_little_memory_makes_small_batches(runtime: TensorRtRuntime) -> None:
    """Fills the GPU for a moment; another program on it may fail meanwhile."""
    driver = cuda_driver()
    use_gpu(gpus()[0])
    held: list[Any] = []
    size = 2**36
    # what 16 slices take in and out: more than one fits, and fewer than 64
    room = checked(driver.cuMemAlloc(16 * 4 * (INPUT[0] + 15) * INPUT[1] * INPUT[2]))
    try:
        while size >= 2**14:
            try:
                held.append(checked(driver.cuMemAlloc(size)))
            except MemoryError:
                size //= 2
        checked(driver.cuMemFree(room))
        try:
            answers = runtime.run(slices(64))
        except EngineError:  # other programs may take what is left
            return
        assert all(np.isfinite(arm).all() for arm in answers)
    finally:
        for address in held:
            checked(driver.cuMemFree(address))
    assert all(np.isfinite(arm).all() for arm in runtime.run(slices(64)))


def test_one_runtime_after_another(package: ModelPackage, shared_cache: None) -> None:
    """The gate tries one precision, closes it and tries the next, all in one process."""
    reference = OnnxRuntime(package).run(slices(5))
    for precision in ("fp32", "tf32", "fp32"):
        if precision in availability("tensorrt").precisions:
            runtime = TensorRtRuntime(package, precision)
            assert differences(runtime.run(slices(5)), reference).max() <= LARGEST[precision]
            runtime.close()
