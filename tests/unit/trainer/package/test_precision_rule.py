"""The rule on graphs written by hand: what becomes of each operator, wherever it stands."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
import pytest

from tests.unit.trainer.package.typed_cases import eye, graph
from trainer.package.graph_types import infer_types
from trainer.package.precision_rule import Precisions, precisions

W = eye()


def rule(
    body: str, not_in_16_bits: Container[str] = (), **weights: np.ndarray
) -> tuple[list[str], list[str]]:
    """Results of nodes that compute in 16 bits, and of those whose operands are rounded."""
    model, found = applied(graph(body, **weights), not_in_16_bits)
    names = [node.output[0] for node in model.graph.node]
    return [names[i] for i in sorted(found.low)], [names[i] for i in sorted(found.rounded)]


def applied(content: bytes, not_in_16_bits: Container[str] = ()) -> tuple[onnx.ModelProto, Precisions]:
    model = onnx.load_model_from_string(content)
    floats = {name for name, found in infer_types(model).items() if found.kind == onnx.TensorProto.FLOAT}
    return model, precisions(model.graph, floats, lambda node: node.op_type not in not_in_16_bits)


def test_products_take_their_bias_and_cheap_neighbours_along() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y) {
      product = MatMul(x, w)
      biased = Add(product, b)
      active = Gelu(biased)
      y = MatMul(active, w)
    }"""
    assert rule(body, w=W, b=W[0]) == (["product", "biased", "active", "y"], [])


def test_what_is_not_behind_a_product_stays_in_fp32() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y) {
      scaled = Mul(x, s)
      product = MatMul(scaled, w)
      y = Add(product, scaled)
    }"""
    assert rule(body, w=W, s=W[0]) == (["product"], [])


def test_the_residual_stream_and_its_scales_are_in_fp32() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] z) {
      start = MatMul(x, w)
      stream = Relu(start)
      inner = MatMul(stream, w)
      biased = Add(inner, b)
      scaled = Mul(biased, s)
      sum = Add(stream, scaled)
      normed = LayerNormalization(sum, s, b)
      z = MatMul(normed, w)
    }"""
    assert rule(body, w=W, s=W[0], b=W[1]) == (["start", "inner", "biased", "z"], [])


NORM_IN_PARTS = """
g (float[n,4] x) => (float[n,4] z) {
  before = MatMul(x, w)
  last = Constant <value_ints = [-1]> ()
  mean = ReduceMean(before, last)
  centred = Sub(before, mean)
  square = Mul(centred, centred)
  variance = ReduceMean(square, last)
  safe = Add(variance, e)
  deviation = Sqrt(safe)
  quotient = Div(centred, deviation)
  scaled = Mul(quotient, s)
  shifted = Add(scaled, b)
  z = MatMul(shifted, w)
}"""


def test_a_norm_in_parts_is_in_fp32() -> None:
    assert rule(NORM_IN_PARTS, w=W, s=W[0], b=W[1], e=W[2]) == (["before", "z"], [])


ATTENTION = """
g (float[n,3,4] x) => (float[n,3,4] y) {
  q = MatMul(x, w)
  q_biased = Add(q, b)
  k = MatMul(x, w)
  v = MatMul(x, w)
  q_turned = Mul(q_biased, table)
  k_half = Neg(k)
  k_turned = Mul(k_half, table)
  k_columns = Transpose <perm = [0, 2, 1]> (k_turned)
  k_scaled = Mul(k_columns, scale)
  score = MatMul(q_turned, k_scaled)
  masked = Add(score, mask)
  weight = Softmax <axis = -1> (masked)
  mixed = MatMul(weight, v)
  y = MatMul(mixed, w)
}"""
ATTENTION_WEIGHTS = {
    "w": W, "b": W[0], "table": W[:3], "scale": np.float32(0.5), "mask": np.zeros((3, 3), np.float32),
}  # fmt: skip


def test_attention_rounds_its_operands_and_keeps_its_scores() -> None:
    low, rounded = rule(ATTENTION, **ATTENTION_WEIGHTS)  # type: ignore[arg-type]
    assert low == ["q", "q_biased", "k", "v", "mixed", "y"]
    assert rounded == ["score"]


def test_names_say_nothing() -> None:
    content = graph(ATTENTION, **ATTENTION_WEIGHTS)
    model, found = applied(content)
    new = {name: f"t{number}" for number, name in enumerate(sorted(infer_types(model), reverse=True))}
    for part in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        part.name = new[part.name]
    for number, node in enumerate(model.graph.node):
        node.name = f"Softmax_{number}"
        node.input[:] = [new[name] for name in node.input]
        node.output[:] = [new[name] for name in node.output]
    assert applied(model.SerializeToString())[1] == found


def test_class_logits_are_in_fp32_and_their_operands_as_they_come() -> None:
    body = """
    g (float[n,4,6,6] x) => (float[n,2,12,12] y) {
      features = Conv(x, w3)
      active = Relu(features)
      logits = Conv(active, w1)
      large = Resize <mode = "linear"> (logits, , scales)
      y = Softmax <axis = 1> (large)
    }"""
    weights = {
        "w3": np.zeros((4, 4, 1, 1), np.float32),
        "w1": np.zeros((2, 4, 1, 1), np.float32),
        "scales": np.float32([1, 1, 2, 2]),
    }
    assert rule(body, **weights) == (["features", "active"], [])


def test_movers_follow_their_readers() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y, float[n,2] z) {
      normed = LayerNormalization(x, s, s)
      two = Constant <value_ints = [2, 2]> ()
      left, right = Split <axis = 1> (normed, two)
      left_again = Identity(left)
      y = MatMul(left_again, w)
      z = Relu(right)
    }"""
    # the halves have readers in both precisions, so they stay in fp32
    assert rule(body, w=W[:2], s=W[0]) == (["left_again", "y"], [])


def test_an_operator_that_is_not_on_the_lists_or_not_in_16_bits_stays_in_fp32() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y) {
      product = MatMul(x, w)
      stretched = Exp(product)
      second = MatMul(stretched, w)
      active = Relu(second)
      y = MatMul(active, w)
    }"""
    assert rule(body, w=W) == (["product", "second", "active", "y"], [])
    assert rule(body, not_in_16_bits=("Relu",), w=W) == (["product", "second", "y"], [])
    assert rule(body, not_in_16_bits=("MatMul",), w=W) == ([], [])


def test_whole_numbers_have_no_part_in_it() -> None:
    body = """
    g (float[n,4] x) => (float[n,4] y) {
      product = MatMul(x, w)
      shape = Shape(product)
      doubled = Add(shape, shape)
      half = Sub(doubled, shape)
      flat = Reshape(product, half)
      y = MatMul(flat, w)
    }"""
    assert rule(body, w=W) == (["product", "flat", "y"], [])


@pytest.mark.parametrize("softmax", ["Softmax", "LogSoftmax"])
def test_a_sum_of_two_products_gives_two_scores(softmax: str) -> None:
    body = f"""
    g (float[n,4] x) => (float[n,4] y) {{
      one = MatMul(x, w)
      two = MatMul(x, w)
      both = Add(one, two)
      y = {softmax} <axis = -1> (both)
    }}"""
    assert rule(body, w=W) == ([], [])
