"""The network of a recipe: seeds, sources and what is said about them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strokecore.errors import UsageError
from strokecore.learned.preprocessing import InputSpec
from tests.unit.trainer.network.dinov3_original import checkpoint
from trainer.config import Recipe, WeightsConfig
from trainer.loop.backbone import build_network
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, NetworkConfig

SMALL = BackboneConfig(32, 2, 2, 48, (1, 1, 2, 2))
RANDOM = Recipe(
    "a",
    weights=WeightsConfig("random"),
    network=NetworkConfig("vitb16", features=4),
    input=InputSpec(size=(32, 48)),
)


@pytest.fixture(autouse=True)
def _small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "vitb16", SMALL)


@pytest.fixture
def meta(tmp_path: Path) -> Recipe:
    """A recipe with a small file of Meta's form."""
    torch.save(checkpoint(SMALL), tmp_path / "small.pth")
    return replace(RANDOM, weights=WeightsConfig(str(tmp_path / "small.pth")))


def test_same_seed_same_values() -> None:
    torch.manual_seed(5)
    one, origin = build_network(RANDOM)
    torch.manual_seed(6)
    same, same_origin = build_network(RANDOM)
    for name, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    assert origin == same_origin


def test_another_seed_another_decoder() -> None:
    one, origin = build_network(RANDOM)
    other, other_origin = build_network(replace(RANDOM, seed=2))
    assert not torch.equal(one.decoder.bg[0].weight, other.decoder.bg[0].weight)
    assert origin.sha256 != other_origin.sha256


def test_the_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network(RANDOM)
    assert torch.equal(torch.rand(3), expected)


def test_random_weights_are_said_to_be_random(caplog: pytest.LogCaptureFixture) -> None:
    net, origin = build_network(RANDOM)
    assert (origin.kind, origin.backbone, origin.checked) == ("random", "vitb16", False)
    assert "learned nothing" in caplog.text
    assert not any(p.requires_grad for p in net.backbone.parameters())
    assert all(p.requires_grad for p in net.decoder.parameters())


def test_random_weights_have_no_hash_to_check() -> None:
    with pytest.raises(UsageError, match="remove one of them"):
        build_network(replace(RANDOM, weights=WeightsConfig("random", "ab" * 32)))


def test_weights_of_meta_replace_the_random_ones(meta: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    net, origin = build_network(meta)
    assert torch.equal(net.backbone.model.norm.weight, checkpoint(SMALL)["norm.weight"])
    assert (origin.kind, origin.licence, origin.notice) == ("meta", "DINOv3 License", "Built with DINOv3")
    assert f"{origin.sha256}, was not checked" in caplog.text
    # the decoder starts as it does with any other weights
    random, _ = build_network(replace(meta, weights=WeightsConfig("random")))
    for name, value in net.decoder.state_dict().items():
        assert torch.equal(value, random.decoder.state_dict()[name]), name


def test_a_checked_hash_is_not_warned_of(meta: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    _, first = build_network(meta)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _, origin = build_network(replace(meta, weights=replace(meta.weights, sha256=first.sha256)))
    assert origin.checked
    assert not caplog.records


def test_a_wrong_hash_stops(meta: Recipe) -> None:
    with pytest.raises(UsageError, match="the recipe expects abab"):
        build_network(replace(meta, weights=replace(meta.weights, sha256="ab" * 32)))


def test_the_shipped_backbone_is_what_its_record_says() -> None:
    from trainer.network.weights import SHIPPED

    net, origin = build_network(Recipe("a"))
    assert (origin.kind, origin.backbone, origin.checked) == ("shipped", "tiny", True)
    assert origin.licence == "Apache-2.0"
    state = load_file(SHIPPED / "backbone.safetensors")
    assert all(value.dtype == torch.float16 for value in state.values())
    for name, value in net.backbone.model.state_dict().items():
        stored = state[name] if name in state else state[name.removeprefix("model.")]
        assert torch.equal(value, stored.float()), name
