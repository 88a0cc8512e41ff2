"""The geometry of a stack of parallel slices: sheared by gantry tilt, unevenly spaced, in any orientation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.reading.series import Series

Floats = npt.NDArray[np.float64]

# A bin of source samples may exceed the grid's spacing by this factor: 2 x 0.488 mm and even
# 2 x 0.54 mm still make one millimetre.
_BIN_TOLERANCE: Final = 1.1

# A point this close to the border of the scan, in source voxels, counts as inside (rounding).
_BORDER_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, eq=False)
class SliceStack:
    """The geometry of a stack of parallel slices, without the pixels.

    Attributes
    ----------
    positions_mm: float64 [k, 3], LPS of voxel [k, 0, 0]'s centre.
    row, column, normal: unit vectors of increasing i, j, k.
    spacing_mm: (along j, along i).
    size: (rows, columns).
    end_mm: how far the first and last slice reach beyond their centres (half the slice thickness).
    """

    positions_mm: Floats
    row: Floats
    column: Floats
    normal: Floats
    spacing_mm: tuple[float, float]
    size: tuple[int, int]
    end_mm: float

    @classmethod
    def of(cls, series: Series) -> SliceStack:
        return cls(
            series.positions_mm,
            series.row_direction,
            series.column_direction,
            series.normal,
            series.pixel_spacing_mm,
            (series.hu.shape[1], series.hu.shape[2]),
            series.slice_thickness_mm / 2,
        )

    def indices(self, depth: Floats, down: Floats, along: Floats) -> tuple[Floats, Floats, Floats]:
        """Fractional k, j, i of points given by their coordinates along the normal, column and row, mm.

        Between slices the in-plane origin moves along the line joining their ImagePositionPatient, which is
        what unshears a tilted stack and is exact for every gap.
        """
        offsets = self.positions_mm @ self.normal
        k = np.interp(depth, offsets, np.arange(len(offsets), dtype=np.float64))
        return k, *self._in_slice(offsets, depth, down, along)

    def _in_slice(self, offsets: Floats, depth: Floats, down: Floats, along: Floats) -> tuple[Floats, Floats]:
        j = (down - np.interp(depth, offsets, self.positions_mm @ self.column)) / self.spacing_mm[0]
        i = (along - np.interp(depth, offsets, self.positions_mm @ self.row)) / self.spacing_mm[1]
        return j, i

    def contains(self, depth: Floats, down: Floats, along: Floats) -> npt.NDArray[np.bool_]:
        """Whether the points lie in the slices, half a pixel or half a slice beyond the outer centres."""
        offsets = self.positions_mm @ self.normal
        j, i = self._in_slice(offsets, depth, down, along)
        edge = 0.5 + _BORDER_TOLERANCE
        return np.asarray(
            (depth >= offsets[0] - self.end_mm)
            & (depth <= offsets[-1] + self.end_mm)
            & (j >= -edge)
            & (j <= self.size[0] - 1 + edge)
            & (i >= -edge)
            & (i <= self.size[1] - 1 + edge)
        )


def part_in_box(
    box: tuple[slice, ...], places: list[tuple[float, float, float]], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """The rows and columns of one slice that can lie in a box of another grid, or up to a voxel outside.

    places: per axis of that grid, the fractional index at row 0, column 0 and its steps per row and column.
    """
    rows, columns = np.ones(shape[0], np.bool_), np.ones(shape[1], np.bool_)
    for part, (start, by_row, by_column) in zip(box, places, strict=True):
        down, along = start + by_row * np.arange(shape[0]), by_column * np.arange(shape[1])
        for possible, mine, other in ((rows, down, along), (columns, along, down)):
            possible &= (mine + other.max() >= part.start - 1) & (mine + other.min() <= part.stop)
    return _span(rows), _span(columns)


def _span(possible: npt.NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(possible)
    return slice(found[0], found[-1] + 1) if found.size else slice(0, 0)


def averaged(
    values: npt.NDArray[np.float32], stack: SliceStack, spacing_mm: tuple[float, float, float]
) -> tuple[npt.NDArray[np.float32], SliceStack]:
    """Mean of neighbouring source samples where several fit into one step of a grid, and their geometry.

    spacing_mm: the grid's (z, y, x).

    The mean of a group is placed at the mean of its positions: exact for functions linear in position. A last
    odd row or column is dropped; the one beside it stands for it.
    """
    groups = _slice_groups(stack.positions_mm @ stack.normal, spacing_mm[0])
    if len(groups) < len(values):
        starts, counts = groups, np.diff([*groups, len(values)])
        means = [
            values[a : a + n].mean(axis=0, dtype=np.float32) for a, n in zip(starts, counts, strict=True)
        ]
        values = np.stack(means)
        positions = np.add.reduceat(stack.positions_mm, starts, axis=0) / counts[:, None]
        stack = replace(stack, positions_mm=positions)
    nj, ni = (
        max(1, int(_BIN_TOLERANCE * coarse / fine))
        for coarse, fine in zip(spacing_mm[1:], stack.spacing_mm, strict=True)
    )
    if nj * ni > 1:
        rows, columns = stack.size[0] // nj, stack.size[1] // ni
        binned = np.zeros((len(values), rows, columns), dtype=np.float32)
        # slice by slice: each one stays in the processor's cache while it is read nj * ni times
        for plane, total in zip(values, binned, strict=True):
            for j in range(nj):
                for i in range(ni):
                    total += plane[j : rows * nj : nj, i : columns * ni : ni]
        values = binned / np.float32(nj * ni)
        centre = (nj - 1) / 2 * stack.spacing_mm[0] * stack.column + (ni - 1) / 2 * stack.spacing_mm[
            1
        ] * stack.row
        stack = replace(
            stack,
            positions_mm=stack.positions_mm + centre,
            spacing_mm=(nj * stack.spacing_mm[0], ni * stack.spacing_mm[1]),
            size=(rows, columns),
        )
    return values, stack


def _slice_groups(offsets: Floats, step_mm: float) -> list[int]:
    """First slice of each run of neighbours whose slab is no thicker than one grid step."""
    gaps = np.diff(offsets)
    starts, width = [0], gaps[0] if len(gaps) else 0.0
    for k in range(1, len(offsets)):
        width += gaps[k - 1]
        if width > step_mm * _BIN_TOLERANCE:
            starts.append(k)
            width = gaps[min(k, len(gaps) - 1)]
    return starts
