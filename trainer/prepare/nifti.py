"""NIfTI in the node's terms: a CT as a ``Series``, and label volumes laid on a series' voxels.

NIfTI axes are right, anterior, superior (RAS); everything here is turned into LPS. Nothing is flipped or
transposed by shape: the affine alone says where a voxel lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import Float32Array, Float64Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.reading.geometry import MAX_AXIAL_ANGLE_DEG, MAX_PIXEL_SPACING_MM, slice_normal, tilt_deg
from strokecore.reading.hounsfield import AIR_HU
from strokecore.reading.refusals import (
    MAX_THICKNESS_MM,
    MAX_THICKNESS_ROUNDING_MM,
    MIN_EXTENT_MM,
    MIN_SLICES,
)
from strokecore.reading.series import Series
from trainer.prepare.case_file import UnusableError, dimensions

_LPS_FROM_RAS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
# sform and qform of one file may differ by the shear of a tilted gantry (to 30 degrees), never by a turned
# axis: then one of the two mirrors the patient.
_MOST_DISAGREEMENT_DEG: Final = 45.0
_PERPENDICULAR: Final = 0.01
# Two grids are the same when every voxel's centre lies this close to one of the other's, in voxels.
_SAME_VOXEL: Final = 0.25
_LEAST_BONE_HU: Final = 200.0


@dataclass(frozen=True, eq=False)
class Nifti:
    """values [a, b, c] in the file's own axis order, and float64 [4, 4] from its indices to LPS mm."""

    values: npt.NDArray[Any]
    lps_from_index: Float64Array


def read_nifti(path: Path) -> Nifti:
    """Read a three-dimensional NIfTI with its geometry.

    Raises
    ------
    UnusableError: unreadable, not three-dimensional, or without a certain geometry.
    UsageError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise UsageError("NIfTI needs nibabel: pip install 'strokecore[train]'.") from error
    try:
        image: Any = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        (sform, s_code), (qform, q_code) = image.get_sform(coded=True), image.get_qform(coded=True)
    except Exception as error:  # nibabel, gzip and zlib each raise their own on a damaged file
        raise UnusableError(f"{path.name} cannot be read ({type(error).__name__})") from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise UnusableError(f"{path.name} has {values.ndim} dimensions, expected 3")
    if not s_code and not q_code:
        raise UnusableError(f"{path.name} has no orientation (sform and qform codes are 0): left is unknown")
    if s_code and q_code and _disagree(sform, qform):
        raise UnusableError(f"{path.name}: sform and qform point different ways, so that left is uncertain")
    affine = np.asarray(sform if s_code else qform, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise UnusableError(f"{path.name} has an affine that is no geometry")
    return Nifti(values, _LPS_FROM_RAS @ affine)


def ct_series(nifti: Nifti) -> Series:
    """A NIfTI CT in HU as a series; the slices' thickness is taken to be their distance.

    Raises UnusableError for what the node would refuse of a DICOM series.
    """
    columns = nifti.lps_from_index[:3, :3]
    steps_mm = np.linalg.norm(columns, axis=0)
    directions = columns / steps_mm
    k = int(np.argmax(np.abs(directions[2])))
    i = max((axis for axis in range(3) if axis != k), key=lambda axis: abs(directions[0, axis]))
    j = 3 - k - i
    row, column = directions[:, i], directions[:, j]
    if abs(row @ column) > _PERPENDICULAR:
        raise UnusableError("the CT's rows and columns are not perpendicular")
    if max(steps_mm[j], steps_mm[i]) > MAX_PIXEL_SPACING_MM:
        raise UnusableError(
            f"the CT's pixels measure {steps_mm[j]:.1f} x {steps_mm[i]:.1f} mm across the head: the slices "
            "are not axial, or too coarse"
        )
    hu = np.transpose(nifti.values, (k, j, i)).astype(np.float32)
    positions = nifti.lps_from_index[:3, 3] + np.arange(len(hu))[:, None] * columns[:, k]
    normal = slice_normal(row, column)
    if columns[:, k] @ normal < 0:  # k rises along row x column
        hu, positions = hu[::-1], positions[::-1]
    thickness = abs(float(columns[:, k] @ normal))
    _refuse_ct(hu, thickness, float(normal[2]))
    hu = np.maximum(np.ascontiguousarray(hu), -1024.0)
    digest = hashlib.sha256(hu.tobytes() + positions.tobytes() + np.stack([row, column]).tobytes())
    return Series(
        hu=hu,
        positions_mm=np.ascontiguousarray(positions),
        row_direction=row,
        column_direction=column,
        pixel_spacing_mm=(float(steps_mm[j]), float(steps_mm[i])),
        slice_thickness_mm=thickness,
        tilt_deg=tilt_deg(positions, normal),
        datasets=(),
        chosen_because="the case's NIfTI file.",
        digest=digest.hexdigest(),
    )


def labels_on(nifti: Nifti, series: Series, allowed: Container[int], name: str) -> UInt8Array:
    """A label volume on the series' voxels, uint8 [k, j, i]; its grid may be flipped or transposed.

    Raises UnusableError when the two grids are not the same voxels, or a value is not in ``allowed``.
    """
    values = nifti.values
    found = np.unique(values)
    wrong = [v for v in found.tolist() if not np.isfinite(v) or int(v) != v or int(v) not in allowed]
    if wrong:
        raise UnusableError(f"{name} holds values such as {wrong[0]:g}, which mean nothing there")
    if values.size != series.hu.size:
        raise UnusableError(
            f"{name} is {dimensions(values)} and the CT {dimensions(series.hu)}: not the CT's grid"
        )
    index_from_lps = np.linalg.inv(nifti.lps_from_index)
    starts = series.positions_mm @ index_from_lps[:3, :3].T + index_from_lps[:3, 3]
    by_row = index_from_lps[:3, :3] @ series.column_direction * series.pixel_spacing_mm[0]
    by_column = index_from_lps[:3, :3] @ series.row_direction * series.pixel_spacing_mm[1]
    whole = [np.rint(v).astype(np.int64) for v in (starts, by_row, by_column)]
    rows, columns = np.arange(series.hu.shape[1]), np.arange(series.hu.shape[2])
    far = max(
        float(np.abs(starts - whole[0] + j * (by_row - whole[1]) + i * (by_column - whole[2])).max())
        for j in (0, rows[-1])
        for i in (0, columns[-1])
    )
    if far > _SAME_VOXEL:
        raise UnusableError(
            f"{name} does not lie on the CT's voxels (up to {far:.1f} voxels off); draw it on this CT, "
            "without resampling"
        )
    out = np.empty(series.hu.shape, np.uint8)
    for k, start in enumerate(whole[0]):
        place = [start[a] + whole[1][a] * rows[:, None] + whole[2][a] * columns[None, :] for a in range(3)]
        if any(p.min() < 0 or p.max() >= n for p, n in zip(place, values.shape, strict=True)):
            raise UnusableError(f"{name} does not cover the CT: not the CT's grid")
        out[k] = values[place[0], place[1], place[2]]
    return out


def _refuse_ct(hu: Float32Array, thickness_mm: float, normal_z: float) -> None:
    if abs(normal_z) < np.cos(np.radians(MAX_AXIAL_ANGLE_DEG)):
        raise UnusableError("the CT's slices are not axial")
    if len(hu) < MIN_SLICES or len(hu) * thickness_mm < MIN_EXTENT_MM:
        raise UnusableError(
            f"the CT has {len(hu)} slices over {len(hu) * thickness_mm:.0f} mm, expected at least "
            f"{MIN_SLICES} over {MIN_EXTENT_MM:.0f} mm"
        )
    if thickness_mm > MAX_THICKNESS_MM + MAX_THICKNESS_ROUNDING_MM:
        raise UnusableError(f"the CT's slices are {thickness_mm:.1f} mm apart, expected at most 10 mm")
    if not np.isfinite(hu).all():
        raise UnusableError("the CT holds values that are not finite")
    air, bone = float(np.percentile(hu[:, ::4, ::4], 1)), float(hu.max())
    if air > AIR_HU or bone < _LEAST_BONE_HU:
        raise UnusableError(
            f"the CT runs from {air:.0f} to {bone:.0f}: not a whole head in Hounsfield units (air is -1000; "
            "windowed or skull-stripped volumes cannot be used)"
        )


def _disagree(a: Float64Array, b: Float64Array) -> bool:
    a, b = a[:3, :3] / np.linalg.norm(a[:3, :3], axis=0), b[:3, :3] / np.linalg.norm(b[:3, :3], axis=0)
    return bool((np.einsum("ra,ra->a", a, b) < np.cos(np.radians(_MOST_DISAGREEMENT_DEG))).any())
