"""Which slices a step sees: purity, resuming, several processes, pairs, shares, and what a batch holds."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.errors import UsageError
from strokecore.learned.preprocessing import to_channels
from tests.unit.trainer.data.slice_cases import SPEC, STILL, recipe, slices
from trainer.config import AugmentConfig
from trainer.data.batch import PLAIN, UNCACHED, Batch
from trainer.data.sampling import (
    LESION_PATIENT_SHARE,
    LESION_SLICE_SHARE,
    SINGLE_LESION_SHARE,
    TrainingData,
    batches,
)
from trainer.data.slices import CaseSlices

CASES = [slices(f"with-{i}", (3, 5)) for i in range(14)] + [slices(f"free-{i}") for i in range(10)]
BY_ID = {case.record.id: case for case in CASES}
FLIPPED = AugmentConfig(1.0, True, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def same(one: Batch, other: Batch) -> bool:
    return one.kind == other.kind and one.keys == other.keys and torch.equal(one.hu, other.hu)


def first(data: TrainingData, kind: str) -> Batch:
    return next(batch for batch in map(data.batch, range(100)) if batch.kind == kind)


def test_a_step_is_a_pure_function_of_seed_and_step() -> None:
    data = TrainingData(CASES, recipe(augment=AugmentConfig()))
    again = TrainingData(CASES, recipe(augment=AugmentConfig()))
    other = TrainingData(CASES, recipe(augment=AugmentConfig(), seed=2))
    backwards = [again.batch(step) for step in reversed(range(4))][::-1]
    for step in range(4):
        assert same(data.batch(step), backwards[step])
        assert not same(data.batch(step), other.batch(step))
        assert not same(data.batch(step), data.batch(step + 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_what_a_continuous_one_sees(workers: int) -> None:
    base = recipe(augment=AugmentConfig(), pairs=2)
    base = replace(base, training=replace(base.training, workers=workers))
    whole = [TrainingData(CASES, base).batch(step) for step in range(5)]
    resumed = list(batches(TrainingData(CASES, base), range(3, 5)))
    assert len(resumed) == 2
    for continued, batch in zip(whole[3:], resumed, strict=True):
        assert same(continued, batch)
        assert torch.equal(continued.sg.target, batch.sg.target)


def test_processes_share_one_draw() -> None:
    one = TrainingData(CASES, recipe(augment=AugmentConfig(), pairs=4))
    two = [TrainingData(CASES, recipe(augment=AugmentConfig(), pairs=2), rank, 2) for rank in (0, 1)]
    kinds = set()
    for step in range(12):
        whole, parts = one.batch(step), [data.batch(step) for data in two]
        assert parts[0].kind == parts[1].kind == whole.kind
        kinds.add(whole.kind)
        if whole.kind == "pairs":
            cases = [{key.case_id for key in part.keys} for part in parts]
            assert not cases[0] & cases[1]
        together = {key: hu for part in parts for key, hu in zip(part.keys, part.hu, strict=True)}
        assert set(together) == set(whole.keys)
        assert all(torch.equal(together[key], hu) for key, hu in zip(whole.keys, whole.hu, strict=True))
    assert kinds == {"pairs", "singles"}


def test_pairs_are_one_patient_at_both_levels() -> None:
    data = TrainingData(CASES, recipe(singles=0.0, augment=AugmentConfig()))
    for step in range(10):
        batch = data.batch(step)
        assert batch.kind == "pairs"
        bg, sg = batch.keys[batch.bg.rows], batch.keys[batch.sg.rows]
        assert len(bg) == len(sg) == 4
        assert len({key.case_id for key in bg}) == 4
        for lower, upper in zip(bg, sg, strict=True):
            assert lower.case_id == upper.case_id
            assert lower.row in BY_ID[lower.case_id].level_rows("bg")
            assert upper.row in BY_ID[upper.case_id].level_rows("sg")


def test_both_slices_of_a_pair_are_changed_alike_but_for_the_noise() -> None:
    case = slices("x", (3, 4, 5, 6))
    alike = replace(case, hu=np.broadcast_to(case.hu[3], case.hu.shape).copy())
    silent = AugmentConfig(probability=1.0, noise_hu=0.0)
    batch = TrainingData([alike], recipe(singles=0.0, pairs=3, augment=silent)).batch(0)
    assert torch.equal(batch.hu[:3], batch.hu[3:])
    assert torch.equal(batch.bg.target > 0, batch.sg.target > 0)
    assert not torch.equal(batch.hu[0], batch.hu[1])
    noisy = AugmentConfig(probability=1.0, noise_hu=5.0)
    batch = TrainingData([alike], recipe(singles=0.0, pairs=3, augment=noisy)).batch(0)
    assert not torch.equal(batch.hu[:3], batch.hu[3:])


def test_singles_come_from_all_heights_in_their_own_arm() -> None:
    data = TrainingData(CASES, recipe(singles=1.0, pairs=4))
    rows: dict[str, set[int]] = {"bg": set(), "sg": set()}
    for step in range(40):
        batch = data.batch(step)
        assert batch.kind == "singles"
        assert len(batch.keys) == 8
        rows["bg"] |= {key.row for key in batch.keys[batch.bg.rows]}
        rows["sg"] |= {key.row for key in batch.keys[batch.sg.rows]}
    assert rows == {"bg": {1, 2, 3, 4}, "sg": {5, 6, 7}}


def test_shares_are_near_their_constants() -> None:
    data = TrainingData(CASES, recipe(singles=0.25))
    singles, patients, level, alone = [], [], [], []
    for step in range(800):
        kind, units = data.choose(step)
        singles.append(kind == "singles")
        for choice in (choice for unit in units for choice in unit):
            case = CASES[choice.case]
            diseased = case.lesion_rows.any()
            if kind == "pairs":
                patients.append(diseased)
            if diseased:
                (level if kind == "pairs" else alone).append(case.lesion_rows[choice.row])
    assert np.mean(singles) == pytest.approx(0.25, abs=0.04)
    assert np.mean(patients) == pytest.approx(LESION_PATIENT_SHARE, abs=0.02)
    # one of the two slices of each level, and of seven slices in two arms (1 of 4 and 1 of 3), shows infarct
    assert np.mean(level) == pytest.approx(LESION_SLICE_SHARE + (1 - LESION_SLICE_SHARE) / 2, abs=0.02)
    natural = (1 / 4 + 1 / 3) / 2
    expected = SINGLE_LESION_SHARE + (1 - SINGLE_LESION_SHARE) * natural
    assert np.mean(alone) == pytest.approx(expected, abs=0.04)


def test_every_case_is_drawn() -> None:
    data = TrainingData(CASES, recipe(singles=0.0))
    drawn = {unit[0].case for step in range(60) for unit in data.choose(step)[1]}
    assert drawn == set(range(len(CASES)))


def test_more_pairs_than_patients_are_drawn_again() -> None:
    batch = TrainingData(CASES[:2], recipe(singles=0.0, pairs=5)).batch(0)
    counts = [sum(key.case_id == case.record.id for key in batch.keys) for case in CASES[:2]]
    assert sorted(counts) == [4, 6]


def test_truth_and_pixels_are_those_of_the_key() -> None:
    batch = first(TrainingData(CASES, recipe(augment=STILL)), "pairs")
    truths = [(batch.bg, "bg_target"), (batch.sg, "sg_target")]
    for truth, target in truths:
        for place, key in enumerate(batch.keys[truth.rows]):
            case = BY_ID[key.case_id]
            hu = batch.hu[truth.rows][place]
            np.testing.assert_array_equal(hu, case.hu[[key.row]].astype(np.float32))
            np.testing.assert_array_equal(truth.target[place], getattr(case, target)[key.row])
            np.testing.assert_array_equal(truth.brain[place], case.brain[key.row])
            np.testing.assert_array_equal(truth.territories[place], case.territories[key.row])
    assert batch.bg.target.dtype == torch.int64
    assert batch.bg.brain.dtype == torch.bool


def test_flip_moves_image_lesion_and_territories_together() -> None:
    data = TrainingData([CASES[0]], recipe(singles=0.0, pairs=1, augment=FLIPPED))
    seen = set()
    for step in range(12):
        batch = data.batch(step)
        case, row = CASES[0], batch.keys[0].row
        plain = torch.from_numpy(case.hu[[row]].astype(np.float32))
        flipped = torch.equal(batch.hu[0], plain.flip(-1))
        assert flipped or torch.equal(batch.hu[0], plain)
        seen.add(flipped)
        # whichever way: patient's left is in the high columns, and classes have no side
        assert (batch.bg.territories[0, 10, 22], batch.bg.territories[0, 10, 8]) == (
            RegionId("M1", "left").label,
            RegionId("M1", "right").label,
        )
        if case.lesion_rows[row]:
            columns = torch.nonzero(batch.bg.target[0].any(0))
            assert (columns.float().mean() < 16) == flipped
            assert batch.bg.target[0].max() == 5  # M1
    assert seen == {False, True}


def test_mirror_channel_mirrors_the_augmented_slice() -> None:
    batch = first(TrainingData(CASES, recipe(augment=AugmentConfig(probability=1.0))), "pairs")
    channels = batch.channels(SPEC)
    assert channels.shape == (8, 3, *SPEC.size)
    np.testing.assert_array_equal(channels, to_channels(batch.hu.numpy(), batch.territories.numpy(), SPEC))
    assert torch.equal(channels[:, 2], channels[:, 1].flip(-1))
    assert not torch.equal(channels[:, 2], channels[:, 1])


def test_binary_and_named_cases_mix() -> None:
    mixed = [*CASES[:3], *(slices(f"binary-{i}", (3, 5), labels="binary") for i in range(3))]
    batch = first(TrainingData(mixed, recipe(pairs=6, singles=0.0)), "pairs")
    for truth in (batch.bg, batch.sg):
        keys = batch.keys[truth.rows]
        assert truth.binary.tolist() == [key.case_id.startswith("binary") for key in keys]
        assert truth.target[truth.binary].max() <= 1 < truth.target[~truth.binary].max()


def test_arms_take_their_own_rows_of_the_logits() -> None:
    batch = first(TrainingData(CASES, recipe()), "pairs")
    m = len(batch.keys)
    rows = torch.arange(m, dtype=torch.float32)[:, None, None, None]
    bg, sg = batch.arms(rows.expand(m, 9, *SPEC.size), rows.expand(m, 6, *SPEC.size))
    assert bg.logits[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert sg.logits[:, 0, 0, 0].tolist() == [4, 5, 6, 7]
    assert bg.logits.shape[1] == 9
    assert torch.equal(sg.target, batch.sg.target)
    moved = batch.to("cpu").arms(rows.expand(m, 9, *SPEC.size), rows.expand(m, 6, *SPEC.size))
    assert torch.equal(moved[0].territories, bg.territories)


def test_versions_are_the_same_for_all_seeds() -> None:
    seen: dict[object, torch.Tensor] = {}
    met_again = 0
    for seed in (1, 2):
        data = TrainingData(CASES[:6], recipe(seed=seed, cached=2, augment=AugmentConfig(probability=1.0)))
        for step in range(15):
            batch = data.batch(step)
            assert {key.version for key in batch.keys} <= {1, 2}
            if batch.kind == "pairs":
                bg, sg = batch.keys[batch.bg.rows], batch.keys[batch.sg.rows]
                assert [key.version for key in bg] == [key.version for key in sg]
            for key, hu in zip(batch.keys, batch.hu, strict=True):
                met_again += key in seen
                assert torch.equal(seen.setdefault(key, hu), hu)
    assert met_again > 100
    assert len(seen) > 40


def test_unchanged_versions_are_the_plain_slice() -> None:
    batch = TrainingData(CASES, recipe(cached=3, augment=STILL)).batch(0)
    assert {key.version for key in batch.keys} == {PLAIN}
    assert {key.version for key in TrainingData(CASES, recipe()).batch(0).keys} == {UNCACHED}


def test_cases_of_one_kind_are_enough(caplog: pytest.LogCaptureFixture) -> None:
    TrainingData(CASES[:5], recipe(singles=0.0)).batch(0)
    with caplog.at_level(logging.WARNING):
        TrainingData(CASES[-5:], recipe(singles=0.0)).batch(0)
    assert "no training case shows an infarct" in caplog.text


def test_data_without_pairs_is_refused() -> None:
    case: CaseSlices = CASES[0]
    without = np.isin(case.territories, [r.label for r in ALL_REGIONS if r.name == "M4"])
    cut = replace(case, territories=np.where(without, 0, case.territories).astype(np.uint8))
    with pytest.raises(UsageError, match="both ASPECTS levels"):
        TrainingData([cut], recipe())
