"""The C types of the vendor's header as ctypes has them."""

from __future__ import annotations

import ctypes
from typing import Any

_PLAIN = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "unsigned long long": ctypes.c_ulonglong,
    # typedef int; enums are ints too
    "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
    # typedef unsigned long long on 64-bit machines
    "CUdeviceptr": ctypes.c_uint64,
    # pointers to structures that only the driver knows
    "CUcontext": ctypes.c_void_p,
    "CUstream": ctypes.c_void_p,
    "CUgraph": ctypes.c_void_p,
    "CUgraphExec": ctypes.c_void_p,
    "void*": ctypes.c_void_p,
    "const void*": ctypes.c_void_p,
    "char*": ctypes.c_void_p,
    "CUuuid*": ctypes.c_void_p,
    "const char*": ctypes.c_char_p,
}


def ctype(declared: str) -> Any:
    """The ctypes type of a C type of the header."""
    if declared in _PLAIN:
        return _PLAIN[declared]
    if declared.endswith("*"):
        return ctypes.POINTER(ctype(declared[:-1]))
    raise KeyError(declared)
