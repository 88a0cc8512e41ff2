"""Each operation against ONNX Runtime, in graphs of one node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from strokecore.errors import EngineError
from strokecore.learned.torch_ops import OPERATIONS, Node

RNG = np.random.default_rng(7)
X = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
Y = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Add", [X, floats(5)], {}),
    ("Mul", [X, floats(1, 4, 1, 1)], {}),
    ("Neg", [X], {}),
    ("Relu", [X], {}),
    ("Sigmoid", [X], {}),
    ("MatMul", [X, Y], {}),
    ("MatMul", [X, floats(5, 7)], {}),
    ("Softmax", [X], {"axis": 1}),
    ("Softmax", [X], {}),
    ("LayerNormalization", [X, floats(5), floats(5)], {"axis": -1, "epsilon": 1e-5}),
    ("LayerNormalization", [X, floats(5)], {"epsilon": 1e-2}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Conv", [X, floats(3, 4, 3, 3), floats(3)], {"pads": [1, 1, 1, 1], "auto_pad": "NOTSET"}),
    ("Conv", [X, floats(3, 4, 2, 2)], {"strides": [2, 2]}),
    ("Conv", [X, floats(4, 2, 3, 3)], {"group": 2, "dilations": [1, 2], "pads": [2, 1, 2, 1]}),
    ("ConvTranspose", [X, floats(4, 3, 2, 2), floats(3)], {"strides": [2, 2]}),
    ("ConvTranspose", [X, floats(4, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "group": 2}),
    ("Resize", [X, None, None, ints(2, 4, 12, 11)], {"mode": "linear"}),
    ("Resize", [X, None, None, ints(2, 4, 3, 3)], {"mode": "linear", "antialias": 0}),
    ("Reshape", [X, ints(0, -1, 5)], {}),
    ("Reshape", [X, ints(2, 24, 5)], {"allowzero": 1}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X], {}),
    ("Slice", [X, ints(1), ints(2**63 - 1), ints(1), ints(1)], {}),
    ("Slice", [X, ints(-3, 0), ints(-1, 6), ints(-1, 2), ints(1, 2)], {}),
    ("Slice", [X, ints(1, 1), ints(2, 3)], {}),
    ("Concat", [X, X, X], {"axis": -2}),
    ("Split", [X, ints(2, 4)], {"axis": 2}),
    ("Expand", [X, ints(3, 1, 1, 1, 5)], {}),
    ("Expand", [floats(1, 4, 1), ints(2, 1, 5)], {}),
    ("Shape", [X], {}),
    ("Shape", [X], {"start": 1, "end": -1}),
]


def node_of(op: str, inputs: list[Any], attributes: dict[str, Any], outputs: int = 1) -> Node:
    names = tuple("" if value is None else f"in{i}" for i, value in enumerate(inputs))
    return Node(op, f"test {op}", names, tuple(f"out{i}" for i in range(outputs)), attributes)


def by_onnxruntime(node: Node, inputs: list[Any]) -> list[Any]:
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node(node.op, node.inputs, node.outputs, **node.attributes)],
        "one",
        [helper.make_tensor_value_info(n, kinds[v.dtype], v.shape) for n, v in given.items()],
        [helper.make_empty_tensor_value_info(name) for name in node.outputs],
    )
    # shapes have to be constants for some operations
    for name in [n for n, v in given.items() if v.dtype == np.int64]:
        graph.initializer.append(numpy_helper.from_array(given.pop(name), name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, given))


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_an_operation_is_onnx_runtimes(op: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    node = node_of(op, inputs, attributes, outputs=2 if op == "Split" else 1)
    as_bytes = {k: v.encode() if isinstance(v, str) else v for k, v in attributes.items()}  # as a file has it
    run = OPERATIONS[op](node_of(op, inputs, as_bytes))
    found = run(*[None if value is None else torch.from_numpy(value.copy()) for value in inputs])
    for ours, theirs in zip(
        found if isinstance(found, tuple) else (found,), by_onnxruntime(node, inputs), strict=True
    ):
        assert ours.numpy().dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert np.abs(ours.numpy() - theirs).max() < 1e-5


def test_every_operation_has_a_case() -> None:
    assert {op for op, _, _ in CASES} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Resize", [X, None, floats(4)], {"mode": "linear"}),
        ("Resize", [X, None, None, ints(2, 4, 12, 11)], {"mode": "nearest"}),
        (
            "Resize",
            [X, None, None, ints(2, 4, 12, 11)],
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        ),
        ("Resize", [X, None, None, ints(2, 4, 12, 11)], {"mode": "linear", "antialias": 1}),
        ("Resize", [X, None, None, ints(12, 11)], {"mode": "linear", "axes": [2, 3]}),
        ("Conv", [X, floats(3, 4, 3, 3)], {"pads": [0, 0, 1, 1]}),
        ("Conv", [X, floats(3, 4, 3, 3)], {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", [X, floats(4, 3, 2, 2)], {"output_shape": [13, 11]}),
        ("LayerNormalization", [X, floats(6, 5)], {"axis": 2}),
        ("Gelu", [X], {"approximate": "other"}),
        ("Split", [X], {"num_outputs": 2}),
    ],
)
def test_what_torch_does_otherwise_is_refused_by_name(
    op: str, inputs: list[Any], attributes: dict[str, Any]
) -> None:
    with pytest.raises(EngineError, match=rf"has no {op} with .*test {op}.*use another engine"):
        OPERATIONS[op](node_of(op, inputs, attributes))


def test_what_only_a_run_shows_is_refused_too() -> None:
    x = torch.from_numpy(X)
    back = OPERATIONS["Slice"](node_of("Slice", [X] * 5, {}))
    with pytest.raises(EngineError, match=r"steps = \[-1\]"):
        back(x, *(torch.tensor([value]) for value in (-1, -9, 2, -1)))
    deep = OPERATIONS["Resize"](node_of("Resize", [X, None, None, X], {"mode": "linear"}))
    with pytest.raises(EngineError, match=r"size \[2, 8, 6, 5\]"):
        deep(x, None, None, torch.tensor([2, 8, 6, 5]))


def test_softmax_and_norms_are_fp32_whatever_comes_in() -> None:
    x = torch.from_numpy(X).to(torch.bfloat16)
    assert OPERATIONS["Softmax"](node_of("Softmax", [X], {}))(x).dtype == torch.float32  # type: ignore[union-attr]
    norm = OPERATIONS["LayerNormalization"](node_of("LayerNormalization", [X, X], {}))
    assert norm(x, torch.ones(5)).dtype == torch.float32  # type: ignore[union-attr]
