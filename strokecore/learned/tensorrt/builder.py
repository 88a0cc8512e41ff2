"""Compiling a package's network with TensorRT, through NVIDIA's own Python interface.

The network is strongly typed: every tensor keeps the type that the ONNX graph gives it, so that attention
scores and norms stay in fp32 whatever the precision of the rest. TensorRT for RTX has the same interface, for
NVIDIA's RTX and L series; it makes its kernels when the engine runs, for each number of slices.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.devices import Gpu
from strokecore.learned.package import INPUT_NAME, TYPED_PRECISIONS, ModelPackage
from strokecore.learned.runtimes import runtime_kind

log = logging.getLogger(__name__)

OLDEST: Final = {"tensorrt": (11, 2), "tensorrt_rtx": (1, 7)}
"""Modules that are looked for, and the oldest version of each: docs/tensorrt.md says why."""
RTX_GPUS: Final = frozenset({(7, 5), (8, 6), (8, 9), (12, 0), (12, 1)})
"""Compute capabilities of NVIDIA's RTX and L series, which TensorRT for RTX is made for."""

MOST_SLICES: Final = 64
"""One head is 25 to 40 slices of 4-6 mm; no more is gained beyond twice that."""
OPTIMUM: Final = 32
# Memory per pixel and slice. NVIDIA's builder (TensorRT for RTX 1.7, Ada, fp32) counts 290 bytes of
# activations for the tiny network, 210 for ViT-S and 410 for ViT-B; inputs and outputs add 72. Twice that,
# for kernels that keep an attention's scores.
_BYTES_PER_PIXEL: Final = 1000
# The rest of the GPU's memory is for the weights, the other workers of this node and other programs.
_SHARE: Final = 0.5
# TensorRT's latest warnings and errors that a report repeats.
_REMEMBERED: Final = 8


class Profile(NamedTuple):
    """Numbers of slices that an engine runs at once: fewest, the number it is tuned for, and most."""

    minimum: int
    optimum: int
    maximum: int


@dataclass(frozen=True, eq=False)
class Compiled:
    """A serialised engine, and what was measured while it was built, for the next build."""

    engine: bytes
    timing: bytes


def load_library(gpu: Gpu) -> Any:
    """The module of TensorRT, else of TensorRT for RTX where that is made for ``gpu``.

    Asks for a GPU because TensorRT ends the process with a segmentation fault where there is no driver.

    Raises EngineError, with what to install, when neither can be loaded or is new enough.
    """
    found = []
    for name, oldest in OLDEST.items():
        if name == "tensorrt_rtx" and gpu.compute_capability not in RTX_GPUS:
            continue
        try:
            trt = importlib.import_module(name)
            version = tuple(int(part) for part in trt.__version__.split(".")[:2])
        except (ImportError, OSError, AttributeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
            continue
        if version >= oldest:
            return trt
        found.append(f"{name} {trt.__version__} is too old, expected {oldest[0]}.{oldest[1]} or newer")
    install = runtime_kind("tensorrt").install
    raise EngineError(f"TensorRT cannot be loaded ({'; '.join(found)}); run: {install}")


def library_name(trt: Any) -> str:
    """Such as "tensorrt 11.4.0.106"."""
    return f"{trt.__name__} {trt.__version__}"


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX."""
    return hasattr(trt, "DynamicShapesKernelSpecializationStrategy")


def profile_for(size: tuple[int, int], memory_bytes: int) -> Profile:
    """1 to 64 slices of ``size`` pixels; fewer where half of the GPU's memory would not hold them."""
    fitting = int(memory_bytes * _SHARE) // (_BYTES_PER_PIXEL * size[0] * size[1])
    maximum = 1 << (max(1, min(MOST_SLICES, fitting)).bit_length() - 1)
    return Profile(1, min(OPTIMUM, maximum), maximum)


def compile_network(
    trt: Any, package: ModelPackage, precision: str, profile: Profile, gpu: Gpu, timing: bytes = b""
) -> Compiled:
    """Build an engine on the calling thread's current device; takes minutes.

    Parameters
    ----------
    trt: the module of TensorRT.
    precision: "bf16" or "fp16" from the package's typed graph, "tf32" or "fp32" from its model.onnx.
    timing: what an earlier build of this GPU and TensorRT measured.

    Raises
    ------
    EngineError: there is no engine in the end; with all that TensorRT said.
    ModelPackageError: the package has no graph for the precision, or it cannot be read.
    """
    started = time.monotonic()
    logger = logger_of(trt)
    logger.forget()
    graph = _graph(package, precision)
    try:
        compiled = _compile(trt, logger, graph, precision, profile, gpu, timing)
    except (RuntimeError, TypeError, MemoryError) as error:
        # the bindings' own: a TypeError where the library gives no object, as without a working driver
        raise EngineError(
            f"{library_name(trt)} cannot build the {precision} network of {package.name} {package.version} "
            f"({error}): {logger.said()}. Update TensorRT, or use another precision or engine."
        ) from error
    log.info("%s built %s in %.0f s", library_name(trt), precision, time.monotonic() - started)
    return compiled


@lru_cache(maxsize=2)
def logger_of(trt: Any) -> Any:
    """TensorRT's messages in this package's log; one object per process, which TensorRT keeps for good.

    ``said()`` gives the latest warnings and errors in one line, ``forget()`` drops them. The messages speak
    of layers, shapes and memory, never of a patient.
    """
    levels = {
        int(trt.ILogger.INTERNAL_ERROR): logging.ERROR,
        int(trt.ILogger.ERROR): logging.ERROR,
        int(trt.ILogger.WARNING): logging.WARNING,
        int(trt.ILogger.INFO): logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._latest: deque[str] = deque(maxlen=_REMEMBERED)

        def log(self, severity: Any, msg: str) -> None:
            # called from TensorRT's own threads, through which no exception may pass
            try:
                level = levels.get(int(severity))
                if level is None:  # verbose: thousands of lines
                    return
                if level >= logging.WARNING:
                    self._latest.append(msg)
                log.log(level, "TensorRT: %s", msg)
            except Exception:
                self._latest.append("a message that could not be logged")

        def said(self) -> str:
            return "; ".join(self._latest) or "it gave no reason"

        def forget(self) -> None:
            self._latest.clear()

    return Logger()


def _graph(package: ModelPackage, precision: str) -> bytes:
    """The ONNX graph that ``precision`` is built from; TF32 is a way to multiply fp32, not a type."""
    if precision in TYPED_PRECISIONS:
        return package.typed(precision)
    try:
        return package.onnx.read_bytes()
    except OSError as error:
        raise ModelPackageError(
            f"model package {package.folder}: {package.onnx.name} cannot be read ({type(error).__name__}); "
            "copy the package again."
        ) from error


def _compile(
    trt: Any, logger: Any, graph: bytes, precision: str, profile: Profile, gpu: Gpu, timing: bytes
) -> Compiled:
    """Raises EngineError where TensorRT says no, and the bindings' own exceptions."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # the parser holds the weights: it must live until the engine is there
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        words = [f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors]
        raise RuntimeError(f"it does not understand the graph: {'; '.join(words)}")
    config = builder.create_builder_config()
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    # parallel streams would each hold activations of their own, and a batch fills the GPU without them
    config.max_aux_streams = 0
    # a context takes only what its own number of slices needs, not what the profile's maximum does
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if is_rtx(trt):  # it measures nothing, and builds for several cards unless told which
        config.num_compute_capabilities = 1
        major, minor = gpu.compute_capability
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), 0)
    else:
        cache = config.create_timing_cache(timing)
        if not config.set_timing_cache(cache, False) and timing:
            log.warning("TensorRT's timing cache is of another device or driver; it is measured anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)
    _add_profile(builder, config, network, profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RuntimeError("there is no engine in the end")
    measured = None if is_rtx(trt) else config.get_timing_cache()
    return Compiled(bytes(serialized), b"" if measured is None else bytes(measured.serialize()))


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if names != [INPUT_NAME]:
        raise RuntimeError(f"the network has inputs {names}, expected {INPUT_NAME}; export the model again")
    rest = tuple(network.get_input(0).shape)[1:]
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT_NAME, *((number, *rest) for number in profile))
    if config.add_optimization_profile(shapes) < 0:
        raise RuntimeError(f"it refuses slices of {rest} for {profile}; export the model again")
