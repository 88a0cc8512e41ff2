"""The one table of engines that run model packages: which there are, which are here, and starting one.

Nothing heavy is imported to find out: versions come from the installed packages' own records, CPU features
from the system and GPUs from the driver. The Orthanc plugin reads the names here, so that this file needs the
standard library only.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal, cast

from strokecore.config import WEIGHT_FREE
from strokecore.errors import EngineError
from strokecore.learned.devices import cpu_computes_in, cpu_name, gpus, has_nvidia_driver

if TYPE_CHECKING:
    from strokecore.learned.package import ModelPackage
    from strokecore.learned.runtime import Runtime


_INSTALL_CPU: Final = "pip install 'strokecore[cpu]'"
# Both builds of ONNX Runtime write the same module: both must be removed first, or files of both remain.
_INSTALL_GPU: Final = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'strokecore[gpu]'"


@dataclass(frozen=True)
class RuntimeKind:
    """One line of the table.

    Attributes
    ----------
    name: as in ``--engine``.
    module, class_name: where its class is, see strokecore.learned.runtime.Runtime; made with package,
        precision and threads.
    import_names: of its library; one of them is enough.
    distributions: that bring the library; several builds of one library go by several names.
    precisions: that it has, most preferred first.
    device: what it computes on.
    needs: the library as people call it.
    install: the command that brings it.
    compiled_beforehand: whether a package's network is compiled for the GPU before it runs, which takes
        minutes, in the types that its graph gives: 16 bits then need a graph of their own.
    """

    name: str
    module: str
    class_name: str
    import_names: tuple[str, ...]
    distributions: tuple[str, ...]
    precisions: tuple[str, ...]
    device: Literal["cpu", "gpu"]
    needs: str
    install: str
    compiled_beforehand: bool = False


RUNTIMES: Final = (
    RuntimeKind(
        name="tensorrt",
        module="strokecore.learned.tensorrt.runtime",
        class_name="TensorRtRuntime",
        import_names=("tensorrt", "tensorrt_rtx"),
        distributions=(
            "tensorrt",
            "tensorrt-cu13",
            "tensorrt-cu12",
            "tensorrt-rtx",
            "tensorrt-rtx-cu13",
        ),
        # bf16 has the range of fp32, in which attention cannot overflow
        precisions=("bf16", "fp16", "tf32", "fp32"),
        device="gpu",
        needs="TensorRT",
        install=_INSTALL_GPU,
        compiled_beforehand=True,
    ),
    RuntimeKind(
        name="onnx-cuda",
        module="strokecore.learned.onnx",
        class_name="OnnxCudaRuntime",
        import_names=("onnxruntime",),
        distributions=("onnxruntime-gpu",),
        precisions=("tf32", "fp32"),
        device="gpu",
        needs="ONNX Runtime for CUDA",
        install=_INSTALL_GPU,
    ),
    RuntimeKind(
        name="openvino",
        module="strokecore.learned.openvino",
        class_name="OpenVinoRuntime",
        import_names=("openvino",),
        distributions=("openvino",),
        precisions=("bf16", "fp32"),
        device="cpu",
        needs="OpenVINO",
        install=_INSTALL_CPU,
    ),
    RuntimeKind(
        name="onnx",
        module="strokecore.learned.onnx",
        class_name="OnnxRuntime",
        import_names=("onnxruntime",),
        distributions=("onnxruntime", "onnxruntime-gpu"),
        precisions=("fp32",),
        device="cpu",
        needs="ONNX Runtime",
        install=_INSTALL_CPU,
    ),
)
"""Engines that run model packages, the fastest first: the order of ``--engine auto``."""

RUNTIME_NAMES: Final = tuple(kind.name for kind in RUNTIMES)
ENGINE_CHOICES: Final = ("auto", *RUNTIME_NAMES, WEIGHT_FREE)
"""What ``--engine`` takes."""


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
    """

    engine: str
    library: str | None
    device: str | None
    precisions: tuple[str, ...]
    reason: str = ""
    install: str = ""

    @property
    def available(self) -> bool:
        return bool(self.precisions)


def runtime_kind(name: str) -> RuntimeKind:
    """The table's line of an engine of RUNTIME_NAMES."""
    return next(kind for kind in RUNTIMES if kind.name == name)


def availability(name: str) -> Availability:
    """Whether an engine of RUNTIME_NAMES can be used here."""
    kind = runtime_kind(name)
    installed = next(filter(_installed, kind.import_names), "")
    sharing = (other.distributions for other in RUNTIMES if other.import_names == kind.import_names)
    builds = _versions(chain(*sharing))
    version = next(iter(builds.values()), "(version unknown)")
    library = f"{installed} {version}" if installed else None
    devices = gpus() if kind.device == "gpu" else ()
    device = cpu_name() if kind.device == "cpu" else str(devices[0]) if devices else None

    def missing(reason: str, install: str = kind.install) -> Availability:
        return Availability(name, library, device, (), reason, install)

    if device is None and has_nvidia_driver() and not _installed("cuda.bindings"):
        return missing("cuda-bindings, which finds NVIDIA GPUs, is not installed")
    if device is None:
        reason = "no NVIDIA GPU is visible to this process; install its driver, and pass it into a container"
        return missing(reason, "")
    if not installed:
        return missing(f"{kind.needs} is not installed")
    if others := [build for build in builds if build not in kind.distributions]:
        return missing(f"{kind.needs} shares its module with {', '.join(others)}, which is installed")
    computes_in = devices[0].computes_in if devices else cpu_computes_in
    return Availability(name, library, device, tuple(filter(computes_in, kind.precisions)))


def package_precisions(name: str, package: ModelPackage) -> tuple[str, ...]:
    """Those of ``availability`` that a package has a graph for, most preferred first."""
    found = availability(name).precisions
    return tuple(filter(package.has_graph, found)) if runtime_kind(name).compiled_beforehand else found


def start(package: ModelPackage, name: str, precision: str, threads: int) -> Runtime:
    """An engine of RUNTIME_NAMES, with a package's network loaded.

    Raises
    ------
    EngineError: the engine has no such precision, or cannot be used here.
    ModelPackageError: the package's graph is not the one that its manifest describes.
    """
    kind = runtime_kind(name)
    if precision not in kind.precisions:
        raise EngineError(
            f"the {name} engine has no precision {precision!r}; expected one of {', '.join(kind.precisions)}."
        )
    runtime = getattr(importlib.import_module(kind.module), kind.class_name)
    return cast("Runtime", runtime(package, precision, threads))


def library_versions(name: str) -> dict[str, str]:
    """Versions of the distributions that an engine's library came in; empty when it is not installed."""
    return _versions(runtime_kind(name).distributions)


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a name that was set to None, or half an installation
        return False
