"""The infarct as it was outlined, beside the infarct as the node outlined it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.reading.series import Series
from strokecore.simulate.write import TRUTH_FOLDER

MASK_FILE: Final = "truth.nii.gz"
# NIfTI axes are right, anterior, superior; DICOM's are left, posterior, superior.
_RAS_FROM_LPS: Final = np.array([-1.0, -1.0, 1.0])
# How far the volume may be off after the outline was carried to the scan's voxels, for its edges' sake.
_VOLUME_TOLERANCE: Final = 0.2
_VOLUME_SLACK_ML: Final = 1.0

Bools = npt.NDArray[np.bool_]


class MaskError(Exception):
    """The outline is damaged or was not drawn on this scan."""


def read_mask(case: Path, series: Series) -> Bools | None:
    """``case``/truth/truth.nii.gz on the voxels of ``series``, bool [k, j, i]; None where there is none.

    Every value above 0 is acute infarct. Raises MaskError when it cannot be read or lies outside the scan.
    """
    path = case / TRUTH_FOLDER / MASK_FILE
    if not path.exists():
        return None
    import nibabel

    try:
        image = nibabel.load(path)
        drawn = np.asarray(image.dataobj).squeeze() > 0
        voxel_from_ras = np.linalg.inv(image.affine)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise MaskError(type(error).__name__) from None
    if drawn.ndim != 3:
        raise MaskError(f"{drawn.ndim} dimensions")
    found = _on_series(drawn, voxel_from_ras, series)
    drawn_ml = float(drawn.sum() / abs(np.linalg.det(voxel_from_ras[:3, :3])) / 1000)
    if abs(series.ml(found) - drawn_ml) > _VOLUME_SLACK_ML + _VOLUME_TOLERANCE * drawn_ml:
        raise MaskError("it does not lie in the scan")
    return found


def _on_series(drawn: Bools, voxel_from_ras: npt.NDArray[np.float64], series: Series) -> Bools:
    """``drawn`` [i, j, k] of its own grid, nearest neighbour at each voxel of the series; slice by slice."""
    out = np.zeros(series.hu.shape, np.bool_)
    along_j, along_i = series.pixel_spacing_mm
    down = np.arange(series.hu.shape[1])[:, None, None] * along_j * series.column_direction
    across = np.arange(series.hu.shape[2])[None, :, None] * along_i * series.row_direction
    for k, corner in enumerate(series.positions_mm):
        points = (corner + down + across) * _RAS_FROM_LPS
        index = np.rint(points @ voxel_from_ras[:3, :3].T + voxel_from_ras[:3, 3]).astype(int)
        inside = ((index >= 0) & (index < drawn.shape)).all(axis=-1)
        out[k][inside] = drawn[tuple(index[inside].T)]
    return out
