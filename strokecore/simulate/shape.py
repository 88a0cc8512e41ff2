"""Individual shape: a random affine and a smooth random warp that bend the average head into a person's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.arrays import Float32Array, UInt8Array
from strokecore.simulate.solids import Point

# Grid of the individual head: finer than the atlas, and about the width of a soft kernel's point spread.
FINE_MM: Final = 1.2
FINE_BOX_MM: Final = ((-94.0, 94.0), (-118.0, 122.0), (-92.0, 112.0))  # x, y, z
# The brain after every warp lies within this part of it.
_BRAIN_BOX_MM: Final = ((-80.0, 80.0), (-81.0, 116.0), (-86.0, 94.0))
_FACE_TOP_MM: Final = 40.0

_WARP_MM: Final = 4.0  # spacing of the displacement field; its finest scale is almost twice as wide
# (correlation length, root mean square of each displacement component), both mm. Together about 3 mm, as
# between affinely aligned adult heads. The skull follows only the first: it is smoother than the brain.
_COARSE_SCALE_MM: Final = ((36.0, 2.0),)
_FINE_SCALES_MM: Final = ((14.0, 1.5), (7.0, 0.9))
# The infarct's own copy of the atlas is bent again: its borders lie 2-4 mm from the engine's best guess.
_BOUNDARY_SCALES_MM: Final = ((16.0, 2.4), (8.0, 1.7))
_AFFINE_SCALE_SD: Final = 0.03
_AFFINE_SHEAR_SD: Final = 0.015
# Ventricles are widened by a field of this spacing; the walls' normals are smoothed over the second, the
# displacement fades over the third (half of a hemisphere's width) and ends this deep below the skull.
_WIDENING_MM: Final = 2.0
_WIDENING_SMOOTH_MM: Final = 2.0
_WIDENING_REACH_MM: Final = 20.0
_WIDENING_END_MM: Final = 15.0
# A midline shift is largest at the third ventricle and septum and gone at the skull (x, y, z).
_SHIFT_CENTRE_MM: Final = (0.0, 5.0, 12.0)
_SHIFT_REACH_MM: Final = (34.0, 50.0, 32.0)
# Petalia: the right frontal and left occipital poles reach further in most people.
_PETALIA_MM: Final = (0.8, 0.6)  # mean, sd


@dataclass(frozen=True, eq=False)
class FineGrid:
    """An isotropic grid of FINE_MM in the individual's head coordinates; arrays [z, y, x].

    Attributes
    ----------
    origin_mm: (x, y, z) of voxel [0, 0, 0]'s centre.
    shape: (nz, ny, nx).
    spacing_mm: isotropic spacing.
    """

    origin_mm: Point
    shape: tuple[int, int, int]
    spacing_mm: float = FINE_MM

    @property
    def axes_mm(self) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Coordinates along x, y, z."""
        nz, ny, nx = self.shape
        x, y, z = (
            np.float32(o) + np.arange(n, dtype=np.float32) * np.float32(self.spacing_mm)
            for o, n in zip(self.origin_mm, (nx, ny, nz), strict=True)
        )
        return x, y, z

    def part(self, box_mm: tuple[tuple[float, float], ...]) -> tuple[FineGrid, tuple[slice, slice, slice]]:
        """The voxels within a box (ranges of x, y, z) as a grid, and their place in this one [z, y, x]."""
        cut = []
        for axis, (low, high) in zip(self.axes_mm, box_mm, strict=True):
            cut.append(slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high))))
        x, y, z = (float(axis[c.start]) for axis, c in zip(self.axes_mm, cut, strict=True))
        shape = (cut[2].stop - cut[2].start, cut[1].stop - cut[1].start, cut[0].stop - cut[0].start)
        return FineGrid((x, y, z), shape, self.spacing_mm), (cut[2], cut[1], cut[0])


def fine_grid() -> FineGrid:
    """The grid of the whole head."""
    nx, ny, nz = (int((high - low) / FINE_MM) + 1 for low, high in FINE_BOX_MM)
    return FineGrid((FINE_BOX_MM[0][0], FINE_BOX_MM[1][0], FINE_BOX_MM[2][0]), (nz, ny, nx))


def brain_part(grid: FineGrid) -> tuple[FineGrid, tuple[slice, slice, slice]]:
    """The part of the head's grid that holds the brain."""
    return grid.part(_BRAIN_BOX_MM)


def face_part(grid: FineGrid) -> tuple[FineGrid, tuple[slice, slice, slice]]:
    """The part of the head's grid below the top of the temporal muscles."""
    return grid.part((FINE_BOX_MM[0], FINE_BOX_MM[1], (FINE_BOX_MM[2][0], _FACE_TOP_MM)))


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: float, length_mm: float
) -> Float32Array:
    """Gaussian random field of unit variance and given correlation length; float32 of ``shape`` [z, y, x].

    Wide fields are made on a coarser grid and interpolated, which costs a fraction and looks the same.
    """
    factor = max(1, int(length_mm / spacing_mm / 2.0))
    small = tuple(int(np.ceil(n / factor)) + 2 for n in shape)
    sigma = length_mm / spacing_mm / factor
    field = ndimage.gaussian_filter(
        rng.standard_normal(small, dtype=np.float32), sigma, mode="wrap", truncate=3.0
    )
    field /= max(float(field.std()), 1e-6)
    if factor == 1:
        return np.asarray(field[tuple(slice(0, n) for n in shape)], np.float32)
    return enlarged(field, factor, shape)


def enlarged(field: Float32Array, factor: int, shape: tuple[int, ...]) -> Float32Array:
    """Linear interpolation of ``field`` onto ``shape``, ``factor`` times finer, voxel [0, 0, 0] shared."""
    image = sitk.GetImageFromArray(field)
    image.SetSpacing([float(factor)] * field.ndim)
    identity = sitk.Transform(field.ndim, sitk.sitkIdentity)
    direction = np.eye(field.ndim).ravel().tolist()
    large = sitk.Resample(
        image, shape[::-1], identity, sitk.sitkLinear, [0.0] * field.ndim, [1.0] * field.ndim, direction, 0.0
    )
    return np.asarray(sitk.GetArrayFromImage(large))


def _random_field(
    rng: np.random.Generator, shape: tuple[int, int, int], scales: tuple[tuple[float, float], ...]
) -> Float32Array:
    """Displacements [z, y, x, 3] in mm, components (x, y, z)."""
    field = np.zeros((*shape, 3), np.float32)
    for length, amplitude in scales:
        for axis in range(3):
            field[..., axis] += amplitude * smooth_noise(rng, shape, _WARP_MM, length)
    return field


@dataclass(frozen=True, eq=False)
class Warp:
    """Maps a point of the individual's head (mm) to the average head's, for skull and brain."""

    skull: sitk.Transform
    brain: sitk.Transform


def individual_warp(rng: np.random.Generator, spread: float = 1.0, midline_shift_mm: float = 0.0) -> Warp:
    """Draw one person's shape; ``spread`` multiplies every deviation from the average but petalia.

    ``midline_shift_mm`` moves the middle of the brain to the patient's left; the skull stays.
    """
    box = np.asarray(FINE_BOX_MM, np.float32)
    low = box[:, 0] - 2 * _WARP_MM
    counts = np.ceil((box[:, 1] - box[:, 0]) / _WARP_MM).astype(int) + 5
    shape = (int(counts[2]), int(counts[1]), int(counts[0]))
    field = _random_field(rng, shape, _COARSE_SCALE_MM) * np.float32(spread)
    x, y, z = (low[a] + np.arange(counts[a], dtype=np.float32) * _WARP_MM for a in range(3))
    points = np.stack(np.broadcast_arrays(x[None, None, :], y[None, :, None], z[:, None, None]), axis=-1)
    matrix = np.diag(1 + spread * rng.normal(0, _AFFINE_SCALE_SD, 3))
    matrix += spread * rng.normal(0, _AFFINE_SHEAR_SD, (3, 3)) * (1 - np.eye(3))
    field += (points @ (matrix - np.eye(3)).T).astype(np.float32)
    # The poles of the two sides move along y in opposite directions; nothing moves at the midline.
    petalia = rng.normal(*_PETALIA_MM)
    lateral = np.tanh(points[..., 0] / 25.0)
    poles = np.abs(points[..., 1]) / 70.0
    field[..., 1] -= (petalia * lateral * poles).astype(np.float32)
    fine = _random_field(rng, shape, _FINE_SCALES_MM) * np.float32(spread)
    if midline_shift_mm:
        from_centre = (points - _SHIFT_CENTRE_MM) / _SHIFT_REACH_MM
        # The warp leads from the person back to the average head: against the shift.
        fine[..., 0] -= np.float32(midline_shift_mm) * np.exp(-(from_centre**2).sum(axis=-1))
    origin = [float(v) for v in low]
    return Warp(_transform(field, origin), _transform(field + fine, origin))


def _transform(field: Float32Array, origin: list[float]) -> sitk.Transform:
    image = sitk.GetImageFromArray(field.astype(np.float64), isVector=True)
    image.SetOrigin(origin)
    image.SetSpacing([_WARP_MM] * 3)
    return sitk.DisplacementFieldTransform(image)


def perturbed(rng: np.random.Generator, labels: UInt8Array, spacing_mm: float) -> UInt8Array:
    """``labels`` on a base head's grid with their borders moved by 2-4 mm."""
    shape = tuple(int(np.ceil(n * spacing_mm / _WARP_MM)) + 1 for n in labels.shape)
    field = _random_field(rng, (shape[0], shape[1], shape[2]), _BOUNDARY_SCALES_MM)
    moving = sitk.GetImageFromArray(labels)
    moving.SetSpacing([spacing_mm] * 3)
    moved = sitk.Resample(moving, moving, _transform(field, [0.0] * 3), sitk.sitkNearestNeighbor, 0.0)
    return np.asarray(sitk.GetArrayFromImage(moved))


def ventricle_widening(
    ventricle_mm: Float32Array,
    intracranial_mm: Float32Array,
    origin_mm: Point,
    spacing_mm: float,
    width_mm: float,
    lean: float,
) -> sitk.Transform:
    """Maps a point of a head with wider ventricles to the base head's: walls move out, tissue with them.

    Real ventricles displace the nuclei beside them instead of taking their place; the displacement fades
    with the distance from the wall and towards the skull.

    Parameters
    ----------
    ventricle_mm, intracranial_mm: the base head's signed distances [z, y, x].
    width_mm: how far every wall moves; negative narrows.
    lean: by which share the left side moves more, the right one less.
    """
    step = max(1, round(_WIDENING_MM / spacing_mm))
    ventricle, inside = (a[::step, ::step, ::step] for a in (ventricle_mm, intracranial_mm))
    spacing = spacing_mm * step
    smooth = ndimage.gaussian_filter(ventricle, _WIDENING_SMOOTH_MM / spacing)
    reach = np.exp(-np.clip(ventricle, 0, None) / _WIDENING_REACH_MM) * np.clip(
        -inside / _WIDENING_END_MM, 0, 1
    )
    x = np.float32(origin_mm[0]) + np.arange(ventricle.shape[2], dtype=np.float32) * np.float32(spacing)
    amount = -width_mm * reach * (1 + lean * np.tanh(x / 6.0))
    along_z, along_y, along_x = np.gradient(smooth, spacing)
    normal = np.stack([along_x, along_y, along_z], axis=-1)
    field = (normal * amount[..., None]).astype(np.float64)
    image = sitk.GetImageFromArray(field, isVector=True)
    image.SetOrigin(origin_mm)
    image.SetSpacing([spacing] * 3)
    return sitk.DisplacementFieldTransform(image)


@dataclass(frozen=True, eq=False)
class Bending:
    """A warp at every voxel of an individual's grid: worked out once for all the fields that it bends.

    Attributes
    ----------
    grid: the individual's.
    displacements: from there to the base head, mm.
    step: voxels of ``grid`` from one displacement to the next.
    """

    grid: FineGrid
    displacements: sitk.Image
    step: int

    @classmethod
    def of(cls, transform: sitk.Transform, grid: FineGrid, *, smooth: bool = False) -> Bending:
        """``smooth``: the fields have no detail finer than two voxels, so that every second one is enough."""
        step = 2 if smooth else 1
        displacements = sitk.TransformToDisplacementField(
            transform,
            sitk.sitkVectorFloat64,
            [n // step + step for n in grid.shape[::-1]] if smooth else list(grid.shape[::-1]),
            grid.origin_mm,
            [grid.spacing_mm * step] * 3,
            [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        )
        return cls(grid, displacements, step)

    def bend(
        self, field: npt.NDArray[np.generic], origin_mm: Point, spacing_mm: float, outside: float
    ) -> npt.NDArray[np.generic]:
        """Sample a field of a base head on the individual's grid: floats linearly, labels nearest."""
        image = sitk.GetImageFromArray(np.ascontiguousarray(field))
        image.SetOrigin(origin_mm)
        image.SetSpacing([spacing_mm] * 3)
        moved = sitk.Warp(
            image,
            self.displacements,
            sitk.sitkNearestNeighbor if np.issubdtype(field.dtype, np.integer) else sitk.sitkLinear,
            self.displacements.GetSize(),
            self.displacements.GetOrigin(),
            self.displacements.GetSpacing(),
            self.displacements.GetDirection(),
            outside,
        )
        values = sitk.GetArrayFromImage(moved)
        return enlarged(values, self.step, self.grid.shape) if self.step > 1 else values
