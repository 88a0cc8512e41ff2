"""Floating-point operations of a network, counted from its ONNX graph; a multiply-add is two.

Counted are matrix products and convolutions, as torch.utils.flop_counter does: the rest (norms, softmax,
resizing) is a few per cent of the operations, and is bound by memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from strokecore.errors import StrokeCoreError

Shape = tuple[int, ...]
Shapes = Callable[[str], Shape]

# Work that this count does not know; a graph that holds one of them gets no number instead of a wrong one.
_UNKNOWN: Final = frozenset(
    {
        "Einsum",
        "LSTM",
        "GRU",
        "RNN",
        "DeformConv",
        "QLinearMatMul",
        "QLinearConv",
        "MatMulInteger",
        "ConvInteger",
        "If",
        "Loop",
        "Scan",
    }
)


class NotCountedError(StrokeCoreError):
    """The graph's operations cannot be counted."""


def count_flops(path: Path) -> dict[str, int]:
    """Operations for one slice, by kind of node ("MatMul", "Conv", ..).

    Parameters
    ----------
    path: an ONNX file whose first input has a free first axis, the number of slices.

    Raises
    ------
    NotCountedError: onnx is not installed, or the graph holds what is not counted here.
    """
    try:
        import onnx
        import onnx.inliner
    except ImportError as error:
        raise NotCountedError(
            "operations are counted with onnx, which is not installed; run: pip install onnx"
        ) from error
    model = onnx.inliner.inline_local_functions(onnx.load(path))
    for value in (*model.graph.input, *model.graph.output):
        for first in value.type.tensor_type.shape.dim[:1]:
            if not first.HasField("dim_value"):
                first.dim_value = 1
    del model.graph.value_info[:]  # as exported, with the free axis in it
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: _shape(value) for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    return _counted(inferred.node, shapes)


def _counted(nodes: Any, shapes: Mapping[str, Shape | None]) -> dict[str, int]:
    def shape(name: str) -> Shape:
        found = shapes.get(name)
        if found is None:
            raise NotCountedError(f"the shape of {name} in the graph is not known")
        return found

    total: Counter[str] = Counter()
    for node in nodes:
        if node.op_type in _UNKNOWN:
            raise NotCountedError(f"operations of {node.op_type} nodes are not counted")
        if node.op_type in _COUNT:
            total[node.op_type] += _COUNT[node.op_type](node, shape)
    return dict(sorted(total.items()))


def _matmul(node: Any, shape: Shapes) -> int:
    return 2 * math.prod(shape(node.output[0])) * shape(node.input[0])[-1]


def _gemm(node: Any, shape: Shapes) -> int:
    inner = shape(node.input[0])[0 if _attribute(node, "transA", 0) else 1]
    return 2 * math.prod(shape(node.output[0])) * inner


def _conv(node: Any, shape: Shapes) -> int:
    """Weights are [out, in / groups, *kernel]: each value of the output reads one filter."""
    return 2 * math.prod(shape(node.output[0])) * math.prod(shape(node.input[1])[1:])


def _conv_transpose(node: Any, shape: Shapes) -> int:
    """Weights are [in, out / groups, *kernel]: each value of the input is spread over one filter."""
    return 2 * math.prod(shape(node.input[0])) * math.prod(shape(node.input[1])[1:])


def _attention(node: Any, shape: Shapes) -> int:
    """ONNX's own Attention (opset 23): scores and their product with the values; [n, heads, tokens, size] or
    [n, tokens, heads * size]."""
    query, key, value = (shape(name) for name in node.input[:3])
    if len(query) == 3:
        heads, kv_heads = (int(_attribute(node, name, 0)) for name in ("q_num_heads", "kv_num_heads"))
        return 2 * query[0] * query[1] * key[1] * (query[2] + heads * value[2] // kv_heads)
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


_COUNT: Final[dict[str, Callable[[Any, Shapes], int]]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Attention": _attention,
}


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _shape(value: Any) -> Shape | None:
    """Of a graph's value; None where inference left an axis open."""
    dims = value.type.tensor_type.shape.dim
    known = all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims)
    return tuple(dim.dim_value for dim in dims) if known else None
