"""Which NVIDIA GPUs the driver shows this process; asked of the driver itself, through libcuda.

TensorRT dies of a segmentation fault where there is no driver, and torch takes seconds and gigabytes
to import: whoever wants to use either looks here first. The driver applies CUDA_VISIBLE_DEVICES by itself, so
that an index here is the one that every CUDA library of this process uses.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

log = logging.getLogger(__name__)

Load = Callable[[], Any]
"""Opens the driver's library; raises OSError where it is not there."""

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
