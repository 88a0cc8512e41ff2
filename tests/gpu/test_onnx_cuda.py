"""ONNX Runtime on a real GPU. Skipped, with the reason, where ``strokecore engines`` has no onnx-cuda."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from strokecore.learned.devices import gpus
from strokecore.learned.onnx import OnnxCudaRuntime, OnnxRuntime
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtime import Answers
from strokecore.learned.runtimes import availability, start
from strokecore.learned.shipped import SHIPPED

pytestmark = pytest.mark.gpu

# Of a class probability, against ONNX Runtime on the CPU.
LARGEST = {"fp32": 1e-4, "tf32": 5e-2}
# The parity gate's own measure, of the whole answer.
AT_999 = {"fp32": 1e-4, "tf32": 0.02}


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> None:
    found = availability("onnx-cuda")
    if not found.available:
        pytest.skip(found.reason)


@pytest.fixture(scope="module")
def package() -> ModelPackage:
    return load_package(SHIPPED)


@pytest.fixture(scope="module")
def golden(package: ModelPackage) -> Any:
    with np.load(package.golden, allow_pickle=False) as file:
        return file["slices"]


@pytest.fixture(scope="module")
def reference(package: ModelPackage, golden: Any) -> Answers:
    return OnnxRuntime(package).run(golden)


def differences(found: Any, expected: Any) -> Any:
    return np.concatenate([np.abs(f - e).ravel() for f, e in zip(found, expected, strict=True)])


def test_precisions_are_within_the_gates_limits_and_differ(
    package: ModelPackage, golden: Any, reference: Answers
) -> None:
    worst = {}
    for precision in availability("onnx-cuda").precisions:
        runtime = start(package, "onnx-cuda", precision, 1)
        assert runtime.device == gpus()[0].name
        off = differences(runtime.run(golden), reference)
        runtime.close()
        worst[precision] = off.max()
        assert off.max() < LARGEST[precision]
        assert np.quantile(off, 0.999) < AT_999[precision]
    assert len(set(worst.values())) == len(worst)  # else the setting had no effect


@pytest.mark.parametrize("number", [1, 2, 3, 7, 30, 34, 64, 130])
def test_every_number_of_slices_has_its_answers_in_their_places(
    number: int, package: ModelPackage, golden: Any, reference: Answers
) -> None:
    rows = np.arange(number) % len(golden)
    runtime = OnnxCudaRuntime(package, "fp32")
    found = runtime.run(golden[rows])
    runtime.run(golden[rows][::-1])
    assert differences(found, [arm[rows] for arm in reference]).max() < LARGEST["fp32"]


def test_the_same_slices_give_the_same_bytes(package: ModelPackage, golden: Any) -> None:
    precision = availability("onnx-cuda").precisions[0]
    runtime = OnnxCudaRuntime(package, precision)
    first, second = runtime.run(golden), runtime.run(golden)
    other = OnnxCudaRuntime(package, precision).run(golden)
    for a, b, c in zip(first, second, other, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


def test_when_memory_runs_out_fewer_slices_go_at_once(
    package: ModelPackage, golden: Any, reference: Answers
) -> None:
    class Small(OnnxCudaRuntime):
        def _provider_options(self) -> dict[str, str]:
            return super()._provider_options() | {"gpu_mem_limit": str(2**28)}

    runtime = Small(package, "fp32")
    before = runtime.batch
    rows = np.arange(before) % len(golden)
    found = runtime.run(golden[rows])
    assert runtime.batch < before
    assert differences(found, [arm[rows] for arm in reference]).max() < LARGEST["fp32"]
