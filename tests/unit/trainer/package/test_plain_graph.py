from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.unit.trainer.package.typed_cases import exported, eye, graph
from trainer.package.graph_types import infer_types
from trainer.package.plain_graph import free_name, make_plain


def plain(content: bytes) -> onnx.ModelProto:
    model = onnx.load_model_from_string(content)
    make_plain(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x})
    return np.asarray(answer)


ROTATED = """
g (float[n,3,4] x) => (float[n,3,4] y) {
  angles = Constant <value = float[3,2] {0.0, 0.5, 1.0, 1.5, 2.0, 2.5}> ()
  twice = Constant <value_ints = [1, 2]> ()
  table = Tile(angles, twice)
  cosine = Cos(table)
  y = Mul(x, cosine)
}"""
KEYS = """
g (float[n,2,3,4] x) => (float[n,2,4,3] y) {
  shape = Shape(x)
  first = Constant <value_ints = [-1]> ()
  sides = Constant <value_ints = [3, 4]> ()
  merged_shape = Concat <axis = 0> (first, sides)
  merged = Reshape(x, merged_shape)
  swapped = Transpose <perm = [0, 2, 1]> (merged)
  zero = Constant <value_ints = [0]> ()
  two = Constant <value_ints = [2]> ()
  lead = Slice(shape, zero, two)
  turned = Constant <value_ints = [4, 3]> ()
  split_shape = Concat <axis = 0> (lead, turned)
  y = Reshape(swapped, split_shape)
}"""


def test_tables_are_computed_once() -> None:
    model = plain(graph(ROTATED))
    assert operators(model) == ["Mul"]
    (table,) = model.graph.initializer
    angles = np.tile(np.arange(6, dtype=np.float32).reshape(3, 2) / 2, (1, 2))
    assert numpy_helper.to_array(table) == pytest.approx(np.cos(angles), abs=1e-7)


def test_transposed_keys_are_one_transpose() -> None:
    content = graph(KEYS)
    model = plain(content)
    assert operators(model) == ["Transpose"]
    assert not model.graph.initializer
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    assert np.array_equal(run(model, x), run(onnx.load_model_from_string(content), x))
    assert np.array_equal(run(model, x), x.swapaxes(2, 3))


def test_transposed_keys_that_are_read_on_the_way_stay() -> None:
    body = KEYS.replace("(float[n,2,4,3] y)", "(float[n,2,4,3] y, float[m,4,3] z)")
    body = body.replace("zero =", "z = Relu(swapped)\n  zero =")
    assert operators(plain(graph(body))) == ["Reshape", "Transpose", "Relu", "Reshape"]


def test_what_only_looks_like_transposed_keys_stays() -> None:
    content = graph(KEYS.replace("[0, 2, 1]", "[0, 1, 2]"))
    model = plain(content)
    assert operators(model) == ["Reshape", "Transpose", "Reshape"]
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    assert np.array_equal(run(model, x), run(onnx.load_model_from_string(content), x))


def test_shapes_worked_out_at_run_time_are_written_down() -> None:
    body = """
    g (float[n,2,6] x) => (float[n,3,4] y) {
      shape = Shape <start = 0, end = 1> (x)
      sides = Constant <value_ints = [3, 4]> ()
      wanted = Concat <axis = 0> (shape, sides)
      y = Reshape(x, wanted)
    }"""
    model = plain(graph(body))
    assert operators(model) == ["Reshape"]
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [-1, 3, 4]
    x = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    assert np.array_equal(run(model, x), x.reshape(2, 3, 4))


def test_a_shape_with_two_free_axes_stays() -> None:
    body = """
    g (float[n,m,6] x) => (float[n,m,2,3] y) {
      shape = Shape <start = 0, end = 2> (x)
      sides = Constant <value_ints = [2, 3]> ()
      wanted = Concat <axis = 0> (shape, sides)
      y = Reshape(x, wanted)
    }"""
    assert operators(plain(graph(body))) == ["Shape", "Concat", "Reshape"]


def test_reshapes_to_the_same_shape_and_what_nothing_reads_go() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y) <float[n,4] again> {
      same = Constant <value_ints = [-1, 4]> ()
      again = Reshape(x, same)
      unread = MatMul(again, w)
      y = Relu(again)
    }"""
    model = plain(graph(body, w=eye()))
    assert operators(model) == ["Relu"]
    assert not model.graph.initializer


def test_results_and_chance_are_not_folded() -> None:
    body = """
    g (float[4] x) => (float[4] y, float[2] z) {
      two = Constant <value_floats = [1.0, 2.0]> ()
      z = Neg(two)
      zeros = Constant <value_floats = [0.0, 0.0, 0.0, 0.0]> ()
      noise = RandomNormalLike(zeros)
      y = Add(x, noise)
    }"""
    assert operators(plain(graph(body))) == ["Neg", "RandomNormalLike", "Add"]


def test_the_exporters_graph_is_plain_and_stays_so() -> None:
    content = exported()
    model = plain(content)
    assert model.SerializeToString(deterministic=True) == content
    found = set(operators(model))
    assert found.isdisjoint({"Constant", "Cos", "Sin", "Tile", "Gather", "Squeeze", "Unsqueeze"})
    assert found >= {"MatMul", "Softmax", "LayerNormalization", "Resize"}


def test_only_the_number_of_slices_is_worked_out_at_run_time() -> None:
    model = onnx.load_model_from_string(exported())
    computed = {name for node in model.graph.node if node.op_type == "Shape" for name in node.output}
    for node in model.graph.node:
        if computed & set(node.input) or node.op_type == "Shape":
            assert node.op_type in ("Shape", "Concat", "Expand")  # nothing is cut out of a shape
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    assert [name for name, found in infer_types(model).items() if found.free_axes != 0] == []


def test_a_graph_that_contradicts_itself_is_an_error() -> None:
    body = "g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }"
    with pytest.raises(onnx.shape_inference.InferenceError):
        plain(graph(body, w=np.zeros((5, 4), np.float32)))


def test_a_free_name_is_new() -> None:
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a", "a_"}) == "a__"
