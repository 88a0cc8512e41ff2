"""A stand-in for libcuda, with the names and argument types of the vendor's header (cuda_record.json).

Its functions are C functions that ctypes makes of the ones below, so a caller with a wrong name, a wrong
number of arguments or a wrong width fails here as it would on a GPU. Device memory is host memory; a kernel
is a Python function that ``queue_kernel`` puts on a stream.
"""

# ruff: noqa: N802, N815 (the driver's own names)

from __future__ import annotations

import ctypes
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.learned.cuda_types import ctype

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("cuda_record.json").read_text("utf-8"))
OUT_OF_MEMORY, INVALID, ECC, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, LAUNCH_FAILED = (
    2,
    1,
    214,
    900,
    901,
    719,
)
_ALIGNED = 256


@dataclass
class Stream:
    queued: list[Callable[[], None]] = field(default_factory=list)
    # None when nothing is captured; what is queued meanwhile goes here
    captured: list[Callable[[], None]] | None = None
    spoiled: bool = False


class FakeCuda:
    """One process's driver.

    Attributes
    ----------
    memory: free bytes that allocations may take.
    fail: function to the code that it answers from now on.
    lost: the code that every function answers once it is set, as after a fault on the device.
    calls: how often each function was called.
    faults: misuses, such as freeing what was not allocated; a test that ends with one has failed.
    """

    def __init__(self, *names: str, capability: tuple[int, int] = (9, 0), version: str = "13050") -> None:
        self.names = names or ("NVIDIA H100 80GB HBM3",)
        self.capability, self.functions = capability, RECORD[version]["functions"]
        self.driver, self.total = int(version), 80 * 2**30
        self.memory, self.lost = 2**31, 0
        self.fail: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.faults: list[str] = []
        self.current: int | None = None
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.device: dict[int, tuple[Any, int]] = {}
        self.host: dict[int, Any] = {}
        self._next = 4096
        self._kept: list[Any] = []

    def __call__(self) -> FakeCuda:
        return self

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name not in self.functions:
            raise AttributeError(f"undefined symbol: {name}")
        implementation = getattr(type(self), f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls[name] += 1
            if self.lost and name not in ("cuGetErrorName", "cuDriverGetVersion"):
                return self.lost
            if name in self.fail:
                return self.fail[name]
            try:
                return int(implementation(self, *arguments))
            except Exception as error:  # ctypes would only print it
                self.faults.append(f"{name}: {type(error).__name__}: {error}")
                return 999

        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *map(ctype, self.functions[name]))
        function = prototype(call)
        self._kept.append(function)
        return function

    def queue_kernel(self, handle: int, kernel: Callable[[], None]) -> None:
        """Put ``kernel`` on a stream, or into the graph that is captured there."""
        stream = self.streams[handle]
        (stream.queued if stream.captured is None else stream.captured).append(kernel)

    def capturing(self, handle: int) -> bool:
        return self.streams[handle].captured is not None

    def holds(self, address: int, size: int) -> bool:
        """Whether ``size`` bytes from ``address`` lie in one piece of device memory."""
        return any(
            start <= address and address + size <= start + held for start, (_, held) in self.device.items()
        )

    def array(self, address: int, shape: tuple[int, ...]) -> Any:
        """float32 view of device memory."""
        count = int(np.prod(shape))
        if not self.holds(address, 4 * count):
            raise MemoryError(f"{4 * count} bytes at {address:#x} are not device memory")
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)

    @property
    def left_over(self) -> dict[str, int]:
        """What was not given back."""
        kinds = {
            "device memory": self.device,
            "pinned memory": self.host,
            "streams": self.streams,
            "graphs": self.graphs,
            "executable graphs": self.executables,
        }
        return {name: len(things) for name, things in kinds.items() if things}

    def _handle(self) -> int:
        self._next += 16
        return self._next

    def _cuInit(self, flags: int) -> int:
        return 0 if flags == 0 else INVALID

    def _cuDriverGetVersion(self, version: Any) -> int:
        version[0] = self.driver
        return 0

    def _cuDeviceGetCount(self, count: Any) -> int:
        count[0] = len(self.names)
        return 0

    def _cuDeviceGet(self, device: Any, ordinal: int) -> int:
        if not 0 <= ordinal < len(self.names):
            return 101
        device[0] = ordinal
        return 0

    def _cuDeviceGetName(self, name: int, length: int, device: int) -> int:
        text = self.names[device].encode() + b"\0"
        assert len(text) <= length
        ctypes.memmove(name, text, len(text))
        return 0

    def _cuDeviceTotalMem_v2(self, size: Any, device: int) -> int:
        size[0] = self.total
        return 0

    def _cuDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value[0] = self.capability[{75: 0, 76: 1}[attribute]]
        return 0

    def _cuDeviceGetUuid_v2(self, uuid: int, device: int) -> int:
        ctypes.memmove(uuid, bytes([device] * 16), 16)
        return 0

    _cuDeviceGetUuid = _cuDeviceGetUuid_v2

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
        context[0] = 0x1000 + device
        return 0

    def _cuCtxSetCurrent(self, context: int) -> int:
        self.current = context - 0x1000
        return 0

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free[0], total[0] = self.memory, self.total
        return 0

    def _cuMemAlloc_v2(self, address: Any, size: int) -> int:
        if size > self.memory:
            return OUT_OF_MEMORY
        block = ctypes.create_string_buffer(size + _ALIGNED)
        start = -(-ctypes.addressof(block) // _ALIGNED) * _ALIGNED
        self.memory -= size
        self.device[start] = block, size
        address[0] = start
        return 0

    def _cuMemFree_v2(self, address: int) -> int:
        self.memory += self.device.pop(address)[1]
        return 0

    def _cuMemHostAlloc(self, address: Any, size: int, flags: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(block)] = block
        address[0] = ctypes.addressof(block)
        return 0

    def _cuMemFreeHost(self, address: int) -> int:
        del self.host[address]
        return 0

    def _copy(self, to: int, source: int, size: int, device: int, host: int, stream: int) -> int:
        assert self.holds(device, size), "not device memory"
        assert any(
            start <= host and host + size <= start + len(block) for start, block in self.host.items()
        ), "not pinned memory"
        self.queue_kernel(stream, lambda: ctypes.memmove(to, source, size) and None)
        return 0

    def _cuMemcpyHtoDAsync_v2(self, to: int, source: int, size: int, stream: int) -> int:
        return self._copy(to, source, size, to, source, stream)

    def _cuMemcpyDtoHAsync_v2(self, to: int, source: int, size: int, stream: int) -> int:
        return self._copy(to, source, size, source, to, stream)

    def _cuStreamCreate(self, stream: Any, flags: int) -> int:
        assert flags == 1, "the default stream's own rules would apply"
        stream[0] = handle = self._handle()
        self.streams[handle] = Stream()
        return 0

    def _cuStreamDestroy_v2(self, stream: int) -> int:
        del self.streams[stream]
        return 0

    def _cuStreamSynchronize(self, handle: int) -> int:
        stream = self.streams[handle]
        if stream.captured is not None:
            stream.spoiled = True
            return CAPTURE_UNSUPPORTED
        work, stream.queued = stream.queued, []
        for step in work:
            step()
        return self.lost

    def _cuStreamBeginCapture_v2(self, handle: int, mode: int) -> int:
        assert self.streams[handle].captured is None, "a capture is at work"
        assert mode == 1, "only this thread's calls may spoil it"
        self.streams[handle].captured = []
        return 0

    def _cuStreamEndCapture(self, handle: int, graph: Any) -> int:
        stream = self.streams[handle]
        captured, spoiled = stream.captured, stream.spoiled
        assert captured is not None, "nothing is captured"
        stream.captured, stream.spoiled = None, False
        if spoiled:
            return CAPTURE_INVALIDATED
        graph[0] = made = self._handle()
        self.graphs[made] = captured
        return 0

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: int, flags: int) -> int:
        executable[0] = made = self._handle()
        self.executables[made] = list(self.graphs[graph])
        return 0

    def _cuGraphDestroy(self, graph: int) -> int:
        del self.graphs[graph]
        return 0

    def _cuGraphLaunch(self, executable: int, stream: int) -> int:
        for step in self.executables[executable]:
            self.queue_kernel(stream, step)
        return 0

    def _cuGraphExecDestroy(self, executable: int) -> int:
        del self.executables[executable]
        return 0

    def _cuGetErrorName(self, code: int, text: Any) -> int:
        names = {value: name for name, value in RECORD[str(self.driver)]["values"].items() if "ERROR" in name}
        if code not in names:
            return INVALID
        self._kept.append(name := names[code].encode())
        text[0] = name
        return 0
