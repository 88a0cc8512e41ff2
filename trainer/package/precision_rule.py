"""Which nodes of a network compute in 16 bits and which in fp32: by operator and structure, not by name.

1. *Products* (matrix products, convolutions) compute in 16 bits, with the constant added to them (bias). They
   are nearly all of the work, and tensor cores accumulate them in fp32.
2. *Sinks* compute in fp32: softmax; normalisation, in one node or in parts (mean, square, root, quotient);
   whatever is on neither list below. So does every node between the last products and a sink: sums of the
   residual stream, whose few large channels outgrow fp16 and drown the small ones in bf16, and their scales;
   the rotation of queries and keys by tables of sines and cosines; scales and masks of scores.
3. A product with a softmax and no further product behind it is a *score*, of attention or of a class. It
   computes in fp32. An attention score, which multiplies two activations, is a sink too, and its operands are
   rounded to 16 bits and widened again: a product of 16-bit numbers whose result never is one. Tensor cores
   compute just that, and TF32 loses nothing of such operands.
4. The rest is cheap, and computes in 16 bits when all that it reads is in 16 bits. What only moves data
   also does when all its readers want 16 bits.

The rule is ours. That scores and norms belong in fp32 is what public reports of DINOv3 in fp16 suggest, which
gave NaN or one class (NVIDIA/TensorRT issue 4723). docs/model-package.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from trainer.package.plain_graph import producers

PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVERS: Final = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
CHEAP: Final = MOVERS | {
    "Abs", "Add", "AveragePool", "Clip", "Elu", "Erf", "Gelu", "GlobalAveragePool", "HardSigmoid",
    "HardSwish", "LeakyRelu", "Max", "MaxPool", "Min", "Mul", "Neg", "PRelu", "Relu", "Resize", "Sigmoid",
    "Sub", "Sum", "Swish", "Tanh", "Where",
}  # fmt: skip
SOFTMAXES: Final = frozenset({"LogSoftmax", "Softmax"})


@dataclass(frozen=True)
class Precisions:
    """The rule's answer for one graph, as indexes of its nodes.

    Attributes
    ----------
    low: these compute in 16 bits; all others of floating point in fp32.
    rounded: attention scores, fp32 products whose operands are rounded to 16 bits and widened again.
    """

    low: frozenset[int]
    rounded: frozenset[int]


def precisions(
    graph: onnx.GraphProto, floats: Container[str], in_16_bits: Callable[[onnx.NodeProto], bool]
) -> Precisions:
    """Apply the rule.

    Parameters
    ----------
    graph: without subgraphs, nodes in computing order (ONNX requires it).
    floats: names of all tensors of floating point, constants included.
    in_16_bits: whether ONNX defines a node's operator for the 16-bit type; else it is a sink.
    """
    return _Rule(graph, floats, in_16_bits).answer()


class _Rule:
    def __init__(
        self, graph: onnx.GraphProto, floats: Container[str], in_16_bits: Callable[[onnx.NodeProto], bool]
    ) -> None:
        self.nodes: Sequence[onnx.NodeProto] = graph.node
        self.made = producers(self.nodes)
        self.activations = {value.name for value in graph.input} - {c.name for c in graph.initializer}
        self.activations |= set(self.made)
        self.results = {value.name for value in graph.output}
        self.floats = floats
        computing = [i for i, node in enumerate(self.nodes) if any(name in floats for name in node.output)]
        possible = {i for i in computing if not self.nodes[i].domain and in_16_bits(self.nodes[i])}
        self.products = {i for i in possible if self.nodes[i].op_type in PRODUCTS}
        self.biases = {i for i in possible if self._is_bias(i)}
        self.cheap = {i for i in possible if self.nodes[i].op_type in CHEAP}
        self.sinks = set(computing) - self.products - self.cheap

    def answer(self) -> Precisions:
        softmaxes = [i for i in self.sinks if self.nodes[i].op_type in SOFTMAXES]
        before, scores = self._behind(softmaxes, self.products)
        attention = {i for i in scores if all(name in self.activations for name in self.nodes[i].input[:2])}
        stop = self.products | self.biases
        between, _ = self._behind(self.sinks - set(softmaxes) | attention, stop)
        kept = before | between | scores | self.sinks
        return Precisions(frozenset(self._low(kept)), frozenset(attention))

    def _reads(self, index: int) -> list[str]:
        """The activations of floating point that a node reads."""
        return [n for n in self.nodes[index].input if n in self.floats and n in self.activations]

    def _is_bias(self, index: int) -> bool:
        node = self.nodes[index]
        if node.op_type != "Add":
            return False
        read = self._reads(index)
        return len(read) == 1 and self.made.get(read[0]) in self.products

    def _behind(self, starts: Iterable[int], stop: Container[int]) -> tuple[set[int], set[int]]:
        """Nodes that lead to ``starts``: those passed, and those of ``stop`` that were met."""
        passed: set[int] = set()
        met: set[int] = set()
        waiting = [name for index in starts for name in self._reads(index)]
        while waiting:
            index = self.made.get(waiting.pop())
            if index is None or index in self.sinks or index in passed:
                continue
            if index in stop:
                met.add(index)
                continue
            passed.add(index)
            waiting += self._reads(index)
        return passed, met

    def _low(self, kept: Container[int]) -> set[int]:
        """What computes in 16 bits when the nodes of ``kept`` do not."""
        low: set[int] = set()
        for index in range(len(self.nodes)):
            if index in kept:
                continue
            read = self._reads(index)
            if index in self.products or (
                index in self.cheap and read and all(self.made.get(name) in low for name in read)
            ):
                low.add(index)
        readers: dict[str, set[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                readers.setdefault(name, set()).add(index)
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            moves = index in self.cheap and node.op_type in MOVERS and index not in kept
            if moves and not self.results & set(node.output):
                wanted = [reader for name in node.output for reader in readers.get(name, ())]
                if wanted and all(reader in low for reader in wanted):
                    low.add(index)
        return low
