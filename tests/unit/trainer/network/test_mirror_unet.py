"""The U-Net that compares both sides: what it must answer whatever its weights are."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from strokecore.errors import UsageError
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from strokecore.learned.package import INPUT_NAME
from trainer.network.mirror_unet import MirrorUNet
from trainer.network.vit_dpt import NetworkConfig, StrokeNet
from trainer.package.graph import ProbabilityNet, to_onnx

SIZE = (32, 40)


def network(backbone: str = "none", channels: int = 4) -> StrokeNet:
    torch.manual_seed(3)
    return StrokeNet(NetworkConfig(backbone, 4, 0.1, "mirror_unet", channels)).eval()


@pytest.fixture(scope="module")
def slices() -> torch.Tensor:
    return torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ["none", "tiny"])
def test_logits_have_the_arms_classes_and_the_slices_size(backbone: str, slices: torch.Tensor) -> None:
    bg, sg = network(backbone)(slices)
    assert bg.shape == (3, len(BG_CLASSES), *SIZE)
    assert sg.shape == (3, len(SG_CLASSES), *SIZE)


@pytest.mark.parametrize("backbone", ["none", "tiny"])
def test_a_mirrored_head_gets_the_mirrored_answer(backbone: str, slices: torch.Tensor) -> None:
    net = network(backbone)
    for one, other in zip(net(slices), net(slices.flip(-1)), strict=True):
        torch.testing.assert_close(one, other.flip(-1), rtol=0, atol=1e-5)
        assert not torch.allclose(one, other, atol=1e-3)


def test_what_lies_across_the_midline_counts() -> None:
    """A far change on the other side alone moves the answer here more than the same change midway between."""
    net = network()
    plain = torch.zeros(1, 4, 32, 80)
    here = (slice(None), slice(None), slice(14, 18), slice(6, 10))
    across, between = plain.clone(), plain.clone()
    across[..., 14:18, 70:74] = 2.0
    between[..., 14:18, 38:42] = 2.0
    with torch.no_grad():
        first, moved, near = (net(x)[0][here] for x in (plain, across, between))
    assert (moved - first).abs().mean() > 1.5 * (near - first).abs().mean()


def test_one_slice_does_not_depend_on_its_batch(slices: torch.Tensor) -> None:
    net = network()
    with torch.no_grad():
        torch.testing.assert_close(net(slices)[0][1:2], net(slices[1:2])[0], rtol=0, atol=1e-5)


def test_everything_is_trained_but_the_backbone(slices: torch.Tensor) -> None:
    net = network("tiny").train()
    bg, sg = net(slices)
    (bg.square().mean() + sg.square().mean()).backward()
    assert all(p.grad is not None for p in net.decoder.parameters())
    assert all(p.grad is None for p in net.backbone.parameters())
    assert not list(network().backbone.parameters())


def test_the_graph_answers_as_the_network_for_any_number_of_slices(slices: torch.Tensor) -> None:
    net = network()
    session = onnxruntime.InferenceSession(to_onnx(net, SIZE), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        part = slices[:count]
        with torch.no_grad():
            expected = ProbabilityNet(net)(part)
        for found, wanted in zip(session.run(None, {INPUT_NAME: part.numpy()}), expected, strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_a_size_that_does_not_halve_three_times_is_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 8"):
        network()(torch.zeros(1, 4, 36, 40))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("none", 4, 0.1, "dpt", 3), "needs a backbone"),
        (("tiny", 4, 0.1, "dpt", 4), "3 channels"),
        (("tiny", 4, 0.1, "mirror_unet", 2), "too few"),
        (("vits16", 4, 0.1, "mirror_unet", 3), "has 16"),
        (("none", 4, 0.1, "unet", 3), "expected one of dpt, mirror_unet"),
    ],
)
def test_what_does_not_fit_together_is_named(values: tuple[object, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NetworkConfig(*values)  # type: ignore[arg-type]


def test_the_size_is_the_inputs() -> None:
    with pytest.raises(AssertionError):
        MirrorUNet(1, 2, 0.0)((torch.zeros(1, 1, 16, 16),), (8, 8))
