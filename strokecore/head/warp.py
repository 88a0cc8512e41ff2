"""A smooth person-specific refinement of the affine registration.

An affine map cannot follow wide ventricles, a sheared brain or the nuclei of one person. Here every point of
the head gets the shift that best explains the density around it (local Gauss-Newton steps as in Lucas and
Kanade, IJCAI 1981), from windows of centimetres to windows of millimetres. Because forces and their curvature
are averaged over the window separately, a ventricle's wall moves the homogeneous tissue beside it as far as
itself, which demons (smoothed point forces) do not. Plain array operations in one fixed order: the same
input gives the same bits on any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array, Float64Array
from strokecore.head.alignment import Image, sample
from strokecore.head.grid import Grid
from strokecore.head.image import brain_image, clearly_seen, template_image

if TYPE_CHECKING:
    from strokecore.anatomy.atlas import Atlas

Field = tuple[Float32Array, Float32Array, Float32Array]
Box = tuple[slice, slice, slice]

# Larger displacements than this along an axis are not anatomy that the affine map missed; ventricles that
# are three times as wide as the template's move the caudate by 8-12 mm.
LARGEST_MM: Final = 16.0
# Between CSF and deep grey matter, relative to brain: neither bone nor blood may push.
_WINDOW_HU: Final = (-30.0, 14.0)
# Differences above this pull linearly only.
_HUBER_HU: Final = 8.0
# Tissue, where head and template must agree on the mean: an atrophic head's median lies lower.
_TISSUE_HU: Final = -10.0
# What one side's tissue lacks against the other's over more than this, mm, is given back before anything is
# compared: an infarct would pull the nuclei out of itself (8 HU in the lentiform nucleus: by 11 mm). The
# factor makes up for what the smoothing takes off a lesion of two centimetres.
_LACK_MM: Final = 6.0
_LACK_FACTOR: Final = 1.5
_MOST_LACK_HU: Final = 12.0
_LEAST_TISSUE: Final = 0.05
# Curvature (HU/mm)^2 at which evidence counts half: a window that holds less stays where its neighbours are.
_DAMPING: Final = 0.5
# One step moves no point further than this, mm; the linear model holds over the smoothed edges only.
_LONGEST_STEP_MM: Final = 4.0
# After every step the field is smoothed by this, mm.
_FIELD_SMOOTHING_MM: Final = 2.0
# Weight of a window that was not scanned.
_LEAST_SUPPORT: Final = 1e-3
# The finest level: ventricles, deep nuclei, capsule and insula, head coordinates z, y and x in mm. Towards
# the border of this box its field fades into the coarser one.
_CENTRAL_MM: Final = ((-34.0, 40.0), (-64.0, 60.0), (-52.0, 52.0))
_FADE_MM: Final = 10.0
# Gaussian windows are cut here (standard deviations).
_TRUNCATE: Final = 2.5


@dataclass(frozen=True)
class _Level:
    """One resolution: grid and smoothing of both images, window of a step (all mm), number of steps.

    symmetric: both sides of the head take the mean of their steps. Ventricles are wide on both sides alike;
    where one side alone finds its way, the other's frontal horn ends up in the middle of the brain.
    """

    spacing_mm: float
    smoothing_mm: float
    window_mm: float
    steps: int
    symmetric: bool = False


_WHOLE: Final = (_Level(4.0, 4.0, 14.0, 12, symmetric=True), _Level(3.0, 2.5, 9.0, 8))
_CENTRE: Final = _Level(2.0, 1.0, 4.0, 8)


@dataclass(frozen=True, eq=False)
class Warp:
    """Displacement field on a regular grid in head coordinates.

    Attributes
    ----------
    displacement_mm: three float32 [z, y, x], along x, y and z. A head point p shows what the affinely
        registered template has at p + displacement(p). spacing_mm: (z, y, x). origin_mm: (x, y, z).
    """

    displacement_mm: Field
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def moved(self, points: Float64Array) -> Float64Array:
        """Points [n, 3] in head coordinates plus their displacement."""
        place = Image(self.displacement_mm[0], self.spacing_mm, self.origin_mm)
        indices = place.indices(points)
        return np.asarray(points + np.stack([sample(part, indices) for part in self.displacement_mm], axis=1))


def fit_warp(
    hu: Float32Array,
    intracranial: BoolArray,
    grid: Grid,
    covered: BoolArray,
    atlas: Atlas,
    head_from_template: Float64Array,
) -> Warp:
    """Fit the residual deformation between the affinely registered template and this head.

    Parameters
    ----------
    hu, intracranial, covered: [z, y, x] on ``grid``. head_from_template: [4, 4], affine.
    """
    warp: Warp | None = None
    for level in (*_WHOLE, _CENTRE):
        pair = _pair(hu, intracranial, grid, covered, atlas, head_from_template, level)
        field = _field(warp, pair.place)
        box = _central(pair.place) if level is _CENTRE else _everything(pair.place)
        fitted = _fitted(pair, field, box, level)
        fade = _fade(fitted[0].shape, pair.place.spacing_mm) if level is _CENTRE else np.float32(1.0)
        for part, new in zip(field, fitted, strict=True):
            part[box] += fade * (np.clip(new, -LARGEST_MM, LARGEST_MM) - part[box])
        warp = Warp(field, pair.place.spacing_mm, pair.place.origin_mm)
    assert warp is not None
    return warp


@dataclass(frozen=True, eq=False)
class _Pair:
    """Head and affinely moved template on one grid, HU relative to brain; seen: 0 or 1. All [z, y, x]."""

    head: Float32Array
    template: Float32Array
    seen: Float32Array
    place: Image


def _pair(
    hu: Float32Array,
    intracranial: BoolArray,
    grid: Grid,
    covered: BoolArray,
    atlas: Atlas,
    head_from_template: Float64Array,
    level: _Level,
) -> _Pair:
    place = brain_image(
        hu, intracranial, grid.spacing_mm, grid.origin_mm, level.smoothing_mm, level.spacing_mm
    )
    seen = clearly_seen(covered, grid.spacing_mm, level.smoothing_mm, level.spacing_mm)
    scale = float(np.cbrt(abs(np.linalg.det(head_from_template[:3, :3]))))
    template, _ = template_image(atlas, atlas.spacing_mm[0], round(level.smoothing_mm / scale, 1))
    back = np.linalg.inv(head_from_template)
    there = place.points(np.ones(place.values.shape, np.bool_)) @ back[:3, :3].T + back[:3, 3]
    expected = sample(template.values, template.indices(there)).reshape(place.values.shape)
    scanned = seen > 0.5
    tissue = scanned & (place.values > _TISSUE_HU) & (expected > _TISSUE_HU)
    offset = float(np.median((place.values - expected)[tissue])) if tissue.any() else 0.0
    head = np.clip(place.values - np.float32(offset), *_WINDOW_HU)
    return _Pair(_filled_in(head, seen, place), np.clip(expected, *_WINDOW_HU), seen, place)


def _filled_in(head: Float32Array, seen: Float32Array, place: Image) -> Float32Array:
    """``head`` with its tissue as bright, over _LACK_MM, as that of the other side; all [z, y, x]."""
    across = _mirrored_indices(place)
    other, other_seen = (sample(values, across).reshape(head.shape) for values in (head, seen))
    tissue = (np.minimum(head, other) > _TISSUE_HU) & (np.maximum(head, other) < _WINDOW_HU[1])
    weight = np.where(tissue & (other_seen > 0.5), seen, np.float32(0))
    sigma = [_LACK_MM / step for step in place.spacing_mm]

    def smooth(values: Float32Array) -> Float32Array:
        return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=_TRUNCATE))

    lack = smooth(weight * (other - head)) / (smooth(weight) + np.float32(_LEAST_TISSUE))
    return np.asarray(head + weight * np.clip(np.float32(_LACK_FACTOR) * lack, 0, _MOST_LACK_HU))


def _field(warp: Warp | None, place: Image) -> Field:
    """The displacement so far on another grid; zero to begin with."""
    shape = place.values.shape
    if warp is None:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    source = Image(warp.displacement_mm[0], warp.spacing_mm, warp.origin_mm)
    indices = source.indices(place.points(np.ones(shape, np.bool_)))
    x, y, z = (sample(part, indices).reshape(shape) for part in warp.displacement_mm)
    return x, y, z


def _everything(place: Image) -> Box:
    z, y, x = (slice(0, size) for size in place.values.shape)
    return z, y, x


def _central(place: Image) -> Box:
    z, y, x = (
        slice(max(0, round((low - start) / step)), round((high - start) / step) + 1)
        for (low, high), start, step in zip(_CENTRAL_MM, place.origin_mm[::-1], place.spacing_mm, strict=True)
    )
    return z, y, x


def _fade(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> Float32Array:
    """1 inside, falling to 0 at the border of a box."""
    fade = np.ones(shape, np.float32)
    for axis, (size, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        inwards = np.minimum(np.arange(size), np.arange(size)[::-1]) * step
        fade *= np.clip(inwards / _FADE_MM, 0, 1).reshape([-1 if a == axis else 1 for a in range(3)])
    return fade


def _fitted(pair: _Pair, field: Field, box: Box, level: _Level) -> list[Float32Array]:
    """The displacement in ``box`` after a level's steps, along x, y and z."""
    spacing_mm = pair.place.spacing_mm
    head, template, seen = (v[box] for v in (pair.head, pair.template, pair.seen))
    moved = [part[box].copy() for part in field]
    window = [level.window_mm / step for step in spacing_mm]
    smoothing = [_FIELD_SMOOTHING_MM / step for step in spacing_mm]
    here = np.indices(head.shape, np.float64)
    across = _mirrored_indices(pair.place) if level.symmetric else None
    head_slope = _slope(head, spacing_mm)
    for _ in range(level.steps):
        indices = np.stack(
            [at + part / step for at, part, step in zip(here, moved[::-1], spacing_mm, strict=True)]
        )
        expected = sample(template, indices)
        difference = head - expected
        weight = seen * np.minimum(1.0, _HUBER_HU / np.maximum(np.abs(difference), 1e-6)).astype(np.float32)
        slope = [
            np.float32(0.5) * (a + b) for a, b in zip(head_slope, _slope(expected, spacing_mm), strict=True)
        ]
        steps = _step(slope, difference, weight, window)
        if across is not None:
            steps = _symmetric(steps, across)
        for part, step in zip(moved, steps, strict=True):
            part += np.clip(step, -_LONGEST_STEP_MM, _LONGEST_STEP_MM)
            ndimage.gaussian_filter(part, smoothing, output=part, mode="nearest", truncate=_TRUNCATE)
    return moved


def _mirrored_indices(place: Image) -> Float64Array:
    """Fractional indices [3, n] of every voxel's mirror image across the mid-sagittal plane."""
    points = place.points(np.ones(place.values.shape, np.bool_))
    points[:, 0] *= -1.0
    return place.indices(points)


def _symmetric(steps: list[Float32Array], across: Float64Array) -> list[Float32Array]:
    """Steps along x, y and z averaged with those of the mirror image, whose x points the other way."""
    signs = (np.float32(-0.5), np.float32(0.5), np.float32(0.5))
    return [
        np.float32(0.5) * step + sign * sample(step, across).reshape(step.shape)
        for step, sign in zip(steps, signs, strict=True)
    ]


def _slope(values: Float32Array, spacing_mm: tuple[float, float, float]) -> list[Float32Array]:
    """Derivatives per mm along x, y and z."""
    return Image(values, spacing_mm, (0.0, 0.0, 0.0)).gradient()


def _step(
    slope: list[Float32Array], difference: Float32Array, weight: Float32Array, window: list[float]
) -> list[Float32Array]:
    """The shift that best explains ``difference`` by ``slope`` in the window around each voxel; x, y, z."""

    def windowed(values: Float32Array) -> Float32Array:
        return np.asarray(ndimage.gaussian_filter(values, window, mode="nearest", truncate=_TRUNCATE))

    support = windowed(weight) + np.float32(_LEAST_SUPPORT)
    weighted = [weight * part for part in slope]
    right = [windowed(part * difference) / support for part in weighted]
    xx, xy, xz, yy, yz, zz = (
        windowed(weighted[i] * slope[j]) / support for i in range(3) for j in range(i, 3)
    )
    xx, yy, zz = (part + np.float32(_DAMPING) for part in (xx, yy, zz))
    return _solved((xx, xy, xz, yy, yz, zz), right)


def _solved(symmetric: tuple[Float32Array, ...], right: list[Float32Array]) -> list[Float32Array]:
    """Solve a symmetric positive 3 x 3 system per voxel by its cofactors."""
    xx, xy, xz, yy, yz, zz = symmetric
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    determinant = xx * a + xy * b + xz * c
    rows = ((a, b, c), (b, d, e), (c, e, f))
    x, y, z = right
    return [(p * x + q * y + r * z) / determinant for p, q, r in rows]
