"""torch on a real GPU: precisions, CUDA graphs, memory that runs out. Skipped where torch sees no GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from strokecore.errors import EngineError
from strokecore.learned.onnx import OnnxEngine
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.shipped import SHIPPED
from strokecore.learned.torch import TorchEngine
from tests.unit.learned.network_cases import (
    nano_backbones,
    random_network,
    random_slices,
    write_network_package,
)

pytestmark = pytest.mark.gpu

# Of a class probability, against ONNX Runtime in fp32.
LARGEST = {"fp32": 1e-4, "tf32": 5e-2, "bf16": 0.3}
# The parity gate's own measure, of the whole answer.
AT_999 = {"fp32": 1e-4, "tf32": 0.02, "bf16": 0.02}


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no NVIDIA GPU")


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(SHIPPED)


@pytest.fixture(scope="module")
def golden(package: ModelPackage) -> Any:
    with np.load(package.golden, allow_pickle=False) as file:
        return file["slices"]


@pytest.fixture(scope="module")
def reference(package: ModelPackage, golden: Any) -> Any:
    return OnnxEngine(package).run(golden)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelPackage]:
    with nano_backbones():
        folder = write_network_package(tmp_path_factory.mktemp("gpu") / "nano", random_network("nano"))
        yield load_package(folder)


def differences(found: Any, expected: Any) -> Any:
    return np.concatenate([np.abs(f - e).ravel() for f, e in zip(found, expected, strict=True)])


def usable(package: ModelPackage, precision: str, **options: Any) -> TorchEngine:
    try:
        return TorchEngine(package, precision, **options)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("precision", TorchEngine.PRECISIONS)
def test_a_precision_is_within_the_gates_limits(
    precision: str, cuda_graphs: bool, package: ModelPackage, golden: Any, reference: Any
) -> None:
    engine = usable(package, precision, cuda_graphs=cuda_graphs)
    assert engine.on_gpu
    assert engine.device == torch.cuda.get_device_name(0)
    off = differences(engine.run(golden), reference)
    assert off.max() < LARGEST[precision]
    assert np.quantile(off, 0.999) < AT_999[precision]
    engine.close()


def test_precisions_differ(package: ModelPackage, golden: Any, reference: Any) -> None:
    """Else a setting had no effect."""
    off = {
        precision: differences(
            usable(package, precision).run(golden[:8]), [arm[:8] for arm in reference]
        ).max()
        for precision in TorchEngine.PRECISIONS
    }
    assert off["fp32"] < off["tf32"] < off["bf16"]


@pytest.mark.parametrize("number", [1, 2, 3, 7, 30, 34, 64, 130])
def test_every_number_of_slices_has_its_answers_in_their_places(number: int, small: ModelPackage) -> None:
    engine = TorchEngine(small, "fp32")
    slices = random_slices(number, seed=number)
    expected = OnnxEngine(small).run(slices)
    assert differences(engine.run(slices), expected).max() < 1e-4
    kept = engine.run(slices)
    engine.run(random_slices(number, seed=number + 1))
    assert differences(kept, expected).max() < 1e-4


def test_the_same_slices_give_the_same_bytes(package: ModelPackage, golden: Any) -> None:
    engine = usable(package, "bf16")
    first, second = engine.run(golden), engine.run(golden)
    other = usable(package, "bf16").run(golden)
    for a, b, c in zip(first, second, other, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


def test_settings_of_the_process_are_as_they_were(package: ModelPackage, golden: Any) -> None:
    def state() -> tuple[Any, ...]:
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic

    before = state()
    usable(package, "tf32").run(golden[:2])
    assert state() == before


def test_a_closed_engine_gives_its_memory_back(package: ModelPackage, golden: Any) -> None:
    before = torch.cuda.memory_reserved()
    engine = TorchEngine(package, "fp32")
    engine.run(golden)
    grown = torch.cuda.memory_reserved() - before
    engine.close()
    # libraries keep their working memory
    assert torch.cuda.memory_reserved() - before < grown / 2


def test_when_memory_runs_out_fewer_slices_go_at_once(
    package: ModelPackage, golden: Any, reference: Any
) -> None:
    engine = TorchEngine(package, "fp32")
    most = np.concatenate([golden] * (64 // len(golden) + 1))[:64]
    engine.run(golden[:1])
    taken = torch.cuda.memory_reserved() + 64 * 2**20
    share = taken / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        found = engine.run(most)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.batch < 64
    assert differences([arm[: len(golden)] for arm in found], reference).max() < 1e-4


def test_a_recording_bears_another_thread_at_work(small: ModelPackage) -> None:
    """A TensorRT engine may be built in the background of the same process."""
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                torch.empty(2**20, device="cuda").fill_(1.0)
                torch.cuda.synchronize()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        slices = random_slices(8)
        found = TorchEngine(small, "fp32").run(slices)
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert differences(found, OnnxEngine(small).run(slices)).max() < 1e-4
