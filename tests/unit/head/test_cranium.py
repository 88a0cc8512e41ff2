"""Balls and depths of masks: what a distance transform of the whole volume says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from strokecore.head.cranium import depth, dilate, erode

# Radii and spacings of the package, and one that is shorter than a voxel along an axis.
BALLS = [(5.0, (4.0, 4.0, 4.0)), (4.0, (2.0, 2.0, 2.0)), (6.0, (2.0, 2.0, 2.0)), (2.5, (3.0, 1.0, 2.0))]


def blobs(shape: tuple[int, int, int] = (14, 22, 19)) -> np.ndarray:
    """Blobs of a few voxels, some of them at the border of the volume."""
    noise = np.random.default_rng(3).normal(size=shape)
    mask = ndimage.gaussian_filter(noise, 1.2) > 0.06
    assert all(border.any() for border in (mask[0], mask[:, -1], mask[:, :, -1]))
    return mask


@pytest.mark.parametrize(("radius_mm", "spacing_mm"), BALLS)
def test_dilation_reaches_as_far_as_the_radius(
    radius_mm: float, spacing_mm: tuple[float, float, float]
) -> None:
    mask = ndimage.binary_erosion(blobs())
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    assert mask.any()
    np.testing.assert_array_equal(dilate(mask, radius_mm, spacing_mm), distance <= radius_mm)


@pytest.mark.parametrize(("radius_mm", "spacing_mm"), BALLS)
def test_erosion_leaves_what_lies_deeper_than_the_radius(
    radius_mm: float, spacing_mm: tuple[float, float, float]
) -> None:
    mask = ndimage.binary_dilation(blobs(), iterations=2)
    distance = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    np.testing.assert_array_equal(erode(mask, radius_mm, spacing_mm), distance > radius_mm)


def test_nothing_and_everything_stay_as_they_are() -> None:
    spacing_mm = (2.0, 1.0, 1.0)
    nothing, everything = np.zeros((5, 6, 7), bool), np.ones((5, 6, 7), bool)
    for change in (dilate, erode):
        assert not change(nothing, 3.0, spacing_mm).any()
        assert change(everything, 3.0, spacing_mm).all()


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (1.0, 1.0, 1.0)])
def test_depth_is_the_distance_to_the_nearest_voxel_outside(spacing_mm: tuple[float, float, float]) -> None:
    mask = ndimage.binary_dilation(blobs((20, 60, 50)), iterations=2)
    found = depth(mask, spacing_mm)
    assert found.dtype == np.float32
    assert found.max() > 3.0
    expected = ndimage.distance_transform_edt(mask, sampling=spacing_mm)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
