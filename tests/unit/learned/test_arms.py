"""Classes of the two arms, the plane between the levels, and how the arms are joined."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, SUPRAGANGLIONIC, RegionId
from strokecore.head.grid import CANONICAL_GRID, Grid
from strokecore.learned.arms import (
    BG_CLASSES,
    BLEND_MM,
    CLASSES,
    COUPLED,
    SG_CLASSES,
    Arm,
    arm_target,
    infarct_probability,
    level_plane_mm,
    sg_share,
)

GRID = Grid((20, 4, 8), (2.0, 1.0, 1.0), (-3.5, -1.5, -10.0))


def test_the_arms_together_know_every_region_and_only_the_caudate_twice() -> None:
    assert BG_CLASSES[0] == SG_CLASSES[0] == "background"
    assert BG_CLASSES[-1] == SG_CLASSES[-1] == "other"
    assert sorted(BG_CLASSES[1:-1] + SG_CLASSES[1:-1]) == sorted([*REGION_NAMES, "C"])
    assert all(lower in BG_CLASSES and upper in SG_CLASSES for lower, upper in COUPLED)


@pytest.mark.parametrize("arm", ["bg", "sg"])
def test_infarct_gets_the_class_of_its_region_on_either_side(arm: Arm) -> None:
    territory = np.array([0, 255, *(region.label for region in ALL_REGIONS)], np.uint8)
    target = arm_target(np.ones(len(territory), bool), territory, arm)
    assert target.dtype == np.int64
    assert [CLASSES[arm][index] for index in target[:2]] == ["other", "other"]
    for region, index in zip(ALL_REGIONS, target[2:], strict=True):
        expected = region.name if region.name in CLASSES[arm] else "other"
        assert CLASSES[arm][index] == expected
    assert not arm_target(np.zeros(len(territory), bool), territory, arm).any()


def _levels(lower: slice, upper: slice) -> np.ndarray:
    regions = np.zeros(GRID.shape, np.uint8)
    regions[lower] = RegionId("M2", "left").label
    regions[upper] = RegionId("M5", "right").label
    return regions


def test_plane_lies_midway_between_the_levels() -> None:
    z = GRID.axes_mm[0]
    assert level_plane_mm(_levels(slice(2, 8), slice(8, 15)), GRID) == pytest.approx((z[7] + z[8]) / 2)
    assert level_plane_mm(_levels(slice(2, 6), slice(9, 15)), GRID) == pytest.approx((z[5] + z[9]) / 2)


def test_plane_of_overlapping_levels_parts_them_best() -> None:
    """A turned head: three planes hold both levels, in falling and rising number."""
    regions = _levels(slice(2, 7), slice(10, 15))
    for z, lower_columns in ((7, 6), (8, 4), (9, 2)):
        regions[z, :, :lower_columns] = RegionId("M1", "left").label
        regions[z, :, lower_columns:] = RegionId("M4", "left").label
    assert level_plane_mm(regions, GRID) == pytest.approx(GRID.axes_mm[0][8])


@pytest.mark.parametrize("name", ["M2", "M5"])
def test_a_missing_level_has_no_plane(name: str) -> None:
    regions = np.full(GRID.shape, RegionId(name, "left").label, np.uint8)
    with pytest.raises(ValueError, match="missing"):
        level_plane_mm(regions, GRID)


def test_plane_of_the_atlas_parts_its_levels() -> None:
    """The whole chain on the canonical grid: almost no M4-M6 below the plane, nor M1-M3 above it."""
    regions = np.zeros(CANONICAL_GRID.shape, np.uint8)
    z = CANONICAL_GRID.axes_mm[0]
    regions[(z > -20) & (z < 10)] = RegionId("M1", "right").label
    regions[(z > 10) & (z < 50)] = RegionId("M6", "right").label
    plane = level_plane_mm(regions, CANONICAL_GRID)
    upper = np.isin(regions, [RegionId(name, "right").label for name in SUPRAGANGLIONIC])
    assert not upper[z < plane].any()
    assert upper[z > plane].any()


def test_share_of_the_upper_arm_rises_over_the_blend() -> None:
    z = np.array([-50.0, 10 - BLEND_MM, 10 - BLEND_MM / 2, 10.0, 10 + BLEND_MM, 50.0])
    np.testing.assert_allclose(sg_share(z, 10.0), [0, 0, 0.25, 0.5, 1, 1])


def test_probability_is_that_of_all_classes_but_background() -> None:
    rng = np.random.default_rng(0)
    bg = rng.dirichlet(np.ones(9), (3, 2, 4)).transpose(0, 3, 1, 2).astype(np.float32)
    sg = rng.dirichlet(np.ones(6), (3, 2, 4)).transpose(0, 3, 1, 2).astype(np.float32)
    joined = infarct_probability(bg, sg, np.array([0.0, 0.25, 1.0]))
    assert joined.dtype == np.float32
    np.testing.assert_allclose(joined[0], bg[0, 1:].sum(0), rtol=1e-5)
    np.testing.assert_allclose(joined[2], sg[2, 1:].sum(0), rtol=1e-5)
    np.testing.assert_allclose(joined[1], 0.75 * bg[1, 1:].sum(0) + 0.25 * sg[1, 1:].sum(0), rtol=1e-5)
