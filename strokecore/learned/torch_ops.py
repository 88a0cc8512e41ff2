"""The ONNX operations of the trainer's networks, by torch.

Each entry of OPERATIONS takes a node and gives a function of its inputs. What a node asks for and torch does
not do the same way is refused by name, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from strokecore.errors import EngineError

Values = Tensor | tuple[Tensor, ...]
Run = Callable[..., Values]


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a graph.

    Attributes
    ----------
    op, name: its type and what a message calls it.
    inputs, outputs: names of tensors; an input that is left out is "".
    attributes: by name, with Python values.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def need(self, name: str, *allowed: Any, default: Any = None) -> Any:
        """The attribute's value; EngineError when it is none of ``allowed``, where these are given."""
        value = self.attributes.get(name, default)
        value = value.decode() if isinstance(value, bytes) else value
        if allowed and value not in allowed:
            raise self.refusal(f"{name} = {value!r}")
        return value

    def refusal(self, what: str) -> EngineError:
        """The error for what this file does not have."""
        return EngineError(
            f"the torch engine has no {self.op} with {what} ({self.name}); use another engine for this model."
        )


def _elementwise(function: Callable[..., Tensor]) -> Callable[[Node], Run]:
    return lambda node: function


def _matmul(node: Node) -> Run:
    del node

    def run(a: Tensor, b: Tensor) -> Tensor:
        kind = torch.promote_types(a.dtype, b.dtype)
        return torch.matmul(a.to(kind), b.to(kind))

    return run


def _softmax(node: Node) -> Run:
    axis = node.need("axis", default=-1)
    return lambda x: torch.softmax(x, axis, dtype=torch.float32)


def _layer_norm(node: Node) -> Run:
    node.need("axis", -1, default=-1)
    epsilon = node.need("epsilon", default=1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.layer_norm(x.float(), list(scale.shape), scale, bias, epsilon)

    return run


def _gelu(node: Node) -> Run:
    kind = node.need("approximate", "none", "tanh", default="none")
    return lambda x: functional.gelu(x, approximate=kind)


def _convolution(node: Node) -> Run:
    """Conv and ConvTranspose of two dimensions."""
    node.need("auto_pad", "NOTSET", default="NOTSET")
    pads = node.need("pads", default=[0, 0, 0, 0])
    if len(pads) != 4 or pads[:2] != pads[2:]:
        raise node.refusal(f"pads = {pads}")
    common = {
        "stride": node.need("strides", default=[1, 1]),
        "padding": pads[:2],
        "groups": node.need("group", default=1),
        "dilation": node.need("dilations", default=[1, 1]),
    }
    if node.op == "Conv":
        return lambda x, w, b=None: functional.conv2d(x.to(w.dtype), w, b, **common)
    node.need("output_shape", None)
    added = node.need("output_padding", default=[0, 0])
    return lambda x, w, b=None: functional.conv_transpose2d(
        x.to(w.dtype), w, b, output_padding=added, **common
    )


def _resize(node: Node) -> Run:
    """Bilinear to a given size, pixel centres at halves: torch's ``align_corners=False``."""
    node.need("mode", "linear")
    node.need("coordinate_transformation_mode", "half_pixel", "pytorch_half_pixel", default="half_pixel")
    node.need("antialias", 0, default=0)
    node.need("keep_aspect_ratio_policy", "stretch", default="stretch")
    node.need("axes", None)
    if len(node.inputs) != 4 or any(node.inputs[1:3]):
        raise node.refusal("scales or a region in place of a size")

    def run(x: Tensor, _region: None, _scales: None, size: Tensor) -> Tensor:
        wanted = _numbers(size)
        if x.ndim != 4 or wanted[:2] != list(x.shape[:2]):
            raise node.refusal(f"size {wanted} for {list(x.shape)}")
        return functional.interpolate(x, size=wanted[2:], mode="bilinear", align_corners=False)

    return run


def _reshape(node: Node) -> Run:
    keep_zeros = node.need("allowzero", 0, 1, default=0)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        wanted = _numbers(shape)
        if not keep_zeros:
            wanted = [length or x.shape[axis] for axis, length in enumerate(wanted)]
        return x.reshape(wanted)

    return run


def _transpose(node: Node) -> Run:
    order = node.need("perm")
    return lambda x: x.permute(order if order is not None else list(reversed(range(x.ndim))))


def _slice(node: Node) -> Run:
    def run(
        x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        first, last = _numbers(starts), _numbers(ends)
        along = _numbers(axes) if axes is not None else list(range(len(first)))
        stride = _numbers(steps) if steps is not None else [1] * len(first)
        if min(stride) < 1:
            raise node.refusal(f"steps = {stride}")
        chosen = [slice(None)] * x.ndim
        for axis, start, end, step in zip(along, first, last, stride, strict=True):
            # an end of 2**63 - 1 means the last one
            chosen[axis] = slice(*slice(start, end, step).indices(x.shape[axis]))
        return x[tuple(chosen)]

    return run


def _concat(node: Node) -> Run:
    axis = node.need("axis")
    return lambda *parts: torch.cat(parts, axis)


def _split(node: Node) -> Run:
    axis = node.need("axis", default=0)
    if len(node.inputs) != 2:
        raise node.refusal("no lengths")
    return lambda x, lengths: torch.split(x, _numbers(lengths), axis)


def _expand(node: Node) -> Run:
    del node

    def run(x: Tensor, shape: Tensor) -> Tensor:
        # either may have a length of 1 where the other has more
        both = torch.broadcast_shapes(x.shape, _numbers(shape))  # type: ignore[no-untyped-call]
        return x.expand(both)

    return run


def _shape(node: Node) -> Run:
    start, end = node.need("start", default=0), node.need("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _numbers(values: Tensor) -> list[int]:
    """Of a tensor of integers; these are always on the CPU, so that no device is waited for."""
    return [int(value) for value in values.tolist()]


OPERATIONS: Final[Mapping[str, Callable[[Node], Run]]] = {
    "Add": _elementwise(torch.add),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Relu": _elementwise(torch.relu),
    "Sigmoid": _elementwise(torch.sigmoid),
    "MatMul": _matmul,
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
    "Gelu": _gelu,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Resize": _resize,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Concat": _concat,
    "Split": _split,
    "Expand": _expand,
    "Shape": _shape,
}
"""By ONNX's name."""
