from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.bench.gpu_memory import gpu_bytes_in_use
from strokecore.bench.memory import forget_peak, measure_memory, resident_bytes
from strokecore.bench.subjects import Kind, Subject
from strokecore.errors import EngineError
from tests.unit.bench.fakes import HELD_MIB
from tests.unit.learned.package_cases import write_package

MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("memory") / "model")


def measured(folder: Path, name: str) -> Any:
    subject = Subject(name, "fp32", Kind("tests.unit.bench.fakes", name))
    return measure_memory(subject.to_dict(), folder, slices=2, threads=1)


def test_what_an_engine_holds_is_seen(folder: Path) -> None:
    lean, hungry = measured(folder, "Reference"), measured(folder, "Hungry")
    assert 0 < lean.load_s < 60
    # Hungry holds the old and the new block for a moment, at its second run
    assert HELD_MIB * MIB <= hungry.host_bytes - lean.host_bytes < 2 * HELD_MIB * MIB + 64 * MIB
    assert lean.torch_bytes is None


def test_an_engine_that_cannot_be_opened_says_why(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"^no library in libfake.so; run: pip install fake$"):
        measured(folder, "Absent")


def test_an_engine_that_kills_its_process_is_an_error_only(folder: Path) -> None:
    with pytest.raises(EngineError, match="status 77"):
        measured(folder, "Deadly")


def test_the_peak_of_this_process_is_forgotten() -> None:
    block = np.ones(64 * MIB, np.uint8)
    assert resident_bytes()[1] >= block.nbytes
    del block
    forget_peak()
    now, peak = resident_bytes()
    assert now <= peak < now + 32 * MIB


class Driver:
    """The driver's half of the interface, with 3 of 10 GiB taken."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 1 if name == self.failing else self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> int:
        if name == "cuMemGetInfo_v2":
            for reference, value in zip(arguments, (7 * 2**30, 10 * 2**30), strict=True):
                reference._obj.value = value
        return 0


def test_memory_of_a_gpu_is_what_is_not_free() -> None:
    assert gpu_bytes_in_use(lambda name: Driver()) == 3 * 2**30


@pytest.mark.parametrize("failing", ["cuInit", "cuDevicePrimaryCtxRetain", "cuMemGetInfo_v2"])
def test_without_a_usable_gpu_there_is_none(failing: str) -> None:
    def absent(name: str) -> ctypes.CDLL:
        raise OSError(name)

    assert gpu_bytes_in_use(lambda name: Driver(failing)) is None
    assert gpu_bytes_in_use(absent) is None
