"""Stand-ins for engines in tests of the benchmark: known answers, known faults, one of them deadly."""

from __future__ import annotations

import os

import numpy as np

from strokecore.arrays import Float4D
from strokecore.errors import EngineError
from strokecore.learned import runtimes
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Answers, Runtime
from tests.unit.learned.package_cases import mirror_answers

HELD_MIB = 128


class Right:
    """Answers as the mirror network does."""

    device = "a test's machine"
    library = "fake 1.0"

    def __init__(self, name: str, precision: str) -> None:
        self.name, self.precision, self.closed = name, precision, False

    def run(self, slices: Float4D) -> Answers:
        return Answers(*mirror_answers(slices))

    def close(self) -> None:
        self.closed = True


class Hungry(Right):
    """Holds HELD_MIB of memory."""

    def run(self, slices: Float4D) -> Answers:
        self.held = np.ones(HELD_MIB * 2**20, np.uint8)
        return super().run(slices)


class Tired(Right):
    """Runs whole series and fails on a single slice."""

    def run(self, slices: Float4D) -> Answers:
        if len(slices) == 1:
            raise RuntimeError("one slice is too few")
        return super().run(slices)


def start(package: ModelPackage, name: str, precision: str, threads: int) -> Runtime:
    """In place of strokecore.learned.runtimes.start; only ONNX Runtime on the CPU is itself."""
    match name, precision:
        case "openvino", "bf16":
            return Right(name, precision)
        case "openvino", "fp32":
            return Tired(name, precision)
        case "onnx-cuda", "fp32":
            return Hungry(name, precision)
        case "tensorrt", "bf16":
            raise EngineError("no library in /home/somebody/lib/libfake.so; run: pip install fake")
        case "tensorrt", "fp16":
            os._exit(77)
    return runtimes.start(package, name, precision, threads)
