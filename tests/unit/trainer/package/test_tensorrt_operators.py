from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.unit.learned.package_cases import mirror_network
from tests.unit.trainer.package.typed_cases import eye, graph
from trainer.package.precision_rule import CHEAP, PRODUCTS, SOFTMAXES
from trainer.package.tensorrt_operators import OPERATORS, OPSETS, unsupported_operators


def test_the_list_is_whole() -> None:
    assert len(OPERATORS) == 157
    assert OPERATORS["ConvTranspose"] == {"FP32", "FP16"}  # whatever the list says
    assert OPERATORS["Conv"] == {"FP32", "FP16", "BF16"}
    assert OPERATORS["Slice"] == {"FP32", "FP16", "BF16", "INT32", "INT64", "BOOL"}
    assert OPERATORS["NonZero"] == {"FP32", "FP16"}
    assert "Unique" not in OPERATORS
    assert OPSETS == (9, 24)


def test_what_may_become_16_bits_is_on_it_in_both_types() -> None:
    for name in (PRODUCTS | CHEAP | SOFTMAXES) & set(OPERATORS) - {"ConvTranspose"}:
        assert {"FP16", "BF16"} <= OPERATORS[name]
    # ONNX has it since opset 24, and the exporter writes sigmoid and product
    assert (PRODUCTS | CHEAP | SOFTMAXES) - set(OPERATORS) == {"Swish"}


def test_a_package_without_anything_unknown_is_clean() -> None:
    assert unsupported_operators(mirror_network()) == ()


def test_unknown_operators_are_named_once_with_their_domain() -> None:
    model = onnx.load_model_from_string(mirror_network())
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    for number, (name, domain) in enumerate((("Unique", ""), ("Unique", ""), ("Conv", "com.example"))):
        node = helper.make_node(name, ["slices"], [f"more_{number}"], domain=domain)
        model.graph.node.append(node)
    assert unsupported_operators(model.SerializeToString()) == ("Unique", "com.example.Conv")


def test_operators_inside_branches_and_functions_count() -> None:
    body = """
    g (float[4] x, bool c) => (float[4] y) {
      y = If (c) <then_branch = t () => (float[4] a) { a = Relu(x) },
                  else_branch = e () => (float[4] b) { b = Det(x) }>
    }"""
    model = onnx.load_model_from_string(graph(body.replace("Det", "Neg")))
    assert unsupported_operators(model.SerializeToString()) == ()
    model.graph.node[0].attribute[1].g.node[0].op_type = "Det"
    assert unsupported_operators(model.SerializeToString()) == ("Det",)
    model = onnx.load_model_from_string(mirror_network())
    own = helper.make_function(
        "own",
        "Shrunk",
        ["a"],
        ["b"],
        [helper.make_node("Unique", ["a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )
    model.functions.append(own)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Shrunk", ["slices"], ["more"], domain="own"))
    assert unsupported_operators(model.SerializeToString()) == ("Unique",)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("g (bfloat16[n,4] x) => (int64[2,m] y) { y = NonZero(x) }", ("NonZero in BF16",)),
        ("g (float[n,4] x) => (int64[2,m] y) { y = NonZero(x) }", ()),
        ("g (double[n,4] x) => (double[n,4] y) { y = Relu(x) }", ("Relu in DOUBLE",)),
        ("g (float[n,4] x) => (double[n,4] y) { y = Cast <to = 11> (x) }", ("Cast in DOUBLE",)),
        ("g (float[n,4] x) => (int64[2] y) { y = Shape(x) }", ()),
        ("g (bool[4] c, float[4] x) => (float[4] y) { y = Where(c, x, x) }", ()),
        ("g (bool[4] c, string[4] x) => (string[4] y) { y = Where(c, x, x) }", ("Where in STRING",)),
        ("g (float[4] x, int64[2] i) => (float[2] y) { y = Gather(x, i) }", ()),
    ],
)
def test_types_are_those_of_the_list(body: str, found: tuple[str, ...]) -> None:
    assert unsupported_operators(graph(body)) == found


def test_weights_have_types_too() -> None:
    body = "g (float[n,4] x) => (float[n,4] y) { y = MatMul(x, w) }"
    model = onnx.load_model_from_string(graph(body, w=eye()))
    model.graph.initializer.append(helper.make_tensor("d", TensorProto.DOUBLE, [1], np.ones(1)))
    model.graph.node.append(helper.make_node("Relu", ["d"], ["unread"]))
    assert unsupported_operators(model.SerializeToString()) == ("Relu in DOUBLE",)
