"""From a model package to a TensorRT plan.

The network is strongly typed: every tensor keeps the type that the ONNX graph gives it, so that attention
scores and norms stay in fp32 whatever the precision of the rest. TensorRT 10 takes that as a flag of the
network, and 11 knows nothing else. A plan cannot be refitted and holds no plugin of ours.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.devices import Gpu
from strokecore.learned.package import INPUT_NAME, ModelPackage
from strokecore.learned.plans import Profile
from strokecore.learned.tensorrt_api import (
    Builder,
    IBuilderConfig,
    INetworkDefinition,
    IOptimizationProfile,
    OnnxParser,
)

log = logging.getLogger(__name__)

PRECISIONS: Final = ("bf16", "fp16", "tf32", "fp32")
"""Most preferred first: bf16 has the range of fp32, in which attention cannot overflow."""

MOST_SLICES: Final = 64
"""One head is 25 to 40 slices of 4-6 mm; no more is gained beyond twice that."""
OPTIMUM: Final = 32
# Memory per pixel and slice. NVIDIA's builder (TensorRT for RTX 1.7, Ada, fp32) counts 290 bytes of
# activations for the tiny network, 210 for ViT-S and 410 for ViT-B; inputs and outputs add 72. Twice that,
# for kernels that keep an attention's scores.
_BYTES_PER_PIXEL: Final = 1000
# The rest of the GPU's memory is for the weights, the other workers of this node and other programs.
_SHARE: Final = 0.5

_REMEMBERED: Final = 8


@dataclass(frozen=True, eq=False)
class BuiltPlan:
    """A plan, what was measured while it was built (for the next build), and how long that took."""

    plan: bytes
    timing: bytes
    seconds: float


def profile_for(size: tuple[int, int], memory_bytes: int, most: int = MOST_SLICES) -> Profile:
    """Numbers of slices of ``size`` pixels that fit half of a GPU's memory: powers of two up to ``most``."""
    fitting = int(memory_bytes * _SHARE) // (_BYTES_PER_PIXEL * size[0] * size[1])
    maximum = max(1, min(most, fitting))
    maximum = 1 << (maximum.bit_length() - 1)
    return Profile(1, min(OPTIMUM, maximum), maximum)


def check_precision(precision: str, gpu: Gpu) -> None:
    """Raises EngineError when ``gpu`` does not have ``precision`` in its matrix units."""
    if precision not in PRECISIONS:
        raise EngineError(
            f"TensorRT has no precision {precision!r} here; expected one of {', '.join(PRECISIONS)}."
        )
    if not gpu.computes_in(precision):
        raise EngineError(
            f"{gpu} has no {precision}, which came with compute capability 8.0 (Ampere); use fp16 or fp32."
        )


def build_plan(
    trt: Any,
    package: ModelPackage,
    precision: str,
    profile: Profile,
    workspace_bytes: int,
    timing: bytes = b"",
) -> BuiltPlan:
    """Build a plan on the calling thread's current device; takes minutes.

    Parameters
    ----------
    trt: the tensorrt module.
    workspace_bytes: for what the network computes in between, which the builder may fuse into one kernel.
    timing: what an earlier build of this GPU and TensorRT measured.

    Raises EngineError, with all that TensorRT said, when there is no plan in the end.
    """
    started = time.monotonic()
    logger = logger_of(trt)
    logger.forget()
    try:
        plan, measured = _build(trt, logger, package, precision, profile, workspace_bytes, timing)
    except (RuntimeError, TypeError, MemoryError) as error:
        # the bindings' own: a TypeError where the library gives no object, as without a working driver
        raise EngineError(
            f"TensorRT {trt.__version__} cannot build ({type(error).__name__}: {error}): {logger.said()}. "
            "Look at nvidia-smi, or use another engine."
        ) from error
    return BuiltPlan(plan, measured, time.monotonic() - started)


def _build(
    trt: Any,
    logger: Any,
    package: ModelPackage,
    precision: str,
    profile: Profile,
    workspace_bytes: int,
    timing: bytes,
) -> tuple[bytes, bytes]:
    """The plan and the timing cache after it."""
    builder: Builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    # the parser holds the weights: it must live until the plan is there
    parser: OnnxParser = trt.OnnxParser(network, logger)
    _parse(parser, package, precision, logger)
    config = builder.create_builder_config()
    _configure(trt, config, precision, workspace_bytes)
    cache = config.create_timing_cache(timing)
    if cache is not None and not config.set_timing_cache(cache, False) and timing:
        log.warning("the TensorRT timing cache is of another device or driver; it is measured anew")
        cache = config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, False)
    _add_profile(builder.create_optimization_profile(), config, network, profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot build the {precision} network of {package.name} "
            f"{package.version}: {logger.said()}. Try fewer slices (--max-slices), a newer TensorRT, another "
            "precision or another engine."
        )
    measured = config.get_timing_cache()
    return bytes(serialized), b"" if measured is None else bytes(measured.serialize())


@lru_cache(maxsize=1)
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


def _strongly_typed(trt: Any) -> int:
    """Flags of the network. Where TensorRT has no such flag any more, all networks are strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: OnnxParser, package: ModelPackage, precision: str, logger: Any) -> None:
    if parser.parse(network_bytes(package, precision)):
        return
    errors = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        errors.append(f"{error.node_operator()} {error.node_name()!r}: {error.desc()}")
    raise EngineError(
        f"TensorRT does not understand the {precision} network of {package.name} {package.version}: "
        f"{'; '.join(errors) or logger.said()}. Update TensorRT, or use another precision or engine."
    )


def network_bytes(package: ModelPackage, precision: str) -> bytes:
    """The ONNX graph that ``precision`` is built from. TF32 is a way to multiply fp32, not a type."""
    if precision in ("fp32", "tf32"):
        try:
            return package.onnx.read_bytes()
        except OSError as error:
            raise ModelPackageError(
                f"model package {package.folder}: {package.onnx.name} cannot be read "
                f"({type(error).__name__}); copy the package again."
            ) from error
    return bytes(package.typed(precision))


def _configure(trt: Any, config: IBuilderConfig, precision: str, workspace_bytes: int) -> None:
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    # parallel streams would each hold activations of their own, and a batch fills the GPU without them
    config.max_aux_streams = 0
    # lets a context take only what its own number of slices needs, not what the profile's maximum does
    resize = getattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if resize is not None:
        config.set_preview_feature(resize, True)


def _add_profile(
    shapes: IOptimizationProfile, config: IBuilderConfig, network: INetworkDefinition, profile: Profile
) -> None:
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    if names != [INPUT_NAME]:
        raise EngineError(f"the network has inputs {names}, expected {INPUT_NAME}; export the model again.")
    rest = tuple(network.get_input(0).shape)[1:]
    shapes.set_shape(INPUT_NAME, (profile.minimum, *rest), (profile.optimum, *rest), (profile.maximum, *rest))
    if config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses slices of {rest} for {profile}; export the model again.")
