from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.unit.trainer.package.typed_cases import graph
from trainer.package.graph_types import TensorType, infer_types, skeleton

BODY = """
g (float[n,4] x) => (float[n,m] y) {
  a = Cast <to = 10> (x)
  b = Cast <to = 1> (a)
  y = MatMul(b, w)
}"""
LARGE = 100  # columns of a weight that is left out; a small one may say a shape


@pytest.mark.parametrize("columns", [1, LARGE])
def test_types_and_shapes_of_tensors_and_weights(columns: int) -> None:
    types = infer_types(onnx.load_model_from_string(graph(BODY, w=np.zeros((4, columns), np.float32))))
    assert types == {
        "x": TensorType(TensorProto.FLOAT, ("n", 4)),
        "a": TensorType(TensorProto.FLOAT16, ("n", 4)),
        "b": TensorType(TensorProto.FLOAT, ("n", 4)),
        "w": TensorType(TensorProto.FLOAT, (4, columns)),
        "y": TensorType(TensorProto.FLOAT, ("n", columns)),
    }


def test_free_axes_are_counted() -> None:
    assert TensorType(1, (2, 3)).free_axes == 0
    assert TensorType(1, ("n", None, 3)).free_axes == 2
    assert TensorType(1, None).free_axes is None


def test_a_skeleton_has_no_weights_and_the_same_result() -> None:
    model = onnx.load_model_from_string(graph(BODY, w=np.zeros((4, LARGE), np.float32)))
    bones = skeleton(model)
    assert not bones.graph.initializer
    assert [value.name for value in bones.graph.input] == ["x", "w"]
    assert bones.graph.node == model.graph.node
    assert len(model.graph.initializer) == 1
    onnx.checker.check_model(bones, full_check=True)
