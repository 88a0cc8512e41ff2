"""Types and shapes of an ONNX graph's tensors, found without a copy of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, shape_inference

# Constants up to this many values may say shapes and axes, whose values shape inference reads.
_SHAPE_VALUES: Final = 64


@dataclass(frozen=True)
class TensorType:
    """What inference found of one tensor.

    Attributes
    ----------
    kind: an onnx.TensorProto.DataType.
    shape: per axis its length, the name of a free length, or None; None where not even the rank is known.
    """

    kind: int
    shape: tuple[int | str | None, ...] | None

    @property
    def free_axes(self) -> int | None:
        """How many axes have no fixed length; None without a rank."""
        return None if self.shape is None else sum(not isinstance(length, int) for length in self.shape)


def infer_types(model: onnx.ModelProto) -> dict[str, TensorType]:
    """Every tensor's type by strict inference, weights included.

    Raises onnx.shape_inference.InferenceError where the graph contradicts itself.
    """
    found = shape_inference.infer_shapes(skeleton(model), check_type=True, strict_mode=True, data_prop=True)
    values = (*found.graph.input, *found.graph.value_info, *found.graph.output)
    types = {value.name: _type(value.type.tensor_type) for value in values}
    return types | {c.name: TensorType(c.data_type, tuple(c.dims)) for c in found.graph.initializer}


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights are inputs: all that inference and the checker look at, in kilobytes.

    On the whole model they would copy hundreds of megabytes several times.
    """
    source = model.graph
    weights = [c for c in source.initializer if np.prod(c.dims, initial=1) > _SHAPE_VALUES]
    names = {weight.name for weight in weights}
    graph = onnx.GraphProto(name=source.name or "graph", node=source.node, output=source.output)
    graph.input.extend(value for value in source.input if value.name not in names)
    graph.input.extend(helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights)
    graph.initializer.extend(c for c in source.initializer if c.name not in names)
    graph.value_info.extend(source.value_info)
    graph.sparse_initializer.extend(source.sparse_initializer)
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )


def _type(tensor: Any) -> TensorType:
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    axes = tensor.shape.dim
    lengths = (axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None for axis in axes)
    return TensorType(tensor.elem_type, tuple(lengths))
