"""Every engine on the same slices: memory in a process of its own, then parity and times side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np

from strokecore.arrays import Float4D
from strokecore.bench.machine import without_folders
from strokecore.bench.memory import Memory, measure_memory
from strokecore.bench.settings import BenchSettings
from strokecore.bench.timing import Spread, time_in_rounds
from strokecore.errors import StrokeCoreError, UsageError
from strokecore.evaluate.workers import Lost, map_in_processes
from strokecore.learned.devices import gpus
from strokecore.learned.gate import REFERENCE, Gate
from strokecore.learned.golden import read_golden
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Runtime
from strokecore.learned.runtimes import RUNTIME_NAMES, RUNTIMES, availability, start

# Compiling an engine for a GPU takes minutes, once.
_TIMEOUT_S: Final = 3600.0

Say = Callable[[str], None]
"""A function that is told in a few words what is done next."""


@dataclass(frozen=True)
class Call:
    """One number of slices in one call.

    Attributes
    ----------
    error: why it has no times.
    ms: milliseconds of a call.
    speed_up_over_onnx_fp32: the reference's time over this one's within each round, so that what slowed a
        whole round cancels; None without the reference.
    """

    slices: int
    error: str | None = None
    ms: Spread | None = None
    speed_up_over_onnx_fp32: Spread | None = None


@dataclass
class EngineResult:
    """One engine in one precision and all that was found of it.

    Attributes
    ----------
    device, library: in its own words; None when it could not be started.
    error: why it could not be started.
    parity: the parity gate's report as JSON-ready values, and the reason of a refusal.
    calls: by ascending number of slices; the last is the whole series.
    """

    engine: str
    precision: str
    device: str | None = None
    library: str | None = None
    error: str | None = None
    memory: Memory | None = None
    parity: dict[str, Any] | None = None
    calls: list[Call] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Such as "openvino bf16"."""
        return f"{self.engine} {self.precision}"


def measure_engines(
    package: ModelPackage, settings: BenchSettings, threads: int, say: Say
) -> list[EngineResult]:
    """Memory, parity and times of what ``settings`` asks for, the reference first.

    Raises
    ------
    UsageError: there is no such engine or precision.
    ModelPackageError: the package's golden slices cannot be read.
    """
    found = choose_engines(settings.engines, settings.precisions)
    slices = golden_slices(package, settings.slices)
    for one in found:
        if one.error is not None:
            continue
        say(f"{one.name}: memory, in a process of its own")
        measure = partial(measure_memory, start, package.folder, one.engine, one.precision, threads)
        (memory,) = map_in_processes(measure, [slices], workers=1, timeout_s=_TIMEOUT_S)
        if isinstance(memory, Memory):
            one.memory = memory
        else:  # so an engine that kills its process costs a line of the table and no more
            one.error = f"its process {memory.why} ({memory.kind})" if isinstance(memory, Lost) else memory
    with ExitStack() as started:
        gate, runtimes = Gate(package, threads), {}
        for one in found:
            if one.error is not None:
                continue
            say(f"{one.name}: parity gate")
            try:
                runtime = start(package, one.engine, one.precision, threads)
            except Exception as error:  # every engine's library raises its own
                one.error = without_folders(error)
                continue
            started.callback(runtime.close)
            runtimes[one.name] = runtime
            one.device, one.library = runtime.device, runtime.library
            one.parity = _parity(gate, runtime)
        for number in settings.calls:
            say(f"{len(runtimes)} engines in turn, {number} slices")
            subjects = {name: partial(runtime.run, slices[:number]) for name, runtime in runtimes.items()}
            seconds, errors = time_in_rounds(subjects, settings.repeats, settings.seconds)
            for one in found:
                if one.name in errors:
                    one.calls.append(Call(number, errors[one.name]))
                elif one.name in seconds:
                    one.calls.append(_call(number, seconds[one.name], seconds.get(" ".join(REFERENCE))))
    return found


def choose_engines(engines: Sequence[str], precisions: Sequence[str]) -> list[EngineResult]:
    """What is to be measured, without results yet: the reference first, then in the order of RUNTIMES.

    Parameters
    ----------
    engines: only these; empty: all, those that need a GPU only with one.
    precisions: only these; empty: all that this machine has, and the first of an engine that is not here.
        The reference is always measured.

    Raises
    ------
    UsageError: there is no such engine or precision.
    """
    known = sorted({precision for kind in RUNTIMES for precision in kind.precisions})
    for what, asked, expected in (("engine", engines, RUNTIME_NAMES), ("precision", precisions, known)):
        if unknown := sorted(set(asked) - set(expected)):
            raise UsageError(f"Unknown {what} {', '.join(unknown)}; expected some of {', '.join(expected)}.")
    found = [EngineResult(*REFERENCE)]
    for kind in RUNTIMES:
        if kind.name in engines or (not engines and (kind.device == "cpu" or gpus())):
            here = availability(kind.name)
            error = None if here.available else "; run: ".join(filter(None, (here.reason, here.install)))
            wanted = precisions or here.precisions or kind.precisions[:1]
            found += [
                EngineResult(kind.name, one, error=error)
                for one in kind.precisions
                if one in wanted and (kind.name, one) != REFERENCE
            ]
    return found


def golden_slices(package: ModelPackage, number: int) -> Float4D:
    """``number`` of the golden slices, evenly chosen or repeated; float32 [number, channels, H, W]."""
    golden = read_golden(package).slices
    return golden[np.arange(number) * max(len(golden) // number, 1) % len(golden)]


def _parity(gate: Gate, runtime: Runtime) -> dict[str, Any]:
    try:
        report = gate.examine_fully(runtime)
    except StrokeCoreError as error:  # there is no reference to compare with
        return {"passed": False, "reason": without_folders(error)}
    return {**report.to_dict(), "reason": report.reason}


def _call(slices: int, own_s: Sequence[float], reference_s: Sequence[float] | None) -> Call:
    ratios = [reference / own for reference, own in zip(reference_s or (), own_s, strict=False)]
    ms = Spread.of([1e3 * seconds for seconds in own_s])
    return Call(slices, None, ms, Spread.of(ratios) if ratios else None)
