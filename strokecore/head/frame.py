"""Source voxels <-> canonical head frame, and the fit of that frame to one head.

All points are LPS millimetres (x to the patient's left, y to posterior, z to superior) stored as
(x, y, z); all arrays are indexed [z, y, x] (canonical) or [k, j, i] (source). docs/geometry.md shows
the frames and the conventions on one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strokecore.errors import Refusal
from strokecore.head.alignment import Alignment, Image, align, sample
from strokecore.head.cranium import dilate, erode, find_cranium
from strokecore.head.image import brain_image, template_image
from strokecore.head.resampling import SliceStack, averaged, part_in_box
from strokecore.head.symmetry import fit_midplane
from strokecore.reading.series import Series

if TYPE_CHECKING:
    from strokecore.anatomy.atlas import Atlas

Floats = npt.NDArray[np.float64]


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
    def axes_mm(self) -> tuple[Floats, Floats, Floats]:
        """Head coordinates of the voxel centres along z, y and x (in array order); float64."""
        z, y, x = (
            start + step * np.arange(count, dtype=np.float64)
            for start, step, count in zip(self.origin_mm[::-1], self.spacing_mm, self.shape, strict=True)
        )
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0


# 2 mm slabs of 1 mm pixels hold every detail of a 5 mm head CT; from below the skull base (16 mm under the
# orbitomeatal-like plane of the cerebellum's floor) to above the vertex of a large head.
CANONICAL_GRID: Final = Grid(
    shape=(82, 230, 190), spacing_mm=(2.0, 1.0, 1.0), origin_mm=(-94.5, -114.5, -78.0)
)

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
# head leaves 7 HU.
_SCALES: Final = (0.7, 1.25)
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

    @property
    def head_from_patient(self) -> npt.NDArray[np.float64]:
        """Inverse of ``patient_from_head``; float64 [4, 4]."""
        return np.asarray(np.linalg.inv(self.patient_from_head), dtype=np.float64)


def to_canonical(
    series: Series,
    frame: HeadFrame,
    volume: npt.NDArray[np.float32] | None = None,
    *,
    order: Literal[0, 1] = 1,
    fill: float = -1024.0,
) -> npt.NDArray[np.float32]:
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


def coverage(series: Series, frame: HeadFrame) -> npt.NDArray[np.bool_]:
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


def _places(stack: SliceStack, frame: HeadFrame) -> Iterator[tuple[Floats, Floats, Floats]]:
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


def _canonical_steps(series: Series, frame: HeadFrame) -> list[tuple[Floats, float, float]]:
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


def _centred(series: Series, frame: HeadFrame, cranium: npt.NDArray[np.bool_], scan: HeadFrame) -> HeadFrame:
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
