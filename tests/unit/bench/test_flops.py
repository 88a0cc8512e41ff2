from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from strokecore.bench.flops import NotCountedError, count_flops


def write_graph(
    folder: Path,
    node: Any,
    inputs: dict[str, list[Any]],
    weights: dict[str, tuple[int, ...]] | None = None,
    opset: int = 20,
) -> Path:
    """A graph of one node; inputs and output by name, "n" is the free axis."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    constants = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in (weights or {}).items()
    ]
    graph = helper.make_graph([node], "one", values, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_matrix_product(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    path = write_graph(tmp_path, node, {"a": ["n", 3, 5, 7], "b": ["n", 3, 7, 11]})
    assert count_flops(path) == {"MatMul": 2 * 3 * 5 * 11 * 7}


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(transposed: int, tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transA=transposed)
    path = write_graph(tmp_path, node, {"a": [7, 5] if transposed else [5, 7]}, {"b": (7, 11)})
    assert count_flops(path) == {"Gemm": 2 * 5 * 7 * 11}


def test_convolution_with_groups_and_stride(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    path = write_graph(tmp_path, node, {"x": ["n", 4, 8, 6]}, {"w": (10, 2, 3, 3)})
    assert count_flops(path) == {"Conv": 2 * (10 * 4 * 3) * (2 * 3 * 3)}


def test_transposed_convolution(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[4, 4])
    path = write_graph(tmp_path, node, {"x": ["n", 6, 5, 3]}, {"w": (6, 8, 4, 4)})
    assert count_flops(path) == {"ConvTranspose": 2 * (6 * 5 * 3) * (8 * 4 * 4)}


def test_attention(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    shapes = {"q": ["n", 2, 5, 4], "k": ["n", 2, 9, 4], "v": ["n", 2, 9, 3]}
    path = write_graph(tmp_path, node, shapes, opset=23)
    assert count_flops(path) == {"Attention": 2 * 2 * 5 * 9 * (4 + 3)}


def test_what_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation="ij,jk->ik")
    path = write_graph(tmp_path, node, {"a": [2, 3], "b": [3, 4]})
    with pytest.raises(NotCountedError, match="Einsum"):
        count_flops(path)


def test_without_onnx_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "onnx"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NotCountedError, match="pip install onnx"):
        count_flops(tmp_path / "model.onnx")


class SmallNet(nn.Module):
    """A convolution, tokens with one attention-like product, and a way back to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.linear = nn.Linear(8, 8)
        self.back = nn.ConvTranspose2d(8, 5, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.patches(x)
        tokens = self.linear(maps.flatten(2).transpose(1, 2))
        tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return torch.as_tensor(self.back(tokens.transpose(1, 2).reshape(maps.shape)))


def small_graph() -> bytes:
    """SmallNet as ONNX nodes, with a shape that inference must compute."""
    nodes = [
        helper.make_node("Conv", ["x", "patches"], ["maps"], strides=[4, 4]),
        helper.make_node("Shape", ["maps"], ["shape"]),
        helper.make_node("Reshape", ["maps", "flat"], ["flattened"]),
        helper.make_node("Transpose", ["flattened"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "linear"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["mixed", "keys"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "mixed"], ["attended"]),
        helper.make_node("Transpose", ["attended"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["channels", "shape"], ["image"]),
        helper.make_node("ConvTranspose", ["image", "back"], ["y"], strides=[4, 4]),
    ]
    shapes = {"patches": (8, 3, 4, 4), "linear": (8, 8), "back": (8, 5, 4, 4)}
    constants = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    constants.append(numpy_helper.from_array(np.array([0, 8, -1]), "flat"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 24])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 16, 24])
    graph = helper.make_graph(nodes, "small", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def test_the_count_is_torchs(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(small_graph())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        SmallNet().eval()(torch.zeros(1, 3, 16, 24))
    assert sum(count_flops(tmp_path / "small.onnx").values()) == counter.get_total_flops()
