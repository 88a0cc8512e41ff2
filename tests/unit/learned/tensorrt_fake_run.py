"""The stand-in's runtime, engines and contexts; they run the plan's graph in ONNX Runtime."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from tests.unit.learned.tensorrt_fake_base import Strict

if TYPE_CHECKING:
    from tests.unit.learned.tensorrt_fake import FakeTensorRt

# What a context of this network is said to need for its activations, per slice.
SCRATCH = 5000


class IExecutionContext(Strict):
    def __init__(self, trt: FakeTensorRt, engine: ICudaEngine) -> None:
        self._put(_trt=trt, _engine=engine, _profile=None, _shape=None, _scratch=None, _addresses={})
        self._put(_warm=None)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._trt._cuda.streams
        self._put(_profile=profile_index)
        return profile_index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile == 0, "no profile is chosen"
        low, _, high = self._engine._plan["profile"][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._put(_shape=tuple(shape), _warm=None)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        inner = self._engine._shapes[name][1:]
        return (self._shape[0], *inner)

    def update_device_memory_size_for_shapes(self) -> int:
        return 0 if self._trt._unknown_scratch else SCRATCH * self._shape[0]

    def set_device_memory(self, memory: int, size: int) -> None:
        cuda = self._trt._cuda
        assert memory % 256 == 0, "not aligned"
        assert cuda.holds(memory, size), "not device memory"
        assert size >= SCRATCH * self._shape[0], "too small"
        self._put(_scratch=(memory, size))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._shapes:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, cuda = self._trt, self._trt._cuda
        if trt._execute_error or self._scratch is None or set(self._addresses) != set(self._engine._shapes):
            self._engine._logger.log(trt.ILogger.ERROR, trt._execute_error or "not everything is set")
            return False
        if cuda.capturing(stream_handle) and (trt._cannot_capture or self._warm != self._shape):
            self._engine._logger.log(trt.ILogger.ERROR, "operation not permitted when stream is capturing")
            cuda.streams[stream_handle].spoiled = True
            return False
        self._put(_warm=self._shape)
        shape, addresses = self._shape, dict(self._addresses)
        cuda.queue_kernel(stream_handle, lambda: self._engine._compute(self, shape, addresses))
        return True


class ICudaEngine(Strict):
    def __init__(self, trt: FakeTensorRt, plan: dict[str, Any], logger: Any) -> None:
        session = onnxruntime.InferenceSession(
            base64.b64decode(plan["onnx"]), providers=["CPUExecutionProvider"]
        )
        tensors = [*session.get_inputs(), *session.get_outputs()]
        shapes = {t.name: (-1, *t.shape[1:]) for t in tensors}
        inputs = [t.name for t in session.get_inputs()]
        self._put(_trt=trt, _plan=plan, _logger=logger, _session=session, _shapes=shapes, _inputs=inputs)
        self._put(num_io_tensors=len(shapes))

    def get_tensor_name(self, index: int) -> str:
        return list(self._shapes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        mode = self._trt.TensorIOMode
        return mode.INPUT if name in self._inputs else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[self._trt._dtype]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return [tuple(shape) for shape in self._plan["profile"][name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH * self._plan["profile"][self._inputs[0]][2][0]

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        assert strategy is self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._trt._no_context:
            self._logger.log(self._trt.ILogger.ERROR, "Error Code 2: OutOfMemory (no further information)")
            return None
        self._trt._contexts += 1
        return IExecutionContext(self._trt, self)

    def _compute(self, context: IExecutionContext, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        cuda = self._trt._cuda
        self._trt._runs.append(shape[0])
        if self._trt._fault:
            cuda.lost = self._trt._fault
            return
        name = self._inputs[0]
        inputs = cuda.array(addresses[name], shape)
        outputs = [output for output in self._shapes if output != name]
        for output, found in zip(outputs, self._session.run(outputs, {name: inputs.copy()}), strict=True):
            # a graph whose context has another shape by now computes with that one's inner state
            stale = context._shape != shape
            cuda.array(addresses[output], found.shape)[:] = np.nan if stale else found


class Runtime(Strict):
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        trt._check_logger(logger)
        assert trt._cuda.names, "a segmentation fault"
        self._put(_trt=trt, _logger=logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        assert self._trt._cuda.current is not None, "no device is chosen"
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            plan = {}
        if plan.get("version") != self._trt.__version__ or self._trt._load_error:
            error = self._trt._load_error or "the plan was built with another version"
            self._logger.log(self._trt.ILogger.ERROR, error)
            return None
        return ICudaEngine(self._trt, plan, self._logger)
