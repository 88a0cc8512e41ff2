from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strokecore.bench.agreement import Agreement, agreement
from strokecore.bench.inputs import BenchSlices, bench_slices
from strokecore.learned.golden import read_golden
from strokecore.learned.package import load_package
from strokecore.learned.runtime import Float4D
from tests.unit.learned.package_cases import SPEC, write_package


def answer(infarct: np.ndarray) -> tuple[Float4D, Float4D]:
    """Both arms' probabilities of an infarct map [n, H, W]."""
    one = infarct.astype(np.float32)[:, None]
    rest = [np.zeros_like(one)] * 4
    return np.concatenate([1 - one, one, *rest, *rest[:3]], 1), np.concatenate([1 - one, one, *rest], 1)


def slices(number: int = 2, side: int = 20) -> BenchSlices:
    brain = np.ones((number, side, side), bool)
    brain[:, :, side // 2 :] = False
    return BenchSlices(np.zeros((number, 3, side, side), np.float32), np.full(number, 0.5), brain, "random")


def test_the_same_answer_agrees_wholly() -> None:
    same = answer(np.random.default_rng(0).uniform(size=(2, 20, 20)))
    assert agreement(same, same, slices(), 0.5) == Agreement(0.0, 1.0)


def test_dice_counts_outlines_in_brain_only() -> None:
    truth, found = np.zeros((2, 20, 20)), np.zeros((2, 20, 20))
    truth[:, :, :4] = 0.9  # 160 pixels in brain
    found[:, :, 2:4] = 0.9  # 80 of them
    found[:, :, 15:] = 0.9  # outside
    assert agreement(answer(truth), answer(found), slices(), 0.5).dice == pytest.approx(2 * 80 / 240)


def test_a_small_difference_is_measured_in_the_worse_arm() -> None:
    base = np.full((2, 20, 20), 0.2)
    reference, found = answer(base), answer(base)
    found = (found[0], found[1] + np.float32(0.03))
    got = agreement(reference, found, slices(), 0.5)
    assert got.p999_difference == pytest.approx(0.03, abs=1e-6)
    assert got.dice == 1.0


def test_nan_is_no_answer() -> None:
    reference = answer(np.full((2, 20, 20), 0.2))
    broken = (reference[0].copy(), reference[1])
    broken[0][0, 0, 0, 0] = np.nan
    assert agreement(reference, broken, slices(), 0.5) == Agreement(None, 0.0)


def test_a_package_without_readable_golden_slices_gets_random_ones(tmp_path: Path) -> None:
    package = load_package(write_package(tmp_path / "model", golden=b"no archive"))
    found = bench_slices(package, 11)
    assert found.origin == "random"
    assert found.slices.shape == (11, 3, *SPEC.size)
    assert found.brain.shape == (11, *SPEC.size)
    assert np.array_equal(found.slices, bench_slices(package, 11).slices)
    assert np.isfinite(found.slices).all()


def test_golden_slices_are_chosen_evenly_or_repeated(tmp_path: Path) -> None:
    package = load_package(write_package(tmp_path / "model"))
    golden = read_golden(package)
    few, many = bench_slices(package, 3), bench_slices(package, 20)
    assert (few.origin, len(golden.slices)) == ("golden", 9)
    assert np.array_equal(few.slices, golden.slices[[0, 3, 6]])
    assert np.array_equal(many.slices, golden.slices[np.arange(20) % 9])
    assert np.array_equal(few.share, golden.share[[0, 3, 6]].astype(np.float64))
    assert not many.brain[8].any()  # noise is no brain
