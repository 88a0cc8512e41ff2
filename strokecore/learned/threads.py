"""How many threads an engine may use on the CPU, and the CPU's name."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

from strokecore.errors import UsageError

THREADS_VARIABLE: Final = "STROKECORE_THREADS"
# "max 100000" or "200000 100000": microseconds of CPU in each period (control groups, version 2). A container
# with --cpus=2 sees all cores of the machine, and as many threads as cores would wait for each other.
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_CPU_FACTS: Final = Path("/proc/cpuinfo")


def default_threads() -> int:
    """STROKECORE_THREADS, else OMP_NUM_THREADS, else ``usable_cores``.

    Whoever starts several workers sets one of them, so that workers times threads fit the cores.

    Raises UsageError when the variable is no number of threads.
    """
    for variable in (THREADS_VARIABLE, "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "")
        if text:
            if not text.isdecimal() or int(text) < 1:
                raise UsageError(f"{variable} is {text!r}, expected a number of threads, 1 or more.")
            return int(text)
    return usable_cores()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota where there is one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text("ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return cores  # no such file, or "max"


def cpu_name() -> str:
    """Such as "AMD EPYC 9654 96-Core Processor"; "CPU" where the system does not say."""
    try:
        for line in _CPU_FACTS.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return "CPU"


def on_cpu(threads: int) -> str:
    """The CPU and what is used of it, such as "AMD EPYC, 2 threads"."""
    return f"{cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
