"""Building a package's TensorRT engine, now or in the background, through NVIDIA's own Python interface.

The network is strongly typed: every tensor keeps the type that the ONNX graph gives it, so that attention
scores and norms stay in fp32 whatever the precision of the rest. TensorRT for RTX has the same interface, for
NVIDIA's RTX and L series; it makes its kernels when the engine runs, for each number of slices.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.errors import EngineError, ModelPackageError, StrokeCoreError
from strokecore.files import CACHE_VARIABLE, cache_folder, is_locked, locked, read_own, write_own
from strokecore.learned.devices import CudaError, use_gpu
from strokecore.learned.package import INPUT_NAME, TYPED_PRECISIONS, ModelPackage
from strokecore.learned.tensorrt.engine_files import (
    ENGINES,
    FOLDER,
    TIMINGS,
    EngineFile,
    Profile,
    engine_file,
)
from strokecore.learned.tensorrt.library import is_rtx, library_name, logger_of

log = logging.getLogger(__name__)

# A build that failed fails again until something changes; a driver may have been repaired by tomorrow.
FAILURE_HOURS: Final = 24
BACKGROUND_LOG: Final = "build.log"
# Parents that end before their builds leave them running; while they live they must not lose track of them.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Built:
    """A serialised engine in the cache.

    Attributes
    ----------
    seconds: that it took to build; None when it was there already.
    """

    file: EngineFile
    engine: bytes
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Compiled:
    """A serialised engine, and what was measured while it was built, for the next build."""

    engine: bytes
    timing: bytes


def build(file: EngineFile, *, force: bool = False, wait: bool = True) -> Built:
    """Build an engine and keep it; takes minutes.

    Parameters
    ----------
    force: build again also when it is there.
    wait: for another build on the same GPU to end; one that made this engine made it for both.

    Raises
    ------
    EngineError: it cannot be built or written.
    ModelPackageError: the package has no graph for the precision.
    BlockingIOError: another process builds on this GPU, and ``wait`` is False.
    """
    with locked(file.lock, wait=wait):
        there = None if force else ENGINES.load(file.key)
        if there is not None:
            return Built(file, there, None)
        started = time.monotonic()
        try:
            compiled = _compiled(file)
            ENGINES.store(file.key, compiled.engine)
        except StrokeCoreError as error:
            with contextlib.suppress(OSError):
                write_own(_failure_path(file), str(error).encode())
            raise
        _failure_path(file).unlink(missing_ok=True)
        if compiled.timing:
            with contextlib.suppress(EngineError):  # losing it costs time only
                TIMINGS.store(file.timing_key, compiled.timing)
        return Built(file, compiled.engine, time.monotonic() - started)


def start_background_build(package: ModelPackage, precision: str) -> bool:
    """Build an engine in a process of its own, at low priority, which outlives this one.

    Returns whether a build is at work now, this one or another on the same GPU; the log says why not. Never
    raises. One build runs per GPU; a build that failed is tried again a day later, or by hand with
    ``strokecore build-engine``.
    """
    what = f"TensorRT {precision}"
    try:
        file = engine_file(package, precision)
        if (reason := _failure(file)) is not None:
            log.warning("%s could not be built lately: %s", what, reason)
            return False
        if is_locked(file.lock):
            log.warning("%s is not built yet; a build is at work in the background", what)
            return True
        _start(background_command(package.folder, precision))
    except (EngineError, OSError) as error:
        log.warning("%s cannot be built: %s", what, error)
        return False
    log.warning("%s is not built yet; a build was started in the background", what)
    return True


def background_command(folder: Path, precision: str) -> list[str]:
    """The command that builds in the background."""
    words = ["build-engine", str(folder.resolve()), "--precision", precision, "--background"]
    return [sys.executable, "-m", "strokecore", *words]


def _compiled(file: EngineFile) -> Compiled:
    try:
        use_gpu(file.gpu)
    except (CudaError, MemoryError) as error:
        raise EngineError(f"{file.gpu.name} cannot be used ({error}); look at nvidia-smi.") from error
    timing = TIMINGS.load(file.timing_key) or b""
    return compile_network(file, timing)


def compile_network(file: EngineFile, timing: bytes = b"") -> Compiled:
    """Build an engine on the calling thread's current device; takes minutes.

    Parameters
    ----------
    file: its precision is "bf16" or "fp16" from the package's typed graph, "tf32" or "fp32" from model.onnx.
    timing: what an earlier build of this GPU and TensorRT measured.

    Raises
    ------
    EngineError: TensorRT makes no engine; with all that it said.
    ModelPackageError: the package has no graph for the precision, or it cannot be read.
    """
    started = time.monotonic()
    logger, package = logger_of(file.trt), file.package
    logger.forget()
    graph = _graph(package, file.precision)
    try:
        compiled = _compile(file, graph, timing)
    except (RuntimeError, TypeError, MemoryError) as error:
        # the bindings' own: a TypeError where the library gives no object, as without a working driver
        raise EngineError(
            f"{library_name(file.trt)} cannot build the {file.precision} network of {package.name} "
            f"{package.version} ({error}): {logger.said()}. Update TensorRT, or use another precision or "
            "engine."
        ) from error
    log.info("%s built %s in %.0f s", library_name(file.trt), file.precision, time.monotonic() - started)
    return compiled


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


def _compile(file: EngineFile, graph: bytes, timing: bytes) -> Compiled:
    """Raises EngineError where TensorRT says no, and the bindings' own exceptions."""
    trt, logger = file.trt, logger_of(file.trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # the parser holds the weights: it must live until the engine is there
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        words = [f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors]
        raise RuntimeError(f"it does not understand the graph: {'; '.join(words)}")
    config = builder.create_builder_config()
    if file.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.TF32)
    # parallel streams would each hold activations of their own, and a batch fills the GPU without them
    config.max_aux_streams = 0
    # a context takes only what its own number of slices needs, not what the profile's maximum does
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    if is_rtx(trt):  # it measures nothing, and builds for several cards unless told which
        config.num_compute_capabilities = 1
        major, minor = file.gpu.compute_capability
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), 0)
    else:
        cache = config.create_timing_cache(timing)  # None where it cannot be read
        if cache is None or not config.set_timing_cache(cache, False):
            log.warning("TensorRT's timing cache is of another device or driver; it is measured anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)
    _add_profile(builder, config, network, file.profile)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RuntimeError("it makes no engine")
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


def _failure_path(file: EngineFile) -> Path:
    return file.path.with_suffix(".failed")


def _failure(file: EngineFile) -> str | None:
    """Why the engine could not be built within the last ``FAILURE_HOURS``; None when it was not tried."""
    path = _failure_path(file)
    try:
        if time.time() - path.stat().st_mtime > FAILURE_HOURS * 3600:
            return None
        return read_own(path).decode("utf-8", "replace")
    except (OSError, EngineError):
        return None


def _start(command: list[str]) -> None:
    _started[:] = [process for process in _started if process.poll() is None]
    output = cache_folder(FOLDER) / BACKGROUND_LOG
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    # without the folders of a scan, which end before a build does; the cache stays the same one
    lasting = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")}
    try:
        _started.append(
            subprocess.Popen(
                command,
                env={**lasting, CACHE_VARIABLE: str(cache_folder())},
                # "python -m" looks in the working folder first: there it finds the code that runs here
                cwd=Path(__file__).parents[3],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # neither Ctrl-C nor the end of the parent reaches it
            )
        )
    finally:
        os.close(descriptor)
