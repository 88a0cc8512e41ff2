"""A stand-in for the tensorrt module that has no name which the vendor's bindings do not have.

Its names come from tensorrt_record.json, which was read out of the bindings of one TensorRT version; a method
or property that is not there cannot be read or set. Plans hold their ONNX graph and the contexts run it with
ONNX Runtime, on memory of the stand-in for CUDA. What NVIDIA's documentation forbids is an error here.
"""

from __future__ import annotations

import base64
import enum
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.unit.cuda_fake import FakeCuda

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_record.json").read_text("utf-8"))
VERSIONS = sorted(RECORD)
# What a context of this network is said to need for its activations, per slice.
SCRATCH = 5000


class PyEnum(enum.Enum):
    """As pybind11's: a number only when asked."""

    def __int__(self) -> int:
        return int(self.value)


class Strict:
    """Base of all objects: only the recorded names can be read or set from outside."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._real = cls.__name__

    _real = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            table = object.__getattribute__(self, "_trt")._classes[object.__getattribute__(self, "_real")]
            if name not in table:
                raise AttributeError(f"'{self._real}' object has no attribute '{name}'")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self._trt._classes[self._real].get(name) != "settable property":
            raise AttributeError(f"'{self._real}' object attribute '{name}' cannot be set")
        object.__setattr__(self, name, value)

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


class IHostMemory(bytes):
    """The buffer protocol, which Python 3.11 classes cannot have otherwise."""


class ITensor(Strict):
    def __init__(self, trt: FakeTensorRt, name: str, shape: tuple[int, ...]) -> None:
        self._put(_trt=trt, name=name, shape=shape)


class INetworkDefinition(Strict):
    def __init__(self, trt: FakeTensorRt, flags: int) -> None:
        typed = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
        # from 11 on the flag is ignored: there are no other networks
        strong = trt._major >= 11 or (typed is not None and bool(flags & 1 << int(typed)))
        self._put(_trt=trt, _strong=strong, _model=b"", _tensors=[], num_inputs=0)

    def get_input(self, index: int) -> ITensor:
        return self._tensors[index]


class ParserError(Strict):
    def __init__(self, trt: FakeTensorRt, text: str) -> None:
        self._put(_trt=trt, _text=text)

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return "node_7"

    def node_operator(self) -> str:
        return "GridSample"


class OnnxParser(Strict):
    def __init__(self, trt: FakeTensorRt, network: INetworkDefinition, logger: Any) -> None:
        trt._check_logger(logger)
        self._put(_trt=trt, _network=network, _errors=[], num_errors=0)

    def parse(self, model: bytes) -> bool:
        if self._trt._parser_error:
            self._put(_errors=[ParserError(self._trt, self._trt._parser_error)], num_errors=1)
            return False
        graph = onnx.load_model_from_string(model).graph
        tensors = []
        for value in graph.input:
            sizes = value.type.tensor_type.shape.dim
            tensors.append(ITensor(self._trt, value.name, tuple(d.dim_value or -1 for d in sizes)))
        self._network._put(_model=model, _tensors=tensors, num_inputs=len(tensors))
        return True

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class ITimingCache(Strict):
    def __init__(self, trt: FakeTensorRt, content: bytes) -> None:
        self._put(_trt=trt, _content=content)

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content)


class IOptimizationProfile(Strict):
    def __init__(self, trt: FakeTensorRt) -> None:
        self._put(_trt=trt, _shapes={})

    def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:
        self._shapes[input] = min, opt, max


class IBuilderConfig(Strict):
    def __init__(self, trt: FakeTensorRt) -> None:
        # TF32 is on unless it is cleared
        self._put(_trt=trt, _flags={trt.BuilderFlag.TF32}, _pools={}, _features={}, _profiles=[], _cache=None)
        self._put(max_aux_streams=-1)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[self._trt.MemoryPoolType(pool)] = int(pool_size)

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._features[self._trt.PreviewFeature(feature)] = enable

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1 if profile._shapes else -1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(self._trt, bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._content not in (b"", self._trt._timing):
            return False
        self._put(_cache=cache)
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(Strict):
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        trt._check_logger(logger)
        if trt._cuda.current is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._put(_trt=trt, _logger=logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(self._trt, flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._trt)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._trt)

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        trt = self._trt
        trt._builds.append(config)
        if trt._build_error or not network._strong or not network._model or not config._profiles:
            self._logger.log(trt.ILogger.ERROR, trt._build_error or "the network is not strongly typed")
            return None
        if config._cache is not None:
            config._cache._put(_content=trt._timing)
        shapes = config._profiles[0]._shapes
        plan = {
            "version": trt.__version__,
            "onnx": base64.b64encode(network._model).decode(),
            "profile": shapes,
            "flags": sorted(flag.name for flag in config._flags),
        }
        return IHostMemory(json.dumps(plan).encode())


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


class FakeTensorRt(ModuleType):
    """The module ``tensorrt`` of one version.

    The attributes with an underscore steer it: what goes wrong, and what was done (``_builds``, ``_runs``).
    """

    def __init__(self, version: str, cuda: FakeCuda) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self._cuda, self._major = cuda, int(version.split(".")[0])
        self._classes, self._timing = RECORD[version]["classes"], b"measured on this GPU"
        self._build_error = self._parser_error = self._load_error = self._execute_error = ""
        self._cannot_capture = self._no_context = self._unknown_scratch = False
        self._fault, self._dtype, self._contexts = 0, "FLOAT", 0
        self._builds: list[IBuilderConfig] = []
        self._runs: list[int] = []
        for name, members in RECORD[version]["enums"].items():
            setattr(self, name, PyEnum(name, members))
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, self._constructor(kind))
        self.ILogger = self._logger_class()

    def _constructor(self, kind: type) -> Any:
        return lambda *arguments: kind(self, *arguments)

    def _logger_class(self) -> type:
        severity = PyEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

        class ILogger:
            def __init__(self) -> None:
                self._made = True

        for level in severity:
            setattr(ILogger, level.name, level)
        return ILogger

    def _check_logger(self, logger: Any) -> None:
        assert isinstance(logger, self.ILogger)
        assert logger._made, "ILogger.__init__ was not called: pybind11 refuses such an object"
        for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO"):
            assert name in self._classes["ILogger"]
