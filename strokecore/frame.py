"""Source voxels <-> canonical head frame. (Contract; functions to follow.)

All points are LPS millimetres (x to the patient's left, y to posterior, z to superior) stored as
(x, y, z); all arrays are indexed [z, y, x] (canonical) or [k, j, i] (source).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokecore.series import Series


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

    patient_from_head: npt.NDArray[np.float64]
    grid: Grid


def to_canonical(
    series: Series,
    frame: HeadFrame,
    volume: npt.NDArray[np.float32] | None = None,
    *,
    order: int = 1,
    fill: float = -1024.0,
) -> npt.NDArray[np.float32]:
    """Resample ``series.hu`` (or a [k, j, i] volume on its voxels) onto frame.grid, exact for tilt and gaps."""
    raise NotImplementedError


def to_source(
    series: Series, frame: HeadFrame, volume: npt.NDArray[np.generic], *, order: int = 0
) -> npt.NDArray[np.generic]:
    """Sample a canonical [z, y, x] volume at every source voxel; returns [k, j, i], 0 outside the grid."""
    raise NotImplementedError


def coverage(series: Series, frame: HeadFrame) -> npt.NDArray[np.bool_]:
    """Canonical voxels that lie inside the scanned volume; bool [z, y, x]."""
    raise NotImplementedError
