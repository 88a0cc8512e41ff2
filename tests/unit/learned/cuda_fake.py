"""A stand-in for cuda.bindings.driver: device memory is host memory, and a copy is done at once."""

# ruff: noqa: N802 (the driver's own names)

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

from strokecore.learned.devices import Gpu

L4 = Gpu(0, "NVIDIA L4", (8, 9), 24 * 2**30, "ab" * 16)
T4 = Gpu(0, "Tesla T4", (7, 5), 16 * 2**30, "cd" * 16)
_MAJOR, _MINOR = 75, 76


class FakeDriver(ModuleType):
    """The driver of a machine with ``gpus``.

    Attributes
    ----------
    fail: function to the status that it answers from now on.
    free: bytes that allocations may take.
    memory: allocated pieces by address; ``streams`` and ``current`` likewise.
    """

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=_MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=_MINOR,
    )

    def __init__(self, *gpus: Gpu, version: int = 13000) -> None:
        super().__init__("cuda.bindings.driver")
        self.gpus, self.version = gpus, version
        self.fail: dict[str, str] = {}
        self.free, self.streams = 2**31, 0
        self.memory: dict[int, ctypes.Array[Any]] = {}
        self.current: int | None = None

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cu") and name in super().__getattribute__("fail"):
            return lambda *_: (SimpleNamespace(name=self.fail[name]), None)
        found = super().__getattribute__(name)
        if not name.startswith("cu") or not callable(found):
            return found
        return lambda *arguments: _answer(found(*arguments))

    def cuInit(self, flags: int) -> None:
        assert flags == 0

    def cuDriverGetVersion(self) -> int:
        return self.version

    def cuDeviceGetCount(self) -> int:
        return len(self.gpus)

    def cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def cuDeviceGetName(self, length: int, device: int) -> bytes:
        return self.gpus[device].name.encode().ljust(length, b"\0")

    def cuDeviceTotalMem(self, device: int) -> int:
        return self.gpus[device].memory_bytes

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> int:
        return self.gpus[device].compute_capability[attribute - _MAJOR]

    def cuDeviceGetUuid(self, device: int) -> Any:
        return SimpleNamespace(bytes=bytes.fromhex(self.gpus[device].uuid))

    def cuDevicePrimaryCtxRetain(self, device: int) -> int:
        return 100 + device

    def cuCtxSetCurrent(self, context: int) -> None:
        self.current = context - 100

    def cuStreamCreate(self, flags: int) -> int:
        assert flags == 1
        self.streams += 1
        return 7

    def cuStreamDestroy(self, stream: int) -> None:
        self.streams -= 1

    def cuStreamSynchronize(self, stream: int) -> None:
        assert stream == 7

    def cuMemAlloc(self, size: int) -> int | str:
        if size + sum(map(ctypes.sizeof, self.memory.values())) > self.free:
            return "CUDA_ERROR_OUT_OF_MEMORY"
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def cuMemFree(self, address: int) -> None:
        del self.memory[address]

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> None:
        assert size <= ctypes.sizeof(self.memory[to])
        ctypes.memmove(to, source, size)

    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> None:
        assert size <= ctypes.sizeof(self.memory[source])
        ctypes.memmove(to, source, size)


def _answer(value: Any) -> tuple[Any, ...]:
    """As cuda-bindings gives it: the status, and the value where there is one."""
    failed = isinstance(value, str)
    status = SimpleNamespace(name=value if failed else "CUDA_SUCCESS")
    return (status,) if value is None or failed else (status, value)
