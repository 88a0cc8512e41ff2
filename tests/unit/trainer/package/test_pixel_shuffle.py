from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from strokecore.arrays import Float32Array
from tests.unit.trainer.package.typed_cases import exported
from trainer.package.pixel_shuffle import shuffle_pixels


def transposed(kernel: tuple[int, int], bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    """A transposed convolution from 5 to 3 channels."""
    rng = np.random.default_rng(2)
    groups = attributes.get("group", 1)
    constants = [numpy_helper.from_array(rng.normal(size=(5, 3, *kernel)).astype(np.float32), "w")]
    if bias:
        constants.append(numpy_helper.from_array(rng.normal(size=3 * groups).astype(np.float32), "b"))
    node = helper.make_node("ConvTranspose", ["x", *(c.name for c in constants)], ["y"], **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 4, 6])
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])
    graph = helper.make_graph([node], "g", [given], [found], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto) -> Float32Array:
    x = np.random.default_rng(3).normal(size=(2, 5, 4, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def shuffled(model: onnx.ModelProto) -> tuple[list[str], onnx.ModelProto]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shuffle_pixels(copy)
    onnx.checker.check_model(copy, full_check=True)
    return [node.op_type for node in copy.graph.node], copy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [2, 3, 4])
def test_a_tile_for_each_pixel_is_the_same_sum(side: int, bias: bool) -> None:
    model = transposed((side, side), bias, strides=[side, side])
    operators, rewritten = shuffled(model)
    assert operators == ["Conv", "DepthToSpace"]
    expected = run(model)
    assert expected.shape == (2, 3, 4 * side, 6 * side)
    assert run(rewritten) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((2, 2), {}),
        ((3, 3), {"strides": [2, 2]}),
        ((2, 4), {"strides": [2, 4]}),
        ((2, 2), {"strides": [2, 2], "pads": [1, 0, 0, 0]}),
        ((2, 2), {"strides": [2, 2], "output_padding": [1, 0]}),
        ((2, 2), {"strides": [2, 2], "dilations": [2, 2]}),
        ((2, 2), {"strides": [2, 2], "group": 5}),
        ((2, 2), {"strides": [2, 2], "output_shape": [7, 11]}),
    ],
)
def test_others_stay(kernel: tuple[int, int], attributes: dict[str, Any]) -> None:
    model = transposed(kernel, **attributes)
    assert shuffled(model)[0] == ["ConvTranspose"]


def test_weights_that_are_computed_stay() -> None:
    model = transposed((2, 2), strides=[2, 2])
    model.graph.node[0].input[1] = "twice"
    model.graph.node.insert(0, helper.make_node("Add", ["w", "w"], ["twice"]))
    assert shuffled(model)[0] == ["Add", "ConvTranspose"]


def test_the_exporters_two_are_rewritten_under_their_names() -> None:
    model = onnx.load_model_from_string(exported())
    results = [node.output[0] for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert len(results) == 2
    operators, rewritten = shuffled(model)
    assert "ConvTranspose" not in operators
    assert [n.output[0] for n in rewritten.graph.node if n.op_type == "DepthToSpace"] == results
