"""What tissue the atlas expects at each voxel of a head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.registration import Registration
from strokecore.frame import Grid

Float3D = npt.NDArray[np.float32]


def tissue_in_head(atlas: Atlas, registration: Registration, grid: Grid) -> tuple[Float3D, Float3D]:
    """Expected share of grey matter in brain tissue, and of brain tissue in everything; float32 [z, y, x].

    Both are 0 outside the brain. The atlas maps are averages of many people, so the second one falls to
    intermediate values in sulci rather than to zero.
    """
    grey = _sample(atlas, atlas.grey, registration, grid)
    white = _sample(atlas, atlas.white, registration, grid)
    tissue = np.clip(grey + white, 0.0, 1.0)
    return np.where(tissue > 0.05, grey / np.maximum(tissue, 0.05), 0.0).astype(np.float32), tissue


def _sample(atlas: Atlas, volume: Float3D, registration: Registration, grid: Grid) -> Float3D:
    """``volume`` of the atlas at every voxel of ``grid``, linear."""
    index_from_head = (
        _scale(atlas.spacing_mm, atlas.origin_mm, inverse=True)
        @ np.linalg.inv(registration.head_from_template)
        @ _scale(grid.spacing_mm, grid.origin_mm)
    )
    flip = np.eye(4)[[2, 1, 0, 3]]  # (x, y, z) points to [z, y, x] indices
    matrix = flip @ index_from_head @ flip
    return np.asarray(
        ndimage.affine_transform(
            volume, matrix[:3, :3], offset=matrix[:3, 3], output_shape=grid.shape, order=1, output=np.float32
        )
    )


def _scale(
    spacing_zyx_mm: tuple[float, float, float],
    origin_xyz_mm: tuple[float, float, float],
    *,
    inverse: bool = False,
) -> npt.NDArray[np.float64]:
    """Point (x, y, z) in mm from index (x, y, z), as 4 x 4."""
    matrix = np.diag([*spacing_zyx_mm[::-1], 1.0])
    matrix[:3, 3] = origin_xyz_mm
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64) if inverse else matrix
