"""Brain, CSF, ventricles, calcification and noise of a canonical head.

Densities are judged against this person's own brain: scanners, kernels and beam hardening shift the whole
scale by several HU. Masks are made from smoothed values, because the noise of one voxel (3-6 HU at 5 mm) is
as large as the differences that matter; thick slices blur sulci, so rims are left out of what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array
from strokecore.head.cranium import BONE_HU, depth, dilate, erode, find_cranium, largest_component
from strokecore.head.grid import Grid

Spacing = tuple[float, float, float]

# The cranium is found on a grid of about this spacing and then refined to the inner table within this reach.
_COARSE_MM: Final = 4.0
_REFINE_MM: Final = 6.0
# Half way between brain and the inner table as blurred by a slice.
_INNER_TABLE_HU: Final = 100.0
_AIR_FAT_HU: Final = -30.0
# Strands thinner than twice this that leave through a foramen are cut off.
_LEAK_MM: Final = 2.5

# CSF is darker than this share of brain; an early infarct (about 20 HU in brain of 33) is not.
_CSF_SHARE_OF_BRAIN: Final = 0.53
_CSF_HU: Final = (10.0, 17.5)
_CSF_SMOOTHING_MM: Final = 1.2
# A sulcus that a slice blurs is not that dark, but narrow: this much darker than both its banks, which are no
# further apart than this. Early infarcts are wider, and an infarcted insular ribbon is less dark.
_SULCUS_DEPTH_HU: Final = 10.0
_SULCUS_WIDTH_MM: Final = 6.0
_CSF_RIM_MM: Final = 1.0
_SKULL_RIM_MM: Final = 2.5

# Ventricles: CSF this deep inside the skull, with what hangs on to it; cisterns and fissures lie nearer.
_VENTRICLE_DEPTH_MM: Final = 32.0
_VENTRICLE_REACH_MM: Final = 22.0
_VENTRICLE_BOX_MM: Final = ((-20.0, 48.0), (-62.0, 62.0), (-45.0, 45.0))  # head z, y, x

# Calcium: above the densest clot (about 90 HU), away from the partial volume of the skull.
_CALCIUM_HU: Final = 95.0
_CALCIUM_RIM_HU: Final = 55.0
_CALCIUM_SKULL_MM: Final = 4.0

# Neighbours this far apart share little of the resampling's smoothing.
_NOISE_LAG: Final = 2
_SECOND_DIFFERENCE: Final = float(np.sqrt(6.0))
_MAD_TO_SIGMA: Final = 1.4826


@dataclass(frozen=True, eq=False)
class Brain:
    """Tissue masks, all bool [z, y, x] on the canonical grid.

    Attributes
    ----------
    intracranial: everything inside the skull (brain and CSF).
    csf: CSF-like density (sulci, cisterns, ventricles, old cavities).
    ventricles: the ventricular part of ``csf`` (connected, central).
    parenchyma: brain tissue that may be measured: intracranial without csf, calcification, haemorrhage,
        bone and their partial-volume rims.
    calcification: dense physiological or pathological calcium.
    noise_hu: robust standard deviation of parenchyma noise at the grid's resolution.
    """

    intracranial: BoolArray
    csf: BoolArray
    ventricles: BoolArray
    parenchyma: BoolArray
    calcification: BoolArray
    noise_hu: float

    def cropped(self, box: tuple[slice, slice, slice]) -> Brain:
        """The masks inside a box."""
        masks = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "noise_hu"}
        return replace(self, **{name: mask[box] for name, mask in masks.items()})


def segment_brain(hu: Float32Array, grid: Grid, covered: BoolArray) -> Brain:
    """Tissue masks of a canonical head.

    Parameters
    ----------
    hu: float32 [z, y, x] on ``grid``; -1024 outside the scan.
    covered: bool [z, y, x], inside the scan.

    Raises
    ------
    Refusal: "no_brain".
    """
    cranium = _coarse_cranium(hu, grid, covered)
    box = bounding_box(cranium, _REFINE_MM, grid.spacing_mm)
    intracranial = np.zeros(grid.shape, np.bool_)
    intracranial[box] = _intracranial(hu[box], cranium[box], covered[box], grid.spacing_mm)
    return segment_tissue(hu, intracranial, grid)


def segment_tissue(hu: Float32Array, intracranial: BoolArray, grid: Grid) -> Brain:
    """Tissue masks inside a skull that is known already; arrays as in ``segment_brain``."""
    box = bounding_box(intracranial, _REFINE_MM, grid.spacing_mm)
    return _uncropped(_tissue(hu[box], intracranial[box], cropped(grid, box)), box, grid.shape)


def without_haemorrhage(brain: Brain, blood: BoolArray, grid: Grid) -> Brain:
    """``brain`` whose parenchyma leaves out blood (bool [z, y, x]) and its rim."""
    return replace(
        brain, parenchyma=brain.parenchyma & ~_in_plane_dilation(blood, _CSF_RIM_MM, grid.spacing_mm)
    )


def _tissue(hu: Float32Array, intracranial: BoolArray, grid: Grid) -> Brain:
    depth_mm = depth(intracranial, grid.spacing_mm)
    level = brain_level(hu, depth_mm)
    smooth = smoothed(hu, intracranial, _CSF_SMOOTHING_MM, grid.spacing_mm)
    csf_below = float(np.clip(level * _CSF_SHARE_OF_BRAIN, *_CSF_HU))
    csf = intracranial & ((smooth < csf_below) | _sulci(smooth, intracranial, level, grid.spacing_mm))
    calcification = _calcification(hu, depth_mm)
    rim = _in_plane_dilation(csf | calcification, _CSF_RIM_MM, grid.spacing_mm)
    parenchyma = (depth_mm > _SKULL_RIM_MM) & ~rim
    return Brain(
        intracranial=intracranial,
        csf=csf,
        ventricles=_ventricles(csf, depth_mm, grid),
        parenchyma=parenchyma,
        calcification=calcification,
        noise_hu=_noise(hu, parenchyma),
    )


def _coarse_cranium(hu: Float32Array, grid: Grid, covered: BoolArray) -> BoolArray:
    """``find_cranium`` on block means, brought back onto the grid by repetition."""
    nz, ny, nx = (max(1, round(_COARSE_MM / step)) for step in grid.spacing_mm)
    pad = [(0, -size % n) for size, n in zip(grid.shape, (nz, ny, nx), strict=True)]
    blocks = np.pad(hu, pad, mode="edge")
    z, y, x = (size // n for size, n in zip(blocks.shape, (nz, ny, nx), strict=True))
    means = blocks.reshape(z, nz, y, ny, x, nx).mean(axis=(1, 3, 5), dtype=np.float32)
    seen = np.pad(covered, pad, mode="edge")[::nz, ::ny, ::nx]
    dz, dy, dx = grid.spacing_mm
    coarse = find_cranium(means, (dz * nz, dy * ny, dx * nx), seen)
    fine = coarse.repeat(nz, axis=0).repeat(ny, axis=1).repeat(nx, axis=2)
    return np.asarray(fine[: grid.shape[0], : grid.shape[1], : grid.shape[2]])


def _intracranial(hu: Float32Array, cranium: BoolArray, covered: BoolArray, spacing_mm: Spacing) -> BoolArray:
    """The cranium refined to the inner table, without strands that leave through the base.

    Distances are measured on every second pixel: it costs a quarter, and a millimetre does not matter.
    """
    half_mm = (spacing_mm[0], 2 * spacing_mm[1], 2 * spacing_mm[2])
    coarse = halved(cranium)
    near = _doubled(dilate(coarse, _REFINE_MM / 2, half_mm), hu.shape)
    soft = near & covered & (hu < _INNER_TABLE_HU) & (hu > _AIR_FAT_HU)
    body = largest_component(erode(halved(soft), _LEAK_MM, half_mm))
    body = _doubled(dilate(body, _LEAK_MM + 1.5, half_mm), hu.shape) & soft
    # calcium and dense clot are inside; the skull's own component is not
    skull = largest_component(hu > BONE_HU)
    deep = _doubled(erode(coarse, _REFINE_MM, half_mm), hu.shape) & cranium & ~skull
    return np.asarray(ndimage.binary_fill_holes(largest_component(body | deep)))


def halved(mask: BoolArray) -> BoolArray:
    """Blocks of 2 x 2 pixels of each slice that are at least half inside."""
    pad = [(0, 0), (0, mask.shape[1] % 2), (0, mask.shape[2] % 2)]
    full = np.pad(mask, pad, mode="edge").astype(np.int8)
    return np.asarray(full[:, ::2, ::2] + full[:, 1::2, ::2] + full[:, ::2, 1::2] + full[:, 1::2, 1::2] >= 2)


def _doubled(mask: BoolArray, shape: tuple[int, ...]) -> BoolArray:
    return np.asarray(mask.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[1], : shape[2]])


def brain_level(hu: Float32Array, depth_mm: Float32Array) -> float:
    """The density of this person's brain: the peak of the histogram inside the skull, HU."""
    counts, edges = np.histogram(hu[depth_mm > _REFINE_MM], bins=160, range=(10.0, 50.0))
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(np.float64), 8.0)))
    return float(edges[peak] + edges[peak + 1]) / 2


def smoothed(hu: Float32Array, mask: BoolArray, sigma_mm: float, spacing_mm: Spacing) -> Float32Array:
    """Gaussian mean over the mask only, so that bone does not leak into the brain's rim."""
    sigma = [sigma_mm / step for step in spacing_mm]
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    value = ndimage.gaussian_filter(np.where(mask, hu, 0.0).astype(np.float32), sigma)
    return np.asarray(value / np.maximum(weight, 1e-3), dtype=np.float32)


def _sulci(smooth: Float32Array, intracranial: BoolArray, level: float, spacing_mm: Spacing) -> BoolArray:
    """Narrow dark valleys of the slice: what a morphological closing would fill."""
    tissue = np.where(intracranial, np.minimum(smooth, level), level).astype(np.float32)
    size = tuple(1 if axis == 0 else round(_SULCUS_WIDTH_MM / spacing_mm[axis]) | 1 for axis in range(3))
    closed = ndimage.minimum_filter(ndimage.maximum_filter(tissue, size), size)
    return np.asarray(closed - tissue > _SULCUS_DEPTH_HU)


def _ventricles(csf: BoolArray, depth_mm: Float32Array, grid: Grid) -> BoolArray:
    inside = np.ones((1, 1, 1), np.bool_)
    for axis, (values, (low, high)) in enumerate(zip(grid.axes_mm, _VENTRICLE_BOX_MM, strict=True)):
        within = (values >= low) & (values <= high)
        inside = inside & within.reshape([-1 if a == axis else 1 for a in range(3)])
    room = csf & (depth_mm > _VENTRICLE_REACH_MM) & inside
    labels, _ = ndimage.label(room)
    deep = np.unique(labels[room & (depth_mm > _VENTRICLE_DEPTH_MM)])
    return np.asarray(np.isin(labels, deep[deep > 0]))


def _calcification(hu: Float32Array, depth_mm: Float32Array) -> BoolArray:
    deep = depth_mm > _CALCIUM_SKULL_MM
    core = deep & (hu > _CALCIUM_HU)
    return np.asarray(ndimage.binary_dilation(core, iterations=2, mask=deep & (hu > _CALCIUM_RIM_HU)) | core)


def _in_plane_dilation(mask: BoolArray, radius_mm: float, spacing_mm: Spacing) -> BoolArray:
    """Thick slices blur most within their own plane's neighbours; 4-neighbour steps along y and x."""
    cross = np.zeros((1, 3, 3), np.bool_)
    cross[0, 1, :] = cross[0, :, 1] = True
    steps = max(1, round(radius_mm / spacing_mm[1]))
    return np.asarray(ndimage.binary_dilation(mask, cross, iterations=steps))


def _noise(hu: Float32Array, parenchyma: BoolArray) -> float:
    """Robust standard deviation from second differences along x, which cancel slow changes of density."""
    a, b, c = (slice(0, -2 * _NOISE_LAG), slice(_NOISE_LAG, -_NOISE_LAG), slice(2 * _NOISE_LAG, None))
    within = parenchyma[..., a] & parenchyma[..., b] & parenchyma[..., c]
    if not within.any():
        return 0.0
    second = (hu[..., a] - 2 * hu[..., b] + hu[..., c])[within]
    return float(np.median(np.abs(second - np.median(second)))) * _MAD_TO_SIGMA / _SECOND_DIFFERENCE


def bounding_box(mask: BoolArray, margin_mm: float, spacing_mm: Spacing) -> tuple[slice, slice, slice]:
    z, y, x = (
        slice(max(0, found.start - reach), found.stop + reach)
        for found, reach in zip(
            ndimage.find_objects(mask.astype(np.int8))[0],
            (int(np.ceil(margin_mm / step)) for step in spacing_mm),
            strict=True,
        )
    )
    return z, y, x


def cropped(grid: Grid, box: tuple[slice, slice, slice]) -> Grid:
    stops = [min(s.stop, n) for s, n in zip(box, grid.shape, strict=True)]
    shape = (stops[0] - box[0].start, stops[1] - box[1].start, stops[2] - box[2].start)
    z, y, x = (float(axis[s.start]) for axis, s in zip(grid.axes_mm, box, strict=True))
    return replace(grid, shape=shape, origin_mm=(x, y, z))


def _uncropped(brain: Brain, box: tuple[slice, slice, slice], shape: tuple[int, int, int]) -> Brain:
    whole: dict[str, BoolArray] = {}
    for field in fields(brain):
        value = getattr(brain, field.name)
        if isinstance(value, np.ndarray):
            whole[field.name] = np.zeros(shape, np.bool_)
            whole[field.name][box] = value
    return replace(brain, **whole)  # type: ignore[arg-type]
