from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from strokecore.reports.dicom.contour import region_contour


def filled(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside the polygon, by the even-odd rule; bool [rows, columns]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in pairwise(polygon):
        if y0 != y1:
            crosses = (np.minimum(y0, y1) <= rows) & (rows < np.maximum(y0, y1))
            inside ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
    return inside


def test_one_pixel_is_its_four_edges():
    mask = np.zeros((4, 5), bool)
    mask[1, 3] = True
    assert region_contour(mask).tolist() == [[3, 1], [4, 1], [4, 2], [3, 2], [3, 1]]


def test_straight_edges_have_no_points_between():
    mask = np.zeros((20, 30), bool)
    mask[2:18, 5:25] = True
    assert len(region_contour(mask)) == 5


def test_mask_at_the_border_of_the_image():
    mask = np.ones((3, 4), bool)
    assert region_contour(mask).tolist() == [[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]


def test_largest_part_without_its_holes():
    mask = np.zeros((20, 20), bool)
    mask[1:3, 1:3] = True
    mask[5:15, 5:15] = True
    mask[8:11, 8:11] = False
    expected = np.zeros_like(mask)
    expected[5:15, 5:15] = True
    assert np.array_equal(filled(region_contour(mask), mask.shape), expected)


def test_parts_that_touch_at_a_corner_stay_apart():
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    assert filled(region_contour(mask), mask.shape).sum() == 4


def test_empty_mask_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        region_contour(np.zeros((3, 3), bool))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_filling_gives_the_part_back(mask):
    if not mask.any():
        return
    parts, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    expected = ndimage.binary_fill_holes(parts == 1 + int(np.argmax(sizes)))
    polygon = region_contour(mask)
    assert np.array_equal(polygon[0], polygon[-1])
    assert np.array_equal(filled(polygon, mask.shape), expected)
