"""The part of TensorRT's Python interface that this package calls, as types.

TensorRT is imported only where it is used, and mypy cannot see its own types. These stand in for them: what
is not declared here cannot be called, and a test (tests/unit/learned/test_tensorrt_api.py) compares every
declaration with the vendor's bindings, versions 10.3 to 11.
Names, argument names and their order are TensorRT's.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

from strokecore.errors import EngineError
from strokecore.learned.devices import driver_version, gpus

OLDEST: Final = (10, 3)
"""The oldest TensorRT whose interface has been compared."""
# The wheels of the current TensorRT need a driver for CUDA 13; for older drivers there are some for CUDA 12.
_CUDA_13: Final = (13, 0)


class DataType(Protocol):
    """An element type, such as trt.DataType.FLOAT."""


class ITensor(Protocol):
    name: str
    shape: Sequence[int]


class INetworkDefinition(Protocol):
    num_inputs: int

    def get_input(self, index: int) -> ITensor: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IHostMemory(Protocol):
    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...


class IOptimizationProfile(Protocol):
    # named as TensorRT names them
    def set_shape(
        self,
        input: str,
        min: tuple[int, ...],
        opt: tuple[int, ...],
        max: tuple[int, ...],
    ) -> None: ...


class IBuilderConfig(Protocol):
    max_aux_streams: int

    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def set_preview_feature(self, feature: Any, enable: bool) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class Builder(Protocol):
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...


class IExecutionContext(Protocol):
    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def update_device_memory_size_for_shapes(self) -> int: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> DataType: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Sequence[int]]: ...
    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int: ...
    def create_execution_context(self, strategy: Any) -> IExecutionContext | None: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


def load_tensorrt() -> Any:
    """The tensorrt module.

    Raises EngineError, with what to install, when it cannot be had or is too old. The device is looked for
    first: TensorRT ends the process with a segmentation fault where there is no driver.
    """
    if not gpus():
        raise EngineError(
            "no NVIDIA GPU is visible to this process, and TensorRT needs one; install the driver "
            "(nvidia-smi must list the GPU, in a container too), look at CUDA_VISIBLE_DEVICES, and install "
            f"TensorRT with: {install_command()}"
        )
    try:
        trt = importlib.import_module("tensorrt")
        version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise EngineError(
            f"TensorRT cannot be loaded ({type(error).__name__}: {error}); run: {install_command()}"
        ) from error
    if version < OLDEST:
        raise EngineError(
            f"TensorRT {trt.__version__} is too old, expected {OLDEST[0]}.{OLDEST[1]} or newer; run: "
            f"{install_command()} --upgrade"
        )
    return trt


def install_command() -> str:
    """What installs TensorRT for this machine's driver."""
    driver = driver_version()
    if driver is not None and driver < _CUDA_13:
        return "pip install tensorrt-cu12 onnx"
    return "pip install 'strokecore[gpu]'"
