"""Augmentation: geometry in millimetres, labels that follow, sides, densities, what lies outside the scan."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import dice
from trainer.config import AugmentConfig
from trainer.data.augment import (
    NONE,
    OUTSIDE_HU,
    Augmentation,
    augment_hu,
    augment_labels,
    draw,
    draw_version,
    mirror_territories,
    version_noise,
)

PIXEL_MM = 1.5
ROWS, COLUMNS = 60, 40
EVERYTHING = Augmentation(
    flip=True, rotate_deg=5.0, scale=1.07, shift_mm=(4.0, -3.0), gain=1.03, shift_hu=1.5, blur_mm=0.5
)


def changed(hu: np.ndarray, change: Augmentation, pixel_mm: float, rng: np.random.Generator) -> torch.Tensor:
    """One slice without neighbours."""
    return augment_hu(hu[None], change, pixel_mm, rng)[0]


def noise() -> np.random.Generator:
    return np.random.default_rng(0)


def head() -> np.ndarray:
    hu = np.full((ROWS, COLUMNS), OUTSIDE_HU, np.float32)
    hu[5:55, 3:37] = np.random.default_rng(1).uniform(20, 45, (50, 34))
    return hu


def test_nothing_changes_nothing() -> None:
    hu = head().astype(np.float16)
    np.testing.assert_array_equal(changed(hu, NONE, PIXEL_MM, noise()).numpy(), hu.astype(np.float32))


def test_shift_by_whole_pixels_is_exact() -> None:
    """Would be half a pixel off, or smoothed, with align_corners confused."""
    hu = head()
    moved = changed(hu, Augmentation(shift_mm=(2 * PIXEL_MM, -3 * PIXEL_MM)), PIXEL_MM, noise()).numpy()
    np.testing.assert_allclose(moved[2:, :-3], hu[:-2, 3:], atol=1e-3)
    assert (moved[:2] == OUTSIDE_HU).all()
    assert (moved[:, -3:] == OUTSIDE_HU).all()


def test_quarter_turn_of_a_square_is_exact() -> None:
    hu = head()[:COLUMNS]
    turned = changed(hu, Augmentation(rotate_deg=90.0), PIXEL_MM, noise()).numpy()
    options = [np.abs(turned - np.rot90(hu, k)).max() for k in (1, -1)]
    assert min(options) < 0.02


@pytest.mark.parametrize(("angle", "scale"), [(30.0, 1.0), (0.0, 1.4), (-20.0, 0.8)])
def test_distances_hold_in_slices_that_are_not_square(angle: float, scale: float) -> None:
    """A point 24 mm behind the middle lands at that distance times the scale, turned by the angle."""
    hu = np.zeros((ROWS, COLUMNS), np.float32)
    row, column = (ROWS - 1) / 2 + 16, (COLUMNS - 1) / 2
    y, x = np.mgrid[:ROWS, :COLUMNS]
    hu += 100 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8)
    moved = changed(hu, Augmentation(rotate_deg=angle, scale=scale), PIXEL_MM, noise()).numpy()
    moved = np.where(moved > 1, moved, 0)
    centre_y = ((y - (ROWS - 1) / 2) * moved).sum() / moved.sum() * PIXEL_MM
    centre_x = ((x - (COLUMNS - 1) / 2) * moved).sum() / moved.sum() * PIXEL_MM
    assert math.hypot(centre_y, centre_x) == pytest.approx(24 * scale, abs=0.4)
    assert abs(math.degrees(math.atan2(centre_x, centre_y))) == pytest.approx(abs(angle), abs=1)


def test_labels_stay_on_what_they_label() -> None:
    lesion = np.zeros((ROWS, COLUMNS), np.uint8)
    lesion[35:47, 22:32] = 5
    hu = np.where(lesion > 0, 20.0, 40.0).astype(np.float32)
    for flip in (False, True):
        change = replace(EVERYTHING, flip=flip, gain=1.0, shift_hu=0.0, blur_mm=0.0)
        moved = changed(hu, change, PIXEL_MM, noise()).numpy()
        label = augment_labels(lesion[None], change, PIXEL_MM)[0].numpy()
        dark = (moved < 30) & (moved > 0)
        assert set(np.unique(label)) == {0, 5}
        assert dice(dark, label > 0) > 0.97
        assert (np.flatnonzero(label.any(axis=0)).mean() < COLUMNS / 2) == flip


def test_flip_mirrors_and_exchanges_sides() -> None:
    hu = head()
    np.testing.assert_array_equal(
        changed(hu, Augmentation(flip=True), PIXEL_MM, noise()).numpy(), hu[:, ::-1]
    )
    labels = torch.tensor([0, *(region.label for region in ALL_REGIONS)], dtype=torch.uint8)
    mirrored = mirror_territories(labels)
    assert mirrored.dtype == torch.uint8
    assert mirrored.tolist() == [0, *(region.mirror.label for region in ALL_REGIONS)]
    np.testing.assert_array_equal(mirror_territories(mirrored), labels)


def test_outside_stays_outside() -> None:
    hu = head()
    change = replace(EVERYTHING, noise_hu=30.0, blur_mm=3.0)
    after = changed(hu, change, PIXEL_MM, noise()).numpy()
    still = changed(hu, replace(change, noise_hu=0.0, blur_mm=0.0), PIXEL_MM, noise()).numpy()
    assert (still == OUTSIDE_HU).any()
    np.testing.assert_array_equal(after == OUTSIDE_HU, still == OUTSIDE_HU)


def test_density_is_scaled_about_water_and_shifted() -> None:
    hu = head()
    inside = hu > OUTSIDE_HU
    after = changed(hu, Augmentation(gain=1.04, shift_hu=-2.0), PIXEL_MM, noise()).numpy()
    np.testing.assert_allclose(after[inside], hu[inside] * 1.04 - 2, rtol=1e-5)


def test_blur_smooths_without_darkening_the_edge() -> None:
    flat = np.full((ROWS, COLUMNS), OUTSIDE_HU, np.float32)
    flat[10:, 5:] = 40.0
    kept = changed(flat, Augmentation(blur_mm=2.0), PIXEL_MM, noise()).numpy()
    np.testing.assert_allclose(kept, flat, atol=1e-3)
    point = np.zeros((ROWS, COLUMNS), np.float32)
    point[30, 20] = 1000.0
    spread = changed(point, Augmentation(blur_mm=3.0), PIXEL_MM, noise()).numpy()
    y = np.arange(ROWS)[:, None] - 30
    assert spread.sum() == pytest.approx(1000, rel=1e-3)
    assert math.sqrt((spread * y**2).sum() / spread.sum()) * PIXEL_MM == pytest.approx(3.0, rel=0.03)


def test_noise_has_the_given_spread_and_repeats() -> None:
    hu = np.full((ROWS, COLUMNS), 35.0, np.float32)
    change = Augmentation(noise_hu=2.0)
    once = changed(hu, change, PIXEL_MM, noise())
    assert float((once - 35).std()) == pytest.approx(2.0, rel=0.1)
    assert torch.equal(once, changed(hu, change, PIXEL_MM, noise()))
    assert not torch.equal(once, changed(hu, change, PIXEL_MM, np.random.default_rng(1)))


def test_draws_keep_to_the_limits() -> None:
    config = AugmentConfig(probability=0.8)
    rng = np.random.default_rng(0)
    drawn = [draw(config, rng) for _ in range(2000)]
    changed = [one for one in drawn if one != NONE]
    assert len(changed) / len(drawn) == pytest.approx(0.8, abs=0.03)
    assert np.mean([one.flip for one in changed]) == pytest.approx(0.5, abs=0.04)
    for values, limit in (
        ([one.rotate_deg for one in changed], config.rotate_deg),
        ([one.scale - 1 for one in changed], config.scale),
        ([one.shift_mm[0] for one in changed], config.shift_mm),
        ([one.shift_mm[1] for one in changed], config.shift_mm),
        ([one.gain - 1 for one in changed], config.scale_hu),
        ([one.shift_hu for one in changed], config.shift_hu),
    ):
        assert 0.98 * limit < max(values) <= limit
        assert -limit <= min(values) < -0.98 * limit
    for values, limit in (
        ([one.noise_hu for one in changed], config.noise_hu),
        ([one.blur_mm for one in changed], config.blur_mm),
    ):
        assert min(values) >= 0
        assert 0.98 * limit < max(values) <= limit


def test_limits_of_zero_change_nothing() -> None:
    config = AugmentConfig(1.0, False, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert draw(config, np.random.default_rng(0)) == NONE
    assert draw(AugmentConfig(probability=0.0), np.random.default_rng(0)) == NONE


def test_versions_belong_to_the_case() -> None:
    config = AugmentConfig(probability=1.0)
    assert draw_version(config, "a", 1) == draw_version(config, "a", 1)
    assert draw_version(config, "a", 1) != draw_version(config, "a", 2)
    assert draw_version(config, "a", 1) != draw_version(config, "b", 1)
    first, same, other = (version_noise("a", 1, row).random() for row in (3, 3, 4))
    assert first == same != other
