"""Source voxels <-> canonical grid, exact for stacks that are sheared by gantry tilt or unevenly spaced.

Source arrays are indexed [k, j, i], canonical ones [z, y, x]; points are as in strokecore.head.grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array, Float64Array
from strokecore.head.grid import HeadFrame
from strokecore.reading.series import Series

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

    positions_mm: Float64Array
    row: Float64Array
    column: Float64Array
    normal: Float64Array
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

    def indices(
        self, depth: Float64Array, down: Float64Array, along: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Fractional k, j, i of points given by their coordinates along the normal, column and row, mm.

        Between slices the in-plane origin moves along the line joining their ImagePositionPatient, which is
        what unshears a tilted stack and is exact for every gap.
        """
        offsets = self.positions_mm @ self.normal
        k = np.interp(depth, offsets, np.arange(len(offsets), dtype=np.float64))
        return k, *self._in_slice(offsets, depth, down, along)

    def _in_slice(
        self, offsets: Float64Array, depth: Float64Array, down: Float64Array, along: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        j = (down - np.interp(depth, offsets, self.positions_mm @ self.column)) / self.spacing_mm[0]
        i = (along - np.interp(depth, offsets, self.positions_mm @ self.row)) / self.spacing_mm[1]
        return j, i

    def contains(self, depth: Float64Array, down: Float64Array, along: Float64Array) -> BoolArray:
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


def _span(possible: BoolArray) -> slice:
    found = np.flatnonzero(possible)
    return slice(found[0], found[-1] + 1) if found.size else slice(0, 0)


def averaged(
    values: Float32Array, stack: SliceStack, spacing_mm: tuple[float, float, float]
) -> tuple[Float32Array, SliceStack]:
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


def _slice_groups(offsets: Float64Array, step_mm: float) -> list[int]:
    """First slice of each run of neighbours whose slab is no thicker than one grid step."""
    gaps = np.diff(offsets)
    starts, width = [0], gaps[0] if len(gaps) else 0.0
    for k in range(1, len(offsets)):
        width += gaps[k - 1]
        if width > step_mm * _BIN_TOLERANCE:
            starts.append(k)
            width = gaps[min(k, len(gaps) - 1)]
    return starts


def to_canonical(
    series: Series,
    frame: HeadFrame,
    volume: Float32Array | None = None,
    *,
    order: Literal[0, 1] = 1,
    fill: float = -1024.0,
) -> Float32Array:
    """Resample ``series.hu`` (or a [k, j, i] volume on its voxels) onto frame.grid, exact for tilt and gaps.

    Between two slices the value follows the line that joins equal (j, i) of both, so that a function
    linear in position comes out exactly whatever the tilt and the gaps. With order 1, source samples finer
    than the grid are first averaged to about its spacing: noise falls as in a thicker slice instead of
    being picked from single voxels. Order 0 takes the nearest voxel (labels).

    Parameters
    ----------
    volume: [k, j, i] on the series' voxels; ``series.hu`` when None.
    order: 1 linear, 0 nearest.
    fill: value of voxels outside the scan.

    Returns
    -------
    float32 [z, y, x].
    """
    values = series.hu if volume is None else np.asarray(volume, dtype=np.float32)
    fine = SliceStack.of(series)
    values, stack = averaged(values, fine, frame.grid.spacing_mm) if order > 0 else (values, fine)
    out = np.full(frame.grid.shape, fill, dtype=np.float32)
    for z, place in enumerate(_places(fine, frame)):
        inside = fine.contains(*place)
        if inside.any():
            where = ... if inside.all() else inside  # most planes lie in the scan as a whole
            indices = stack.indices(*(p[where] for p in place))
            out[z][where] = ndimage.map_coordinates(
                values, indices, output=np.float32, order=order, mode="nearest"
            )
    return out


def coverage(series: Series, frame: HeadFrame) -> BoolArray:
    """Canonical voxels inside the scanned volume, to half a voxel around the outer centres; [z, y, x]."""
    stack = SliceStack.of(series)
    return np.stack([stack.contains(*place) for place in _places(stack, frame)])


def to_source(
    series: Series, frame: HeadFrame, volume: npt.NDArray[Any], *, order: Literal[0, 1] = 0
) -> npt.NDArray[Any]:
    """Sample a canonical [z, y, x] volume at every source voxel; returns [k, j, i], 0 outside the grid.

    Order 0 (nearest) keeps the dtype, order 1 (linear) gives float32.
    """
    steps = _canonical_steps(series, frame)
    shape = np.array(volume.shape)
    out = np.zeros(series.hu.shape, dtype=volume.dtype if order == 0 else np.float32)
    flat = np.ascontiguousarray(volume).ravel()
    filled = ndimage.find_objects((volume != 0).astype(np.int8))
    for k in range(series.hu.shape[0]) if filled else ():
        places = [(start[k], by_row, by_column) for start, by_row, by_column in steps]
        j, i = part_in_box(filled[0], places, out.shape[1:])
        rows, columns = np.arange(j.start, j.stop), np.arange(i.start, i.stop)
        at = [
            start + by_row * rows[:, None] + by_column * columns[None, :]
            for start, by_row, by_column in places
        ]
        if order == 0:
            z, y, x = (np.floor(a + 0.5).astype(np.int32) for a in at)
            inside = np.ones(z.shape, dtype=np.bool_)
            for index, count in zip((z, y, x), shape, strict=True):
                inside &= (index >= 0) & (index < count)
            # int64 is not needed: a canonical grid has a few million voxels
            nearest = (z * shape[1] + y) * shape[2] + x
            out[k, j, i][inside] = flat[nearest[inside]]
        else:
            out[k, j, i] = ndimage.map_coordinates(
                volume.astype(np.float32, copy=False),
                at,
                output=np.float32,
                order=1,
                mode="constant",
                cval=0.0,
            )
    return out


def _places(stack: SliceStack, frame: HeadFrame) -> Iterator[tuple[Float64Array, Float64Array, Float64Array]]:
    """Per canonical slice, where its voxels lie along the stack's normal, column and row; mm, [y, x] each."""
    zs, ys, xs = frame.grid.axes_mm
    rotation, shift = frame.patient_from_head[:3, :3], frame.patient_from_head[:3, 3]
    planes = []
    for axis in (stack.normal, stack.column, stack.row):
        on_x, on_y, on_z = axis @ rotation
        planes.append((axis @ shift + on_y * ys[:, None] + on_x * xs[None, :], on_z))
    for z in zs:
        depth, down, along = (plane + on_z * z for plane, on_z in planes)
        yield depth, down, along


def _canonical_steps(series: Series, frame: HeadFrame) -> list[tuple[Float64Array, float, float]]:
    """Per canonical axis z, y, x: fractional index at voxel [k, 0, 0] for each k, and steps per j and i."""
    head_from_patient = frame.head_from_patient
    rotation, shift = head_from_patient[:3, :3], head_from_patient[:3, 3]
    starts = series.positions_mm @ rotation.T + shift
    by_row = rotation @ series.column_direction * series.pixel_spacing_mm[0]
    by_column = rotation @ series.row_direction * series.pixel_spacing_mm[1]
    spacing_xyz = frame.grid.spacing_mm[::-1]
    return [
        (
            (starts[:, a] - frame.grid.origin_mm[a]) / spacing_xyz[a],
            float(by_row[a] / spacing_xyz[a]),
            float(by_column[a] / spacing_xyz[a]),
        )
        for a in (2, 1, 0)
    ]
