"""What all runtimes do alike, with one whose library is a few lines here."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.arrays import Float4D
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtime import BatchedRuntime, check_tensors, is_memory, said
from tests.unit.learned.package_cases import SPEC, mirror_answers, write_package


class TinyLibrary(BatchedRuntime):
    """The mirror network; fails with ``error`` for more than ``room`` slices at once."""

    name = "tiny"
    device = "a test"
    library = "tiny 1.0"

    def __init__(self, package: ModelPackage, precision: str = "fp32", **options: Any) -> None:
        super().__init__(package, precision, 1, 8 * SPEC.size[0] * SPEC.size[1])
        self.room: int = options.get("room", 8)
        self.error: Exception = options.get("error", RuntimeError("std::bad_alloc"))
        self.asked: list[int] = []
        self.freed = 0

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        self.asked.append(len(slices))
        if len(slices) > self.room:
            bg[:] = np.nan  # what was half written must not stay
            raise self.error
        bg[:], sg[:] = mirror_answers(slices)

    def _free(self) -> None:
        self.freed += 1

    def _failures(self) -> tuple[type[Exception], ...]:
        return (RuntimeError, MemoryError)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("batched") / "model"))


@pytest.fixture(scope="module")
def slices() -> Float4D:
    return np.random.default_rng(1).normal(size=(11, 3, *SPEC.size)).astype(np.float32)


def same(found: tuple[Float4D, Float4D], slices: Float4D) -> bool:
    return all(np.array_equal(f, e) for f, e in zip(found, mirror_answers(slices), strict=True))


def test_every_slice_has_its_own_answer_in_its_place(package: ModelPackage, slices: Float4D) -> None:
    engine = TinyLibrary(package)
    assert same(engine.run(slices), slices)
    assert engine.asked == [8, 3]


def test_when_memory_runs_out_half_as_many_go_at_once_from_then_on(
    package: ModelPackage, slices: Float4D, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TinyLibrary(package, room=3)
    with caplog.at_level(logging.WARNING):
        assert same(engine.run(slices), slices)
    assert engine.asked == [8, 4, 2, 2, 2, 2, 2, 1]
    assert "going on with 4" in caplog.text
    engine.asked.clear()
    assert same(engine.run(slices[:5]), slices[:5])
    assert engine.asked == [2, 2, 1]


def test_without_memory_for_one_slice_the_engine_is_of_no_use(package: ModelPackage, slices: Float4D) -> None:
    engine = TinyLibrary(package, room=0, error=MemoryError())
    with pytest.raises(EngineError, match="even one slice of 136 x 112"):
        engine.run(slices)


def test_another_failure_is_not_tried_again(package: ModelPackage, slices: Float4D) -> None:
    engine = TinyLibrary(package, room=0, error=RuntimeError("kernel died\nwith a long trace"))
    with pytest.raises(EngineError, match=r"tiny 1\.0 failed on a test: kernel died\. Another engine"):
        engine.run(slices)
    assert engine.asked == [8]


def test_a_defect_of_ours_is_not_hidden(package: ModelPackage, slices: Float4D) -> None:
    with pytest.raises(KeyError):
        TinyLibrary(package, room=0, error=KeyError("ours")).run(slices)


def test_a_closed_engine_says_so(package: ModelPackage, slices: Float4D) -> None:
    engine = TinyLibrary(package)
    engine.close()
    engine.close()
    assert engine.freed == 2
    with pytest.raises(EngineError, match="closed"):
        engine.run(slices)


def test_slices_may_lie_anyhow_in_memory(package: ModelPackage, slices: Float4D) -> None:
    turned = slices[:3, :, ::-1, ::-1]
    assert same(TinyLibrary(package).run(turned), np.ascontiguousarray(turned))
    locked = slices[:2].copy()
    locked.flags.writeable = False
    assert same(TinyLibrary(package).run(locked), locked)


def test_callers_wait_for_each_other(package: ModelPackage, slices: Float4D) -> None:
    engine = TinyLibrary(package)
    inside = []

    def answer(slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        inside.append(1)
        assert len(inside) == 1
        bg[:], sg[:] = mirror_answers(slices)
        inside.pop()

    engine._answer = answer  # type: ignore[method-assign]
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(same(engine.run(slices), slices))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "Exception from src/inference: std::bad_alloc",
        "Failed to allocate memory for requested buffer of size 123",
        "AllocateRawInternal Available memory of 0 is smaller than requested bytes of 2048",
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
        "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cudaErrorMemoryAllocation: out of memory",
    ],
)
def test_memory_that_ran_out_is_known_by_its_words(words: str) -> None:
    assert is_memory(RuntimeError(words))


@pytest.mark.parametrize("words", ["CUDA error: an illegal memory access was encountered", "", "no kernel"])
def test_other_failures_are_not_taken_for_it(words: str) -> None:
    assert not is_memory(RuntimeError(words))
    assert is_memory(MemoryError(words))


def test_of_a_library_the_first_line_is_told() -> None:
    assert said(RuntimeError("\n one line. \nand a trace")) == "one line"
    assert said(RuntimeError("")) == "RuntimeError"
    assert len(said(RuntimeError("x" * 5000))) == 200


def test_a_graph_must_be_the_described_one(package: ModelPackage, tmp_path: Path) -> None:
    rows, columns = SPEC.size
    right = {
        "slices": ("float32", ["n", 3, rows, columns]),
        "bg_probability": ("float32", ["n", 9, rows, columns]),
        "sg_probability": ("float32", ["n", 6, rows, columns]),
    }
    check_tensors(package, right)
    for change in (
        {"slices": ("float32", [1, 3, rows, columns])},
        {"slices": ("float16", ["n", 3, rows, columns])},
        {"bg_probability": ("float32", ["n", 9, columns, rows])},
        {"more": ("float32", ["n"])},
    ):
        with pytest.raises(ModelPackageError, match=r"model\.onnx has tensors"):
            check_tensors(package, {**right, **change})
