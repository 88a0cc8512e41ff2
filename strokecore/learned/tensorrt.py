"""TensorRT on an NVIDIA GPU: a package's network, compiled for the GPU that is there."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any, Final, Self

import numpy as np

from strokecore.errors import EngineError
from strokecore.learned import plans
from strokecore.learned.cuda import Cuda, CudaError
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES, ModelPackage, output_shapes
from strokecore.learned.plans import PlanKey
from strokecore.learned.runtime import Answers, Float4D, padded_batch
from strokecore.learned.tensorrt_api import ICudaEngine, Runtime, load_tensorrt
from strokecore.learned.tensorrt_build import check_precision, logger_of
from strokecore.learned.tensorrt_lanes import Lanes, OutOfMemory, Shape
from strokecore.learned.tensorrt_plan import (
    build,
    plan_key,
    ready,
    start_background_build,
    unavailable,
    usable_gpu,
)

__all__ = ["TensorRtRuntime", "build", "ready", "start_background_build", "unavailable"]

log = logging.getLogger(__name__)

# A plan that cannot be loaded with less free memory than this many times its size may be sound all the same.
_LOADING: Final = 2


class TensorRtRuntime:
    """A package's typed graph in TensorRT.

    Attributes
    ----------
    most: slices that it runs at once; fewer after the GPU ran out of memory.
    """

    name = "tensorrt"
    fallbacks: tuple[str, ...] = ()

    def __init__(
        self, package: ModelPackage, precision: str, threads: int | None = None, *, gpu: int = 0
    ) -> None:
        """Load the plan from the cache, or build it, which takes minutes (``ready`` tells).

        Parameters
        ----------
        threads: of no use here.
        gpu: CUDA device number.

        Raises EngineError when there is no GPU, TensorRT or plan, or the plan does not fit the package.
        """
        del threads
        self.package = package
        self._process, self._lock, self._broken = os.getpid(), threading.Lock(), ""
        self._cuda: Cuda | None = None
        self._runtime: Runtime | None = None
        self._loaded: ICudaEngine | None = None
        self._lanes: Lanes | None = None
        device = usable_gpu(gpu)
        check_precision(precision, device)
        trt = load_tensorrt()
        self.precision, self.device = precision, device.name
        self.library = f"tensorrt {trt.__version__}"
        key = plan_key(trt, package, precision, device)
        key = plans.find(key) or key
        plan = _plan(package, key, gpu)
        self._cuda = Cuda(gpu)
        try:
            self._cuda.activate()
            self._load(trt, key, plan)
        except CudaError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

    def run(self, slices: Float4D) -> Answers:
        """Class probabilities of both arms, see strokecore.learned.runtime.Runtime.

        Raises EngineError when the GPU is lost, fails, or has no memory for even one slice.
        """
        if os.getpid() != self._process:
            raise EngineError(
                "a TensorRT engine was used in a process forked from the one that made it; make it after the "
                "fork, or start the process by spawn."
            )
        expected = (len(self.package.spec.channels), *self.package.spec.size)
        if slices.ndim != 4 or slices.shape[1:] != expected or not len(slices):
            raise ValueError(f"slices of shape {slices.shape}, expected (n, {str(expected)[1:]}")
        outputs: dict[str, list[Float4D]] = {name: [] for name in OUTPUT_NAMES.values()}
        with self._lock:
            cuda, lanes = self._cuda, self._lanes
            if self._broken or cuda is None or lanes is None:
                raise EngineError(self._broken or "this TensorRT engine is closed; make another one.")
            done = 0
            try:
                cuda.activate()
                while done < len(slices):
                    taken, batch = padded_batch(len(slices) - done, self.most)
                    try:
                        answer = lanes.run(slices[done : done + taken], batch)
                    except OutOfMemory as error:
                        self._shrink(batch, error)
                        continue
                    for name, part in answer.items():
                        outputs[name].append(part)
                    done += taken
            except CudaError as error:
                raise self._failed(error) from error
        return Answers(*(np.concatenate(parts) for parts in outputs.values()))

    def close(self) -> None:
        """Free the GPU; may be called twice."""
        lanes, self._lanes = self._lanes, None
        cuda, self._cuda = self._cuda, None
        if cuda is None or os.getpid() != self._process:
            return
        with contextlib.suppress(CudaError):
            cuda.activate()
        # contexts before their engine, the engine before its runtime, all of it before the device
        if lanes is not None:
            lanes.clear()
        del lanes
        self._loaded = None
        self._runtime = None
        cuda.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # an engine that is only forgotten must not keep the memory of the GPU
        with contextlib.suppress(Exception):
            self.close()

    def _load(self, trt: Any, key: PlanKey, plan: bytes) -> None:
        cuda = self._cuda
        assert cuda is not None, "opened before"
        logger = logger_of(trt)
        try:
            self._runtime = trt.Runtime(logger)
        except (RuntimeError, TypeError) as error:
            raise EngineError(
                f"TensorRT cannot start ({error}): {logger.said()}; look at nvidia-smi."
            ) from error
        assert self._runtime is not None, "the constructor gives an object or raises"
        logger.forget()
        self._loaded = self._runtime.deserialize_cuda_engine(plan)
        if self._loaded is None:
            said, free = logger.said(), cuda.free_bytes()
            if free < _LOADING * len(plan):
                raise EngineError(
                    f"{self.device} has {free / 2**20:.0f} MiB of free memory, and the plan needs "
                    f"{len(plan) / 2**20:.0f} MiB and more; stop other programs on it, or use another engine."
                )
            # whole as it was written, but not to this library's liking: the next start builds it again
            plans.discard(key)
            raise EngineError(
                f"TensorRT cannot load its plan: {said}. It was removed; start again to build it."
            )
        shapes = _checked(trt, self.package, self._loaded)
        largest = self._loaded.get_tensor_profile_shape(INPUT_NAME, 0)[2][0]
        self.most = 1 << (largest.bit_length() - 1)
        self._lanes = Lanes(trt, cuda, self._loaded, shapes)

    def _shrink(self, batch: int, error: OutOfMemory) -> None:
        if batch == 1:
            rows, columns = self.package.spec.size
            raise EngineError(
                f"{self.device} has no memory left for even one slice of {rows} x {columns}; stop other "
                "programs on it, or use another engine."
            ) from error
        self.most = batch // 2
        log.warning("%s has no memory for %d slices at once; going on with %d", self.device, batch, self.most)

    def _failed(self, error: CudaError) -> EngineError:
        """What a failure of the device means; the engine is of no more use after it."""
        if error.lost:
            self._broken = (
                f"{self.device} is lost to this process: {error}. Another engine takes over; look at "
                "nvidia-smi and the kernel's log, and start the node again when the GPU is well."
            )
        else:
            self._broken = f"{self.device} failed: {error}. Another engine takes over; look at nvidia-smi."
        return EngineError(self._broken)


def _plan(package: ModelPackage, key: PlanKey, gpu: int) -> bytes:
    """From the cache, else built now."""
    plan = plans.load(key)
    if plan is None:
        built = build(package, key.precision, gpu=gpu, most=key.profile.maximum)
        plan = plans.load(built.key)
    if plan is None:
        raise EngineError("the TensorRT plan vanished from the cache after it was built; start again.")
    return plan


def _checked(trt: Any, package: ModelPackage, engine: ICudaEngine) -> dict[str, Shape]:
    """Shape of one slice of each tensor, the input first; EngineError unless they are the package's."""
    spec = package.spec
    shapes: dict[str, Shape] = {INPUT_NAME: (len(spec.channels), *spec.size)}
    for arm, shape in output_shapes(spec.size).items():
        shapes[OUTPUT_NAMES[arm]] = tuple(shape[1:])
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    wrong = [name for name in names if engine.get_tensor_dtype(name) != trt.DataType.FLOAT]
    if set(names) != set(shapes) or inputs != [INPUT_NAME] or wrong:
        raise EngineError(
            f"the TensorRT plan has the tensors {names} (inputs {inputs}, not float32: {wrong}), expected "
            f"{list(shapes)} in float32; export the model again."
        )
    return shapes
