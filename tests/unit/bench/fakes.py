"""Engines for tests of the benchmark: known answers, known faults, one of them deadly."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from strokecore.errors import EngineError
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Float4D

HELD_MIB = 96


class Reference:
    """Answers by how bright the second channel is; stands for ONNX Runtime."""

    engine = "fake"
    PRECISIONS: tuple[str, ...] = ("fp32",)
    device = "a test's machine"
    library = "fake 1.0"
    bias = 0.0

    def __init__(self, package: ModelPackage, precision: str, threads: int | None = None) -> None:
        if precision not in self.PRECISIONS:
            raise EngineError(f"no {precision} here; expected {', '.join(self.PRECISIONS)}.")
        self.precision, self.threads, self.closed = precision, threads, False

    def run(self, slices: Float4D) -> tuple[Float4D, Float4D]:
        infarct = np.clip(1 / (1 + np.exp(-slices[:, 1:2])) + np.float32(self.bias), 0, 1)
        return tuple(
            np.concatenate([1 - infarct, np.repeat(infarct / others, others, axis=1)], axis=1)
            for others in (8, 5)
        )

    def close(self) -> None:
        self.closed = True


class Biased(Reference):
    """Answers a little off."""

    PRECISIONS = ("bf16", "fp32")
    bias = 0.01


class Absent(Reference):
    """Cannot be opened; its words hold a folder of this machine."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise EngineError("no library in /home/somebody/lib/libfake.so; run: pip install fake")


class Deadly(Reference):
    """Takes its process with it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        os._exit(77)


class Tired(Reference):
    """Runs whole series and fails on a single slice."""

    def run(self, slices: Float4D) -> tuple[Float4D, Float4D]:
        if len(slices) == 1:
            raise RuntimeError("one slice is too few")
        return super().run(slices)


class Hungry(Reference):
    """Holds HELD_MIB of memory."""

    def run(self, slices: Float4D) -> tuple[Float4D, Float4D]:
        self.held = np.ones(HELD_MIB * 2**20, np.uint8)
        return super().run(slices)
