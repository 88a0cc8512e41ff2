"""An ONNX graph made plain: what is constant is a constant, and no shape is worked out but the batch's.

Runtimes and compilers then see each attention and each resize as it is. The exporter leaves tables that it
could have computed, and writes the transposed keys of an attention as reshape, transpose, reshape with shapes
found at run time. All of this only moves data: results stay the same to the bit, save for tables of sines and
cosines, which numpy computes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from trainer.package.graph_types import TensorType, infer_types

# Results larger than this stay computed (64 MB in fp32).
_FOLDED_VALUES: Final = 2**24
_RANDOM: Final = ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike")


def make_plain(model: onnx.ModelProto) -> None:
    """Fold constants, undo detours and fix shapes of ``model``, in place.

    Raises onnx.shape_inference.InferenceError where the graph contradicts itself.
    """
    graph = model.graph
    _constants_to_initializers(graph)
    _fold(model)
    types = infer_types(model)
    _drop_empty_reshapes(graph, types)
    _shorten_transposes(graph, types)
    _fix_reshapes(graph, types)
    _drop_unused(graph)


def producers(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """Index of the node that makes each tensor."""
    return {name: index for index, node in enumerate(nodes) for name in node.output if name}


def free_name(wanted: str, taken: Container[str]) -> str:
    """``wanted``, with as many underscores as make it new."""
    while wanted in taken:
        wanted += "_"
    return wanted


def remove(field: Any, indexes: Container[int]) -> None:
    """Delete these entries of a repeated protobuf field."""
    for index in reversed(range(len(field))):
        if index in indexes:
            del field[index]


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    found = {i for i, node in enumerate(graph.node) if node.op_type == "Constant" and not node.domain}
    for index in sorted(found):
        (name,), (attribute,) = graph.node[index].output, graph.node[index].attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name != "value":
            kind = np.float32 if attribute.name.startswith("value_float") else np.int64
            value = numpy_helper.from_array(np.asarray(value, kind))
        graph.initializer.append(value)
        graph.initializer[-1].name = name
    remove(graph.node, found)


def _fold(model: onnx.ModelProto) -> None:
    """Replace each node that reads only constants by its result."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    kept_names = {value.name for value in graph.output}
    folded = set()
    for index, node in enumerate(graph.node):
        read = [name for name in node.input if name]
        if not read or any(name not in constants for name in read) or kept_names & set(node.output):
            continue
        if node.domain or node.op_type in _RANDOM or any(a.HasField("g") for a in node.attribute):
            continue
        values = _computed(model, node, [constants[name] for name in dict.fromkeys(read)])
        if sum(value.size for value in values.values()) > _FOLDED_VALUES:
            continue
        for name, value in values.items():
            constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
            graph.initializer.append(constants[name])
        folded.add(index)
    remove(graph.node, folded)


def _computed(
    model: onnx.ModelProto, node: onnx.NodeProto, constants: list[onnx.TensorProto]
) -> dict[str, Any]:
    """What a node makes of constants, by tensor name."""
    names = [name for name in node.output if name]
    graph = helper.make_graph(
        [node], "one", [], [helper.make_empty_tensor_value_info(name) for name in names], constants
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return dict(zip(names, ReferenceEvaluator(alone).run(None, {}), strict=True))


def _drop_empty_reshapes(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> None:
    """Reshapes to the shape that was there."""
    results = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.op_type == "Reshape" and node.output[0] not in results:
            before, after = types[node.input[0]].shape, types[node.output[0]].shape
            if before == after and before is not None and None not in before:
                renamed[node.output[0]] = node.input[0]
    remove(graph.node, {i for i, node in enumerate(graph.node) if node.output[0] in renamed})


def _shorten_transposes(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> None:
    """Leading axes merged, the last two swapped, the leading axes split again: one transpose says it."""
    made = producers(graph.node)
    uses = Counter(name for node in graph.node for name in node.input)
    dropped = set()
    for last in graph.node:
        middle = _maker(graph, made, last, "Reshape")
        first = _maker(graph, made, middle, "Transpose")
        if middle is None or first is None or first.op_type != "Reshape":
            continue
        merged, swapped = first.output[0], middle.output[0]
        perm = [list(attribute.ints) for attribute in middle.attribute]
        before, after = types[first.input[0]].shape or (), types[last.output[0]].shape or ()
        once = uses[merged] == 1 and uses[swapped] == 1
        if not once or perm != [[0, 2, 1]] or len(before) < 3 or None in before:
            continue
        *lead, rows, columns = before
        if (types[merged].shape or ())[1:] == (rows, columns) and after == (*lead, columns, rows):
            rank = len(before)
            order = [*range(rank - 2), rank - 1, rank - 2]
            dropped |= {made[merged], made[swapped]}
            last.CopyFrom(helper.make_node("Transpose", [first.input[0]], list(last.output), perm=order))
    remove(graph.node, dropped)


def _maker(
    graph: onnx.GraphProto, made: Mapping[str, int], node: onnx.NodeProto | None, kind: str
) -> onnx.NodeProto | None:
    """The node whose output a ``kind`` node reads; None for other nodes and where there is none."""
    if node is None or node.op_type != kind or node.input[0] not in made:
        return None
    return graph.node[made[node.input[0]]]


def _fix_reshapes(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> None:
    """Write the shape that inference found into each reshape, where at most one axis is free."""
    constants = {constant.name for constant in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        found = types[node.output[0]]
        if found.shape is None or 0 in found.shape or found.free_axes not in (0, 1):
            continue
        shape = [length if isinstance(length, int) else -1 for length in found.shape]
        name = free_name(f"{node.output[0]}_shape", types)
        graph.initializer.append(numpy_helper.from_array(np.asarray(shape, np.int64), name))
        node.input[1] = name


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and constants that no result needs, and notes on tensors that are no more."""
    needed = {value.name for value in graph.output}
    unused = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed & set(node.output):
            needed |= set(node.input)
        else:
            unused.add(index)
    remove(graph.node, unused)
    remove(graph.initializer, {i for i, c in enumerate(graph.initializer) if c.name not in needed})
    remove(graph.value_info, {i for i, v in enumerate(graph.value_info) if v.name not in needed})
