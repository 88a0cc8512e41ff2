"""Meta's DINOv3 as a reference for tests: checkpoints of its form, and its forward pass in plain tensors.

Written from the published architecture (arXiv 2508.10104 and the key names of facebookresearch/dinov3),
independently of transformers and of trainer.network.dinov3_checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from trainer.network.vit_dpt import BackboneConfig

REGISTERS = 4


def shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of one checkpoint."""
    wide, mlp = config.hidden_size, config.mlp_size
    block: dict[str, tuple[int, ...]] = {
        "norm1.weight": (wide,),
        "norm1.bias": (wide,),
        "attn.qkv.weight": (3 * wide, wide),
        "attn.qkv.bias": (3 * wide,),
        "attn.qkv.bias_mask": (3 * wide,),
        "attn.proj.weight": (wide, wide),
        "attn.proj.bias": (wide,),
        "ls1.gamma": (wide,),
        "norm2.weight": (wide,),
        "norm2.bias": (wide,),
        "ls2.gamma": (wide,),
    }
    into, out = (("w1", "w2"), "w3") if config.gated_mlp else (("fc1",), "fc2")
    for name in into:
        block |= {f"mlp.{name}.weight": (mlp, wide), f"mlp.{name}.bias": (mlp,)}
    block |= {f"mlp.{out}.weight": (wide, mlp), f"mlp.{out}.bias": (wide,)}
    return {
        "cls_token": (1, 1, wide),
        "storage_tokens": (1, REGISTERS, wide),
        "mask_token": (1, wide),
        "patch_embed.proj.weight": (wide, 3, config.patch_size, config.patch_size),
        "patch_embed.proj.bias": (wide,),
        "rope_embed.periods": (wide // config.heads // 4,),
        **{f"blocks.{i}.{name}": shape for i in range(config.layers) for name, shape in block.items()},
        "norm.weight": (wide,),
        "norm.bias": (wide,),
    }


def periods(config: BackboneConfig) -> Tensor:
    """Rotary periods: a geometric series from 1 towards 100."""
    count = config.hidden_size // config.heads // 4
    return torch.tensor([100.0 ** (k / count) for k in range(count)])


def checkpoint(config: BackboneConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random values of a checkpoint's form; masked biases hold what must never be used."""
    generator = torch.Generator().manual_seed(seed)
    out = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes(config).items()}
    wide = config.hidden_size
    for name in out:
        if name.endswith("bias_mask"):
            out[name] = torch.ones(3 * wide)
            out[name][wide : 2 * wide] = 0
        elif "gamma" in name or ("norm" in name and name.endswith("weight")):
            out[name] = 1 + out[name]
    out["rope_embed.periods"] = periods(config)
    return out


def forward(original: dict[str, Tensor], config: BackboneConfig, pixels: Tensor) -> Tensor:
    """Patch tokens [n, h * w, hidden] after the final norm."""
    batch, wide, patch = len(pixels), config.hidden_size, config.patch_size
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, original[f"{name}.weight"], original[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(
            x, (wide,), original[f"{name}.weight"], original[f"{name}.bias"], eps=1e-5
        )

    grid = functional.conv2d(
        pixels, original["patch_embed.proj.weight"], original["patch_embed.proj.bias"], stride=patch
    )
    x = torch.cat(
        [
            original["cls_token"].expand(batch, -1, -1),
            original["storage_tokens"].expand(batch, -1, -1),
            grid.flatten(2).transpose(1, 2),
        ],
        dim=1,
    )
    # each patch's place in -1..1, turned at every period; rows fill the first half of the angles
    y = 2 * (torch.arange(rows) + 0.5) / rows - 1
    z = 2 * (torch.arange(columns) + 0.5) / columns - 1
    turns = [place[:, None] / original["rope_embed.periods"] for place in (y, z)]
    angles = (
        2
        * math.pi
        * torch.cat([turns[0].repeat_interleave(columns, 0), turns[1].repeat(rows, 1)], dim=1).repeat(1, 2)
    )

    def rotated(x: Tensor) -> Tensor:
        first, rest = x[:, :, : 1 + REGISTERS], x[:, :, 1 + REGISTERS :]
        low, high = rest.chunk(2, -1)
        turned = rest * angles.cos() + torch.cat([-high, low], -1) * angles.sin()
        return torch.cat([first, turned], dim=2)

    for index in range(config.layers):
        block = f"blocks.{index}."
        bias = original[block + "attn.qkv.bias"] * original[block + "attn.qkv.bias_mask"]
        qkv = functional.linear(norm(block + "norm1", x), original[block + "attn.qkv.weight"], bias)
        q, k, v = qkv.unflatten(-1, (3, config.heads, wide // config.heads)).permute(2, 0, 3, 1, 4)
        q, k = rotated(q), rotated(k)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        x = x + original[block + "ls1.gamma"] * linear(block + "attn.proj", attended)
        inner = norm(block + "norm2", x)
        if config.gated_mlp:
            gate = functional.silu(linear(block + "mlp.w1", inner))
            inner = linear(block + "mlp.w3", gate * linear(block + "mlp.w2", inner))
        else:
            inner = linear(block + "mlp.fc2", functional.gelu(linear(block + "mlp.fc1", inner)))
        x = x + original[block + "ls2.gamma"] * inner
    return norm("norm", x)[:, 1 + REGISTERS :]
