"""Memory that an engine takes, measured in a process of its own: a process never gives all of it back."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strokecore.arrays import Float4D
from strokecore.bench.machine import without_folders
from strokecore.learned.devices import gpus
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtime import Runtime

_RUNS: Final = 2


@dataclass(frozen=True)
class Memory:
    """What one engine takes.

    Attributes
    ----------
    load_s: seconds until it is ready: its library imported, its graph read and compiled; compiled graphs that
        an earlier run kept are used.
    peak_mib: highest resident memory of its process, with Python, the slices and the answers; None where the
        system does not tell.
    gpu_mib: in use on the GPU after the run, by whomever; None without a GPU or without cuda-bindings.
    """

    load_s: float
    peak_mib: int | None
    gpu_mib: int | None


def measure_memory(
    start: Callable[[ModelPackage, str, str, int], Runtime],
    package: Path,
    engine: str,
    precision: str,
    threads: int,
    slices: Float4D,
) -> Memory | str:
    """Start an engine in this process, of which nothing else is asked, and run a series.

    Parameters
    ----------
    start: such as strokecore.learned.runtimes.start.
    package: the model package's folder.
    slices: float32 [n, channels, H, W].

    Returns
    -------
    Or the error in words: not every library's can be sent to another process.
    """
    try:
        loaded = load_package(package)
        begun = time.perf_counter()
        runtime = start(loaded, engine, precision, threads)
        load_s = time.perf_counter() - begun
        for _ in range(_RUNS):  # the second finds what the first left in pools
            runtime.run(slices)
        return Memory(round(load_s, 3), peak_resident_mib(), _gpu_mib())
    except Exception as error:  # every engine's library raises its own
        return without_folders(error)


def peak_resident_mib() -> int | None:
    """Highest resident memory of this process; what getrusage says could be its parent's."""
    status = Path("/proc/self/status").read_text("ascii", "replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(found.group(1)) / 1024) if found else None


def _gpu_mib() -> int | None:
    if not gpus():
        return None
    try:
        from cuda.bindings import runtime as cuda
    except ImportError:
        return None
    status, free, total = cuda.cudaMemGetInfo()
    return None if int(status) else round((total - free) / 2**20)
