"""A package's ONNX graph, executed by torch.

Why the graph and not the class in trainer/network/network.py: the graph is what the package's hash pins, what
ONNX Runtime proved at export and what every other engine runs; it holds all weights (weights.safetensors has
the decoder only), and needs no transformers. The exporter renames and transposes weights, so finding them
again for the class would rest on its habits; executing its few operations does not.

Two patterns are joined, because torch is much faster at the whole than at its parts: a product with a
constant matrix and its bias, and softmax(a b) v, which is attention. Matrix products, convolutions and
attention take ``dtype``; sums inside them, and attention's scores and softmax, are fp32. So are norms, the
residual stream, rotary positions and the last softmax; what lies between convolutions has their type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from strokecore.errors import EngineError
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES
from strokecore.learned.torch_ops import OPERATIONS, Node, Run, Values
from trainer.package.plain_graph import make_plain

_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")


@dataclass(frozen=True, eq=False)
class Graph:
    """What an ONNX file holds.

    Attributes
    ----------
    nodes: in an order that can be executed.
    constants: by name, on the CPU.
    tensors: (type, shape) of inputs and outputs by name; a free length is no number.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    tensors: Mapping[str, tuple[str, list[Any]]]


@dataclass(frozen=True, eq=False)
class _Step:
    """One call: ``dead`` are the values that nobody reads afterwards."""

    run: Run
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dead: tuple[str, ...] = ()


class TorchNetwork:
    """Slices [n, channels, H, W] to class probabilities of both arms, float32.

    Parameters
    ----------
    dtype: of matrix products, convolutions and attention: float32 or bfloat16.
    """

    def __init__(self, graph: Graph, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._constants: dict[str, Tensor] = {}
        self._steps = _with_ends(_Builder(graph, self._placed, dtype).steps())
        read = {name for step in self._steps for name in step.inputs}
        for name, value in graph.constants.items():
            if name in read:
                self._constants[name] = self._placed(value, None)

    def __call__(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        values: dict[str, Tensor] = {**self._constants, INPUT_NAME: slices}
        for step in self._steps:
            found: Values = step.run(*[values[name] if name else None for name in step.inputs])
            outputs = found if isinstance(found, tuple) else (found,)
            values.update(zip(step.outputs, outputs, strict=True))
            for name in step.dead:
                del values[name]
        bg, sg = (values[name] for name in OUTPUT_NAMES.values())
        return bg, sg

    def _placed(self, value: Tensor, dtype: torch.dtype | None) -> Tensor:
        """On the device; integers, which are shapes and places, stay where they can be read at once."""
        if not value.dtype.is_floating_point:
            return value
        placed = value.to(self.device, dtype or value.dtype)
        # channels last is how the GPU's matrix units want the weights of a convolution
        by_channel = placed.ndim == 4 and dtype is not None and self.device.type == "cuda"
        return placed.contiguous(memory_format=torch.channels_last) if by_channel else placed


def read_graph(path: Path) -> Graph:
    """Read a package's graph.

    Raises EngineError when the package onnx is not installed, or the file cannot be read.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise EngineError(
            "the torch engine reads the model's graph with the package onnx, which is not installed; run: "
            "pip install onnx"
        ) from error
    try:
        # a package holds everything itself: no other file is looked for
        model = onnx.load(str(path), load_external_data=False)
        make_plain(model)  # tables that only constants go into, such as rotary positions, are then constants
        constants = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer
        }
    except Exception as error:  # protobuf's own exceptions and numpy's
        raise EngineError(
            f"{path.name} cannot be read as ONNX ({type(error).__name__}); export it again."
        ) from error
    nodes = [
        Node(
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
            node.name or (node.output[0] if node.output else node.op_type),
            tuple(node.input),
            tuple(node.output),
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute},
        )
        for node in model.graph.node
    ]
    ends = (*model.graph.input, *model.graph.output)
    return Graph(tuple(nodes), constants, {value.name: _described(value) for value in ends})


class _Builder:
    """Nodes to steps."""

    def __init__(
        self, graph: Graph, place: Callable[[Tensor, torch.dtype | None], Tensor], dtype: torch.dtype
    ) -> None:
        self.nodes, self.constants, self.place, self.dtype = graph.nodes, graph.constants, place, dtype
        self.maker = {name: node for node in graph.nodes for name in node.outputs}
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.uses.update(OUTPUT_NAMES.values())  # read by the caller
        self.joined: set[Node] = set()

    def steps(self) -> list[_Step]:
        """In the order of the nodes that end them; EngineError for an operation that is not known."""
        steps = [step for node in reversed(self.nodes) if (step := self._step(node))]
        return steps[::-1]

    def _step(self, node: Node) -> _Step | None:
        if node in self.joined:
            return None
        for pattern in (self._linear, self._attention, self._convolution, self._norm):
            if step := pattern(node):
                return step
        if node.op not in OPERATIONS:
            raise EngineError(
                f"the torch engine does not know the operation {node.op}; use another engine for this model."
            )
        return _Step(OPERATIONS[node.op](node), node.inputs, node.outputs)

    def _linear(self, node: Node) -> _Step | None:
        """A product with a constant matrix, and its bias where one is added to nothing but it."""
        bias: Tensor | None = None
        product = node
        if node.op == "Add":
            for name, other in (node.inputs, node.inputs[::-1]):
                if (found := self._only(name, "MatMul")) and self._is_constant(other, 1):
                    product, bias = found, self.constants[other]
        if product.op != "MatMul" or not self._is_constant(product.inputs[1], 2):
            return None
        matrix = self.constants[product.inputs[1]]
        if bias is not None:
            if bias.shape[0] != matrix.shape[1]:
                return None
            self.joined.add(product)
        weight = self.place(matrix.T.contiguous(), self.dtype)
        added = None if bias is None else self.place(bias, self.dtype)

        def run(x: Tensor) -> Tensor:
            return functional.linear(x.to(weight.dtype), weight, added)

        return _Step(run, product.inputs[:1], node.outputs)

    def _attention(self, node: Node) -> _Step | None:
        """softmax(q k) v over the last axis; q and k are scaled by whoever made them."""
        if node.op != "MatMul":
            return None
        softmax = self._only(node.inputs[0], "Softmax")
        scores = self._only(softmax.inputs[0], "MatMul") if softmax else None
        if softmax is None or scores is None or softmax.attributes.get("axis", -1) not in (-1, 3):
            return None
        if any(name in self.constants for name in (*scores.inputs, node.inputs[1])):
            return None
        self.joined |= {softmax, scores}
        dtype = self.dtype

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.to(dtype) for x in (q, k.transpose(-1, -2), v))
            return functional.scaled_dot_product_attention(q, k, v, scale=1.0)

        return _Step(run, (*scores.inputs, node.inputs[1]), node.outputs)

    def _convolution(self, node: Node) -> _Step | None:
        if node.op not in _CONVOLUTIONS:
            return None
        weights = [self.constants.get(name) for name in node.inputs[1:]]
        if any(weight is None for weight in weights):
            raise node.refusal("weights that are not constants")
        placed = [self.place(weight, self.dtype) for weight in weights if weight is not None]
        convolve = OPERATIONS[node.op](node)
        return _Step(lambda x: convolve(x, *placed), node.inputs[:1], node.outputs)

    def _norm(self, node: Node) -> _Step | None:
        """A norm that only products read is rounded to their type once, not by each of them."""
        readers = {reader.op for reader in self.nodes if node.outputs[0] in reader.inputs}
        if node.op != "LayerNormalization" or readers != {"MatMul"}:
            return None
        norm, dtype = OPERATIONS[node.op](node), self.dtype

        def run(*values: Tensor) -> Tensor:
            return torch.as_tensor(norm(*values)).to(dtype)

        return _Step(run, node.inputs, node.outputs)

    def _only(self, name: str, op: str) -> Node | None:
        """The node of type ``op`` that makes ``name``, when nobody else reads it."""
        node = self.maker.get(name)
        return node if node is not None and node.op == op and self.uses[name] == 1 else None

    def _is_constant(self, name: str, dimensions: int) -> bool:
        return name in self.constants and self.constants[name].ndim == dimensions


def _with_ends(steps: Sequence[_Step]) -> list[_Step]:
    """Each step with the values that it is the last to read: memory is free again as soon as it can be."""
    made = {name for step in steps for name in step.outputs}
    kept = set(OUTPUT_NAMES.values())
    ended = []
    for step in reversed(steps):
        last = (set(step.inputs) | set(step.outputs)) & made - kept
        kept |= last
        ended.append(replace(step, dead=tuple(sorted(last))))
    return ended[::-1]


def _described(value: Any) -> tuple[str, list[Any]]:
    """(type, shape) as strokecore.learned.runtime.check_tensors has them."""
    import onnx

    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    return {"float": "float32"}.get(kind, kind), shape
