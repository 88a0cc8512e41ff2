"""The network: a backbone that stays frozen, taps that are transformers' own, a decoder that keeps sides."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import DINOv3ViTBackbone

from strokecore.errors import UsageError
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from trainer.network.vit_dpt import (
    BACKBONES,
    REGISTER_TOKENS,
    BackboneConfig,
    DualArmDecoder,
    FrozenBackbone,
    NetworkConfig,
    StrokeNet,
)

SMALL = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8)
# not square, so that a transposed map is seen
SIZE = (48, 64)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def net() -> StrokeNet:
    torch.manual_seed(1)
    return StrokeNet(NetworkConfig("tiny", features=8)).eval()


@pytest.fixture
def backbone() -> FrozenBackbone:
    return FrozenBackbone(SMALL)


def _same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# frozen


def test_train_mode_does_not_reach_the_backbone(backbone: FrozenBackbone) -> None:
    x = torch.randn(1, 3, *SIZE)
    before = backbone.eval()(x)
    parent = nn.Sequential(backbone).train()
    assert parent.training
    assert not any(module.training for module in backbone.modules())
    assert _same(backbone(x), before)


def test_transformers_own_model_moves_in_train_mode(backbone: FrozenBackbone) -> None:
    """What the freezing is for: without it, positions are rescaled at random."""
    x = torch.randn(1, 3, *SIZE)
    before = backbone(x)
    backbone.model.train()
    first, second = backbone(x), backbone(x)
    assert not _same(first, before)
    assert not _same(first, second)
    backbone.train()  # and the next call of train() freezes again
    assert _same(backbone(x), before)


def test_only_the_decoder_requires_gradients(net: StrokeNet) -> None:
    trainable = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trainable == {f"decoder.{name}" for name, _ in net.decoder.named_parameters()}


def test_taps_carry_no_gradient(net: StrokeNet) -> None:
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    assert not any(tap.requires_grad for tap in net.taps(x))
    bg, sg = net(x)
    (bg.sum() + sg.sum()).backward()
    assert x.grad is None
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    assert all(parameter.grad is not None for parameter in net.decoder.parameters())
    net.zero_grad(set_to_none=True)


def test_training_steps_leave_every_backbone_value(net: StrokeNet) -> None:
    trained = copy.deepcopy(net).train()
    before = copy.deepcopy(trained.state_dict())
    rotary = trained.backbone.model.rope_embeddings.inv_freq.clone()
    # every parameter is given on purpose, and with weight decay: only freezing protects the backbone
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        bg, sg = trained(torch.randn(2, 3, 32, 32))
        loss = bg.square().mean() + sg.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name
    assert torch.equal(trained.backbone.model.rope_embeddings.inv_freq, rotary)


# taps


def test_last_tap_is_the_last_hidden_state(backbone: FrozenBackbone) -> None:
    x = torch.randn(2, 3, *SIZE)
    tokens = backbone.model(x).last_hidden_state[:, 1 + REGISTER_TOKENS :]
    torch.testing.assert_close(backbone(x)[-1].flatten(2).transpose(1, 2), tokens)


def test_taps_are_the_maps_of_transformers_backbone(backbone: FrozenBackbone) -> None:
    """transformers' own class for feature maps, with the same weights: same depths, norm and orientation."""
    config = SMALL.to_transformers()
    config.set_output_features_output_indices(out_indices=list(SMALL.taps), out_features=None)
    reference = DINOv3ViTBackbone(config).eval()
    reference.load_state_dict(backbone.model.state_dict())
    x = torch.randn(2, 3, *SIZE)
    taps = backbone(x)
    assert [tuple(tap.shape) for tap in taps] == [(2, 32, 6, 8)] * 4
    with torch.no_grad():
        expected = reference(x).feature_maps
    for tap, wanted in zip(taps, expected, strict=True):
        torch.testing.assert_close(tap, wanted)


def test_one_slice_does_not_depend_on_its_batch(net: StrokeNet) -> None:
    x = torch.randn(3, 3, 32, 48)
    together, alone = net.taps(x), net.taps(x[1:2])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:2], other, atol=1e-5, rtol=1e-5)


# published shapes


@pytest.mark.parametrize(
    ("name", "million", "hidden", "layers", "heads", "mlp", "act"),
    [
        # parameters as in the table of Meta's model list (21M, 29M, 86M, 300M)
        ("vits16", 21.6, 384, 12, 6, 1536, "gelu"),
        ("vits16plus", 28.7, 384, 12, 6, 1536, "silu"),
        ("vitb16", 85.7, 768, 12, 12, 3072, "gelu"),
        ("vitl16", 303.1, 1024, 24, 16, 4096, "gelu"),
    ],
)
def test_shapes_are_the_published_ones(
    name: str, million: float, hidden: int, layers: int, heads: int, mlp: int, act: str
) -> None:
    config = BACKBONES[name].to_transformers()
    found = (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
    )
    assert found == (hidden, layers, heads, mlp, act)
    assert (config.patch_size, config.num_register_tokens, config.num_channels) == (16, 4, 3)
    assert (config.layer_norm_eps, config.rope_theta) == (1e-5, 100.0)
    assert (config.query_bias, config.key_bias, config.value_bias, config.proj_bias) == (
        True,
        False,
        True,
        True,
    )
    with torch.device("meta"):
        backbone = FrozenBackbone(BACKBONES[name])
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(million, abs=0.1)
    assert max(BACKBONES[name].taps) == layers  # the last tap is the model's own output


# decoder


def test_logits_have_the_arms_classes_and_the_slices_size(net: StrokeNet) -> None:
    bg, sg = net(torch.randn(2, 3, 40, 24))
    assert bg.shape == (2, len(BG_CLASSES), 40, 24)
    assert sg.shape == (2, len(SG_CLASSES), 40, 24)
    assert (len(BG_CLASSES), len(SG_CLASSES)) == (9, 6)


def test_decode_of_taps_is_forward(net: StrokeNet) -> None:
    x = torch.randn(2, 3, 32, 48)
    assert _same(net.decode(net.taps(x), (32, 48)), net(x))


@pytest.mark.parametrize("size", [(36, 32), (32, 36)])
def test_other_sizes_are_named(net: StrokeNet, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"{size[0]} x {size[1]} pixels, expected multiples of 8"):
        net(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"backbone": "vit7b"}, "vit7b"), ({"features": 0}, "features is 0"), ({"dropout": 1.0}, "dropout 1.0")],
)
def test_other_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NetworkConfig(**values)  # type: ignore[arg-type]


def test_config_survives_json() -> None:
    config = NetworkConfig("vitb16", 64, 0.2)
    assert NetworkConfig.from_dict(config.to_dict()) == config


def test_same_seed_same_network_same_logits() -> None:
    answers = []
    for _ in range(2):
        torch.manual_seed(3)
        net = StrokeNet(NetworkConfig("tiny", features=4)).eval()
        answers.append(net(torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)))
    assert _same(answers[0], answers[1])


def test_dropout_is_live_in_train_mode_only(net: StrokeNet) -> None:
    noisy = copy.deepcopy(net)
    taps = noisy.taps(torch.randn(1, 3, 32, 32))
    noisy.decoder.dropout.p = 0.5
    assert _same(noisy.decode(taps, (32, 32)), noisy.decode(taps, (32, 32)))
    noisy.train()
    assert not _same(noisy.decode(taps, (32, 32)), noisy.decode(taps, (32, 32)))


@pytest.mark.parametrize("grid", [(6, 8), (7, 5), (17, 14)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_decoder_does_not_know_left_from_right(grid: tuple[int, int], axis: int) -> None:
    """With kernels that are their own mirror images, mirrored features give mirrored logits: no resampling
    step moves the picture by a fraction of a pixel to one side."""
    decoder = _symmetric(DualArmDecoder(16, 6, 0.0).eval(), axis)
    taps = tuple(torch.randn(1, 16, *grid) for _ in range(4))
    size = (grid[0] * 8, grid[1] * 8)
    with torch.no_grad():
        plain = decoder(taps, size)
        mirrored = decoder(tuple(tap.flip(axis) for tap in taps), size)
    for one, other in zip(plain, mirrored, strict=True):
        assert one.std() > 0.01  # there is a picture
        torch.testing.assert_close(other.flip(axis), one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("token", [(2, 2), (3, 5), (2, 5)])
def test_a_token_moves_the_logits_at_its_place(token: tuple[int, int]) -> None:
    """The middle of what changes lies within a patch of the token's middle (the coarsest map has cells of two
    tokens)."""
    decoder = DualArmDecoder(16, 6, 0.0).eval()
    taps = tuple(torch.randn(1, 16, 6, 8) for _ in range(4))
    changed = tuple(tap.clone() for tap in taps)
    for tap in changed:
        tap[..., token[0], token[1]] += 5.0
    with torch.no_grad():
        plain, moved = decoder(taps, SIZE), decoder(changed, SIZE)
    for before, after in zip(plain, moved, strict=True):
        change = (after - before).square().sum((0, 1))
        row = float((change.sum(1) * torch.arange(SIZE[0])).sum() / change.sum())
        column = float((change.sum(0) * torch.arange(SIZE[1])).sum() / change.sum())
        assert abs(row - (token[0] * 8 + 3.5)) < 8
        assert abs(column - (token[1] * 8 + 3.5)) < 8


def test_bfloat16_is_finite_and_near_float32(net: StrokeNet) -> None:
    x = torch.randn(2, 3, 32, 48)
    exact = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x)
    for one, other in zip(exact, rough, strict=True):
        assert bool(torch.isfinite(other).all())
        assert (other.float() - one).abs().max() < 0.1 * one.abs().max()


def _symmetric(decoder: DualArmDecoder, axis: int) -> DualArmDecoder:
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = (module.weight.data + module.weight.data.flip(axis)) / 2
    return decoder
