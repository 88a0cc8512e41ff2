from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.learned.arms import COUPLED
from trainer.loss.coupling import PAIRS, disagreement, evidence, find_territories

SIZE = 12
TERRITORY_PX = SIZE * SIZE // 6
HALF = TERRITORY_PX // 2


def strips(level: int) -> torch.Tensor:
    """uint8 [1, 12, 12]: the six territories of a level, two rows each, in the order of PAIRS."""
    labels = torch.tensor([pair[level] for pair in PAIRS], dtype=torch.uint8)
    return labels.repeat_interleave(2)[:, None].expand(SIZE, SIZE)[None].clone()


BG_REGIONS, SG_REGIONS = strips(0), strips(1)


def lesion_in(*territories: int, pixels: int = HALF) -> torch.Tensor:
    """bool [1, 12, 12]: the first pixels of these territories (index in PAIRS)."""
    flat = torch.zeros(6, TERRITORY_PX, dtype=torch.bool)
    for t in territories:
        flat[t, :pixels] = True
    return flat.reshape(1, SIZE, SIZE)


def run(
    bg_p: torch.Tensor, bg_lesion: torch.Tensor, sg_logit: torch.Tensor, sg_lesion: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Penalty, validity, and the gradient of the summed penalty on the SG log-odds."""
    sg_logit = sg_logit.clone().requires_grad_()
    penalty, valid = disagreement(
        bg_p,
        find_territories(BG_REGIONS, bg_lesion, 0, 0.1),
        sg_logit.sigmoid(),
        find_territories(SG_REGIONS, sg_lesion, 1, 0.1),
        sg_lesion,
        10.0,
    )
    if penalty.requires_grad:
        penalty.sum().backward()
    return (
        penalty.detach()[0],
        valid[0],
        torch.zeros(SIZE, SIZE) if sg_logit.grad is None else sg_logit.grad[0],
    )


def in_territory(gradient: torch.Tensor, t: int) -> torch.Tensor:
    return gradient.reshape(6, TERRITORY_PX)[t]


def test_the_pairs_are_the_three_branches_of_each_hemisphere() -> None:
    by_label = {region.label: region for region in ALL_REGIONS}
    pairs = [(by_label[bg], by_label[sg]) for bg, sg in PAIRS]
    assert {(b.name, s.name, b.side) for b, s in pairs} == {
        (b, s, side) for b, s in COUPLED for side in ("left", "right")
    }
    assert all(b.side == s.side for b, s in pairs)


@pytest.mark.parametrize(("pixels", "positive"), [(0, False), (9, False), (10, True), (100, True)])
def test_a_territory_is_positive_from_a_tenth_of_its_pixels(pixels: int, positive: bool) -> None:
    regions = torch.full((1, 10, 10), RegionId("M5", "right").label, dtype=torch.uint8)
    lesion = (torch.arange(100) < pixels).reshape(1, 10, 10)
    found = find_territories(regions, lesion, 1, 0.1)
    t = PAIRS.index((RegionId("M2", "right").label, RegionId("M5", "right").label))
    assert found.positive[0].tolist() == [i == t and positive for i in range(6)]
    assert found.present[0].tolist() == [i == t for i in range(6)]
    assert found.masks[0, t].all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), percent=st.sampled_from([1.0, 10.0, 37.0, 100.0]))
def test_evidence_is_the_mean_of_the_highest_probabilities(seed: int, percent: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(2, 1, 9, 9, generator=generator)
    masks = torch.rand(2, 6, 9, 9, generator=generator) < torch.rand(2, 6, 1, 1, generator=generator)
    e = evidence(p, masks, percent)
    for i in range(2):
        for t in range(6):
            values = np.sort(p[i, 0].numpy()[masks[i, t].numpy()])[::-1]
            if len(values):
                top = max(1, int(np.ceil(len(values) * percent / 100)))
                assert e[i, t] == pytest.approx(values[:top].mean(), abs=1e-6)


def test_both_positive_raises_the_upper_evidence_only() -> None:
    lesion = lesion_in(1)
    penalty, valid, gradient = run(
        torch.where(lesion, 0.9, 0.1), lesion, torch.where(lesion, -1.0, -3.0), lesion
    )
    e_s = torch.sigmoid(torch.tensor(-1.0)).item()
    assert penalty[1] == pytest.approx((0.9 - e_s) ** 2, rel=1e-5)
    assert valid.all()
    assert (in_territory(gradient, 1) < 0).sum() == np.ceil(TERRITORY_PX / 10)  # descent raises
    assert (gradient <= 0).all()
    # the upper level is surer than the lower: left alone
    penalty, _, gradient = run(torch.where(lesion, 0.4, 0.1), lesion, torch.where(lesion, 3.0, -3.0), lesion)
    assert penalty.max() == 0
    assert not gradient.any()


def test_both_negative_lowers_the_upper_evidence_only() -> None:
    nothing = lesion_in()
    penalty, valid, gradient = run(
        torch.full((1, SIZE, SIZE), 0.1), nothing, torch.zeros(1, SIZE, SIZE), nothing
    )
    torch.testing.assert_close(penalty, torch.full((6,), (0.5 - 0.1) ** 2))
    assert valid.all()
    assert (gradient >= 0).all()
    assert (gradient > 0).any()
    penalty, _, gradient = run(torch.full((1, SIZE, SIZE), 0.6), nothing, torch.zeros(1, SIZE, SIZE), nothing)
    assert penalty.max() == 0
    assert not gradient.any()


@pytest.mark.parametrize(("below", "above"), [((0,), ()), ((), (0,))])
def test_labels_that_disagree_give_nothing(below: tuple[int, ...], above: tuple[int, ...]) -> None:
    bg_lesion, sg_lesion = lesion_in(*below), lesion_in(*above)
    penalty, valid, gradient = run(
        torch.rand(1, SIZE, SIZE), bg_lesion, torch.randn(1, SIZE, SIZE), sg_lesion
    )
    assert valid.tolist() == [False] + [True] * 5
    assert penalty[0] == 0
    assert not in_territory(gradient, 0).any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), amount=st.floats(0.0, 0.6))
def test_no_gradient_points_against_the_label_of_any_pixel(seed: int, amount: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    bg_lesion = torch.rand(1, SIZE, SIZE, generator=generator) < amount
    sg_lesion = torch.rand(1, SIZE, SIZE, generator=generator) < amount
    # a share of the territories without any lesion, so that all label combinations occur
    keep = torch.rand(2, 6, generator=generator) < 0.6
    bg_lesion &= keep[0].repeat_interleave(2)[:, None]
    sg_lesion &= keep[1].repeat_interleave(2)[:, None]
    bg_p = torch.rand(1, SIZE, SIZE, generator=generator)
    sg_logit = 3 * torch.randn(1, SIZE, SIZE, generator=generator)
    penalty, valid, gradient = run(bg_p, bg_lesion, sg_logit, sg_lesion)
    assert (gradient[sg_lesion[0]] <= 0).all()  # descent raises infarct there
    assert (gradient[~sg_lesion[0]] >= 0).all()
    assert (penalty >= 0).all()
    for t in range(6):
        if not valid[t] or penalty[t] == 0:
            assert not in_territory(gradient, t).any()


def test_the_few_lesion_pixels_of_a_negative_territory_are_not_lowered() -> None:
    few = lesion_in(2, pixels=2)  # 2 of 24 pixels: below a tenth
    sg_logit = torch.where(few, 2.0, -1.0)  # the top tenth is 3 pixels: the two of the lesion and a false one
    penalty, valid, gradient = run(torch.full((1, SIZE, SIZE), 0.01), lesion_in(), sg_logit, few)
    assert valid[2]
    assert penalty[2] > 0
    assert not gradient[few[0]].any()
    assert (in_territory(gradient, 2) > 0).sum() == 1


def test_no_hemisphere_reaches_the_other() -> None:
    left = torch.zeros(6, dtype=torch.bool)
    left[:3] = True
    rows = left.repeat_interleave(2)
    lesion = lesion_in(0, 1, 3, 4)
    generator = torch.Generator().manual_seed(1)
    sg_logit = torch.randn(1, SIZE, SIZE, generator=generator)
    bg_p = torch.rand(1, SIZE, SIZE, generator=generator)
    penalty, _, gradient = run(bg_p, lesion, sg_logit, lesion)
    # whatever happens on the right leaves the left as it is
    other_p, other_lesion = bg_p.clone(), lesion.clone()
    other_p[:, ~rows] = 1 - other_p[:, ~rows]
    other_lesion[:, ~rows] = False
    penalty_2, _, gradient_2 = run(other_p, other_lesion, sg_logit, lesion)
    assert torch.equal(penalty[left], penalty_2[left])
    assert torch.equal(gradient[rows], gradient_2[rows])
    assert not torch.equal(gradient[~rows], gradient_2[~rows])


def test_each_territory_follows_the_one_below_it() -> None:
    """A false alarm above is lowered only as far as its own territory below is sure."""
    nothing = lesion_in()
    sure_of = torch.ones(6, TERRITORY_PX)
    sure_of[4] = 0.0
    penalty, _, gradient = run(sure_of.reshape(1, SIZE, SIZE), nothing, torch.zeros(1, SIZE, SIZE), nothing)
    assert penalty.nonzero().flatten().tolist() == [4]
    assert in_territory(gradient, 4).any()
    assert gradient.count_nonzero() == in_territory(gradient, 4).count_nonzero()


def test_territories_absent_from_a_slice_are_not_valid() -> None:
    nothing = lesion_in()
    bg_regions = BG_REGIONS.clone()
    bg_regions[bg_regions == PAIRS[0][0]] = 0
    sg_regions = SG_REGIONS.clone()
    sg_regions[sg_regions == PAIRS[5][1]] = RegionId("C", "right").label
    sg = torch.full((1, SIZE, SIZE), 0.5, requires_grad=True)
    penalty, valid = disagreement(
        torch.zeros(1, SIZE, SIZE),
        find_territories(bg_regions, nothing, 0, 0.1),
        sg,
        find_territories(sg_regions, nothing, 1, 0.1),
        nothing,
        10.0,
    )
    assert valid[0].tolist() == [False, True, True, True, True, False]
    assert penalty[0].tolist() == [0, 0.25, 0.25, 0.25, 0.25, 0]
    penalty.sum().backward()
    assert sg.grad is not None
    assert sg.grad.isfinite().all()


def test_the_lower_level_never_moves() -> None:
    bg = torch.rand(1, SIZE, SIZE, requires_grad=True)
    nothing = lesion_in()
    penalty, _ = disagreement(
        bg,
        find_territories(BG_REGIONS, nothing, 0, 0.1),
        torch.rand(1, SIZE, SIZE),
        find_territories(SG_REGIONS, nothing, 1, 0.1),
        nothing,
        10.0,
    )
    assert not penalty.requires_grad
