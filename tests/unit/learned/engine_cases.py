"""Engines for tests of the gate and of what selects by it: one that is right, and many that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.arrays import Float4D
from strokecore.errors import EngineError
from strokecore.learned import runtimes, selection
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Answers
from strokecore.learned.runtimes import RUNTIME_NAMES, Availability
from tests.unit.learned.package_cases import mirror_answers

Arms = tuple[Float4D, Float4D]


class MirrorRuntime:
    """Computes what the mirror network does, with a fault of choice.

    Attributes
    ----------
    runs: number of slices of each run so far.
    closed: how often it was closed.
    """

    def __init__(
        self,
        package: ModelPackage,
        name: str = "onnx",
        precision: str = "fp32",
        fault: Callable[[Float4D, int], Arms] | None = None,
        batch: int = 1,
    ) -> None:
        self.package, self.name, self.precision, self.batch = package, name, precision, batch
        self.device, self.library = "a test", "numpy"
        self.fallbacks: tuple[str, ...] = ()
        self.fault = fault
        self.runs: list[int] = []
        self.closed = 0

    def run(self, slices: Float4D) -> Answers:
        self.runs.append(len(slices))
        arms = mirror_answers(slices) if self.fault is None else self.fault(slices, len(self.runs))
        return Answers(*arms)

    def close(self) -> None:
        self.closed += 1


def of_arms(change: Callable[[Float4D], Float4D]) -> Callable[[Float4D, int], Arms]:
    """A fault that alters both arms' answers alike."""

    def fault(slices: Float4D, _: int) -> Arms:
        bg, sg = mirror_answers(slices)
        return change(bg), change(sg)

    return fault


def of_log_odds(change: Callable[[Float4D], Float4D]) -> Callable[[Float4D, int], Arms]:
    """A fault in the log-odds of infarct; the answers are probabilities all the same."""

    def altered(arm: Float4D) -> Float4D:
        odds = np.log(arm[:, 1].astype(np.float64) + 1e-30) - np.log(arm[:, 0].astype(np.float64) + 1e-30)
        odds = change(odds.astype(np.float32)).astype(np.float64)
        out = np.zeros_like(arm)
        out[:, 1], out[:, 0] = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))
        return out

    return of_arms(altered)


def of_input(change: Callable[[Float4D], Float4D]) -> Callable[[Float4D, int], Arms]:
    """A fault in what the network is given."""
    return lambda slices, _: mirror_answers(change(slices.copy()))


def one_class(index: int) -> Callable[[Float4D], Float4D]:
    def change(arm: Float4D) -> Float4D:
        out = np.zeros_like(arm)
        out[:, index] = 1
        return out

    return change


def one_value(value: float) -> Callable[[Float4D], Float4D]:
    """One wrong value in one pixel of one slice."""

    def change(arm: Float4D) -> Float4D:
        arm[len(arm) // 2, 0, 60, 50] = value
        return arm

    return change


def exchanged(first: int, second: int, axis: int) -> Callable[[Float4D], Float4D]:
    def change(values: Float4D) -> Float4D:
        order = np.arange(values.shape[axis])
        if max(first, second) < len(order):
            order[[first, second]] = second, first
        return np.take(values, order, axis=axis)

    return change


def half_a_row(arm: Float4D) -> Float4D:
    """As an upsampling does whose corners are aligned otherwise."""
    return np.asarray((arm + np.roll(arm, 1, axis=2)) / 2, np.float32)


def noise(size: float) -> Callable[[Float4D], Float4D]:
    return lambda odds: odds + np.random.default_rng(1).normal(0, size, odds.shape).astype(np.float32)


def last_part_left_out(batch: int, *, stale: bool) -> Callable[[Float4D, int], Arms]:
    """Only whole batches are computed; the rest is empty, or what was in the buffer."""

    def fault(slices: Float4D, _: int) -> Arms:
        bg, sg = mirror_answers(slices)
        done = len(slices) // batch * batch
        for arm in (bg, sg):
            if not stale:
                arm[done:] = 0
            elif done:
                arm[done:] = arm[: len(slices) - done]
        return bg, sg

    return fault


class Late:
    """Each run answers the one before."""

    def __init__(self) -> None:
        self.before: Arms | None = None

    def __call__(self, slices: Float4D, _: int) -> Arms:
        answers = mirror_answers(slices)
        before, self.before = self.before or answers, answers
        bg, sg = (np.resize(old, new.shape) for old, new in zip(before, answers, strict=True))
        return bg, sg


class OneBuffer:
    """Every run answers in the same memory, so that it alters what was answered before."""

    def __init__(self) -> None:
        self.arms: tuple[Float4D, ...] = ()

    def __call__(self, slices: Float4D, _: int) -> Arms:
        answers = mirror_answers(slices)
        self.arms = self.arms or tuple(np.zeros((99, *a.shape[1:]), np.float32) for a in answers)
        for buffer, arm in zip(self.arms, answers, strict=True):
            buffer[: len(arm)] = arm
        return self.arms[0][: len(slices)], self.arms[1][: len(slices)]


def raises(error: Exception) -> Callable[[Float4D, int], Arms]:
    def fault(slices: Float4D, run: int) -> Arms:
        raise error

    return fault


def wobbling(slices: Float4D, run: int) -> Arms:
    """Another answer each time, as a kernel with a race has; the first is right."""
    changed = of_log_odds(lambda odds: odds + np.float32(0.1 * (run - 1)))
    return changed(slices, run)


BROKEN: dict[str, tuple[Callable[[], Callable[[Float4D, int], Arms]], str]] = {
    "a NaN in one pixel": (lambda: of_arms(one_value(np.nan)), "sum_error"),
    "an infinite value in one pixel": (lambda: of_arms(one_value(np.inf)), "sum_error"),
    "NaN everywhere": (lambda: of_arms(lambda arm: arm * np.float32(np.nan)), "sum_error"),
    "zeros": (lambda: of_arms(np.zeros_like), "sum_error"),
    "a negative probability": (lambda: of_arms(one_value(-0.5)), "sum_error"),
    "background everywhere": (lambda: of_arms(one_class(0)), "log_odds_error"),
    "infarct everywhere": (lambda: of_arms(one_class(1)), "log_odds_error"),
    "the mean everywhere": (
        lambda: of_arms(lambda a: np.broadcast_to(a.mean((0, 2, 3), keepdims=True), a.shape).copy()),
        "log_odds_error",
    ),
    "mirrored answers": (lambda: of_arms(lambda arm: arm[..., ::-1].copy()), "log_odds_error"),
    "answers upside down": (lambda: of_arms(lambda arm: arm[:, :, ::-1].copy()), "log_odds_error"),
    "mirrored input": (lambda: of_input(lambda s: s[..., ::-1].copy()), "regions"),
    "swapped input channels": (lambda: of_input(exchanged(1, 2, axis=1)), "regions"),
    "swapped classes": (lambda: of_arms(exchanged(1, 2, axis=1)), "log_odds_error"),
    "background swapped with a class": (lambda: of_arms(exchanged(0, 1, axis=1)), "dice_loss"),
    "slices reordered in a batch": (lambda: of_arms(exchanged(1, 4, axis=0)), "log_odds_error"),
    "a shift by one row": (lambda: of_arms(lambda arm: np.roll(arm, 1, axis=2)), "systematic_error"),
    "a shift by one column": (lambda: of_arms(lambda arm: np.roll(arm, 1, axis=3)), "systematic_error"),
    "a shift by half a row": (lambda: of_arms(half_a_row), "systematic_error"),
    "a bias of +0.03": (lambda: of_log_odds(lambda odds: odds + np.float32(0.03)), "systematic_error"),
    "a bias of -0.03": (lambda: of_log_odds(lambda odds: odds - np.float32(0.03)), "systematic_error"),
    "a scale of 1.03": (lambda: of_log_odds(lambda odds: odds * np.float32(1.03)), "systematic_error"),
    "a scale of 0.97": (lambda: of_log_odds(lambda odds: odds * np.float32(0.97)), "systematic_error"),
    "coarse numbers": (lambda: of_log_odds(noise(0.5)), "probability_difference"),
    "an answer that is one run late": (Late, "log_odds_error"),
    "one buffer for all answers": (OneBuffer, "log_odds_error"),
    "the last part of a batch empty": (lambda: last_part_left_out(4, stale=False), "sum_error"),
    "the last part of a batch stale": (lambda: last_part_left_out(4, stale=True), "log_odds_error"),
    "another answer each time": (lambda: wobbling, "systematic_error"),
    "an error": (lambda: raises(EngineError("no memory for even one slice")), "failed_runs"),
    "an error of the library's own": (lambda: raises(RuntimeError("cuda")), "failed_runs"),
    "half precision arrays": (lambda: of_arms(lambda arm: arm.astype(np.float16)), "failed_runs"),
    "one arm only": (lambda: lambda slices, run: mirror_answers(slices)[:1], "failed_runs"),  # type: ignore[dict-item,return-value]
    "too few slices": (lambda: of_arms(lambda arm: arm[:-1]), "failed_runs"),
}
"""Ways to be wrong, each with the criterion that is there for it."""


def fault_of(name: str) -> Callable[[Float4D, int], Any]:
    """A fresh fault: some remember their last run."""
    return BROKEN[name][0]()


GPU = (
    Availability("tensorrt", "tensorrt 10.13", "GPU", ("bf16", "fp16", "tf32", "fp32")),
    Availability("onnx-cuda", "onnxruntime 1.32", "GPU", ("tf32", "fp32")),
)
NO_GPU = (
    Availability("tensorrt", None, None, (), "no NVIDIA GPU is visible", "pip install 'strokecore[gpu]'"),
)
OPENVINO = Availability("openvino", "openvino 2026.4", "CPU", ("bf16", "fp32"))
ONNX = Availability("onnx", "onnxruntime 1.32", "CPU", ("fp32",))


class Machine(dict[str, Any]):
    """Faults by "<name> <precision>": a fault, or an exception for an engine that cannot be started.

    Attributes
    ----------
    started: every engine that was started, by the same words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, list[MirrorRuntime]] = {}

    def start(self, package: ModelPackage, name: str, precision: str, threads: int) -> MirrorRuntime:
        """Stands in for runtimes.start."""
        del threads
        words = f"{name} {precision}"
        fault = self.get(words)
        if isinstance(fault, Exception):
            raise fault
        runtime = MirrorRuntime(package, name, precision, fault)
        self.started.setdefault(words, []).append(runtime)
        return runtime


def pretend_machine(patch: pytest.MonkeyPatch, cache: Path, *found: Availability) -> Machine:
    """A machine with these engines, each of them a MirrorRuntime, and an empty cache."""
    machine = Machine()
    absent = [Availability(name, None, None, (), "not installed", "pip install it") for name in RUNTIME_NAMES]
    table = {one.engine: one for one in (*absent, *found)}
    patch.setattr(runtimes, "availability", table.__getitem__)
    patch.setattr(runtimes, "start", machine.start)
    patch.setenv("STROKECORE_CACHE", str(cache))
    selection._kept.cache_clear()
    return machine
