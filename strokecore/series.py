"""DICOM files in, one checked CT series out. (Contract; reader to follow.)"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from strokecore.quality import QualityFlag

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True, eq=False)
class Series:
    """One axial CT series, ordered and in Hounsfield units.

    Attributes
    ----------
    hu: float32 [k, j, i] (slice, row, column), clamped to >= -1024; padding is -1024.
        k increases along ``normal`` (row_direction x column_direction), not necessarily upwards.
    positions_mm: float64 [k, 3], ImagePositionPatient (LPS) of each slice.
    row_direction: float64 [3], unit vector (LPS) of increasing column index i.
    column_direction: float64 [3], unit vector (LPS) of increasing row index j.
    pixel_spacing_mm: (spacing along j, spacing along i), as in DICOM PixelSpacing.
    slice_thickness_mm: declared SliceThickness, or the median gap when it is absent.
    tilt_deg: signed angle between the stacking direction and the slice normal; 0 = no shear.
    datasets: headers without PixelData, in k order.
    study_datasets: header of one instance of every other series in the same folder and study.
    chosen_because: plain sentence saying why this series was taken among its acquisition's.
    not_selected: (SeriesInstanceUID, reason) of the acquisition's other series.
    flags: warnings and information found while reading.
    digest: sha256 hex of geometry, rescale and pixels of every slice, in order.
    """

    hu: npt.NDArray[np.float32]
    positions_mm: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    tilt_deg: float
    datasets: tuple[Dataset, ...]
    chosen_because: str
    digest: str
    not_selected: tuple[tuple[str, str], ...] = ()
    flags: tuple[QualityFlag, ...] = field(default=())

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """Unit slice normal (LPS), row_direction x column_direction; float64 [3]."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def slice_offsets_mm(self) -> npt.NDArray[np.float64]:
        """Strictly increasing position of each slice along ``normal``; float64 [k]."""
        return self.positions_mm @ self.normal

    @property
    def series_instance_uid(self) -> str:
        return str(self.datasets[0].SeriesInstanceUID)


def read_series(folder: Path, series_uid: str | None = None) -> Series:
    """Find and read the head NCCT in ``folder``. Raises Refusal, UsageError."""
    raise NotImplementedError
