"""Meta's checkpoint, converted, gives what Meta's own forward pass gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from strokecore.errors import UsageError
from tests.unit.trainer.network.dinov3_original import checkpoint, forward, shapes
from trainer.network.dinov3_checkpoint import from_original
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, FrozenBackbone

PLAIN = BackboneConfig(48, 3, 3, 96, (1, 1, 2, 3))
GATED = BackboneConfig(32, 2, 2, 48, (1, 1, 2, 2), gated_mlp=True)


def _converted(original: dict[str, Tensor], config: BackboneConfig) -> FrozenBackbone:
    backbone = FrozenBackbone(config)
    state = {
        (f"model.{key}" if key.startswith("layer.") else key): value
        for key, value in from_original(original, config).items()
    }
    backbone.model.load_state_dict(state, strict=True)
    return backbone


@pytest.mark.parametrize("config", [PLAIN, GATED], ids=["plain", "gated"])
def test_outputs_are_those_of_the_original(config: BackboneConfig) -> None:
    original = checkpoint(config)
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    expected = forward(original, config, pixels)
    found = _converted(original, config)(pixels)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


def test_published_periods_rounded_to_bfloat16_are_near_enough() -> None:
    original = checkpoint(PLAIN)
    original["rope_embed.periods"] = original["rope_embed.periods"].bfloat16().float()
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = _converted(original, PLAIN)(pixels)[-1].flatten(2).transpose(1, 2)
    expected = forward(original, PLAIN, pixels)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_periods_of_published_checkpoints_are_accepted() -> None:
    """The 16 values that Meta's checkpoints hold."""
    config = BackboneConfig(64, 1, 1, 64, (1, 1, 1, 1))
    original = checkpoint(config)
    low = (1, 1.3359375, 1.78125, 2.375, 3.15625, 4.21875, 5.625, 7.5)
    high = (10, 13.3125, 17.75, 23.75, 31.625, 42.25, 56.25, 75)
    original["rope_embed.periods"] = torch.tensor((*low, *high))
    assert from_original(original, config)


@pytest.mark.parametrize("name", ["vits16", "vits16plus", "vitb16", "vitl16"])
def test_real_shapes_fit_transformers_model(name: str) -> None:
    config = BACKBONES[name]
    # views of one zero take no memory
    original = {key: torch.zeros(1).expand(shape) for key, shape in shapes(config).items()}
    original["rope_embed.periods"] = checkpoint(BackboneConfig(64, 0, 1, 1, (1, 1, 1, 1)))[
        "rope_embed.periods"
    ]
    with torch.device("meta"):
        own = FrozenBackbone(config).model.state_dict()
    found = from_original(original, config)
    assert {(f"model.{k}" if k.startswith("layer.") else k): v.shape for k, v in found.items()} == {
        key: value.shape for key, value in own.items()
    }


def test_what_the_mask_switches_off_is_not_used() -> None:
    original = checkpoint(PLAIN)
    wild = {key: value.clone() for key, value in original.items()}
    for key, value in wild.items():
        if key.endswith("qkv.bias"):
            value[48:96] = torch.nan
    for key, value in from_original(wild, PLAIN).items():
        assert torch.equal(value, from_original(original, PLAIN)[key]), key


def test_a_norm_that_only_pretraining_uses_is_left_out() -> None:
    original = checkpoint(PLAIN)
    extra = original | {"local_cls_norm.weight": torch.ones(48), "local_cls_norm.bias": torch.zeros(48)}
    assert from_original(extra, PLAIN).keys() == from_original(original, PLAIN).keys()


def _without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in checkpoint(PLAIN).items() if key != name}


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (_without("blocks.1.ls2.gamma"), r"1 missing \(blocks.1.ls2.gamma\)"),
        (_without("rope_embed.periods"), r"1 missing \(rope_embed.periods\)"),
        (checkpoint(PLAIN) | {"head.weight": torch.zeros(1)}, r"1 unknown \(head.weight\)"),
        (checkpoint(GATED), r"missing \(blocks.0.mlp.fc1.weight, .*unknown \(blocks.0.mlp.w1.bias"),
        (
            checkpoint(BackboneConfig(48, 4, 3, 96, (1, 2, 3, 4))),
            r"no DINOv3 of 3 layers of width 48: \d+ unknown \(blocks.3",
        ),
        (checkpoint(PLAIN) | {"rope_embed.periods": torch.tensor([1.0, 10, 100, 1000])}, "rotary base 100"),
        (checkpoint(PLAIN) | {"rope_embed.periods": torch.tensor([1.0, 10.0])}, "2 values"),
        (
            checkpoint(PLAIN) | {"blocks.0.attn.qkv.bias_mask": torch.full((144,), torch.nan)},
            "other than 0 and 1",
        ),
        (checkpoint(PLAIN) | {"blocks.0.attn.qkv.bias_mask": torch.ones(144)}, "key part that is not masked"),
    ],
)
def test_other_checkpoints_are_refused_by_name(original: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_original(original, PLAIN)
