"""TensorRT on an NVIDIA GPU: a package's network, compiled for the GPU that is there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from strokecore.arrays import Float4D
from strokecore.errors import EngineError
from strokecore.learned.devices import CudaError, checked, cuda_driver, use_gpu
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import BatchedRuntime, check_tensors, is_memory
from strokecore.learned.tensorrt.build import build
from strokecore.learned.tensorrt.engine_files import ENGINES, EngineFile, engine_file
from strokecore.learned.tensorrt.library import is_rtx, library_name, logger_of

log = logging.getLogger(__name__)

# Of a padded batch at most a quarter is thrown away; else a smaller full one goes first.
_PADDING: Final = 4


class TensorRtRuntime(BatchedRuntime):
    """A package's network in TensorRT, or in TensorRT for RTX where that is what is installed.

    Batches are padded to powers of two, so that few sizes of a batch run and the parity gate tries them all.
    Memory is taken for each batch and given back: workers share a GPU, and taking it costs a millisecond.
    """

    name = "tensorrt"

    def __init__(self, package: ModelPackage, precision: str, threads: int | None = None) -> None:
        """Load the engine from the cache, or build it, which takes minutes (``ready`` tells).

        Parameters
        ----------
        threads: of no use here.

        Raises
        ------
        EngineError: there is no GPU, TensorRT or engine, or TensorRT refuses it.
        ModelPackageError: the package has no graph for the precision, or not the one that it describes.
        """
        file = engine_file(package, precision)
        most = file.profile.maximum
        super().__init__(package, precision, threads, most * int(np.prod(package.spec.size)))
        self.device, self.library = file.gpu.name, library_name(file.trt)
        self._gpu = file.gpu
        self._logger = logger_of(file.trt)
        self._stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        serialized = ENGINES.load(file.key) or build(file).engine
        try:
            self._load(file, serialized)
        except (CudaError, MemoryError, RuntimeError, TypeError) as error:
            # the bindings raise a TypeError where the library gives no object
            self.close()
            raise EngineError(
                f"{self.library} cannot start on {self.device} ({error}): {self._logger.said()}; look at "
                "nvidia-smi."
            ) from error
        except BaseException:
            self.close()
            raise

    def _load(self, file: EngineFile, serialized: bytes) -> None:
        trt = file.trt
        driver = cuda_driver()
        use_gpu(self._gpu)
        self._stream = checked(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self._logger.forget()
        self._runtime = trt.Runtime(self._logger)
        self._engine = engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            if not is_memory(RuntimeError(self._logger.said())):
                # whole as it was written, but not to this library's liking
                ENGINES.discard(file.key)
            raise RuntimeError("it cannot load its engine; start again to build it")
        kinds = {trt.DataType.FLOAT: "float32"}
        found = {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            kind = engine.get_tensor_dtype(name)
            shape = ["n" if length < 0 else length for length in engine.get_tensor_shape(name)]
            found[name] = kinds.get(kind, str(kind)), shape
        check_tensors(self.package, found)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if is_rtx(trt):
            # without it a general kernel answers until the one for this number of slices is compiled, and the
            # parity gate would have seen the other one
            config.dynamic_shapes_kernel_specialization_strategy = (
                trt.DynamicShapesKernelSpecializationStrategy.EAGER
            )
        self._context = engine.create_execution_context(config)
        if self._context is None:
            raise RuntimeError("it makes no execution context")
        self._require(self._context.set_optimization_profile_async(0, int(self._stream)), "its profile")
        checked(driver.cuStreamSynchronize(self._stream))

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        driver, context, stream = cuda_driver(), self._context, self._stream
        use_gpu(self._gpu)  # this thread may be another
        self._logger.forget()
        batch = 1 << (len(slices) - 1).bit_length()
        given = np.zeros((batch, *slices.shape[1:]), np.float32)
        given[: len(slices)] = slices
        self._require(context.set_input_shape(INPUT_NAME, given.shape), f"slices of shape {given.shape}")
        # for this number of slices; 0 is also "unknown", and then as much as the largest number needs
        needed = context.update_device_memory_size_for_shapes()
        needed = needed or self._engine.get_device_memory_size_for_profile_v2(0)
        answers = dict(zip(OUTPUT_NAMES.values(), (bg, sg), strict=True))
        sizes = {INPUT_NAME: given.nbytes}
        sizes |= {name: batch * array[0].nbytes for name, array in answers.items()}
        with _device_memory([needed, *sizes.values()]) as (scratch, *addresses):
            context.set_device_memory(scratch, needed)
            for name, address in zip(sizes, addresses, strict=True):
                self._require(context.set_tensor_address(name, address), f"the memory of {name}")
            checked(driver.cuMemcpyHtoDAsync(addresses[0], given.ctypes.data, given.nbytes, stream))
            self._require(context.execute_async_v3(int(stream)), f"{batch} slices")
            for address, array in zip(addresses[1:], answers.values(), strict=True):
                checked(driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream))
            checked(driver.cuStreamSynchronize(stream))

    def _next(self, left: int) -> int:
        """A whole batch, or what is padded by at most a quarter: 30 slices run in 32, and 34 as 32 and 2."""
        if left >= self.batch:
            return self.batch
        batch = 1 << (left - 1).bit_length()
        return left if (batch - left) * _PADDING <= batch else batch // 2

    def _free(self) -> None:
        # the context before its engine, the engine before its runtime
        self._context = None
        self._engine = None
        self._runtime = None
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(CudaError):
                use_gpu(self._gpu)
                checked(cuda_driver().cuStreamDestroy(stream))

    def _failures(self) -> tuple[type[Exception], ...]:
        return CudaError, MemoryError, RuntimeError

    def _require(self, accepted: bool, what: str) -> None:
        """Raises RuntimeError, with what TensorRT said, when it did not accept."""
        if not accepted:
            raise RuntimeError(f"it refuses {what}: {self._logger.said()}")


@contextlib.contextmanager
def _device_memory(sizes: list[int]) -> Iterator[list[int]]:
    """Addresses of pieces of the current GPU's memory of these numbers of bytes; given back in the end.

    Raises CudaError or MemoryError.
    """
    driver = cuda_driver()
    addresses: list[Any] = []
    try:
        for size in sizes:
            addresses.append(checked(driver.cuMemAlloc(max(size, 1))))
        yield [int(address) for address in addresses]
    finally:
        for address in addresses:
            with contextlib.suppress(CudaError):  # of a device that is lost; what it did is said already
                checked(driver.cuMemFree(address))
