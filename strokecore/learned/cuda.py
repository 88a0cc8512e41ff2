"""One GPU through the driver's own library, libcuda: memory, a stream and graphs.

The driver's library is wherever a GPU is, and has kept every function that it ever had; twenty of them are
enough. So no binding package has to match TensorRT's and the driver's CUDA version. The primary context is
the one that the CUDA runtime inside TensorRT uses too, and is kept until the process ends: that runtime
does not expect it to go away.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_ulonglong, c_void_p
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.errors import EngineError
from strokecore.learned import devices

_UINT64_OUT: Final = POINTER(c_uint64)
_POINTER_OUT: Final = POINTER(c_void_p)
_SIZE_OUT: Final = POINTER(c_size_t)

FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (_POINTER_OUT, c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemGetInfo_v2": (_SIZE_OUT, _SIZE_OUT),
    "cuMemAlloc_v2": (_UINT64_OUT, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (_POINTER_OUT, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (_POINTER_OUT, c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _POINTER_OUT),
    "cuGraphInstantiateWithFlags": (_POINTER_OUT, c_void_p, c_ulonglong),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
}
"""What is called of libcuda, with its argument types; a test compares them with the vendor's header."""

# CUstream_flags: a stream that does not wait for the default stream, which a capture must not touch.
STREAM_NON_BLOCKING: Final = 1
# CUstreamCaptureMode: only this thread's calls can spoil the capture.
CAPTURE_THREAD_LOCAL: Final = 1
OUT_OF_MEMORY: Final = 2
LOST: Final[dict[int, str]] = {
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    220: "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    709: "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    710: "CUDA_ERROR_ASSERT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    715: "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    718: "CUDA_ERROR_INVALID_PC",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    999: "CUDA_ERROR_UNKNOWN",
}
"""Errors after which no call of this process succeeds on the device: only a new process may use it again."""


class CudaError(Exception):
    """A call into the driver failed.

    Attributes
    ----------
    code: CUresult.
    """

    def __init__(self, function: str, code: int, name: str) -> None:
        super().__init__(f"{function} answers {name} ({code})")
        self.code = code

    @property
    def out_of_memory(self) -> bool:
        return self.code == OUT_OF_MEMORY

    @property
    def lost(self) -> bool:
        return self.code in LOST


class Cuda:
    """A device's primary context and one stream. Not to be used after a fork, nor by two threads at once."""

    def __init__(self, index: int) -> None:
        """Raises EngineError when the driver or the device cannot be had."""
        self._open = False
        try:
            library = devices.open_driver()
            self._functions = {name: _function(library, name) for name in FUNCTIONS}
        except (OSError, AttributeError) as error:
            raise EngineError(
                f"the NVIDIA driver cannot be used ({error}); install one of CUDA 12 or newer."
            ) from error
        device, context, stream = c_int(), c_void_p(), c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(device), index)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._context = context
            self.activate()
            self._call("cuStreamCreate", ctypes.byref(stream), STREAM_NON_BLOCKING)
        except CudaError as error:
            raise EngineError(f"GPU {index} cannot be used: {error}; look at nvidia-smi.") from error
        self.stream, self._open = int(stream.value or 0), True

    def activate(self) -> None:
        """Make this device the calling thread's, for TensorRT too."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Memory that is free now, on the whole device."""
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, aligned to 256."""
        address = c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A float32 array in page-locked memory; valid until ``free_pinned``."""
        address, count = c_void_p(), int(np.prod(shape))
        self._call("cuMemHostAlloc", ctypes.byref(address), count * ctypes.sizeof(ctypes.c_float), 0)
        memory = (ctypes.c_float * count).from_address(int(address.value or 0))
        return np.ctypeslib.as_array(memory).reshape(shape)

    def free_pinned(self, array: npt.NDArray[np.float32]) -> None:
        self._call("cuMemFreeHost", array.ctypes.data)

    def upload(self, address: int, array: npt.NDArray[np.float32]) -> None:
        """Queue a copy of a C-contiguous pinned array to the device."""
        self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)

    def download(self, array: npt.NDArray[np.float32], address: int) -> None:
        """Queue a copy from the device to a C-contiguous pinned array."""
        self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until everything queued is done; a failure on the device is raised here."""
        self._call("cuStreamSynchronize", self.stream)

    def capture(self, queue: Callable[[], None]) -> int:
        """A graph of what ``queue`` puts on the stream; nothing of it is run.

        Whatever ``queue`` raises is passed on, and the stream is usable again.
        """
        graph, executable = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", self.stream, CAPTURE_THREAD_LOCAL)
        try:
            queue()
        except BaseException:
            with contextlib.suppress(CudaError):
                self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            with contextlib.suppress(CudaError):
                if graph.value:
                    self._call("cuGraphDestroy", graph)
            raise
        self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int) -> None:
        """Queue a captured graph."""
        self._call("cuGraphLaunch", graph, self.stream)

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Give the stream back. What was allocated must have been freed."""
        if self._open:
            self._open = False
            with contextlib.suppress(CudaError):
                self.activate()
                self._call("cuStreamDestroy_v2", self.stream)

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._functions[name](*arguments)
        if code != 0:
            raise CudaError(name, code, LOST.get(code) or self._error_name(code))

    def _error_name(self, code: int) -> str:
        text = c_char_p()
        self._functions["cuGetErrorName"](code, ctypes.byref(text))
        return (text.value or b"an unknown error").decode()


def _function(library: Any, name: str) -> Any:
    function = getattr(library, name)
    function.argtypes, function.restype = FUNCTIONS[name], c_int
    return function
