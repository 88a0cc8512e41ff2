from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.loss.confidence_gate import ConfidenceGate, confidence, sg_weights

LESION = torch.zeros(1, 8, 8, dtype=torch.bool)
LESION[:, 2:4, 2:6] = True
BRAIN = torch.zeros(1, 8, 8, dtype=torch.bool)
BRAIN[:, 1:7, 1:7] = True
NOTHING = torch.zeros_like(LESION)


def full(value: float) -> torch.Tensor:
    return torch.full((1, 8, 8), value)


def test_confidence_is_the_mean_probability_of_the_truth_lesion_and_healthy_alike() -> None:
    infarct = torch.where(LESION, 0.8, 0.1)
    assert confidence(infarct, LESION, BRAIN).item() == pytest.approx((0.8 + 0.9) / 2)
    assert confidence(infarct, NOTHING, BRAIN).item() == pytest.approx(1 - (8 * 0.8 + 28 * 0.1) / 36)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_an_answer_that_does_not_look_at_the_slice_has_no_confidence(value: float) -> None:
    assert confidence(full(value), LESION, BRAIN).item() == pytest.approx(0.5)
    assert confidence(full(1.0), NOTHING, BRAIN).item() == 0


def test_outside_the_mask_only_lesion_counts() -> None:
    outside = torch.where(BRAIN, 0.2, 1.0)
    assert confidence(outside, NOTHING, BRAIN).item() == pytest.approx(0.8)


def test_what_was_not_looked_at_opens_nothing() -> None:
    assert confidence(full(0.0), NOTHING, NOTHING).item() == 0
    assert confidence(full(1.0), LESION, LESION).item() == 0.5  # no healthy tissue to be right about


def test_confidence_of_territories_takes_any_leading_axes() -> None:
    infarct = torch.rand(3, 1, 8, 8)
    masks = torch.rand(3, 6, 8, 8) > 0.5
    lesion = (torch.rand(3, 1, 8, 8) > 0.7) & masks
    together = confidence(infarct, lesion, masks)
    for i in range(3):
        for t in range(6):
            alone = confidence(infarct[i], lesion[i, t][None], masks[i, t][None])
            assert together[i, t] == pytest.approx(alone.item())


def test_no_gradient_passes() -> None:
    infarct = full(0.6).requires_grad_()
    gate = ConfidenceGate(0.1, 8)
    c = confidence(infarct, LESION, BRAIN)
    assert not c.requires_grad
    assert not gate(c, torch.tensor([True])).requires_grad


def gate_with(confidences: list[float], lesion: bool, window: int = 64) -> ConfidenceGate:
    gate = ConfidenceGate(0.1, window)
    gate(torch.tensor(confidences), torch.full((len(confidences),), lesion))
    return gate.eval()


def test_the_gate_opens_with_confidence_in_its_own_stratum() -> None:
    gate = gate_with([0.6, 0.7, 0.8], lesion=True)
    c = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.95])
    g = gate(c, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(g, torch.sigmoid((c - 0.7) / 0.1))
    assert (g.diff() > 0).all()
    # the other stratum has no history: neither open nor shut
    assert gate(c, torch.zeros(5, dtype=torch.bool)).tolist() == [0.5] * 5


def test_all_foreground_does_not_open_the_gate() -> None:
    history = [0.6, 0.75, 0.8, 0.85, 0.9]
    good = confidence(torch.where(LESION, 0.9, 0.02), LESION, BRAIN)
    everything = confidence(full(1.0), LESION, BRAIN)
    gate = gate_with(history, lesion=True)
    assert gate(good, torch.tensor([True])) > 0.7
    assert gate(everything, torch.tensor([True])) < 0.05
    gate = gate_with(history, lesion=False)
    assert gate(confidence(full(1.0), NOTHING, BRAIN), torch.tensor([False])) < 0.001


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), max_size=7), max_size=9),
    window=st.integers(1, 12),
)
def test_tau_is_the_median_of_the_last_confidences_of_the_stratum(
    steps: list[list[tuple[float, bool]]], window: int
) -> None:
    gate = ConfidenceGate(0.1, window)
    history: dict[bool, list[float]] = {False: [], True: []}
    for step in steps:
        gate(torch.tensor([c for c, _ in step]), torch.tensor([s for _, s in step], dtype=torch.bool))
        for c, stratum in step:
            history[stratum].append(c)
    for stratum in (False, True):
        kept = history[stratum][-window:]
        tau = gate.tau()[int(stratum)].item()
        assert np.isnan(tau) if not kept else tau == pytest.approx(np.median(kept), abs=1e-6)


def test_the_first_batch_is_compared_with_its_own_median() -> None:
    g = ConfidenceGate(0.1, 64)(torch.tensor([0.4, 0.5, 0.6]), torch.ones(3, dtype=torch.bool))
    assert g[1] == 0.5
    assert g[0] < 0.5 < g[2]


def test_entries_that_do_not_count_stay_out_of_the_median() -> None:
    gate = ConfidenceGate(0.1, 64)
    gate(torch.tensor([[0.2, 0.9]]), torch.tensor([[True, True]]), torch.tensor([[False, True]]))
    assert gate.tau()[1] == pytest.approx(0.9)
    assert gate.seen.tolist() == [0, 1]


def test_evaluation_leaves_the_median_alone() -> None:
    gate = gate_with([0.6, 0.7], lesion=True)
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    gate(torch.tensor([0.1, 0.2]), torch.tensor([True, False]))
    for name, value in gate.state_dict().items():
        assert torch.equal(value, before[name])


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=12),
    w0=st.floats(0.05, 1.0),
)
def test_each_stratum_weighs_what_it_weighs_in_the_control(
    pairs: list[tuple[float, bool]], w0: float
) -> None:
    gate = torch.tensor([g for g, _ in pairs])
    lesion = torch.tensor([s for _, s in pairs])
    weight = sg_weights(gate, lesion, w0)
    for stratum in (lesion, ~lesion):
        if stratum.any():
            assert weight[stratum].sum().item() == pytest.approx(int(stratum.sum()), rel=1e-5)
            # more confidence, more weight; and never less than w0
            order = gate[stratum].argsort()
            assert (weight[stratum][order].diff() >= -1e-6).all()
            assert weight[stratum].min() >= w0 - 1e-6
    assert torch.equal(sg_weights(gate, lesion, 1.0), torch.ones_like(gate))


def test_a_pair_alone_in_its_stratum_weighs_one() -> None:
    weight = sg_weights(torch.tensor([0.01, 0.9, 0.1]), torch.tensor([True, False, False]), 0.3)
    assert weight[0] == 1
    assert weight[1] > 1 > weight[2]
