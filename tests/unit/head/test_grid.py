"""The canonical grid: sides and volumes."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.head.grid import CANONICAL_GRID, Grid, on_side


def test_the_canonical_grid_is_symmetric() -> None:
    x = CANONICAL_GRID.axes_mm[2]
    np.testing.assert_array_equal(x, -x[::-1])


@pytest.mark.parametrize("columns", [6, 7])
def test_left_is_where_x_is_positive_and_the_middle_is_on_neither_side(columns: int) -> None:
    grid = Grid((2, 3, columns), (2.0, 1.0, 1.0), (-(columns - 1) / 2, -1.0, 0.0))
    x = grid.axes_mm[2]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        assert (np.sign(x[grid.side_columns(side)[2]]) == sign).all()
        np.testing.assert_array_equal(x[on_side(x, side)], x[grid.side_columns(side)[2]])
    assert len(x[grid.side_columns("left")[2]]) == len(x[grid.side_columns("right")[2]]) == 3


def test_volumes_are_millilitres() -> None:
    grid = Grid((2, 3, 4), (5.0, 1.0, 2.0), (-3.0, -1.0, 0.0))
    assert grid.voxel_ml == pytest.approx(0.01)
    assert grid.ml(np.ones((1, 2, 3), bool)) == pytest.approx(0.06)
