"""A thin network of random weights that answers sharply, as the exporter writes it, and graphs by hand."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper, parser

from trainer.network.vit_dpt import BACKBONES, BackboneConfig, NetworkConfig, StrokeNet
from trainer.package.graph import to_onnx

SIZE = (64, 48)
# Standard deviation of class logits: most pixels are nearly sure of a class, as after training.
LOGITS = 3.0


@cache
def exported(gated_mlp: bool = False, layer_scale: float = 1.0) -> bytes:
    """Four thin layers in fp32 with peaked attention, a few large channels, and probabilities from 0 to 1.

    ``layer_scale``: of one channel of the residual stream.
    """
    BACKBONES["thin"] = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8, gated_mlp=gated_mlp)
    try:
        torch.manual_seed(5)
        net = StrokeNet(NetworkConfig("thin", features=8)).eval().requires_grad_(False)
        _sharpen(net, layer_scale)
        return to_onnx(net, SIZE)
    finally:
        del BACKBONES["thin"]


def _sharpen(net: StrokeNet, layer_scale: float) -> None:
    draw = torch.Generator().manual_seed(6)
    model = net.backbone.model
    for layer in model.model.layer:
        for linear in (layer.attention.q_proj, layer.attention.k_proj):
            linear.weight.mul_(10)
        for linear in (layer.attention.v_proj, layer.attention.o_proj):
            linear.weight.mul_(8)
        for norm in (layer.norm1, layer.norm2):
            norm.bias.copy_(0.1 * torch.randn(norm.bias.shape, generator=draw))
        layer.layer_scale2.lambda1[3] = layer_scale
    model.embeddings.patch_embeddings.weight.mul_(5)
    model.embeddings.register_tokens[..., 11] += 50
    examples = torch.randn(2, 3, *SIZE, generator=draw)
    for arm, head in enumerate((net.decoder.bg[2], net.decoder.sg[2])):
        head.weight.mul_(LOGITS / net(examples)[arm].std(dim=(0, 2, 3)).mean())  # type: ignore[operator]
        head.bias.sub_(net(examples)[arm].mean(dim=(0, 2, 3)))  # type: ignore[operator]


def slices(n: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(n, 3, *SIZE)).astype(np.float32)


def graph(body: str, opset: int = 20, **weights: npt.NDArray[np.float32]) -> bytes:
    """A model from ONNX's text form: ``g (float[n,4] x) => (float[n,4] y) { .. }``."""
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def eye(n: int = 4, times: float = 1.0) -> npt.NDArray[np.float32]:
    return np.float32(times) * np.eye(n, dtype=np.float32)
