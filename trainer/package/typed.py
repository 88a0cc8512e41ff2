"""The optional bf16 and fp16 graphs of a package, and the proof that their roundings do no harm."""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from strokecore.learned.package import OUTPUT_NAMES, TYPED_PRECISIONS
from strokecore.learned.parity import large_difference
from trainer.package.graph import run_onnx
from trainer.package.graph_types import infer_types
from trainer.package.plain_graph import free_name
from trainer.package.typed_graph import PrecisionError, typed_graph

log = logging.getLogger(__name__)

# Largest 99.9th percentile of the probabilities' difference: the parity gate's own limit.
TYPED_TOLERANCE: Final = 0.02
_LOW: Final = (TensorProto.BFLOAT16, TensorProto.FLOAT16)


def typed_networks(network: bytes, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, bytes]:
    """Typed graphs by precision, as trainer.package.typed_graph makes them.

    A precision that the network has no form in, or in which it is too far from the golden outputs, is left
    out with a warning: the parity gate of a node would refuse it, and take the next one.

    Parameters
    ----------
    network: the fp32 graph.
    arrays: of trainer.package.graph.golden.
    """
    found = {}
    for precision in TYPED_PRECISIONS:
        try:
            typed = typed_graph(network, precision)
        except PrecisionError as error:
            log.warning("the package will have no %s graph: %s", precision, error)
            continue
        worst = difference(rounded_graph(typed), arrays)
        if precision == "fp16":  # ONNX Runtime has kernels for all of it
            worst = max(worst, difference(typed, arrays))
        if worst > TYPED_TOLERANCE:
            log.warning(
                "the package will have no %s graph: in it probabilities differ by %.3g, expected at most %g",
                precision,
                worst,
                TYPED_TOLERANCE,
            )
            continue
        log.info("in %s probabilities differ by %.1e", precision, worst)
        found[precision] = typed
    return found


def difference(network: bytes, arrays: dict[str, npt.NDArray[Any]]) -> float:
    """How far ``network`` in ONNX Runtime is from the golden outputs, as the parity gate measures it.

    Infinite when an answer is not finite.
    """
    answers = run_onnx(network, arrays["slices"])
    if not all(np.isfinite(answer).all() for answer in answers):
        return math.inf
    return max(
        large_difference(answer, arrays[name])
        for answer, name in zip(answers, OUTPUT_NAMES.values(), strict=True)
    )


def rounded_graph(typed: bytes) -> bytes:
    """A typed graph as one in fp32 in which every 16-bit tensor is rounded to 16 bits and widened again.

    Each node computes in fp32 on rounded numbers and its result is rounded, as tensor cores do. ONNX Runtime
    would run an fp16 graph on the CPU too, but in fp32 and with most roundings left out.
    """
    model = onnx.load_model_from_string(typed)
    graph = model.graph
    kinds = {name: found.kind for name, found in infer_types(model).items()}
    nodes: list[onnx.NodeProto] = []

    def add_rounding(source: str, result: str) -> None:
        low = free_name(f"{result}_rounded", kinds)
        nodes.append(helper.make_node("Cast", [source], [low], to=kinds[result]))
        nodes.append(helper.make_node("Cast", [low], [result], to=TensorProto.FLOAT))

    for node in graph.node:
        if node.op_type == "Cast" and kinds[node.output[0]] in _LOW:
            add_rounding(node.input[0], node.output[0])
        elif node.op_type == "Cast" and kinds[node.input[0]] in _LOW:
            nodes.append(helper.make_node("Identity", node.input, node.output))  # fp32 already
        else:
            exact = onnx.NodeProto()
            exact.CopyFrom(node)
            names = {n: free_name(f"{n}_exact", kinds) for n in node.output if kinds.get(n) in _LOW}
            exact.output[:] = [names.get(name, name) for name in node.output]
            nodes.append(exact)
            for name, source in names.items():
                add_rounding(source, name)
    del graph.node[:]
    graph.node.extend(nodes)
    for constant in graph.initializer:
        if constant.data_type in _LOW:
            values = numpy_helper.to_array(constant).astype("float32")
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    del graph.value_info[:]
    return bytes(model.SerializeToString())
