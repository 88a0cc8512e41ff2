"""The build on NVIDIA's own builder and ONNX parser, without a GPU: those of TensorRT for RTX.

It is the edition for consumer GPUs, has the interface of TensorRT 11, the same parser and strong typing, and
compiles ahead of time for a GPU that is not there. So graphs and calls that it refuses would fail on TensorRT
too. Its plans are not TensorRT's, and nothing runs here. Skipped where its wheels are not installed:

    pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs    (97 MB)
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strokecore.errors import EngineError
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.plans import Profile
from strokecore.learned.tensorrt_build import PRECISIONS, build_plan, logger_of
from tests.unit.learned.tensorrt_cases import SPEC, write_small_package
from tests.unit.learned.tensorrt_uses import SOURCE

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings and -libs here")
# Its timing cache does nothing and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")

PROFILE = Profile(1, 8, 16)
SHIPPED = [path.parent for path in sorted((SOURCE / "models").glob("*/model.json"))]
GIB = 2**30


class Builder:
    """Compiles for Ada, whatever is in this machine."""

    def __init__(self, logger: Any) -> None:
        self._real = rtx.Builder(logger)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_builder_config(self) -> Any:
        config = self._real.create_builder_config()
        config.num_compute_capabilities = 1
        assert config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
        return config


@pytest.fixture(scope="module")
def trt() -> ModuleType:
    module = ModuleType("tensorrt")
    vars(module).update({name: value for name, value in vars(rtx).items() if not name.startswith("__")})
    module.__version__ = f"RTX {rtx.__version__}"
    module.Builder = Builder
    return module


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


def with_graph(package: ModelPackage, nodes: list[Any], constants: list[Any], kinds: tuple[int, int]) -> None:
    """Replace the network by one of ``nodes`` from "slices" to "bg_probability"."""
    given = helper.make_tensor_value_info("slices", kinds[0], ["n", 3, *SPEC.size])
    found = helper.make_tensor_value_info("bg_probability", kinds[1], ["n", 3, *SPEC.size])
    graph = helper.make_graph(nodes, "graph", [given], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    package.onnx.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_package_is_built(precision: str, package: ModelPackage, trt: ModuleType) -> None:
    built = build_plan(trt, package, precision, PROFILE, GIB)
    assert len(built.plan) > 10_000
    assert built.timing


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_shipped_model_is_built(precision: str, folder: Path, trt: ModuleType) -> None:
    assert build_plan(trt, load_package(folder), precision, Profile(1, 32, 64), GIB).plan


def test_timings_are_taken_again(package: ModelPackage, trt: ModuleType) -> None:
    first = build_plan(trt, package, "fp32", PROFILE, GIB)
    assert build_plan(trt, package, "fp32", PROFILE, GIB, first.timing).plan


def test_the_parsers_errors_are_said(package: ModelPackage, trt: ModuleType) -> None:
    node = helper.make_node("NoSuchOperator", ["slices"], ["bg_probability"], name="the_node")
    with_graph(package, [node], [], (TensorProto.FLOAT, TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"does not understand the fp32 .*NoSuchOperator 'the_node'"):
        build_plan(trt, package, "fp32", PROFILE, GIB)
    package.onnx.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="does not understand the fp32"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_types_are_strong(package: ModelPackage, trt: ModuleType) -> None:
    """A sum of fp32 and fp16 is no network: nothing is converted in silence."""
    half = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float16), "half")
    node = helper.make_node("Add", ["slices", "half"], ["bg_probability"])
    with_graph(package, [node], [half], (TensorProto.FLOAT, TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"(?i)type|fp16|half"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_the_profile_is_checked(package: ModelPackage, trt: ModuleType) -> None:
    content = onnx.load_model_from_string(package.onnx.read_bytes())
    content.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    content.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    package.onnx.write_bytes(content.SerializeToString())
    with pytest.raises(EngineError, match="RTX"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_a_plan_is_not_read_by_another_library(trt: ModuleType) -> None:
    logger = logger_of(trt)
    logger.forget()
    runtime = trt.Runtime(logger)
    assert runtime.deserialize_cuda_engine(b"not a plan") is None
    assert logger.said() != "it gave no reason"
