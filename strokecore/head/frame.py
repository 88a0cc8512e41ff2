"""The fit of the canonical frame to one head: size and pitch from the template, the mirror plane from itself.

Points and arrays are as in strokecore.head.grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strokecore.arrays import BoolArray
from strokecore.errors import Refusal
from strokecore.head.alignment import Alignment, Image, align, sample
from strokecore.head.cranium import dilate, erode, find_cranium
from strokecore.head.grid import CANONICAL_GRID, Grid, HeadFrame
from strokecore.head.image import brain_image, template_image
from strokecore.head.resampling import coverage, to_canonical
from strokecore.head.symmetry import fit_midplane
from strokecore.reading.series import Series

if TYPE_CHECKING:
    from strokecore.anatomy.atlas import Atlas

# The head's origin in the atlas's (MNI152) coordinates: the middle of the template's intracranial space.
HEAD_ORIGIN_IN_TEMPLATE_MM: Final = np.array([0.0, 17.0, 8.0])
# MNI152 heads are larger than life by about 10 % in each direction.
TYPICAL_SCALE: Final = 0.92

# Registration to the template, on these grids and with this smoothing; intensities are HU relative to brain.
_COARSE_MM: Final = 4.0
_TEMPLATE_MM: Final = 6.0
_SMOOTHING_MM: Final = 4.0
_HUBER_HU: Final = 10.0
# Heads of adults relative to the template, the turn that geometry allows, and the residual: the real test
# head leaves 7 HU, heads a fifth narrower and longer than usual 10.
_SCALES: Final = (0.6, 1.35)
_MOST_TURN_DEG: Final = 60.0
_MOST_RESIDUAL_HU: Final = 13.0

# The mirror plane is fitted above the skull base, where heads are symmetric, and mostly to the brain: many
# vaults lean by some degrees, while falx and ventricles lie between the two hemispheres to be compared.
# (Six simulated heads, tuning seeds: midpoints of paired regions lay 1.95 mm off the plane with equal
# weights, 1.3 mm with these.)
_SYMMETRY_GRID: Final = Grid(shape=(38, 70, 60), spacing_mm=(3.0, 3.0, 3.0), origin_mm=(-88.5, -103.5, -26.0))
_SYMMETRY_FLOOR_MM: Final = -25.0
_SYMMETRY_SMOOTHING_MM: Final = 2.0
_SYMMETRY_HU: Final = (0.0, 50.0)
_INNER_TABLE_MM: Final = 5.0
_RIM_MM: Final = 6.0
_RIM_WEIGHT: Final = 0.1


def fit_head_frame(series: Series, atlas: Atlas) -> HeadFrame:
    """Find the head's own axes: the template's pitch and place, and the mirror plane of this head.

    The template is moved onto the scan by a similarity, which fixes pitch and origin; yaw, roll and x = 0
    are then refined by the head's own mirror symmetry.

    Raises
    ------
    Refusal: "no_brain", or "frame_failed" when the template cannot be laid onto the head.
    """
    scan = _whole_scan(series)
    hu, covered = to_canonical(series, scan), coverage(series, scan)
    # grid coordinates of the whole-scan grid are patient coordinates
    cranium = find_cranium(hu, scan.grid.spacing_mm, covered)
    image = brain_image(hu, cranium, scan.grid.spacing_mm, scan.grid.origin_mm, _SMOOTHING_MM)
    template, template_mask = template_image(atlas, _TEMPLATE_MM, _SMOOTHING_MM)
    start = np.eye(4)
    start[:3, :3] *= TYPICAL_SCALE
    start[:3, 3] = image.points(cranium).mean(axis=0) - start[:3, :3] @ HEAD_ORIGIN_IN_TEMPLATE_MM
    fitted = align(template, template_mask, image, covered.astype(np.float32), start, "similarity", _HUBER_HU)
    _check_fit(fitted)
    scale = float(np.cbrt(np.linalg.det(fitted.moving_from_fixed[:3, :3])))
    patient_from_head = np.eye(4)
    patient_from_head[:3, :3] = fitted.moving_from_fixed[:3, :3] / scale
    patient_from_head[:3, 3] = (fitted.moving_from_fixed @ [*HEAD_ORIGIN_IN_TEMPLATE_MM, 1.0])[:3]
    return _centred(series, HeadFrame(patient_from_head, CANONICAL_GRID), cranium, scan)


def _whole_scan(series: Series) -> HeadFrame:
    """A coarse grid in patient coordinates that holds every slice."""
    _, nj, ni = series.hu.shape
    down = series.column_direction * series.pixel_spacing_mm[0] * (nj - 1)
    along = series.row_direction * series.pixel_spacing_mm[1] * (ni - 1)
    corners = np.concatenate([series.positions_mm + d for d in (0 * down, down, along, down + along)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    nx, ny, nz = (int(n) for n in np.ceil((high - low) / _COARSE_MM) + 1)
    origin = (float(low[0]), float(low[1]), float(low[2]))
    return HeadFrame(np.eye(4), Grid((nz, ny, nx), (_COARSE_MM, _COARSE_MM, _COARSE_MM), origin))


def _check_fit(fitted: Alignment) -> None:
    linear = fitted.moving_from_fixed[:3, :3]
    scale = float(np.cbrt(np.linalg.det(linear)))
    turn_deg = float(np.degrees(Rotation.from_matrix(linear / scale).magnitude()))
    good = (
        _SCALES[0] <= scale <= _SCALES[1]
        and turn_deg <= _MOST_TURN_DEG
        and fitted.residual <= _MOST_RESIDUAL_HU
    )
    if not good:
        raise Refusal(
            "frame_failed",
            f"The template head could not be laid onto this head (size {scale:.2f}, turned {turn_deg:.0f} "
            f"degrees, residual {fitted.residual:.0f} HU); expected {_SCALES[0]}-{_SCALES[1]}, at most "
            f"{_MOST_TURN_DEG:.0f} degrees and {_MOST_RESIDUAL_HU:.0f} HU.",
            "Score this scan by eye; check that it shows the whole head and that its orientation is right.",
        )


def _centred(series: Series, frame: HeadFrame, cranium: BoolArray, scan: HeadFrame) -> HeadFrame:
    """``frame`` turned and shifted so that x = 0 is the head's own mirror plane."""
    rough = replace(frame, grid=_SYMMETRY_GRID)
    hu, covered = to_canonical(series, rough), coverage(series, rough)
    z, y, x = np.meshgrid(*rough.grid.axes_mm, indexing="ij")
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    in_patient = points @ frame.patient_from_head[:3, :3].T + frame.patient_from_head[:3, 3]
    whole = Image(cranium.astype(np.float32), scan.grid.spacing_mm, scan.grid.origin_mm)
    inside = sample(whole.values, whole.indices(in_patient)).reshape(rough.grid.shape) > 0.5
    mask = dilate(inside, _INNER_TABLE_MM, rough.grid.spacing_mm) & (z > _SYMMETRY_FLOOR_MM)
    mask &= covered & covered[:, :, ::-1]
    inner = erode(inside, _RIM_MM, rough.grid.spacing_mm)
    importance = (mask * np.where(inner, 1.0, _RIM_WEIGHT)).astype(np.float32)
    sigma = [_SYMMETRY_SMOOTHING_MM / step for step in rough.grid.spacing_mm]
    smooth = ndimage.gaussian_filter(np.clip(hu, *_SYMMETRY_HU), sigma)
    plane = fit_midplane(Image(smooth, rough.grid.spacing_mm, rough.grid.origin_mm), importance)
    axis = np.cross([1.0, 0.0, 0.0], plane.normal)  # its length is the sine of the angle between them
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(axis * _angle_per_sine(float(np.linalg.norm(axis)))).as_matrix()
    turn[:3, 3] = plane.normal * plane.offset_mm
    return replace(frame, patient_from_head=frame.patient_from_head @ turn)


def _angle_per_sine(sine: float) -> float:
    return float(np.arcsin(min(sine, 1.0)) / sine) if sine > 0 else 1.0
