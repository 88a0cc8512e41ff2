"""The overlap of two masks."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.arrays import dice, dice_of_counts


def test_dice_by_hand() -> None:
    a, b = np.zeros((2, 3, 4), bool), np.zeros((2, 3, 4), bool)
    assert np.isnan(dice(a, b))
    assert dice(a, b, empty=1.0) == 1.0
    a[0, 0], b[0, 0, :2], b[1, 0] = True, True, True
    assert dice(a, b) == pytest.approx(2 * 2 / (4 + 6))
    assert dice(a, ~a) == 0.0


def test_dice_of_counts_takes_numbers_and_arrays() -> None:
    assert dice_of_counts(2, 10) == pytest.approx(0.4)
    np.testing.assert_array_equal(dice_of_counts([1, 0], [4, 0]), [0.5, np.nan])
