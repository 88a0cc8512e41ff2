"""A network's answer for slices and for a case: sides, levels, and where nothing may be called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from strokecore.arrays import dice
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import to_channels
from tests.unit.trainer.evaluation_cases import LEVEL_MM, M2, M5, SPEC, StubNet, box, make_case
from tests.unit.trainer.training_cases import BACKBONE
from trainer.measure.metrics import CLASS_NAMES
from trainer.measure.prediction import Panel, predict_slices
from trainer.network.vit_dpt import NetworkConfig, StrokeNet


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> StrokeNet:
    monkeypatch.setitem(StrokeNet.__init__.__globals__["BACKBONES"], "test", BACKBONE)
    torch.manual_seed(1)
    return StrokeNet(NetworkConfig("test", features=8, dropout=0.5)).eval()


def test_probabilities_of_both_arms_whatever_the_batch(net: StrokeNet) -> None:
    channels = np.random.default_rng(1).normal(size=(5, 3, *SPEC.size)).astype(np.float32)
    bg, sg = predict_slices(net, channels)
    assert (bg.shape, sg.shape) == ((5, 9, *SPEC.size), (5, 6, *SPEC.size))
    assert (bg.dtype, sg.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(bg.sum(1), 1, atol=1e-5)
    with torch.no_grad():
        expected = net(torch.from_numpy(channels))[1].softmax(1).numpy()
    np.testing.assert_allclose(sg, expected, atol=1e-6)
    for one, two in zip((bg, sg), predict_slices(net, channels, batch=2), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_network_in_training_is_refused(net: StrokeNet) -> None:
    with pytest.raises(ValueError, match="training mode"):
        predict_slices(net.train(), np.zeros((1, 3, *SPEC.size), np.float32))


def test_a_case_keeps_its_sides_and_levels() -> None:
    case = make_case("a", "test", "coupled", (M2,))  # left, below the plane
    stub = StubNet()
    infarct = Panel([stub], SPEC).infarcts(case)[0]  # type: ignore[arg-type]
    assert infarct.shape == CANONICAL_GRID.shape
    assert infarct.dtype == np.float32
    called = infarct >= 0.5
    z, _, x = CANONICAL_GRID.axes_mm
    assert called[:, :, x > 0].any()
    assert not called[:, :, x < 0].any()
    assert not called[z > LEVEL_MM + 6].any()
    assert dice(called, case.lesion) > 0.85
    other = make_case("b", "test", "coupled", (M5,))
    assert (Panel([stub], SPEC).infarcts(other)[0][z < LEVEL_MM - 6] < 0.5).all()  # type: ignore[arg-type]


def test_the_arm_is_that_of_the_level() -> None:
    """An SG arm that calls everything is heard above the plane only, and the reverse."""

    class OneArm(StubNet):
        def decode(
            self, taps: tuple[torch.Tensor, ...], size: tuple[int, int]
        ) -> tuple[torch.Tensor, torch.Tensor]:
            bg, sg = super().decode(taps, size)
            return bg, torch.roll(sg, 3, dims=1) * 0 + torch.tensor([-50.0, 50, 0, 0, 0, 0])[:, None, None]

    case = make_case("a", "test", "lesion_free")
    infarct = Panel([OneArm()], SPEC).infarcts(case)[0]  # type: ignore[arg-type]
    z = CANONICAL_GRID.axes_mm[0]
    inside = [infarct[i][case.inside[i]] for i in range(len(z))]
    assert all((p > 0.99).all() for i, p in enumerate(inside) if LEVEL_MM + 7 < z[i] < 44 and len(p))
    assert all((p < 0.01).all() for i, p in enumerate(inside) if -28 < z[i] < LEVEL_MM - 7 and len(p))


def test_nothing_is_called_outside_the_skull_and_slices_without_brain_are_not_run() -> None:
    case = make_case("a", "test", "coupled", (M2,))
    stub = StubNet(bias=1000.0)  # calls all of the head
    infarct = Panel([stub], SPEC).infarcts(case)[0]  # type: ignore[arg-type]
    assert (infarct[~case.inside] == 0).all()
    assert infarct[box(((-24.0, 44.0), (-44.0, 44.0), (-38.0, 38.0)))].min() > 0.99
    assert stub.calls == 13  # slabs of 6 mm of which half or more lies from -30 to 50 mm
    none = replace(case, brain=np.zeros_like(case.brain))
    stub.calls = 0
    assert (Panel([stub], SPEC).infarcts(none)[0] == 0).all()  # type: ignore[arg-type]
    assert stub.calls == 0


def test_a_case_is_made_of_its_slices(net: StrokeNet) -> None:
    from strokecore.learned.preprocessing import hu_slices, mask_slices

    case = make_case("a", "test", "coupled", (M2,))
    rows = mask_slices(case.brain, CANONICAL_GRID, SPEC).any(axis=(1, 2))
    hu = hu_slices(case.hu.astype(np.float32), CANONICAL_GRID, SPEC)[rows]
    bg, _ = predict_slices(net, to_channels(hu[:, None], np.zeros(hu.shape, np.uint8), SPEC))
    infarct = Panel([net], SPEC).infarcts(case)[0]
    index = (slice(*[int(np.searchsorted(CANONICAL_GRID.axes_mm[0], v)) for v in (-16.5, -13.5)]),)
    middle = infarct[index][:, box(M2)[1], box(M2)[2]]
    low, high = (1 - bg[:, 0]).min(), (1 - bg[:, 0]).max()
    assert low - 1e-4 <= middle.min() <= middle.max() <= high + 1e-4


def test_a_panel_answers_as_each_network_alone_and_shares_the_backbone() -> None:
    case = make_case("t", "test", "coupled", (M2, M5))
    nets = [StubNet(), StubNet(bias=-2.0), StubNet(bias=1.0)]
    with torch.no_grad():
        nets[2].backbone.weight.fill_(2.0)  # another backbone
    alone = [Panel([net], SPEC).infarcts(case)[0] for net in nets]
    calls = [net.calls for net in nets]
    panel = Panel(nets, SPEC)
    for one, found in zip(alone, panel.predictions(case), strict=True):
        np.testing.assert_array_equal(one, found.infarct)
    assert nets[1].backbone is nets[0].backbone
    assert [net.calls - before for net, before in zip(nets, calls, strict=True)] == [calls[0], 0, calls[0]]


def test_names_follow_the_arm_of_the_plane_and_stay_in_the_field_of_view() -> None:
    case = make_case("t", "test", "coupled", (M2, M5))
    (found,) = Panel([StubNet()], SPEC).predictions(case)
    z, y, x = CANONICAL_GRID.axes_mm
    below = found.names[z < case.record.level_plane_mm]
    above = found.names[z >= case.record.level_plane_mm]
    inside = np.ix_(np.abs(y) < SPEC.size[0], np.abs(x) < SPEC.size[1])  # half of size * 2 mm
    assert {CLASS_NAMES[i] for i in np.unique(below[:, *inside])} == {"M2"}
    assert {CLASS_NAMES[i] for i in np.unique(above[:, *inside])} == {"M5"}
    outside = np.abs(y) > SPEC.size[0]
    assert not found.names[:, outside].any()


def test_a_side_error_would_be_seen() -> None:
    """The infarct is on the left: positive head x, the upper half of the columns."""
    case = make_case("t", "test", "coupled", (M2, M5))
    (found,) = Panel([StubNet()], SPEC).predictions(case)
    assert (found.infarct[CANONICAL_GRID.side_columns("left")] > 0.5).any()
    assert not (found.infarct[CANONICAL_GRID.side_columns("right")] > 0.5).any()


def test_a_head_without_brain_has_no_infarct() -> None:
    case = make_case("x", "test", "lesion_free")
    empty = replace(case, brain=case.brain & False)
    (found,) = Panel([StubNet()], SPEC).predictions(empty)
    assert not found.infarct.any()
