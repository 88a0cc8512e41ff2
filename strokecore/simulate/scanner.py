"""The scanner: slice geometry with gantry tilt, partial volume, point spread, beam hardening and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import fft, ndimage

from strokecore.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from strokecore.reading.geometry import slice_normal
from strokecore.simulate.artefact import BLOCK_MM, STREAK_SOURCES_MM, moved, moving_slices, streaks
from strokecore.simulate.face import AIR
from strokecore.simulate.shape import FINE_MM, FineGrid
from strokecore.simulate.spec import STREAM_NOISE, SampleSpec

# Scan range along the table at the head's centre: below the skull base to above the vertex (atlas z, mm).
_BOTTOM_MM: Final = -62.0
_TOP_MM: Final = 98.0
# The isocentre in head coordinates: the middle of the head, a little behind the anterior commissure.
ISOCENTRE_MM: Final = (0.0, 14.0, 18.0)
# The slice profile is integrated with samples no further apart than this.
_SUBSLICE_MM: Final = 1.3

NOISE_REFERENCE_MM: Final = 5.0
# Noise power of filtered back-projection: a ramp at low frequency, rolled off by the kernel (1/mm).
_ROLL_OFF_PER_MM: Final = {"SOFT": 0.30, "BONE": 0.65}
_BONE_NOISE_FACTOR: Final = 3.2
# In-plane point spread beyond the fine grid's own, Gaussian sigma in mm.
_POINT_SPREAD_MM: Final = {"SOFT": 0.45, "BONE": 0.0}
# The bone kernel's edge enhancement (unsharp mask).
_SHARPEN: Final = 1.2
_SHARPEN_MM: Final = 0.8

# Noise that iterative reconstruction leaves: Gaussian power of this frequency, blotches of about 5 mm.
_PLASTIC_PER_MM: Final = 0.06
SLICES_AT_ONCE: Final = 40

_BONE_HU: Final = 300.0
_CUPPING_HU: Final = 11.0  # residual brightening of brain that touches the vault
_CUPPING_MM: Final = 7.0
_STREAK_HU: Final = 7.0  # darkening between the petrous bones

# The head holder: half axes of its U, how far its centre lies below the isocentre, its wall.
_HOLDER_AXES_MM: Final = (103.0, 125.0)
_HOLDER_CENTRE_MM: Final = 12.0
_HOLDER_WALL_MM: Final = 2.4
_HOLDER_HU: Final = 120.0

# Directions of rows (index i) and columns (index j) in LPS when the gantry is upright: the view from the feet
# of the table, as scanners store it.
_ORIENTATION: Final[dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
}


@dataclass(frozen=True, eq=False)
class SliceGeometry:
    """Where the voxels of a series lie.

    Attributes
    ----------
    positions_mm: float64 [k, 3], ImagePositionPatient (LPS).
    row_direction, column_direction: float64 [3], unit vectors of increasing column index i and row index j.
    pixel_mm: in-plane spacing.
    thickness_mm: slice thickness, measured across the slice.
    matrix: rows = columns.
    """

    positions_mm: Float64Array
    row_direction: Float64Array
    column_direction: Float64Array
    pixel_mm: float
    thickness_mm: float
    matrix: int

    @property
    def normal(self) -> Float64Array:
        """Unit slice normal (LPS), row_direction x column_direction."""
        return slice_normal(self.row_direction, self.column_direction)

    @property
    def step_mm(self) -> Float64Array:
        """Vector from one slice to the next; not along ``normal`` when the gantry is tilted."""
        return np.asarray(self.positions_mm[1] - self.positions_mm[0])


def patient_from_head(spec: SampleSpec) -> Float64Array:
    """Rigid float64 [4, 4] from the head's atlas-like axes to patient coordinates with the isocentre at 0."""
    pitch, yaw, roll = np.radians([spec.pitch_deg, spec.yaw_deg, spec.roll_deg])
    # Chin up: the front (-y) rises. Face to the left: -y turns to +x. Vertex to the left: +z turns to +x.
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    rotation = about_z @ about_x @ about_y
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = np.asarray(spec.shift_mm) - rotation @ np.asarray(ISOCENTRE_MM)
    return matrix


def slice_geometry(spec: SampleSpec) -> SliceGeometry:
    """Contiguous slices from skull base to vertex; a tilted gantry shears the stack along the table."""
    tilt = np.radians(spec.tilt_deg)
    # Upright planes tilt about x: what points to posterior dips when the front is lifted.
    tilted = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    row, column = (tilted @ np.asarray(v, np.float64) for v in _ORIENTATION[spec.patient_position])
    step = spec.thickness_mm / np.cos(tilt)
    count = int(np.ceil((_TOP_MM - _BOTTOM_MM) / step)) + 1
    centre_z = (np.arange(count) * step + _BOTTOM_MM) - ISOCENTRE_MM[2] + spec.shift_mm[2]
    half = (spec.matrix - 1) / 2 * spec.pixel_mm
    corner = -half * row - half * column
    if spec.flip_rows:
        corner, column = corner + 2 * half * column, -column
    if spec.flip_columns:
        corner, row = corner + 2 * half * row, -row
    positions = corner + np.stack([np.zeros(count), np.zeros(count), centre_z], axis=1)
    # DICOM decimal strings hold 16 characters: what is written is what is simulated.
    return SliceGeometry(
        np.round(positions, 6),
        np.round(row, 9),
        np.round(column, 9),
        spec.pixel_mm,
        spec.thickness_mm,
        spec.matrix,
    )


@dataclass(frozen=True)
class Window:
    """A box of a series' voxels: the brain, or a few slices, where the rest is not needed."""

    k: slice
    j: slice
    i: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along k, j, i."""
        nk, nj, ni = (s.stop - s.start for s in self.index)
        return nk, nj, ni

    @property
    def index(self) -> tuple[slice, slice, slice]:
        """What the window is in an array [k, j, i] of the whole series."""
        return self.k, self.j, self.i


def whole(geometry: SliceGeometry) -> Window:
    """All voxels of a series."""
    plane = slice(0, geometry.matrix)
    return Window(slice(0, len(geometry.positions_mm)), plane, plane)


def window_of(
    mask: BoolArray, grid: FineGrid, patient_from_head: Float64Array, geometry: SliceGeometry
) -> Window:
    """The smallest window that holds ``mask`` ([z, y, x] on ``grid``)."""
    ends = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in (2, 1, 0)]
    corners = np.stack(np.meshgrid(*(axis[e] for axis, e in zip(grid.axes_mm, ends, strict=True))), -1)
    points = corners.reshape(-1, 3) @ patient_from_head[:3, :3].T + patient_from_head[:3, 3]
    index = (points - geometry.positions_mm[0]) @ np.linalg.inv(_index_to_patient(geometry)).T
    low, high = np.floor(index.min(axis=0)).astype(int) - 1, np.ceil(index.max(axis=0)).astype(int) + 2
    sizes = (geometry.matrix, geometry.matrix, len(geometry.positions_mm))
    i, j, k = (
        slice(int(np.clip(a, 0, n - 1)), int(np.clip(b, 1, n)))
        for a, b, n in zip(low, high, sizes, strict=True)
    )
    return Window(k, j, i)


def sample_slices(
    volume: Float32Array,
    grid: FineGrid,
    head_from_patient: Float64Array,
    geometry: SliceGeometry,
    *,
    outside: float,
    subslices: int | None = None,
    window: Window | None = None,
) -> Float32Array:
    """Integrate ``volume`` ([z, y, x] on ``grid``) over each slice's thickness; float32 [k, j, i].

    ``window`` is the part of the series to make; None is all of it.
    """
    window = window or whole(geometry)
    count = subslices or max(1, int(np.ceil(geometry.thickness_mm / _SUBSLICE_MM)))
    total = np.zeros(window.shape, np.float32)
    for s in range(count):
        offset = ((s + 0.5) / count - 0.5) * geometry.thickness_mm
        part = _resample(volume, grid, head_from_patient, geometry, offset, sitk.sitkLinear, outside, window)
        total += np.asarray(part, np.float32)
    total /= np.float32(count)
    return total


def sample_labels(
    labels: UInt8Array,
    grid: FineGrid,
    head_from_patient: Float64Array,
    geometry: SliceGeometry,
    window: Window,
) -> UInt8Array:
    """Labels ([z, y, x] on ``grid``) at every voxel centre; uint8 [k, j, i] of the whole series.

    Outside the window all labels are 0.
    """
    out = np.zeros(whole(geometry).shape, np.uint8)
    nearest = sitk.sitkNearestNeighbor
    out[window.index] = _resample(labels, grid, head_from_patient, geometry, 0.0, nearest, 0.0, window)
    return out


def _index_to_patient(geometry: SliceGeometry) -> Float64Array:
    """Columns: millimetres of one step along i, j, k."""
    steps = (
        geometry.row_direction * geometry.pixel_mm,
        geometry.column_direction * geometry.pixel_mm,
        geometry.step_mm,
    )
    return np.stack(steps, axis=1)


def _resample(
    volume: npt.NDArray[np.generic],
    grid: FineGrid,
    head_from_patient: Float64Array,
    geometry: SliceGeometry,
    along_normal_mm: float,
    interpolator: int,
    outside: float,
    window: Window,
) -> npt.NDArray[np.generic]:
    """``volume`` at the voxel centres of the window moved by ``along_normal_mm``; [k, j, i]."""
    image = sitk.GetImageFromArray(volume)
    image.SetOrigin(grid.origin_mm)
    image.SetSpacing([FINE_MM] * 3)
    # ITK only takes orthonormal directions: the shear is in the transform, the output in index space.
    index_to_patient = _index_to_patient(geometry)
    rotation, translation = head_from_patient[:3, :3], head_from_patient[:3, 3]
    first = np.array([window.i.start, window.j.start, window.k.start], np.float64)
    start = geometry.positions_mm[0] + along_normal_mm * geometry.normal + index_to_patient @ first
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((rotation @ index_to_patient).ravel().tolist())
    transform.SetTranslation((rotation @ start + translation).tolist())
    moved = sitk.Resample(
        image,
        window.shape[::-1],
        transform,
        interpolator,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        outside,
    )
    return np.asarray(sitk.GetArrayViewFromImage(moved)).copy()


def _head_holder(spec: SampleSpec, geometry: SliceGeometry) -> BoolArray:
    """The U-shaped shell under the head, the same in every slice; bool [j, i]."""
    index = np.arange(geometry.matrix) * geometry.pixel_mm
    x = geometry.positions_mm[0, 0] + index * geometry.row_direction[0]
    y = geometry.positions_mm[0, 1] + index * geometry.column_direction[1]
    down = 1.0 if spec.patient_position.endswith("S") else -1.0
    across, below = _HOLDER_AXES_MM
    radial = np.hypot(x[None, :] / across, down * (y[:, None] - down * _HOLDER_CENTRE_MM) / below)
    shell = np.abs(radial - 1) * across < _HOLDER_WALL_MM / 2
    return np.asarray(shell & (down * y[:, None] > _HOLDER_CENTRE_MM + 5))


def acquire(
    spec: SampleSpec, volume: Float32Array, grid: FineGrid, geometry: SliceGeometry
) -> npt.NDArray[np.int16]:
    """Scan a head: HU as stored, int16 [k, j, i]."""
    head_from_patient = np.linalg.inv(patient_from_head(spec)).astype(np.float64)
    holder = _head_holder(spec, geometry)
    rng = spec.rng(STREAM_NOISE)
    stored = np.empty(whole(geometry).shape, np.int16)
    moving = moving_slices(spec, len(stored))
    plane = slice(0, geometry.matrix)
    # A few slices at a time: 270 thin ones of floats would be half a gigabyte twice.
    for first in range(0, len(stored), SLICES_AT_ONCE):
        window = Window(slice(first, min(first + SLICES_AT_ONCE, len(stored))), plane, plane)
        block = sample_slices(volume, grid, head_from_patient, geometry, outside=AIR, window=window)
        block[:, holder] = np.maximum(block[:, holder], _HOLDER_HU)
        for k, hu in enumerate(block, start=first):
            hu += _beam_hardening(hu, spec, rng)
            if spec.streaks > 0:
                hu += np.where(hu > AIR / 5, _streaks(spec, geometry, k), 0)
            if k in moving:
                hu[:] = moved(spec, hu)
            stored[k] = np.clip(np.rint(_reconstructed(hu, spec, rng)), -1024, 3071)
    return stored


def _streaks(spec: SampleSpec, geometry: SliceGeometry, k: int) -> Float32Array:
    """HU that streaks add to slice ``k``; float32 [j, i]."""
    to_patient = patient_from_head(spec)
    sources = np.asarray(STREAK_SOURCES_MM) @ to_patient[:3, :3].T + to_patient[:3, 3]
    axes = np.stack([geometry.row_direction, geometry.column_direction, geometry.normal])
    index_mm = np.arange(geometry.matrix, dtype=np.float64) * geometry.pixel_mm
    block = int(k * geometry.thickness_mm // BLOCK_MM)
    return streaks(spec, block, index_mm, index_mm, (sources - geometry.positions_mm[k]) @ axes.T)


def _reconstructed(hu: Float32Array, spec: SampleSpec, rng: np.random.Generator) -> Float32Array:
    """Point spread, overshoot and noise of the kernel on one slice."""
    spread = _POINT_SPREAD_MM[spec.kernel] / spec.sharpness / spec.pixel_mm
    if spread > 0:
        hu = ndimage.gaussian_filter(hu, spread)
    overshoot = spec.edge_enhancement + (_SHARPEN if spec.kernel == "BONE" else 0.0)
    if overshoot > 0:
        hu = hu + np.float32(overshoot) * (hu - ndimage.gaussian_filter(hu, _SHARPEN_MM / spec.pixel_mm))
    return np.asarray(hu + _noise(hu, spec, rng), np.float32)


def _beam_hardening(hu: Float32Array, spec: SampleSpec, rng: np.random.Generator) -> Float32Array | float:
    """Glow under the vault and the dark band between the petrous bones, HU to add to one slice."""
    step = max(1, round(2.0 / spec.pixel_mm))
    small = hu[::step, ::step]
    bone = np.clip((small - _BONE_HU) / 700, 0, 1.3)
    if bone.max() <= 0:
        return 0.0
    rough = rng.standard_normal(len(small))
    if spec.cupping <= 0:
        return 0.0
    size = spec.pixel_mm * step
    glow = ndimage.gaussian_filter(bone, _CUPPING_MM / size) * _CUPPING_HU
    # Rays along a row that cross dense bone on both sides lose their soft photons: tissue between looks dark.
    left = np.cumsum(bone, axis=1)
    right = left[:, -1:] - left
    between = np.minimum(left, right) * size
    rough = 1 + 0.5 * ndimage.gaussian_filter1d(rough, 1.0)[:, None] * 1.8
    dark = np.clip((between - 14) / 30, 0, 1) * rough * _STREAK_HU
    field = np.where(small > -200, glow - ndimage.gaussian_filter(dark, (0.6, 3.0)), 0).astype(np.float32)
    large = ndimage.zoom(field, (hu.shape[0] / field.shape[0], hu.shape[1] / field.shape[1]), order=1)
    return np.asarray(large * np.float32(spec.cupping), np.float32)


def _noise(hu: Float32Array, spec: SampleSpec, rng: np.random.Generator) -> Float32Array:
    """Correlated noise of one slice; its variance falls with thickness and rises with what the rays cross."""
    n = spec.matrix
    frequency = np.hypot(fft.fftfreq(n, spec.pixel_mm)[:, None], fft.rfftfreq(n, spec.pixel_mm)[None, :])
    roll_off = _ROLL_OFF_PER_MM[spec.kernel] * spec.sharpness
    # Amplitude is the root of the noise power f * exp(-(f/f0)^2), with a small floor.
    amplitude = np.sqrt((frequency + 0.02) * np.exp(-((frequency / roll_off) ** 2)))
    if spec.plastic > 0:
        # Iterative reconstruction takes away the fine grain and leaves blotches.
        blotches = np.exp(-((frequency / _PLASTIC_PER_MM) ** 2) / 2)
        power = (1 - spec.plastic) * _unit(amplitude) ** 2 + spec.plastic * _unit(blotches) ** 2
        amplitude = np.sqrt(power)
    white = rng.standard_normal((n, n), dtype=np.float32)
    noise = fft.irfft2(fft.rfft2(white) * amplitude, s=(n, n))
    sd = spec.noise_hu * np.sqrt(NOISE_REFERENCE_MM / spec.thickness_mm)
    if spec.kernel == "BONE":
        sd *= _BONE_NOISE_FACTOR
    sd *= 0.8 + 0.3 * min(1.0, float((hu > _BONE_HU).mean()) / 0.12)
    return np.asarray(noise * (sd / noise.std()), np.float32)


def _unit(amplitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Scaled to a mean power of 1."""
    return np.asarray(amplitude / np.sqrt((amplitude**2).mean()))
