"""A package's plan on this GPU: whether it is there, building it now, and building it in the background."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.errors import EngineError, StrokeCoreError
from strokecore.files import CACHE_VARIABLE, cache_folder
from strokecore.learned import plans
from strokecore.learned.cuda import Cuda, CudaError
from strokecore.learned.devices import Gpu, gpus
from strokecore.learned.package import ModelPackage
from strokecore.learned.plans import PlanKey
from strokecore.learned.tensorrt_api import load_tensorrt
from strokecore.learned.tensorrt_build import MOST_SLICES, build_plan, check_precision, profile_for

log = logging.getLogger(__name__)

# Of the memory that is free when the build starts. The whole network may become one kernel, whose workspace
# is all that is computed in between: a small limit would refuse it.
_WORKSPACE_SHARE: Final = 0.8
BACKGROUND_LOG: Final = "build.log"
# Parents that end before their builds leave them running; while they live they must not lose track of them.
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Built:
    """A plan in the cache.

    Attributes
    ----------
    seconds: that it took to build; None when it was there already.
    """

    key: PlanKey
    path: Path
    size_bytes: int
    seconds: float | None


def unavailable() -> str | None:
    """Why TensorRT cannot be used on this machine, with what to do; None when it can."""
    try:
        load_tensorrt()
    except EngineError as error:
        return str(error)
    return None


def usable_gpu(index: int) -> Gpu:
    """The GPU with CUDA device number ``index``; raises EngineError when there is none."""
    found = gpus()
    if not 0 <= index < len(found):
        listed = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in found) or "none"
        raise EngineError(f"there is no GPU {index}; this process sees {listed}. Look at nvidia-smi.")
    return found[index]


def plan_key(trt: Any, package: ModelPackage, precision: str, gpu: Gpu, most: int | None = None) -> PlanKey:
    """The key of the plan for up to ``most`` slices; as many as the GPU's memory suggests when None."""
    profile = profile_for(package.spec.size, gpu.memory_bytes, MOST_SLICES if most is None else most)
    return PlanKey.of(gpu, trt.__version__, precision, package.sha256, profile)


def ready(package: ModelPackage, precision: str, gpu: int = 0) -> bool:
    """Whether TensorRT, the GPU and a sound plan for it are there, so that the engine starts at once.

    Never raises.
    """
    try:
        device = usable_gpu(gpu)
        key = plans.find(plan_key(load_tensorrt(), package, precision, device))
        return key is not None and plans.load(key) is not None
    except EngineError as error:
        log.debug("TensorRT is not ready: %s", error)
        return False


def build(
    package: ModelPackage,
    precision: str,
    *,
    gpu: int = 0,
    most: int | None = None,
    force: bool = False,
    wait: bool = True,
) -> Built:
    """Build a plan and keep it; takes minutes.

    Parameters
    ----------
    most: slices at once; as many as the GPU's memory suggests when None.
    force: build again also when it is there.
    wait: for another build on the same GPU to end; one that made this plan serves both.

    Raises
    ------
    EngineError: it cannot be built or written.
    BlockingIOError: another process builds on this GPU, and ``wait`` is False.
    """
    device = usable_gpu(gpu)
    check_precision(precision, device)
    trt = load_tensorrt()
    key = plan_key(trt, package, precision, device, most)
    with plans.building(device, wait=wait):
        there = None if force else plans.load(key)
        if there is not None:
            return Built(key, plans.path_of(key), len(there), None)
        log.info("building the %s plan of %s for %s", precision, package.name, device.name)
        try:
            return _build(trt, package, key, device)
        except StrokeCoreError as error:
            plans.record_failure(key, str(error))
            raise


def _build(trt: Any, package: ModelPackage, key: PlanKey, device: Gpu) -> Built:
    cuda = Cuda(device.index)
    try:
        workspace = int(cuda.free_bytes() * _WORKSPACE_SHARE)
        timing = plans.load_timing(device, key.tensorrt)
        built = build_plan(trt, package, key.precision, key.profile, workspace, timing)
    except CudaError as error:
        raise EngineError(f"{device.name} cannot be used: {error}; look at nvidia-smi.") from error
    finally:
        cuda.close()
    path = plans.store(key, built.plan, built.seconds)
    if built.timing:
        plans.store_timing(device, key.tensorrt, built.timing)
    return Built(key, path, len(built.plan), built.seconds)


def start_background_build(package: ModelPackage, precision: str, gpu: int = 0) -> str:
    """Build a plan in a process of its own, at low priority, which outlives this one.

    Returns a sentence for the log and the result: that it was started, is at work already, or failed lately.
    Never raises. One build runs per GPU; a build that failed is tried again a day later, or by hand with
    ``strokecore build-engine``.
    """
    what = f"TensorRT {precision}"
    try:
        device = usable_gpu(gpu)
        check_precision(precision, device)
        reason = plans.failure(plan_key(load_tensorrt(), package, precision, device))
        if reason is not None:
            return f"{what} could not be built lately: {reason}"
        if plans.being_built(device):
            return f"{what} is not built yet; a build is at work in the background"
        _start(background_command(package.folder, precision, gpu))
    except (EngineError, OSError) as error:
        return f"{what} cannot be built: {error}"
    return f"{what} is not built yet; a build was started in the background"


def background_command(folder: Path, precision: str, gpu: int) -> list[str]:
    """The command that builds in the background."""
    folder = folder.resolve()
    words = ["build-engine", str(folder), "--precision", precision, "--gpu", str(gpu), "--background"]
    return [sys.executable, "-m", "strokecore", *words]


def _start(command: list[str]) -> None:
    _started[:] = [process for process in _started if process.poll() is None]
    output = cache_folder("tensorrt") / BACKGROUND_LOG
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _started.append(
            subprocess.Popen(
                command,
                env=_lasting_environment(),
                # "python -m" looks in the working folder first: there it finds the code that runs here
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,  # neither Ctrl-C nor the end of the parent reaches it
            )
        )
    finally:
        os.close(descriptor)


def _lasting_environment() -> dict[str, str]:
    """Without the folders of a scan, which end before a build does; the cache stays the same one."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")}
    return {**kept, CACHE_VARIABLE: str(cache_folder())}
