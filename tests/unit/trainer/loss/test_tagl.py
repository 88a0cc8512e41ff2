from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.dice import DiceCELoss
from safetensors.torch import load_file, save_file
from torch import Tensor

from strokecore.anatomy.regions import RegionId
from strokecore.errors import UsageError
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from trainer.loss.coupling import PAIRS
from trainer.loss.tagl import (
    ArmSlices,
    LossTerms,
    TaglConfig,
    TerritoryAwareGatedLoss,
    infarct_log_odds,
    region_losses,
    slice_losses,
)

K_BG, K_SG = len(BG_CLASSES), len(SG_CLASSES)
SIZE = 12
GATED = 0.5  # progress after the plain steps


def strips(n: int, level: int) -> Tensor:
    """uint8 [n, 12, 12]: the six coupled territories of a level, two rows each."""
    labels = torch.tensor([pair[level] for pair in PAIRS], dtype=torch.uint8)
    return labels.repeat_interleave(2)[:, None].expand(n, SIZE, SIZE).clone()


def arm(level: int, lesion: Tensor, seed: int, *, binary: bool = False) -> ArmSlices:
    """Random classes where ``lesion`` (bool [n, 12, 12]), answered with noise and some skill."""
    generator = torch.Generator().manual_seed(seed)
    n, classes = len(lesion), (K_BG, K_SG)[level]
    target = torch.randint(1, 2 if binary else classes, lesion.shape, generator=generator)
    target = target.masked_fill(~lesion, 0)
    truth = target[:, None] == torch.arange(classes)[:, None, None]
    skill = 4 * torch.rand(n, 1, 1, 1, generator=generator)
    logits = 2 * torch.randn(n, classes, SIZE, SIZE, generator=generator) + skill * truth
    return ArmSlices(
        logits.requires_grad_(),
        target,
        torch.ones(n, SIZE, SIZE, dtype=torch.bool),
        strips(n, level),
        torch.full((n,), binary),
    )


def pairs(
    seed: int, with_lesion: Sequence[bool] = (True, True, True, False, False), *, binary: bool = False
) -> tuple[ArmSlices, ArmSlices]:
    """Pairs of slices; those with lesion have it in both slices, in random territories."""
    generator = torch.Generator().manual_seed(seed)
    n = len(with_lesion)
    rows = (torch.rand(n, 6, generator=generator) < 0.5).repeat_interleave(2, dim=1)
    lesion = (torch.rand(n, SIZE, SIZE, generator=generator) < 0.5) & rows[..., None]
    lesion[:, 0, 0] = True
    lesion &= torch.tensor(with_lesion)[:, None, None]
    return arm(0, lesion, seed + 1, binary=binary), arm(1, lesion, seed + 2, binary=binary)


def gradients(total: Tensor, *arms: ArmSlices) -> list[Tensor]:
    return list(torch.autograd.grad(total, [a.logits for a in arms]))


def trained(config: TaglConfig, steps: int = 3) -> TerritoryAwareGatedLoss:
    """A loss whose medians have a history."""
    loss = TerritoryAwareGatedLoss(config)
    for step in range(steps):
        loss(*pairs(1000 + step), progress=GATED)
    return loss


# --- the plain loss


def expected_slice_loss(
    logits: npt.NDArray[np.float64], target: npt.NDArray[np.int64], binary: bool
) -> float:
    """Cross-entropy + Dice of one slice, written out in double precision."""
    p = np.exp(logits - logits.max(0))
    p /= p.sum(0)
    infarct, lesion = 1 - p[0], (target > 0).astype(float)
    of_truth = np.where(lesion, infarct, p[0]) if binary else np.take_along_axis(p, target[None], 0)[0]

    def dice(answer: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
        return float(1 - (2 * (answer * truth).sum() + 1) / (answer.sum() + truth.sum() + 1))

    terms = [dice(infarct, lesion)]
    if not binary:
        terms += [dice(p[k], (target == k).astype(float)) for k in range(1, len(p)) if (target == k).any()]
    return float(-np.log(of_truth).mean()) + sum(terms) / len(terms)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), binary=st.booleans(), amount=st.sampled_from([0.0, 0.02, 0.5, 1.0]))
def test_plain_loss_is_cross_entropy_and_dice(seed: int, binary: bool, amount: float) -> None:
    lesion = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) < amount
    slices = arm(1, lesion, seed, binary=binary)
    expected = [
        expected_slice_loss(logits.double().numpy(), target.numpy(), binary)
        for logits, target in zip(slices.logits.detach(), slices.target, strict=True)
    ]
    found = slice_losses(slices, TaglConfig())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)
    assert TerritoryAwareGatedLoss(TaglConfig()).plain(slices).item() == pytest.approx(np.mean(expected))


def test_where_only_infarct_is_known_the_plain_loss_is_monais() -> None:
    _, slices = pairs(3, [True], binary=True)
    monai = DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)
    expected = monai(infarct_log_odds(slices.logits)[:, None], slices.lesion[:, None].float())
    torch.testing.assert_close(TerritoryAwareGatedLoss(TaglConfig()).plain(slices), expected)


def test_where_only_infarct_is_known_classes_are_free() -> None:
    _, slices = pairs(3, [True, False], binary=True)
    turned = dataclasses.replace(slices, logits=slices.logits.detach()[:, [0, 3, 1, 5, 2, 4]])
    torch.testing.assert_close(slice_losses(turned, TaglConfig()), slice_losses(slices, TaglConfig()))


def test_a_batch_may_mix_known_classes_and_infarct_only() -> None:
    _, known = pairs(4, [True])
    _, infarct_only = pairs(5, [True], binary=True)
    fields = [f.name for f in dataclasses.fields(ArmSlices)]
    mixed = ArmSlices(*(torch.cat([getattr(known, f), getattr(infarct_only, f)]) for f in fields))
    alone = torch.cat([slice_losses(s, TaglConfig()) for s in (known, infarct_only)])
    torch.testing.assert_close(slice_losses(mixed, TaglConfig()), alone)


def test_regions_of_any_size_count_alike() -> None:
    labels = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    labels[:, :2, :4] = RegionId("C", "right").label  # 8 pixels
    labels[:, 4:] = RegionId("M2", "left").label  # 96 pixels
    labels[1, 2, :7] = RegionId("I", "left").label  # too few to be judged
    lesion = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    lesion[0, 0, :4] = True  # half of C
    odds = torch.zeros(2, SIZE, SIZE).masked_fill(labels == RegionId("M2", "left").label, -1.0)
    slices = dataclasses.replace(arm(0, lesion, 1), territories=labels)
    caudate, cortex = np.log(2), np.log1p(np.exp(-1))
    np.testing.assert_allclose(region_losses(odds, slices), [(caudate + cortex) / 2] * 2, rtol=1e-5)
    no_brain = dataclasses.replace(slices, brain=torch.zeros_like(slices.brain))
    assert region_losses(odds, no_brain).tolist() == [0, 0]
    odds[0, :2, :4] = torch.nan
    assert region_losses(odds, slices)[0].isnan(), "a network that diverges is seen"


def test_the_regions_part_has_its_weight() -> None:
    bg, _ = pairs(6)
    added = slice_losses(bg, TaglConfig(region_weight=3)) - slice_losses(bg, TaglConfig())
    torch.testing.assert_close(added, 3 * region_losses(infarct_log_odds(bg.logits), bg))
    assert torch.autograd.grad(added.sum(), bg.logits)[0].isfinite().all()


def test_weights_of_the_two_parts() -> None:
    bg, _ = pairs(6)
    ce = slice_losses(bg, TaglConfig(dice_weight=0))
    dice = slice_losses(bg, TaglConfig(ce_weight=0))
    both = slice_losses(bg, TaglConfig(dice_weight=3, ce_weight=2))
    torch.testing.assert_close(both, 2 * ce + 3 * dice)


def test_in_a_slice_without_lesion_dice_falls_with_the_false_infarct() -> None:
    losses = []
    for odds in (4.0, 0.0, -4.0, -8.0, -12.0):
        logits = torch.zeros(1, K_SG, SIZE, SIZE)
        logits[:, 0] = -odds
        slices = dataclasses.replace(arm(1, torch.zeros(1, SIZE, SIZE).bool(), 0), logits=logits)
        losses.append(slice_losses(slices, TaglConfig(ce_weight=0)).item())
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0.99
    assert losses[-1] < 0.01


# --- the control


def assert_same_step(found: LossTerms, bg: ArmSlices, sg: ArmSlices, loss: TerritoryAwareGatedLoss) -> None:
    plain = loss.plain(bg) + loss.plain(sg)
    assert torch.equal(found.total, plain)
    for a, b in zip(gradients(found.total, bg, sg), gradients(plain, bg, sg), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.weight, torch.ones_like(found.weight))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), binary=st.booleans())
def test_control_is_plain_bit_for_bit(seed: int, binary: bool) -> None:
    loss = trained(TaglConfig.control())
    bg, sg = pairs(seed, binary=binary)
    assert_same_step(loss(bg, sg, progress=GATED), bg, sg, loss)


def test_the_first_steps_are_plain_bit_for_bit() -> None:
    loss = trained(TaglConfig(plain_share=0.2))
    bg, sg = pairs(7)
    terms = loss(bg, sg, progress=0.199)
    assert_same_step(terms, bg, sg, loss)
    assert terms.coupling > 0  # told, not added
    assert loss.eval()(bg, sg, progress=0.2).total != terms.total


def test_medians_are_learned_in_the_plain_steps() -> None:
    loss = TerritoryAwareGatedLoss(TaglConfig())
    loss(*pairs(7), progress=0.0)
    assert loss.pair_gate.seen.tolist() == [2, 3]


# --- the gate in the loss


def test_no_gradient_through_the_gate() -> None:
    loss = trained(TaglConfig(coupling_weight=5.0))
    bg, sg = pairs(8)
    terms = loss(bg, sg, progress=GATED)
    assert terms.gate.std() > 0.01
    assert terms.coupling > 0
    (found,) = gradients(terms.total, bg)
    (plain,) = gradients(loss.plain(bg), bg)
    assert torch.equal(found, plain)
    assert not terms.confidence.requires_grad
    assert not terms.gate.requires_grad
    assert not terms.weight.requires_grad


def test_sg_gradients_are_the_plain_ones_times_the_weight() -> None:
    loss = trained(TaglConfig(coupling_weight=0))
    bg, sg = pairs(9)
    terms = loss(bg, sg, progress=GATED)
    assert (terms.weight - 1).abs().max() > 0.05
    (found,) = gradients(terms.total, sg)
    (plain,) = gradients(loss.plain(sg), sg)
    torch.testing.assert_close(found, terms.weight[:, None, None, None] * plain)


def answer(slices: ArmSlices, probability: Tensor) -> ArmSlices:
    """The same slices, answered with this probability of infarct."""
    logits = torch.zeros_like(slices.logits)
    logits[:, 1] = probability.clamp(1e-6, 1 - 1e-6).logit()
    logits[:, 2:] = -30.0
    return dataclasses.replace(slices, logits=logits)


def test_the_gate_opens_with_true_confidence_and_not_for_all_foreground() -> None:
    loss = TerritoryAwareGatedLoss(TaglConfig())
    bg, sg = pairs(10, [True] * 6)
    share = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])[:, None, None]  # how much of the lesion is seen
    loss(answer(bg, torch.where(bg.lesion, share, 0.05)), sg, progress=GATED)

    seen = torch.tensor([0.05, 0.9, 1.0, 0.0, 0.5, 0.55])[:, None, None]
    probability = torch.where(bg.lesion, seen, 0.05)
    probability[2], probability[3] = 1.0, 0.0  # infarct everywhere, nowhere
    gate = loss.eval()(answer(bg, probability), sg, progress=GATED).gate
    assert gate[1] > 0.8
    assert gate.argmax() == 1
    assert gate[2] < 0.2
    assert gate[3] < 0.2


def test_each_stratum_keeps_the_controls_sg_weight() -> None:
    loss = trained(TaglConfig())
    terms = loss(*pairs(11, [True, True, True, False, False, True, False]), progress=GATED)
    assert terms.lesion.tolist() == [True, True, True, False, False, True, False]
    assert terms.weight[terms.lesion].mean().item() == pytest.approx(1)
    assert terms.weight[~terms.lesion].mean().item() == pytest.approx(1)
    assert terms.weight.std() > 0.01


def test_the_terms_add_up() -> None:
    loss = trained(TaglConfig(coupling_weight=0.7))
    bg, sg = pairs(12)
    terms = loss(bg, sg, progress=GATED)
    torch.testing.assert_close(terms.total.detach(), terms.bg + terms.sg + 0.7 * terms.coupling)
    torch.testing.assert_close(terms.sg_plain, loss.plain(sg).detach())
    torch.testing.assert_close(terms.sg, (terms.weight * slice_losses(sg, loss.config)).mean().detach())
    assert terms.total.requires_grad
    others = (getattr(terms, f.name) for f in dataclasses.fields(terms) if f.name != "total")
    assert not any(value.requires_grad for value in others)


# --- coupling in the loss


def test_coupling_is_gated_and_averaged_over_valid_pairs() -> None:
    loss = trained(TaglConfig(coupling_weight=1.0))
    lesion = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    bg, sg = arm(0, lesion, 1), arm(1, lesion, 2)
    bg, sg = (
        answer(bg, torch.full_like(lesion, 0.1, dtype=torch.float)),
        answer(sg, torch.full(lesion.shape, 0.6)),
    )
    sg.territories[1, :6] = 0  # the second slice has three of the six territories
    terms = loss(bg, sg, progress=GATED)
    assert terms.valid_pairs == 9
    assert terms.coupling.item() == pytest.approx(0.25 * terms.gate.mean().item(), rel=1e-4)
    sg.territories[:] = 0
    terms = loss(bg, sg, progress=GATED)
    assert terms.valid_pairs == 0
    assert terms.coupling == 0


def coupling_gradient(config: TaglConfig, bg: ArmSlices, sg: ArmSlices) -> Tensor:
    with_it, without = trained(config).eval(), trained(dataclasses.replace(config, coupling_weight=0)).eval()
    (a,) = gradients(with_it(bg, sg, progress=GATED).total, sg)
    (b,) = gradients(without(bg, sg, progress=GATED).total, sg)
    return a - b


@pytest.mark.parametrize("gate", ["pair", "territory"])
def test_no_coupling_gradient_points_against_a_label(gate: str) -> None:
    config = TaglConfig(coupling_weight=1000.0, gate=gate)  # type: ignore[arg-type]
    bg, sg = pairs(13)
    # an unsure upper level, so that there is something to raise and something to lower
    sg = dataclasses.replace(sg, logits=(0.3 * sg.logits).detach().requires_grad_())
    background = coupling_gradient(config, bg, sg)[:, 0]
    noise = 1e-6  # of the subtraction
    assert (background[sg.lesion] >= -noise).all()  # descent lowers background
    assert (background[~sg.lesion] <= noise).all()
    assert background.max() > 0.01
    assert background.min() < -0.01


def test_the_territory_gate_looks_at_its_own_territory_only() -> None:
    """The BG arm is wrong about one branch: only that branch's coupling is shut."""
    lesion = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    sg = answer(arm(1, lesion, 2), torch.full((1, SIZE, SIZE), 0.9))
    sg = dataclasses.replace(sg, logits=sg.logits.requires_grad_())
    right = torch.full((1, SIZE, SIZE), 0.1)
    wrong = right.clone()
    wrong[:, 2:4] = 0.5
    moved = {}
    for gate in ("pair", "territory"):
        loss = TerritoryAwareGatedLoss(TaglConfig(gate=gate, coupling_weight=1000.0))
        loss(answer(arm(0, lesion, 1), right), sg, progress=GATED)
        loss.eval()
        by_answer = []
        for probability in (right, wrong):
            total = loss(answer(arm(0, lesion, 1), probability), sg, progress=GATED).total
            by_answer.append(
                gradients(total - loss.plain(sg), sg)[0].abs().sum((0, 1, 3)).reshape(6, 2).sum(1)
            )
        moved[gate] = by_answer[1] / by_answer[0]
    assert moved["territory"][1] < 0.1
    others = [0, 2, 3, 4, 5]
    torch.testing.assert_close(moved["territory"][others], torch.ones(5), atol=1e-3, rtol=0)
    assert (moved["pair"][others] < 0.9).all()  # one gate for all: the right branches are damped with it


def test_territories_that_a_slice_lacks_stay_out_of_their_median() -> None:
    loss = TerritoryAwareGatedLoss(TaglConfig(gate="territory"))
    bg, sg = pairs(19, [False, False])
    bg.territories[0] = 0
    loss(bg, sg, progress=GATED)
    assert loss.territory_gate.seen.tolist() == [6, 0]
    assert loss.pair_gate.seen.tolist() == [2, 0]


# --- robustness


@pytest.mark.parametrize("gate", ["pair", "territory"])
def test_empty_slices(gate: str) -> None:
    """No lesion, no brain, no territory: finite, and minimised by saying background."""
    loss = TerritoryAwareGatedLoss(TaglConfig(gate=gate))  # type: ignore[arg-type]
    nothing = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    bg, sg = (
        dataclasses.replace(
            arm(level, nothing, level),
            brain=nothing,
            territories=torch.zeros(2, SIZE, SIZE, dtype=torch.uint8),
        )
        for level in (0, 1)
    )
    terms = loss(bg, sg, progress=GATED)
    for gradient in gradients(terms.total, bg, sg):
        assert gradient.isfinite().all()
    assert terms.confidence.tolist() == [0, 0]
    assert terms.coupling == 0
    background = [answer(a, torch.zeros(2, SIZE, SIZE)) for a in (bg, sg)]
    assert loss(*background, progress=GATED).total < 0.01


@pytest.mark.parametrize("binary", [False, True])
def test_bf16_answers_are_summed_in_float32(binary: bool) -> None:
    bg, sg = pairs(14, binary=binary)
    exact = trained(TaglConfig()).eval()(bg, sg, progress=GATED)
    rough = [dataclasses.replace(a, logits=a.logits.detach().bfloat16().requires_grad_()) for a in (bg, sg)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = trained(TaglConfig()).eval()(*rough, progress=GATED)
        same = trained(TaglConfig()).eval()(bg, sg, progress=GATED)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, exact.total, rtol=0.01, atol=0)
    torch.testing.assert_close(found.gate, exact.gate, rtol=0, atol=0.02)
    for gradient in gradients(found.total, *rough):
        assert gradient.isfinite().all()
    assert torch.equal(same.total, exact.total)  # autocast itself changes nothing
    rounded = [dataclasses.replace(a, logits=a.logits.detach().float()) for a in rough]
    assert torch.equal(found.total, trained(TaglConfig()).eval()(*rounded, progress=GATED).total)


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("binary", [False, True])
def test_sure_answers_right_or_wrong_stay_finite(scale: float, binary: bool) -> None:
    bg, sg = pairs(15, binary=binary)
    bg, sg = (
        dataclasses.replace(a, logits=(a.logits.detach() * scale).bfloat16().requires_grad_())
        for a in (bg, sg)
    )
    terms = TerritoryAwareGatedLoss(TaglConfig())(bg, sg, progress=GATED)
    assert terms.total.isfinite()
    for gradient in gradients(terms.total, bg, sg):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("gate", ["pair", "territory"])
def test_a_resumed_run_continues_with_the_same_losses(gate: str, tmp_path: Path) -> None:
    config = TaglConfig(median_window=8, gate=gate)  # type: ignore[arg-type]
    first = trained(config, steps=5)
    save_file(first.state_dict(), tmp_path / "loss.safetensors")
    second = TerritoryAwareGatedLoss(config)
    second.load_state_dict(load_file(tmp_path / "loss.safetensors"))
    fresh = TerritoryAwareGatedLoss(config)
    for step in range(4):
        slices = pairs(20 + step)
        a, b, c = (loss(*slices, progress=GATED) for loss in (first, second, fresh))
        assert torch.equal(a.total, b.total)
        assert torch.equal(a.gate, b.gate)
        if step == 0:
            assert not torch.equal(a.gate, c.gate)


def test_evaluation_changes_no_state() -> None:
    loss = trained(TaglConfig(gate="territory")).eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(*pairs(16), progress=GATED)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])


def infarct_dice(slices: ArmSlices) -> float:
    found = infarct_log_odds(slices.logits) > 0
    return float(2 * (found & slices.lesion).sum() / (found.sum() + slices.lesion.sum()))


@pytest.mark.parametrize("config", [TaglConfig(), TaglConfig(gate="territory"), TaglConfig.control()])
@pytest.mark.parametrize("binary", [False, True])
def test_optimisation_learns_the_lesions(config: TaglConfig, binary: bool) -> None:
    bg, sg = pairs(17, binary=binary)
    loss = TerritoryAwareGatedLoss(config)
    optimiser = torch.optim.Adam([bg.logits, sg.logits], lr=0.3)
    steps = 50
    totals = []
    for step in range(steps):
        optimiser.zero_grad()
        terms = loss(bg, sg, progress=step / steps)
        terms.total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        totals.append(terms.total.item())
    assert totals[-1] < 0.1 * totals[0]
    assert infarct_dice(bg) > 0.95
    assert infarct_dice(sg) > 0.95
    assert terms.confidence.min() > 0.9


# --- input and settings


def test_slices_that_do_not_fit_are_refused() -> None:
    bg, sg = pairs(18)
    with pytest.raises(ValueError, match="brain"):
        dataclasses.replace(bg, brain=bg.brain[:, :-1])
    with pytest.raises(ValueError, match="binary"):
        dataclasses.replace(bg, binary=bg.binary[:-1])
    fewer = ArmSlices(*(getattr(sg, f.name)[:-1] for f in dataclasses.fields(sg)))
    with pytest.raises(ValueError, match="not pairs"):
        TerritoryAwareGatedLoss(TaglConfig())(bg, fewer, progress=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("w0", 0.0),
        ("w0", 1.5),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("coupling_weight", -0.1),
        ("top_percent", 0.0),
        ("top_percent", 101.0),
        ("positive_share", 0.0),
        ("plain_share", 1.1),
        ("median_window", 0),
        ("dice_weight", float("inf")),
        ("ce_weight", -1.0),
        ("gate", "slice"),
    ],
)
def test_settings_without_meaning_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"loss\.{name}"):
        TaglConfig(**{name: value})  # type: ignore[arg-type]


def test_one_part_of_the_plain_loss_must_stay() -> None:
    with pytest.raises(UsageError, match="nothing is learned"):
        TaglConfig(dice_weight=0, ce_weight=0)


def test_control_differs_in_gating_and_coupling_only() -> None:
    config = TaglConfig(temperature=0.2, dice_weight=2.0)
    assert config.as_control() == dataclasses.replace(config, w0=1.0, coupling_weight=0.0)
    assert TaglConfig.control() == TaglConfig(w0=1.0, coupling_weight=0.0)


def test_recipes_are_read_without_torch() -> None:
    code = "import sys, trainer.loss.config; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_on_the_loss_tells_every_setting_and_its_default() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "tagl.md").read_text("utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")] for line in page.splitlines() if line[:1] == "|"]
    told = {row[2]: row[3] for row in rows if len(row) > 4}
    for field in dataclasses.fields(TaglConfig):
        if field.name == "gate":
            assert told["gate"] == field.default
        else:
            assert float(told[field.name].removesuffix(" %")) == field.default
    tests = "".join(
        (Path(__file__).parent / f"test_{name}.py").read_text("utf-8")
        for name in ("tagl", "confidence_gate", "coupling")
    )
    for name in re.findall(r"`(test_[a-z0-9_]+)`", page):
        assert f"def {name}(" in tests
