"""Meta's original DINOv3 checkpoints (.pth) in the names of transformers' published ones.

Meta publishes a plain dictionary of tensors, named as in github.com/facebookresearch/dinov3. It differs from
the published transformers folders in four ways, besides the names: query, key and value are one matrix; their
bias has a mask that switches the key's part off, and transformers has no key bias at all; the mask token has
one axis less; and the periods of the rotary positions are stored, where transformers computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from strokecore.errors import UsageError

if TYPE_CHECKING:
    from trainer.network.vit_dpt import BackboneConfig

# Base of the rotary positions' periods in every published DINOv3 (hub configurations: rope base 100).
ROPE_BASE: Final = 100.0
# Meta's published periods are rounded to bfloat16, which moves a value by up to 2**-8 of it (1.3359 instead
# of 1.3335); transformers computes them in float32. A checkpoint of another base differs by far more.
_PERIOD_TOLERANCE: Final = 2.0**-8
_PERIODS: Final = "rope_embed.periods"
# Norm of the class token of local crops: exists in some checkpoints (satellite ViT-L, ViT-7B) and is only
# used in Meta's own pretraining.
_PRETRAINING_ONLY: Final = ("local_cls_norm.weight", "local_cls_norm.bias")

_OUTER: Final = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_BLOCK: Final = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
}
_PLAIN_MLP: Final = {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
_GATED_MLP: Final = {"mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.up_proj", "mlp.w3": "mlp.down_proj"}
_LAYER_SCALES: Final = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}


def from_original(original: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    """Tensors of Meta's checkpoint under the names of transformers' published checkpoints.

    Every tensor is used once. Shapes are checked when the result is loaded.

    Raises UsageError that names what is missing, what is unknown, and rotary periods or biases that
    transformers' model cannot represent.
    """
    left = dict(original)
    missing: list[str] = []

    def take(name: str) -> Tensor:
        if name not in left:
            missing.append(name)
            return torch.empty(0)
        return left.pop(name)

    out = {new: take(old) for old, new in _OUTER.items()}
    mask_token = take("mask_token")
    out["embeddings.mask_token"] = mask_token[:, None] if mask_token.ndim == 2 else mask_token
    periods = take(_PERIODS)
    for name in _PRETRAINING_ONLY:
        left.pop(name, None)

    linear = {**_BLOCK, **(_GATED_MLP if config.gated_mlp else _PLAIN_MLP)}
    names = {f"{old}.{part}": f"{new}.{part}" for old, new in linear.items() for part in ("weight", "bias")}
    for index in range(config.layers):
        old_block, new_block = f"blocks.{index}.", f"layer.{index}."
        for old, new in (names | _LAYER_SCALES).items():
            out[new_block + new] = take(old_block + old)
        weight, bias, mask = (take(f"{old_block}attn.qkv.{part}") for part in ("weight", "bias", "bias_mask"))
        if not missing:
            out.update(_split_qkv(weight, bias, mask, old_block, new_block + "attention."))

    if missing or left:
        raise UsageError(
            f"the checkpoint is no DINOv3 of {config.layers} layers of width {config.hidden_size}"
            f"{' with gated MLP' if config.gated_mlp else ''}: {_differences(missing, sorted(left))}; "
            "give the file of the backbone that the recipe names."
        )
    _check_periods(periods, config)
    return out


def _split_qkv(weight: Tensor, bias: Tensor, mask: Tensor, old: str, new: str) -> dict[str, Tensor]:
    """The parts of one block's attention; the mask multiplies the bias, as in Meta's forward pass."""
    if mask.shape != bias.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise UsageError(
            f"{old}attn.qkv.bias_mask holds values other than 0 and 1; the checkpoint is damaged, "
            "download it again."
        )
    # not a product: what is masked out may hold anything
    biases = torch.where(mask == 1, bias, torch.zeros_like(bias)).chunk(3)
    if bool(biases[1].any()):
        raise UsageError(
            f"{old}attn.qkv.bias has a key part that is not masked out, expected none as in Meta's "
            "published checkpoints; this one cannot be used."
        )
    query, key, value = weight.chunk(3)
    return {
        new + "q_proj.weight": query,
        new + "q_proj.bias": biases[0],
        new + "k_proj.weight": key,
        new + "v_proj.weight": value,
        new + "v_proj.bias": biases[2],
    }


def _check_periods(periods: Tensor, config: BackboneConfig) -> None:
    count = config.hidden_size // config.heads // 4
    expected = ROPE_BASE ** (torch.arange(count, dtype=torch.float64) / count)
    found = periods.double()
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=_PERIOD_TOLERANCE, atol=0):
        ends = f"{found[0]:.4g} to {found[-1]:.4g}" if found.numel() else "none"
        raise UsageError(
            f"{_PERIODS} of the checkpoint are {found.numel()} values, {ends}; expected {count}, 1 to "
            f"{expected[-1]:.4g} (rotary base {ROPE_BASE:g}). This checkpoint cannot be used."
        )


def _differences(missing: list[str], unknown: list[str]) -> str:
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:4])}{', ..' if len(names) > 4 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    )
