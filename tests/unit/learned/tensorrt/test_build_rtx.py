"""The build on NVIDIA's own builder and ONNX parser, without a GPU: those of TensorRT for RTX.

It is the edition for RTX cards, has the interface of TensorRT 11, the same parser and strong typing, and
compiles ahead of time for a GPU that is not there. So graphs and calls that it refuses would fail on TensorRT
too. Nothing runs here. Skipped where its wheels are not installed:

    pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs    (97 MB)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.devices import Gpu
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtimes import runtime_kind
from strokecore.learned.shipped import SHIPPED
from strokecore.learned.tensorrt.build import Compiled, compile_network
from strokecore.learned.tensorrt.engine_files import EngineFile
from strokecore.learned.tensorrt.library import is_rtx, logger_of
from tests.unit.learned.cuda_fake import L4
from tests.unit.learned.tensorrt.cases import SPEC, add_typed_graphs, write_small_package

rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings and -libs here")

PRECISIONS = runtime_kind("tensorrt").precisions


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


def compiled(package: ModelPackage, precision: str = "fp32", gpu: Gpu = L4) -> Compiled:
    return compile_network(EngineFile(rtx, package, precision, gpu))


def with_graph(package: ModelPackage, nodes: list[Any], constants: list[Any], kinds: tuple[int, int]) -> None:
    """Replace the network by one of ``nodes`` from "slices" to "bg_probability"."""
    given = helper.make_tensor_value_info("slices", kinds[0], ["n", 3, *SPEC.size])
    found = helper.make_tensor_value_info("bg_probability", kinds[1], ["n", 3, *SPEC.size])
    graph = helper.make_graph(nodes, "graph", [given], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    package.onnx.write_bytes(model.SerializeToString())


def test_it_is_known_for_what_it_is() -> None:
    assert is_rtx(rtx)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_package_is_built(precision: str, package: ModelPackage) -> None:
    assert len(compiled(add_typed_graphs(package.folder), precision).engine) > 10_000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_calls_itself_fp32_does_not_multiply_in_tf32(
    precision: str, package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class Watched(rtx.Builder):  # type: ignore[misc]
        def create_builder_config(self) -> Any:
            made.append(super().create_builder_config())
            return made[-1]

    monkeypatch.setattr(rtx, "Builder", Watched)
    compiled(add_typed_graphs(package.folder), precision)
    (config,) = made
    assert config.get_flag(rtx.BuilderFlag.TF32) == (precision != "fp32")
    assert config.max_aux_streams == 0


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_the_shipped_model_is_built(precision: str) -> None:
    assert compiled(load_package(SHIPPED), precision).engine


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_shipped_network_is_built_in_16_bits(precision: str, tmp_path: Path) -> None:
    shipped = load_package(SHIPPED)
    folder = tmp_path / "typed"
    folder.mkdir()
    for path in SHIPPED.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert shipped.typed_precisions == ()
    with pytest.raises(ModelPackageError, match="trainer export --typed"):
        compiled(shipped, precision)
    assert compiled(add_typed_graphs(folder), precision).engine


@pytest.mark.parametrize("capability", [(8, 6), (12, 0)])
def test_other_cards(capability: tuple[int, int], package: ModelPackage) -> None:
    assert compiled(package, gpu=replace(L4, compute_capability=capability)).engine


def test_the_parsers_errors_are_said(package: ModelPackage) -> None:
    node = helper.make_node("NoSuchOperator", ["slices"], ["bg_probability"], name="the_node")
    with_graph(package, [node], [], (TensorProto.FLOAT, TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"does not understand the graph: NoSuchOperator 'the_node'"):
        compiled(package)
    package.onnx.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="does not understand the graph"):
        compiled(package)
    package.onnx.unlink()
    with pytest.raises(ModelPackageError, match=r"model.onnx cannot be read"):
        compiled(package)


def test_types_are_strong(package: ModelPackage) -> None:
    """A sum of fp32 and fp16 is no network: nothing is converted in silence."""
    half = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.float16), "half")
    node = helper.make_node("Add", ["slices", "half"], ["bg_probability"])
    with_graph(package, [node], [half], (TensorProto.FLOAT, TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"(?i)type|fp16|half"):
        compiled(package)


def test_other_inputs_are_refused(package: ModelPackage) -> None:
    package.onnx.write_bytes(package.onnx.read_bytes().replace(b"slices", b"images"))
    with pytest.raises(EngineError, match=r"has inputs \['images'\], expected slices"):
        compiled(package)


def test_the_profile_is_checked(package: ModelPackage) -> None:
    content = onnx.load_model_from_string(package.onnx.read_bytes())
    content.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    content.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    package.onnx.write_bytes(content.SerializeToString())
    with pytest.raises(EngineError, match=r"tensorrt_rtx_bindings .* cannot build the fp32 network"):
        compiled(package)


def test_what_is_no_engine_is_not_loaded() -> None:
    logger = logger_of(rtx)
    logger.forget()
    assert rtx.Runtime(logger).deserialize_cuda_engine(b"not an engine") is None
    assert logger.said() != "it gave no reason"
