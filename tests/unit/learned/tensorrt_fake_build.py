"""The stand-in's builder and parser; a plan is JSON that holds its ONNX graph."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import onnx

from tests.unit.learned.tensorrt_fake_base import Strict

if TYPE_CHECKING:
    from tests.unit.learned.tensorrt_fake import FakeTensorRt


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
