"""What this machine computes on: its CPU, with the threads an engine may use there, and its NVIDIA GPUs.

GPUs are asked of the driver itself, through libcuda: TensorRT dies of a segmentation fault where there is no
driver, so whoever wants to use it looks here first. The driver applies CUDA_VISIBLE_DEVICES by itself, so
that an index here is the one that every CUDA library of this process uses.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from strokecore.errors import UsageError

log = logging.getLogger(__name__)

Load = Callable[[], Any]
"""Opens the driver's library; raises OSError where it is not there."""

THREADS_VARIABLE: Final = "STROKECORE_THREADS"
# "max 100000" or "200000 100000": microseconds of CPU in each period (control groups, version 2). A container
# with --cpus=2 sees all cores of the machine, and as many threads as cores would wait for each other.
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_CPU_FACTS: Final = Path("/proc/cpuinfo")
# x86 (AVX-512, AMX) and Arm name their bf16 units so.
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

# The compute capability with which matrix units for bf16 and TF32 came.
_AMPERE: Final = (8, 0)
_LIBRARY: Final = "libcuda.so.1"
_NAME_BYTES: Final = 256
_UUID_BYTES: Final = 16
# CUdevice_attribute of the driver's interface; these numbers never changed since they came.
_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76


@dataclass(frozen=True)
class Gpu:
    """One device as the driver describes it.

    Attributes
    ----------
    index: its CUDA device number in this process.
    name: such as "NVIDIA H100 80GB HBM3"; a part of a partitioned GPU (MIG) has its profile in the name.
    compute_capability: (9, 0) is Hopper, (8, 9) Ada, (7, 5) Turing.
    memory_bytes: all of its memory, free or not.
    uuid: 32 hex digits, the same in every process; empty where the driver does not tell.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    uuid: str

    def computes_in(self, precision: str) -> bool:
        """Whether it has the precision in its matrix units; older GPUs only imitate it."""
        return precision not in ("bf16", "tf32") or self.compute_capability >= _AMPERE

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} ({self.memory_bytes / 2**30:.0f} GiB, compute capability {major}.{minor})"


class _DriverError(Exception):
    """A call into the driver failed."""


def open_driver() -> Any:
    """libcuda; raises OSError where there is no driver."""
    return ctypes.CDLL(_LIBRARY)


def gpus(load: Load | None = None) -> tuple[Gpu, ...]:
    """The GPUs that this process may use, in the driver's order; empty without driver or device.

    Never raises. The first call starts the driver in this process: a process forked from it later cannot
    use CUDA, a spawned one can.
    """
    try:
        cuda = (load or open_driver)()
    except OSError:
        log.debug("no NVIDIA driver: %s is not there", _LIBRARY)
        return ()
    try:
        _call(cuda, "cuInit", 0)
        count = ctypes.c_int()
        _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
        return tuple(_gpu(cuda, index) for index in range(count.value))
    except (_DriverError, AttributeError) as error:
        # no device is an everyday answer; a driver that does not fit the kernel's half is not
        log.info("the NVIDIA driver shows no usable GPU: %s", error)
        return ()


def driver_version(load: Load | None = None) -> tuple[int, int] | None:
    """The newest CUDA version that the driver serves, such as (13, 0); None without one. Never raises."""
    try:
        cuda = (load or open_driver)()
        number = ctypes.c_int()
        _call(cuda, "cuDriverGetVersion", ctypes.byref(number))
    except (OSError, _DriverError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def _gpu(cuda: Any, index: int) -> Gpu:
    device = ctypes.c_int()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), index)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(cuda, "cuDeviceGetName", name, _NAME_BYTES, device)
    memory = ctypes.c_size_t()
    _call(cuda, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(
        index=index,
        name=name.value.decode("utf-8", "replace").strip(),
        compute_capability=(
            _attribute(cuda, _CAPABILITY_MAJOR, device),
            _attribute(cuda, _CAPABILITY_MINOR, device),
        ),
        memory_bytes=memory.value,
        uuid=_uuid(cuda, device),
    )


def _attribute(cuda: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call(cuda, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _uuid(cuda: Any, device: ctypes.c_int) -> str:
    """Of the device or its MIG part; the second form came with CUDA 11.4 and tells MIG parts apart."""
    for function in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):
        value = (ctypes.c_ubyte * _UUID_BYTES)()
        try:
            _call(cuda, function, ctypes.byref(value), device)
        except (_DriverError, AttributeError):
            continue
        return bytes(value).hex()
    return ""


def _call(cuda: Any, function: str, *arguments: Any) -> None:
    status = getattr(cuda, function)(*arguments)
    if status != 0:
        raise _DriverError(f"{function} answers {status}")


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
    return next((value for name, value in _cpu_facts() if name == "model name" and value), "CPU")


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU's cores can do, in the system's words; empty where it does not say."""
    # x86 and Arm name them differently
    return next(
        (frozenset(value.split()) for name, value in _cpu_facts() if name in ("flags", "Features")),
        frozenset(),
    )


def cpu_computes_in(precision: str) -> bool:
    """Whether the CPU has the precision in its vector or matrix units."""
    return precision == "fp32" or (precision == "bf16" and bool(cpu_flags() & _BF16_FLAGS))


def on_cpu(threads: int) -> str:
    """The CPU and what is used of it, such as "AMD EPYC, 2 threads"."""
    return f"{cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_facts() -> Iterator[tuple[str, str]]:
    """(name, value) of each line that the system has about its cores; none where it does not say."""
    try:
        lines = _CPU_FACTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()
