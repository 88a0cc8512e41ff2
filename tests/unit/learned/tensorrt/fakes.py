"""A stand-in for the runtime half of TensorRT: an engine is an ONNX graph, which ONNX Runtime runs.

What it must have of TensorRT's interface, and with which arguments, test_bindings.py says. The builder
has no stand-in: NVIDIA's own is used (test_build_rtx.py).
"""

from __future__ import annotations

import ctypes
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from tests.unit.learned.cuda_fake import FakeDriver

# What a context needs for its activations, per slice.
SCRATCH = 5000


class FakeTensorRt(ModuleType):
    """The module; the attributes say what goes wrong, and ``ran`` holds the numbers of slices that ran."""

    DataType = SimpleNamespace(FLOAT="FLOAT")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, driver: FakeDriver, name: str = "tensorrt", version: str = "11.4.0.106") -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__version__, self.driver = version, driver
        self.load_error = self.run_error = ""
        self.unknown_scratch = False
        self.kind, self.strategy = "FLOAT", None
        self.ran: list[int] = []

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        assert self.driver.current is not None, "no device is chosen"
        return SimpleNamespace(deserialize_cuda_engine=lambda content: self._engine(logger, content))

    def _engine(self, logger: Any, content: bytes) -> Any:
        if self.load_error:
            logger.log(self.ILogger.ERROR, self.load_error)
            return None
        return FakeEngine(self, logger, content)


class FakeEngine:
    def __init__(self, trt: FakeTensorRt, logger: Any, content: bytes) -> None:
        self.trt, self.logger = trt, logger
        self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        tensors = (*self.session.get_inputs(), *self.session.get_outputs())
        self.shapes = {tensor.name: (-1, *tensor.shape[1:]) for tensor in tensors}
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.trt.kind

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 64 * SCRATCH

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(strategy=None)
        config.set_execution_context_allocation_strategy = lambda strategy: vars(config).update(
            strategy=strategy
        )
        return config

    def create_execution_context(self, config: Any) -> FakeContext:
        assert config.strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.trt.strategy = getattr(config, "dynamic_shapes_kernel_specialization_strategy", None)
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.trt = engine, engine.trt
        self.count = self.profile = -1
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count = shape[0]
        return self.profile == 0 and 1 <= self.count <= 64

    def update_device_memory_size_for_shapes(self) -> int:
        return 0 if self.trt.unknown_scratch else self.count * SCRATCH

    def set_device_memory(self, memory: int, size: int) -> None:
        assert ctypes.sizeof(self.trt.driver.memory[memory]) >= size >= self.count * SCRATCH

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return name in self.engine.shapes

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.trt.run_error:
            self.engine.logger.log(self.trt.ILogger.ERROR, self.trt.run_error)
            return False
        self.trt.ran.append(self.count)
        given, *outputs = self.engine.shapes
        answers = self.engine.session.run(outputs, {given: self._array(given).copy()})
        for name, answer in zip(outputs, answers, strict=True):
            self._array(name)[:] = answer
        return True

    def _array(self, name: str) -> Any:
        """A tensor's device memory as float32."""
        shape = (self.count, *self.engine.shapes[name][1:])
        memory = self.trt.driver.memory[self.addresses[name]]
        return np.frombuffer(memory, np.float32, count=int(np.prod(shape))).reshape(shape)
