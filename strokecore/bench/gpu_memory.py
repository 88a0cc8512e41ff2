"""How much of the first GPU is in use, asked of the driver; the same for every library that takes it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

_LIBRARY: Final = "libcuda.so.1"


def gpu_bytes_in_use(load: Callable[[str], Any] = ctypes.CDLL) -> int | None:
    """Bytes taken on the first GPU that this process sees, by whomever; None without one.

    The first call makes this process's context on the GPU, which takes some hundred MiB itself; so the
    difference of two calls is without it. Nobody else may be at work on that GPU in between.
    """
    try:
        cuda = load(_LIBRARY)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        for function, arguments in (
            ("cuInit", (0,)),
            ("cuDeviceGet", (ctypes.byref(device), 0)),
            # the context that torch, ONNX Runtime and TensorRT use too; it stays for them
            ("cuDevicePrimaryCtxRetain", (ctypes.byref(context), device)),
            ("cuCtxSetCurrent", (context,)),
            ("cuMemGetInfo_v2", (ctypes.byref(free), ctypes.byref(total))),
        ):
            if getattr(cuda, function)(*arguments):
                return None
    except (OSError, AttributeError):
        return None
    return total.value - free.value
