"""Which ONNX operators TensorRT's parser knows, and in which types: its published list, kept here as data.

Source: docs/operators.md of onnx/onnx-tensorrt (Apache-2.0) as of TensorRT 10.15, column "Supported Types".
What it says of quantised types is left out: no engine here uses them. The list of TensorRT 9.2 already has
the operators of this project's networks in these types, but for Gelu, which ONNX has since opset 20.
One entry is corrected: ConvTranspose in bf16 parses, and cannot be built (NVIDIA/TensorRT issue 4829).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from trainer.package.graph_types import infer_types

if TYPE_CHECKING:
    import onnx

OPSETS: Final = (9, 24)
"""First and last opset of the list."""

_FLOATS: Final = frozenset({"FP32", "FP16", "BF16"})
_NUMBERS: Final = _FLOATS | {"INT32", "INT64"}
_ALL: Final = _NUMBERS | {"BOOL"}
_BY_TYPES: Final = (
    (_FLOATS, """
        Acos Acosh Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Ceil Celu Clip Conv Cos Cosh
        CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool
        GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf
        LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool
        MeanVarianceNormalization PRelu ParametricSoftplus QuantizeLinear RMSNormalization RNN RandomNormal
        RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RotaryEmbedding Round ScaledTanh
        Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
    """),
    (_NUMBERS, """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max
        Mean Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
        ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign
        SpaceToDepth Sub Sum TopK
    """),
    (_ALL, """
        Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop
        OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
    """),
    (_ALL | {"UINT8"}, "Cast CastLike"),
    (_FLOATS | {"INT32"}, "TensorScatter"),
    (frozenset({"FP32", "FP16"}), """
        BlackmanWindow ConvTranspose DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression
        NonZero RoiAlign
    """),
    (frozenset({"FP32"}), "STFT"),
    (frozenset({"BOOL"}), "And Not Or Xor"),
)  # fmt: skip
OPERATORS: Final = {name: types for types, names in _BY_TYPES for name in names.split()}
"""Types of each operator of the list: FP32, FP16, BF16, INT32, INT64, BOOL, UINT8."""

_TYPE_NAMES: Final = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16"}
# The type of the first input counts, and here the result's too.
_ALSO_RESULT: Final = ("Cast", "CastLike", "ConstantOfShape", "Where")


def unsupported_operators(network: bytes) -> tuple[str, ...]:
    """What TensorRT's list lacks of a graph: "NonZero in BF16", "Unique", "com.microsoft.FusedConv".

    Types are looked at when all operators are known. Needs the package onnx.

    Parameters
    ----------
    network: an ONNX file.
    """
    import onnx

    model = onnx.load_model_from_string(network)
    own = {(function.domain, function.name) for function in model.functions}
    bodies = [model.graph.node, *(function.node for function in model.functions)]
    nodes = [node for body in bodies for top in body for node in _with_inner(top)]
    unknown = {
        ".".join(filter(None, (node.domain, node.op_type)))
        for node in nodes
        if (node.domain, node.op_type) not in own
        and (node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS)
    }
    return tuple(sorted(unknown or _unknown_types(model)))


def _with_inner(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A node and those of its subgraphs."""
    yield node
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield from _with_inner(inner)


def _unknown_types(model: onnx.ModelProto) -> set[str]:
    from onnx import TensorProto

    types = infer_types(model)
    found = set()
    for node in model.graph.node:
        counted = [*node.input[:1], *(node.output[:1] if node.op_type in _ALSO_RESULT else ())]
        for tensor in counted:
            if tensor in types and node.op_type in OPERATORS:
                kind = TensorProto.DataType.Name(types[tensor].kind)
                kind = _TYPE_NAMES.get(kind, kind)
                if kind not in OPERATORS[node.op_type]:
                    found.add(f"{node.op_type} in {kind}")
    return found
