"""What this machine computes on: its CPU, with the threads an engine may use there, and its NVIDIA GPUs.

GPUs are asked of the driver itself, through NVIDIA's cuda-bindings: TensorRT dies of a segmentation fault
where there is no driver, so whoever wants to use it looks here first. The driver applies CUDA_VISIBLE_DEVICES
by itself, so that an index here is the one that every CUDA library of this process uses.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from strokecore.errors import UsageError

log = logging.getLogger(__name__)

THREADS_VARIABLE: Final = "STROKECORE_THREADS"
# "max 100000" or "200000 100000": microseconds of CPU in each period (control groups, version 2). A container
# with --cpus=2 sees all cores of the machine, and as many threads as cores would wait for each other.
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_CPU_FACTS: Final = Path("/proc/cpuinfo")
# x86 (AVX-512, AMX) and Arm name their bf16 units so.
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

# The compute capability with which matrix units for bf16 and TF32 came.
_AMPERE: Final = (8, 0)
_NAME_BYTES: Final = 256
# What an NVIDIA driver shows of itself, on Linux and inside Windows.
_DRIVER_TRACES: Final = (Path("/proc/driver/nvidia"), Path("/dev/dxg"))


@dataclass(frozen=True)
class Gpu:
    """One device as the driver describes it.

    Attributes
    ----------
    index: its CUDA device number in this process.
    name: such as "NVIDIA H100 80GB HBM3"; a part of a partitioned GPU (MIG) has its profile in the name.
    compute_capability: (9, 0) is Hopper, (8, 9) Ada, (7, 5) Turing.
    memory_bytes: all of its memory, free or not.
    uuid: 32 hex digits, the same in every process; of the part of a partitioned GPU.
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


class CudaError(Exception):
    """A call of CUDA's driver failed."""


def cuda_driver() -> Any:
    """NVIDIA's Python interface of CUDA's driver; raises ImportError where it is not installed.

    Its functions raise RuntimeError where there is no driver.
    """
    return importlib.import_module("cuda.bindings.driver")


def checked(answer: tuple[Any, ...]) -> Any:
    """What a function of ``cuda_driver`` gives beside its status; None for those that give nothing.

    Raises
    ------
    MemoryError: the GPU has no memory left.
    CudaError: the function failed.
    """
    status, *values = answer
    if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise MemoryError("the GPU has no memory left")
    if status.name != "CUDA_SUCCESS":
        raise CudaError(status.name)
    return values[0] if values else None


def has_nvidia_driver() -> bool:
    """Whether this machine seems to have an NVIDIA driver; asks the file system only."""
    return any(path.exists() for path in _DRIVER_TRACES)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that this process may use, in the driver's order.

    Empty without cuda-bindings, driver or device; never raises. The first call starts the driver in this
    process: a process forked from it later cannot use CUDA, a spawned one can.
    """
    try:
        driver = cuda_driver()
        checked(driver.cuInit(0))
        return tuple(_gpu(driver, index) for index in range(checked(driver.cuDeviceGetCount())))
    except (ImportError, RuntimeError) as error:
        log.debug("no NVIDIA GPU: %s", error)
    except (CudaError, MemoryError) as error:
        # no device is an everyday answer; a driver that does not fit the kernel's half is not
        log.info("the NVIDIA driver shows no usable GPU: %s", error)
    return ()


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA version that the driver supports, such as (13, 0); None without one. Never raises."""
    try:
        number = checked(cuda_driver().cuDriverGetVersion())
    except (ImportError, RuntimeError, CudaError):
        return None
    return number // 1000, number % 1000 // 10


def use_gpu(gpu: Gpu) -> None:
    """Make ``gpu`` the calling thread's current device, as CUDA's runtime inside TensorRT expects it.

    Its primary context stays until the process ends. Raises CudaError or MemoryError.
    """
    driver = cuda_driver()
    checked(driver.cuInit(0))
    context = checked(driver.cuDevicePrimaryCtxRetain(checked(driver.cuDeviceGet(gpu.index))))
    checked(driver.cuCtxSetCurrent(context))


def _gpu(driver: Any, index: int) -> Gpu:
    device = checked(driver.cuDeviceGet(index))
    about = driver.CUdevice_attribute
    major, minor = (
        checked(driver.cuDeviceGetAttribute(attribute, device))
        for attribute in (
            about.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            about.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    name = checked(driver.cuDeviceGetName(_NAME_BYTES, device))
    return Gpu(
        index=index,
        name=name.rstrip(b"\0").decode("utf-8", "replace").strip(),
        compute_capability=(major, minor),
        memory_bytes=checked(driver.cuDeviceTotalMem(device)),
        uuid=bytes(checked(driver.cuDeviceGetUuid(device)).bytes).hex(),
    )


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
