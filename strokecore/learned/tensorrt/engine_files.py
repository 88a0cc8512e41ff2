"""The TensorRT engine of a package on this GPU: whether it is there, building it now, or in the background.

A serialised engine is code for one GPU model, one TensorRT version, one network and one precision. It takes
minutes to build and is kept in the node's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore._version import __version__
from strokecore.errors import EngineError, StrokeCoreError
from strokecore.files import CACHE_VARIABLE, cache_folder, is_locked, locked, read_own, write_own
from strokecore.learned.compiled_cache import CompiledCache, Key
from strokecore.learned.devices import CudaError, Gpu, gpus, use_gpu
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtimes import runtime_kind
from strokecore.learned.tensorrt.builder import (
    Compiled,
    Profile,
    compile_network,
    library_name,
    load_library,
    profile_for,
)

log = logging.getLogger(__name__)

_FOLDER: Final = "tensorrt"
# A few models in a few precisions.
ENGINES: Final = CompiledCache(_FOLDER, ".engine", 12, 8 * 2**30)
TIMINGS: Final = CompiledCache(_FOLDER, ".timing", 6)
# A build that failed fails again until something changes; a driver may have been repaired by tomorrow.
FAILURE_HOURS: Final = 24
BACKGROUND_LOG: Final = "build.log"
# Parents that end before their builds leave them running; while they live they must not lose track of them.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class EngineFile:
    """What an engine of a package depends on.

    Attributes
    ----------
    trt: the module of TensorRT.
    """

    trt: Any
    package: ModelPackage
    precision: str
    gpu: Gpu

    @property
    def profile(self) -> Profile:
        """Its numbers of slices."""
        return profile_for(self.package.spec.size, self.gpu.memory_bytes)

    @property
    def key(self) -> Key:
        """StrokeCore's version is a part of it: its code chooses the builder's settings."""
        return {
            **self.timing_key,
            "precision": self.precision,
            "package_sha256": self.package.sha256,
            "profile": list(self.profile),
            "strokecore": __version__,
        }

    @property
    def timing_key(self) -> Key:
        """The GPU's model, not the one card: what is measured on one holds for the next."""
        return {
            "gpu": self.gpu.name,
            "compute_capability": list(self.gpu.compute_capability),
            "tensorrt": library_name(self.trt),
        }

    @property
    def path(self) -> Path:
        """Where the serialised engine is or would be."""
        return ENGINES.path(self.key)

    @property
    def lock(self) -> Path:
        """Held while any engine is built on this GPU: a build measures how fast kernels run."""
        name = hashlib.sha256((self.gpu.uuid or str(self.gpu.index)).encode()).hexdigest()[:16]
        return cache_folder(_FOLDER) / f"build-{name}.lock"


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


def engine_file(package: ModelPackage, precision: str) -> EngineFile:
    """The engine's file on the first GPU that this process may use; CUDA_VISIBLE_DEVICES says which that is.

    Raises EngineError when there is none, it lacks the precision, or TensorRT cannot be loaded.
    """
    found = gpus()
    if not found:
        raise EngineError(
            "no NVIDIA GPU is visible to this process; install its driver (nvidia-smi must list the GPU, in "
            f"a container too), look at CUDA_VISIBLE_DEVICES, and run: {runtime_kind('tensorrt').install}"
        )
    gpu = found[0]
    if not gpu.computes_in(precision):
        raise EngineError(
            f"{gpu} has no {precision}, which came with compute capability 8.0 (Ampere); use fp16 or fp32."
        )
    return EngineFile(load_library(gpu), package, precision, gpu)


def ready(package: ModelPackage, precision: str) -> bool:
    """Whether GPU, TensorRT and a sound engine are there, so that it starts at once; never raises."""
    try:
        return ENGINES.load(engine_file(package, precision).key) is not None
    except EngineError as error:
        log.debug("TensorRT is not ready: %s", error)
        return False


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
    return compile_network(file.trt, file.package, file.precision, file.profile, file.gpu, timing)


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
    output = cache_folder(_FOLDER) / BACKGROUND_LOG
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
