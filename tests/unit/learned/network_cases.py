"""Packages whose network is the trainer's, with a backbone of four thin layers and random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from strokecore.learned.preprocessing import InputSpec
from tests.unit.learned.package_cases import write_package
from trainer.network.network import BACKBONES, BackboneConfig, NetworkConfig, StrokeNet
from trainer.package.graph import to_onnx

NANO = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8)
NANO_GATED = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8, gated_mlp=True)
SPEC = InputSpec(size=(64, 48), pixel_mm=3.5, slice_mm=6.0)
# A decoder that was never trained says the same everywhere; so much contrast a trained one has.
_CONTRAST = 30.0


@contextmanager
def nano_backbones() -> Iterator[None]:
    """BACKBONES with "nano" and "nano-gated"."""
    BACKBONES.update({"nano": NANO, "nano-gated": NANO_GATED})
    try:
        yield
    finally:
        del BACKBONES["nano"], BACKBONES["nano-gated"]


def random_network(backbone: str, seed: int = 0) -> StrokeNet:
    """A network whose answers differ from pixel to pixel."""
    torch.manual_seed(seed)
    net = StrokeNet(NetworkConfig(backbone, features=8)).eval()
    with torch.no_grad():
        for arm in (net.decoder.bg, net.decoder.sg):
            last = arm[-1]
            assert isinstance(last, torch.nn.Conv2d)
            last.weight *= _CONTRAST
    return net


def write_network_package(folder: Path, net: StrokeNet, **changes: Any) -> Path:
    """A package of ``net`` for slices of SPEC."""
    outputs = [
        {"name": "bg_probability", "shape": ["n", 9, *SPEC.size], "classes": list(BG_CLASSES)},
        {"name": "sg_probability", "shape": ["n", 6, *SPEC.size], "classes": list(SG_CLASSES)},
    ]
    given = {"name": "slices", "dtype": "float32", "shape": ["n", 3, *SPEC.size], **SPEC.to_dict()}
    return write_package(
        folder, network=to_onnx(net, SPEC.size), golden=b"none", input=given, outputs=outputs, **changes
    )


def random_slices(number: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(number, 3, *SPEC.size)).astype(np.float32)
