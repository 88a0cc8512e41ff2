"""Which engines this machine has, with what is missing and the command that installs it.

Nothing heavy is imported to find out: versions come from the installed packages' own records, CPU features
from the system and GPUs from the driver.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Final

from strokecore.errors import EngineError
from strokecore.learned.devices import gpus
from strokecore.learned.threads import cpu_name

ENGINES: Final = ("tensorrt", "torch", "openvino", "onnx")
"""Engines that run model packages, the fastest first: the order of ``--engine auto``."""

# Module, and the distributions that bring it: several builds of one library go by several names.
_LIBRARIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "tensorrt": ("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
        "torch": ("torch", ("torch",)),
        "openvino": ("openvino", ("openvino",)),
        "onnx": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    }
)
_INSTALL: Final[Mapping[str, str]] = MappingProxyType(
    {
        "torch": "pip install 'strokecore[train]'",
        "openvino": "pip install 'strokecore[cpu]'",
        "onnx": "pip install 'strokecore[cpu]'",
    }
)
# Ampere brought matrix units for bf16 and TF32; older GPUs only imitate them.
_MATRIX_UNITS: Final = (8, 0)
_CPU_FACTS: Final = Path("/proc/cpuinfo")
# x86 (AVX-512, AMX) and Arm name their bf16 units so.
_BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Availability:
    """One engine on this machine.

    Attributes
    ----------
    engine: as in ``--engine``.
    library: such as "openvino 2026.4.0"; None when it is not installed.
    device: what it would run on; None where there is none.
    precisions: usable here, most preferred first; empty when the engine is not available.
    reason: why it is not; empty when it is.
    install: the command that brings what is missing; empty when a command cannot.
    on_gpu: it would run on an NVIDIA GPU.
    """

    engine: str
    library: str | None
    device: str | None
    precisions: tuple[str, ...]
    reason: str = ""
    install: str = ""
    on_gpu: bool = False

    @property
    def available(self) -> bool:
        return bool(self.precisions)


def availability(engine: str) -> Availability:
    """Whether ``engine``, one of ENGINES, can be used here."""
    return _LOOK[engine]()


def library_versions(engine: str) -> dict[str, str]:
    """Versions of the distributions that an engine's library came in; empty when it is not installed."""
    found = {}
    for name in _LIBRARIES[engine][1]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU's cores can do, in the system's words; empty where it does not say."""
    try:
        lines = _CPU_FACTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def torch_sees_cuda() -> bool:
    """Whether torch's CUDA works here; imports torch only where a GPU and a build for it are there."""
    if not gpus() or _torch_for_cpu() or not _installed("torch"):
        return False
    try:
        import torch

        return bool(torch.cuda.is_available())
    except (ImportError, OSError, RuntimeError):
        return False


def _tensorrt() -> Availability:
    from strokecore.learned.tensorrt_api import install_command
    from strokecore.learned.tensorrt_build import PRECISIONS, check_precision

    library, devices = _library("tensorrt"), gpus()
    if not devices:
        return Availability(
            "tensorrt",
            library,
            None,
            (),
            "no NVIDIA GPU is visible to this process; install its driver, and pass it into a container",
            "" if library else install_command(),
        )
    if library is None:
        return Availability(
            "tensorrt", None, str(devices[0]), (), "TensorRT is not installed", install_command()
        )

    def has(precision: str) -> bool:
        try:
            check_precision(precision, devices[0])
        except EngineError:
            return False
        return True

    return Availability("tensorrt", library, str(devices[0]), tuple(filter(has, PRECISIONS)), on_gpu=True)


def _torch() -> Availability:
    library, devices = _library("torch"), gpus()
    missing = [name for name in ("torch", "onnx") if not _installed(name)]  # onnx reads the graph for it
    if missing:
        reason = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        device = str(devices[0]) if devices else cpu_name()
        return Availability("torch", library, device, (), reason, _INSTALL["torch"])
    if not devices or not torch_sees_cuda():
        return Availability("torch", library, cpu_name(), ("fp32",))
    fast = ("bf16", "tf32") if devices[0].compute_capability >= _MATRIX_UNITS else ()
    return Availability("torch", library, str(devices[0]), (*fast, "fp32"), on_gpu=True)


def _openvino() -> Availability:
    library = _library("openvino")
    if library is None:
        return Availability(
            "openvino", None, cpu_name(), (), "OpenVINO is not installed", _INSTALL["openvino"]
        )
    precisions = ("bf16", "fp32") if cpu_flags() & _BF16_FLAGS else ("fp32",)
    return Availability("openvino", library, cpu_name(), precisions)


def _onnx() -> Availability:
    library = _library("onnx")
    if library is None:
        return Availability("onnx", None, cpu_name(), (), "ONNX Runtime is not installed", _INSTALL["onnx"])
    return Availability("onnx", library, cpu_name(), ("fp32",))


_LOOK: Final[Mapping[str, Callable[[], Availability]]] = MappingProxyType(
    {"tensorrt": _tensorrt, "torch": _torch, "openvino": _openvino, "onnx": _onnx}
)


def _library(engine: str) -> str | None:
    module, _ = _LIBRARIES[engine]
    if not _installed(module):
        return None
    versions = sorted(set(library_versions(engine).values()))
    return f"{module} {versions[0] if versions else '(version unknown)'}"


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a name that was set to None, or half an installation
        return False


def _torch_for_cpu() -> bool:
    return any(version.endswith("+cpu") for version in library_versions("torch").values())
