"""The canonical head grid, and where it lies in the patient.

All points are LPS millimetres (x to the patient's left, y to posterior, z to superior) stored as (x, y, z);
arrays on a grid are indexed [z, y, x]. docs/geometry.md shows the frames and the conventions on one page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import Side
from strokecore.arrays import BoolArray, Float64Array


def voxel_volume_ml(spacing_mm: tuple[float, float, float]) -> float:
    """Volume of one voxel, millilitres."""
    return float(np.prod(spacing_mm)) / 1000.0


def on_side(x_mm: npt.NDArray[np.floating], side: Side) -> BoolArray:
    """Which head coordinates along x lie on a side; x = 0 is on neither."""
    return x_mm > 0 if side == "left" else x_mm < 0


@dataclass(frozen=True)
class Grid:
    """Regular axis-aligned grid in head coordinates, symmetric about x = 0.

    Attributes
    ----------
    shape: (nz, ny, nx).
    spacing_mm: (z, y, x).
    origin_mm: head coordinates (x, y, z) of voxel [0, 0, 0]'s centre. Because
        origin x == -spacing_x * (nx - 1) / 2, ``volume[:, :, ::-1]`` is the mirror image.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    @property
    def axes_mm(self) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Head coordinates of the voxel centres along z, y and x (in array order); float64."""
        z, y, x = (
            start + step * np.arange(count, dtype=np.float64)
            for start, step, count in zip(self.origin_mm[::-1], self.spacing_mm, self.shape, strict=True)
        )
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, millilitres."""
        return voxel_volume_ml(self.spacing_mm)

    def ml(self, mask: BoolArray) -> float:
        """Volume of a [z, y, x] mask of this grid's voxels or of a part of them, millilitres."""
        return float(mask.sum()) * self.voxel_ml

    def side_columns(self, side: Side) -> tuple[slice, slice, slice]:
        """Index of the part of a [z, y, x] array on the patient's ``side``; x = 0 itself is in neither."""
        half = self.shape[2] // 2
        columns = slice(half) if side == "right" else slice(self.shape[2] - half, None)
        return slice(None), slice(None), columns


# 2 mm slabs of 1 mm pixels hold every detail of a 5 mm head CT; from below the skull base (16 mm under the
# orbitomeatal-like plane of the cerebellum's floor) to above the vertex of a large head.
CANONICAL_GRID: Final = Grid(
    shape=(82, 230, 190), spacing_mm=(2.0, 1.0, 1.0), origin_mm=(-94.5, -114.5, -78.0)
)


@dataclass(frozen=True, eq=False)
class HeadFrame:
    """Rigid map between patient (LPS) and head coordinates, and the canonical grid.

    Head axes: x to the patient's left, y to posterior, z to superior; x = 0 is the fitted
    mid-sagittal plane; axial planes are parallel to the orbitomeatal-like plane of the atlas.

    Attributes
    ----------
    patient_from_head: float64 [4, 4], rigid (determinant +1).
    grid: the canonical grid.
    """

    patient_from_head: Float64Array
    grid: Grid

    @property
    def head_from_patient(self) -> Float64Array:
        """Inverse of ``patient_from_head``; float64 [4, 4]."""
        return np.asarray(np.linalg.inv(self.patient_from_head), dtype=np.float64)
