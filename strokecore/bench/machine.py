"""The machine that was measured: what explains a time, nothing that names a host, a user or a folder."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from strokecore.learned.devices import cpu_name, driver_version, gpus, usable_cores

_LIBRARIES: Final = (
    "numpy",
    "scipy",
    "SimpleITK",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "torch",
    "tensorrt",
)
# Instructions that decide how fast a network runs.
_INSTRUCTIONS: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
)
_DRIVER: Final = Path("/proc/driver/nvidia/version")


def machine_facts() -> dict[str, Any]:
    """Processor, memory, system, Python, libraries and GPUs; JSON-ready."""
    cuda = driver_version()
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "instructions": _instructions(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": _system(),
        "python": platform.python_version(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "gpus": [str(gpu) for gpu in gpus()],
        "gpu_driver": _gpu_driver(),
        "cuda_of_driver": f"{cuda[0]}.{cuda[1]}" if cuda else None,
    }


def load_average() -> float:
    """How many programs want the processor, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def _instructions(path: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of ``_INSTRUCTIONS`` that the first core has; "Features" is what Arm calls them."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", path.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        return []
    has = found.group(1).split() if found else []
    return [name for name in _INSTRUCTIONS if name in has]


def _system() -> str:
    """The distribution's name; the kernel's version can be a site's own."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu_driver() -> str | None:
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found.group(1) if found else None
