"""A package's fp32 network as a strongly typed graph in bf16 or mixed fp16, for TensorRT.

A strongly typed network computes in the types that its graph says: TensorRT 11 knows no other.
precision_rule.py says what computes in 16 bits, and here weights are stored and casts written accordingly.
Inputs and outputs of the network stay fp32, its number of slices stays free, a tensor is cast once for all
its readers, and the same network gives the same bytes. TF32 needs no graph of its own: it is fp32 and a flag
of the builder.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, defs, helper, numpy_helper, shape_inference

from strokecore.arrays import Float32Array
from strokecore.errors import ModelPackageError, StrokeCoreError
from strokecore.learned.package import TYPED_PRECISIONS
from trainer.package.graph_types import infer_types, skeleton
from trainer.package.pixel_shuffle import shuffle_pixels
from trainer.package.plain_graph import free_name, make_plain, remove
from trainer.package.precision_rule import precisions

_OLDEST_OPSET: Final = 20
# Opset 22 first defines convolutions of bf16, and on the way from 20 operators only gained types.
_OPSETS: Final = {"bf16": 22, "fp16": _OLDEST_OPSET}
# What TensorRT cannot build, although its list of operators has it (NVIDIA/TensorRT issue 4829).
_UNBUILT: Final = {"bf16": ("ConvTranspose",), "fp16": ()}
_TENSOR_TYPES: Final = {"bf16": "tensor(bfloat16)", "fp16": "tensor(float16)"}
# Largest finite values: 8 bits of significand below 2**128, and IEEE 754 half precision.
_LARGEST: Final = {"bf16": float.fromhex("0x1.fep127"), "fp16": 65504.0}


class PrecisionError(StrokeCoreError):
    """The network has no form in this precision; it runs in fp32."""


def typed_graph(network: bytes, precision: str) -> bytes:
    """The network of a ``model.onnx`` in ``precision``.

    Parameters
    ----------
    network: an fp32 ONNX file as trainer export writes it.
    precision: "bf16" or "fp16".

    Raises
    ------
    PrecisionError: the network has no form in this precision, as with weights beyond 65504 in fp16. Whether
        what is computed from them stays in range is for the parity gate to find.
    ModelPackageError: ``network`` is no ONNX graph, or one that contradicts itself.
    """
    if precision not in TYPED_PRECISIONS:
        raise PrecisionError(
            f"the precision is {precision!r}, and only {' and '.join(TYPED_PRECISIONS)} have a graph of "
            "their own; use model.onnx."
        )
    model = _parsed(network)
    try:
        _check(model, precision)
        make_plain(model)
        shuffle_pixels(model)
        _Typing(model, precision).write()
        checker.check_model(skeleton(model), full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ModelPackageError(
            f"the network has no form in {precision}: its graph contradicts itself "
            f"({' '.join(str(error).split())[:200]}); export the model again."
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


def to_bf16(values: Float32Array) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bf16 numbers, ties to even, of finite fp32 ones."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    last = (bits >> np.uint32(16)) & np.uint32(1)  # of those that are kept
    return ((bits + np.uint32(0x7FFF) + last) >> np.uint32(16)).astype(np.uint16)


def _parsed(network: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(network)
    except Exception as error:  # protobuf's own, whose place changes with its version
        raise ModelPackageError(
            f"the network of {len(network)} bytes is no ONNX graph ({type(error).__name__}); "
            "export the model again."
        ) from error


def _check(model: onnx.ModelProto, precision: str) -> None:
    """Refuse what this module does not know and trainer export does not write."""
    graph = model.graph
    opset = _opset(model)
    kinds = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    kinds |= {constant.data_type for constant in graph.initializer}
    others = kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    found = [
        (opset < _OLDEST_OPSET, f"opset {opset}"),
        (model.functions, "functions"),
        (any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute), "subgraphs"),
        (graph.sparse_initializer, "sparse weights"),
        (any(c.data_location == TensorProto.EXTERNAL for c in graph.initializer), "weights outside the file"),
        (others, f"tensors of {' and '.join(TensorProto.DataType.Name(kind) for kind in sorted(others))}"),
    ]
    if unknown := [words for there, words in found if there]:
        raise PrecisionError(
            f"the network has {', '.join(unknown)}; a {precision} graph is made of an fp32 graph of opset "
            f"{_OLDEST_OPSET} or later without. Export the model again, or use fp32."
        )


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if not entry.domain), default=0)


class _Typing:
    """Gives one model its types, in place."""

    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        self.graph, self.precision = model.graph, precision
        self.opset = max(_opset(model), _OPSETS[precision])
        for entry in model.opset_import:
            if not entry.domain:
                entry.version = self.opset
        self.fp32 = int(TensorProto.FLOAT)
        self.low = int(TensorProto.BFLOAT16 if precision == "bf16" else TensorProto.FLOAT16)
        types = infer_types(model)
        floats = {name for name, found in types.items() if found.kind == self.fp32}
        self.rule = precisions(self.graph, floats, self._exists_in_16_bits)
        self.kinds = dict.fromkeys(floats, self.fp32)
        self.constants = {c.name: c for c in self.graph.initializer if c.data_type == self.fp32}
        self.names = set(types) | {node.name for node in self.graph.node}
        self.copies: dict[tuple[str, int], str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def write(self) -> None:
        """Casts, 16-bit weights, and nodes in computing order."""
        results = {value.name for value in self.graph.output}
        for index, node in enumerate(self.graph.node):
            kind = self.low if index in self.rule.low else self.fp32
            for position, name in enumerate(node.input):
                if name in self.kinds:
                    node.input[position] = self._input(index, position, name, kind)
            self.nodes.append(node)
            for position, name in enumerate(node.output):
                if name in self.kinds and kind == self.low:
                    if name in results:
                        inner = self._new(f"{name}_{self.precision}")
                        node.output[position] = self.copies[name, kind] = inner
                        self._cast(inner, name, self.fp32)
                    self.kinds[node.output[position]] = kind
        nodes = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        for value in self.graph.value_info:
            if value.name in self.kinds:
                value.type.tensor_type.elem_type = self.kinds[value.name]
        used = {name for node in nodes for name in node.input} | results
        remove(
            self.graph.initializer, {i for i, c in enumerate(self.graph.initializer) if c.name not in used}
        )

    def _input(self, index: int, position: int, name: str, kind: int) -> str:
        """The tensor that a node reads in place of ``name``."""
        node = self.graph.node[index]
        if node.op_type in ("Shape", "Size"):
            return name  # of whatever type
        if not self._has_the_type_of_the_output(node, position):
            kind = self.fp32  # such as the scales of a resize
        elif index in self.rule.rounded:
            name = self._as(name, self.low)
        return self._as(name, kind)

    def _as(self, name: str, kind: int) -> str:
        """``name`` in this type: itself, its weights in 16 bits, or a cast."""
        if self.kinds[name] == kind:
            return name
        if (name, kind) not in self.copies:
            new = self._new(f"{name}_{self.precision if kind == self.low else 'fp32'}")
            self.copies[name, kind] = new
            self.kinds[new] = kind
            if name in self.constants:
                self.graph.initializer.append(_rounded(self.constants[name], new, self.precision))
            else:
                self._cast(name, new, kind)
        return self.copies[name, kind]

    def _cast(self, source: str, result: str, kind: int) -> None:
        self.nodes.append(
            helper.make_node("Cast", [source], [result], name=self._new(f"{result}_cast"), to=kind)
        )

    def _new(self, wanted: str) -> str:
        name = free_name(wanted, self.names)
        self.names.add(name)
        return name

    def _schema(self, node: onnx.NodeProto) -> Any:
        """ONNX's definition of the operator; None for those of others."""
        known = defs.has(node.op_type, self.opset, node.domain)
        return defs.get_schema(node.op_type, self.opset, node.domain) if known else None

    def _exists_in_16_bits(self, node: onnx.NodeProto) -> bool:
        schema = self._schema(node)
        if schema is None or node.op_type in _UNBUILT[self.precision]:
            return False
        types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        return _TENSOR_TYPES[self.precision] in types.get(schema.outputs[0].type_str, ())

    def _has_the_type_of_the_output(self, node: onnx.NodeProto, position: int) -> bool:
        schema = self._schema(node)
        if schema is None:
            return False
        formal = schema.inputs[min(position, len(schema.inputs) - 1)]
        return bool(formal.type_str == schema.outputs[0].type_str)


def _rounded(constant: onnx.TensorProto, name: str, precision: str) -> onnx.TensorProto:
    """A constant in 16 bits, rounded to nearest, ties to even."""
    values = numpy_helper.to_array(constant)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= _LARGEST[precision]:  # also when it is NaN
        instead = "bf16 or fp32" if precision == "fp16" else "fp32"
        raise PrecisionError(
            f"the weights {constant.name} reach {largest:g}, and {precision} ends at "
            f"{_LARGEST[precision]:g}; use {instead}."
        )
    if precision == "fp16":
        return numpy_helper.from_array(values.astype(np.float16), name)
    raw = to_bf16(values).astype("<u2").tobytes()
    return helper.make_tensor(name, TensorProto.BFLOAT16, list(values.shape), raw, raw=True)
