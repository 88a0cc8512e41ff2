"""Transposed convolutions whose stride is their kernel, as a 1 x 1 convolution and a shuffle of pixels.

Each input pixel then makes a tile of its own, so both compute the same sums. TensorRT has no transposed
convolution in bf16 (NVIDIA/TensorRT issue 4829), and the other form is a matrix product, which tensor cores
like in every type.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trainer.package.plain_graph import free_name


def shuffle_pixels(model: onnx.ModelProto) -> None:
    """Rewrite them in place. Those with padding, overlap, groups or computed weights stay."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    taken = set(constants) | {name for node in graph.node for name in (*node.input, *node.output)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        block = _tile(node, constants)
        if not block:
            nodes.append(node)
            continue
        # [in, out, rows, columns] to [out x rows x columns, in, 1, 1]
        weight = numpy_helper.to_array(constants[node.input[1]]).transpose(1, 2, 3, 0)
        values = [weight.reshape(-1, weight.shape[3], 1, 1)]
        if len(node.input) > 2 and node.input[2]:
            values.append(np.repeat(numpy_helper.to_array(constants[node.input[2]]), block * block))
        tiles, *names = (free_name(f"{node.output[0]}_{part}", taken) for part in ("tiles", "weight", "bias"))
        names = names[: len(values)]
        taken |= {tiles, *names}
        graph.initializer.extend(map(numpy_helper.from_array, map(np.ascontiguousarray, values), names))
        nodes.append(helper.make_node("Conv", [node.input[0], *names], [tiles], kernel_shape=[1, 1]))
        nodes.append(
            helper.make_node("DepthToSpace", [tiles], list(node.output), blocksize=block, mode="CRD")
        )
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _tile(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> int:
    """Sides of the square that a pixel becomes; 0 for other nodes."""
    if (
        node.op_type != "ConvTranspose"
        or node.domain
        or any(n and n not in constants for n in node.input[1:])
    ):
        return 0
    shape = list(constants[node.input[1]].dims)
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = (
        len(shape) == 4
        and shape[2] == shape[3]
        and list(given.get("strides", [1, 1])) == shape[2:]
        and not any(given.get("pads", ()))
        and not any(given.get("output_padding", ()))
        and all(step == 1 for step in given.get("dilations", ()))
        and given.get("group", 1) == 1
        and given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        and "output_shape" not in given
    )
    return int(shape[2]) if plain else 0
