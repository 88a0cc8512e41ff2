from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from strokecore.bench import memory
from strokecore.bench.memory import Memory, measure_memory
from strokecore.evaluate.workers import map_in_processes
from tests.unit.bench.fakes import HELD_MIB, start
from tests.unit.learned.package_cases import SPEC, write_package

SLICES = np.zeros((2, 3, *SPEC.size), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("memory") / "model")


def in_a_process(folder: Path, engine: str, precision: str) -> Any:
    measure = partial(measure_memory, start, folder, engine, precision, 1)
    return map_in_processes(measure, [SLICES], workers=1, timeout_s=60)[0]


def gpu_mib(folder: Path) -> int | None:
    found = measure_memory(start, folder, "openvino", "bf16", 1, SLICES)
    assert isinstance(found, Memory)
    return found.gpu_mib


def test_what_an_engine_holds_is_seen_and_not_what_its_parent_holds(folder: Path) -> None:
    block = np.ones(2**30, np.uint8)
    lean, hungry = in_a_process(folder, "openvino", "bf16"), in_a_process(folder, "onnx-cuda", "fp32")
    assert isinstance(lean, Memory)
    assert isinstance(hungry, Memory)
    assert 0 <= lean.load_s < 60
    assert lean.peak_mib is not None
    assert hungry.peak_mib is not None
    assert lean.peak_mib < block.nbytes / 2**20
    # the second run's block is made before the first one's is let go
    assert HELD_MIB <= hungry.peak_mib - lean.peak_mib < 2 * HELD_MIB + 64


def test_an_engine_that_cannot_be_started_says_why(folder: Path) -> None:
    assert in_a_process(folder, "tensorrt", "bf16") == "no library in libfake.so; run: pip install fake"


@pytest.mark.parametrize(("status", "mib"), [(0, 3 * 1024), (35, None)])
def test_memory_of_a_gpu_is_what_is_not_free(
    status: int, mib: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = SimpleNamespace(cudaMemGetInfo=lambda: (status, 7 * 2**30, 10 * 2**30))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(memory, "gpus", lambda: ("a GPU",))
    assert gpu_mib(folder) == mib


def test_without_a_gpu_there_is_no_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpus", lambda: ())
    assert gpu_mib(folder) is None
    monkeypatch.setattr(memory, "gpus", lambda: ("a GPU",))
    monkeypatch.setitem(sys.modules, "cuda", None)
    assert gpu_mib(folder) is None
