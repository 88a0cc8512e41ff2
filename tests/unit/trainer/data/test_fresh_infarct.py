"""Infarcts that are drawn into slices while a training runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from strokecore.learned.preprocessing import (
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
)
from tests.unit.scoring.heads import flat_head
from tests.unit.trainer.data.slice_cases import recipe
from trainer.config import AugmentConfig
from trainer.data.cases import CaseRecord
from trainer.data.fresh_infarct import with_fresh_infarct
from trainer.data.sampling import TrainingData
from trainer.data.slices import CaseSlices


@pytest.fixture(scope="module")
def head() -> CaseSlices:
    """Uniform tissue with the twenty regions as boxes, on six-millimetre slabs."""
    found = flat_head(noise_hu=1.0)
    spec = InputSpec(size=(96, 128), pixel_mm=1.0, slice_mm=6.0)
    nothing = np.zeros((found.grid.shape[0] // 3, *spec.size), np.uint8)
    return CaseSlices(
        record=CaseRecord("a", "train", "territory", "lesion_free", 2.0, 5.0, 0.0, (), ""),
        pixel_mm=spec.pixel_mm,
        hu=hu_slices(found.hu, found.grid, spec).astype(np.float16),
        bg_target=nothing,
        sg_target=nothing,
        brain=mask_slices(found.brain.parenchyma, found.grid, spec),
        territories=label_slices(found.regions, found.grid, spec),
        z_mm=slice_centres_mm(found.grid, spec),
    )


def infarcts(head: CaseSlices) -> list[CaseSlices]:
    """What twelve seeds draw; a small share of a small region with a wide border is nothing."""
    drawn = [with_fresh_infarct(head, np.random.default_rng(seed), (6.0, 6.0)) for seed in range(12)]
    found = [case for case in drawn if case is not head]
    assert len(found) >= 9
    return found


def test_tissue_darkens_on_one_side_and_the_targets_say_where(head: CaseSlices) -> None:
    names = set()
    for sick in infarcts(head):
        lesion = sick.bg_target > 0
        assert lesion.any()
        assert (lesion == (sick.sg_target > 0)).all()
        assert not (lesion & ~head.brain).any()
        drop = head.hu.astype(np.float32) - sick.hu.astype(np.float32)
        assert drop.min() >= -0.02  # nothing brightens but by rounding
        assert 1.5 < drop[lesion].mean() < 6.5
        assert drop[~lesion].mean() < 0.2
        columns = np.flatnonzero(lesion.any(axis=(0, 1)))
        assert columns.max() < 64 or columns.min() >= 64
        assert head.territories is sick.territories
        names |= {BG_CLASSES[i] for i in np.unique(sick.bg_target)} | {
            SG_CLASSES[i] for i in np.unique(sick.sg_target)
        }
    assert {"L", "IC", "I", "M2", "M5"} <= names


def test_regions_are_taken_by_their_share(head: CaseSlices) -> None:
    """Most of what is drawn lies in regions, and no region is taken whole by all infarcts."""
    inside, shares = [], []
    for sick in infarcts(head):
        lesion = sick.bg_target > 0
        inside.append((head.territories[lesion] > 0).mean())
        for region in ALL_REGIONS:
            place = (head.territories == region.label) & head.brain
            if place.sum() > 30 and lesion[place].mean() > 0.2:
                shares.append(lesion[place].mean())
    assert np.mean(inside) > 0.6
    assert 0.35 < np.mean(shares) < 0.85
    assert np.std(shares) > 0.1


def test_the_same_draw_is_the_same_infarct_and_the_source_is_left_alone(head: CaseSlices) -> None:
    before = head.hu.copy()
    one, same, other = (with_fresh_infarct(head, np.random.default_rng(s), (2.0, 8.0)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.hu, same.hu)
    assert (one.hu != other.hu).any()
    np.testing.assert_array_equal(head.hu, before)


def test_a_head_without_the_regions_stays_as_it_is(head: CaseSlices) -> None:
    bare = replace(head, territories=np.zeros_like(head.territories))
    assert with_fresh_infarct(bare, np.random.default_rng(0), (2.0, 8.0)) is bare


def test_a_training_shows_them_at_the_recipes_share(
    head: CaseSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.slices.MIN_LEVEL_MM2", 1000.0)  # the boxes are small
    own = infarcts(head)[0]
    sick = replace(own, record=replace(head.record, id="sick", group="mixed"))
    wanted = recipe(singles=0.0, pairs=4, augment=AugmentConfig(probability=0.0, fresh_infarct=0.5))
    data = TrainingData([sick, head], wanted)
    units = [unit for step in range(60) for unit in data.choose(step)[1]]
    fresh = [unit[0].fresh for unit in units]
    assert np.mean(fresh) == pytest.approx(0.35, abs=0.05)  # half of the seven in ten with infarct
    assert all(unit[0].case == 1 for unit in units if unit[0].fresh)
    assert all(unit[0].fresh == unit[1].fresh for unit in units)
    batch, again = data.batch(7), TrainingData([sick, head], wanted).batch(7)
    assert (batch.hu == again.hu).all()
    shown = [
        key.case_id == "a" and bool((batch.bg.target[k] > 0).any()) for k, key in enumerate(batch.keys[:4])
    ]
    assert any(shown), "an infarct in the head that has none of its own"
