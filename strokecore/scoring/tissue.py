"""What every engine measures alike: the tissue that may be measured, and how dense each region is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.arrays import Bool3D, Float3D, Float32Array, Float64Array, UInt8Array
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid
from strokecore.scoring.old_infarct import OLD_RIM_MM, find_old_infarct, widened

# Fewer measurable voxels than this leave a region unjudged.
MIN_VOXELS: Final = 150
# Grey matter lies about 4 HU above the person's level; what is this far above it, after a smoothing that
# takes the noise away, is faint calcium, a vessel or blood, and no reference for the other side.
BRIGHT_HU: Final = 12.0
_BRIGHT_SMOOTHING_MM: Final = 1.5
# A mirror region that keeps less than this share of what the region itself keeps is mostly blood, calcium or
# old infarct; its rim is no reference.
MIN_MIRROR_SHARE: Final = 0.5
# With more of its tissue at the border of an old cavity, early change cannot be told from gliosis.
MAX_NEAR_OLD_SHARE: Final = 0.2
# Where a region's distribution of densities is read: its bright part is grey matter, its dark part white
# matter and the partial volume of sulci.
QUANTILES: Final = (0.8, 0.5, 0.2)
# Smoothed densities are trusted where tissue fills at least this share of the kernel.
MIN_SUPPORT: Final = 0.25
# Blocks whose sides are compared to see how much this head's sides differ by chance.
_BLOCK_MM: Final = 12.0
_LEAST_BLOCK_SHARE: Final = 0.5
_LEAST_PAIRS: Final = 60
_SD_PER_MAD: Final = 1.4826
# A cavity or a calcification in one block must not count as much as it is dense.
_MOST_DIFFERENCE_HU: Final = 15.0
# Dropped from both ends of a region's densities before the mean that is reported.
_TRIM: Final = 0.1


@dataclass(frozen=True, eq=False)
class Tissue:
    """One head's tissue, all [z, y, x].

    Attributes
    ----------
    old: bool, old cavities.
    near_old: bool, the cavities and their rim, where nothing is judged.
    usable: bool, measurable: brain inside the scan, away from old cavities, not as bright as calcium.
    flat: float32, HU without the person's slow density field.
    levels_hu: this person's brain: QUANTILES of the flat density of all regions of one side, of the
        brighter side each, because an infarct must not pull its own reference down.
    scatter_hu: how much blocks of a centimetre differ between the sides by chance, standard deviation; None
        where too little of both sides can be compared.
    """

    old: Bool3D
    near_old: Bool3D
    usable: Bool3D
    flat: Float3D
    levels_hu: tuple[float, ...]
    scatter_hu: float | None

    @property
    def level_hu(self) -> float:
        """The median among ``levels_hu``."""
        return self.levels_hu[QUANTILES.index(0.5)]

    @classmethod
    def of(cls, head: Head) -> Tissue:
        old = find_old_infarct(head)
        # gliosis and partial volume around a cavity are as old as the cavity
        near_old = widened(old, OLD_RIM_MM, head.grid)
        usable = head.brain.parenchyma & head.covered & ~near_old
        flat = head.flat
        levels = _levels(head, flat, usable)
        smooth, _ = smooth_within(flat, usable, _BRIGHT_SMOOTHING_MM, head.grid.spacing_mm)
        usable &= smooth < levels[QUANTILES.index(0.5)] + BRIGHT_HU
        return cls(old, near_old, usable, flat, levels, _side_scatter_hu(flat, usable, head.grid))

    def bordering_on_old(self, head: Head) -> tuple[RegionId, ...]:
        """The regions with too much tissue at the border of an old cavity to be judged."""
        brain = head.brain.parenchyma
        whole = np.bincount(head.regions[brain], minlength=256)
        near = np.bincount(head.regions[brain & self.near_old], minlength=256)
        return tuple(
            region
            for region in ALL_REGIONS
            if near[region.label] > MAX_NEAR_OLD_SHARE * max(1, whole[region.label])
        )


@dataclass(frozen=True)
class Measured:
    """One region's measurable tissue.

    Attributes
    ----------
    voxels: how many could be measured.
    mean_hu: trimmed mean of the density as scanned.
    flat_hu: the same without the person's slow density field: what two sides are compared by.
    """

    voxels: int
    mean_hu: float
    flat_hu: float

    def has_mirror(self, other: Measured) -> bool:
        """Whether ``other``, the region across the mid-sagittal plane, can serve as its reference."""
        return other.voxels >= max(MIN_VOXELS, MIN_MIRROR_SHARE * self.voxels)


def measure_regions(head: Head, tissue: Tissue) -> dict[RegionId, Measured]:
    """All 20 regions; everything is 0 where no voxel is usable."""
    densities = by_region(head.regions, tissue.usable, head.hu, tissue.flat)
    return {
        region: Measured(flat.size, trimmed_mean(hu), trimmed_mean(flat))
        for region, (hu, flat) in densities.items()
    }


def by_region(
    regions: UInt8Array, usable: Bool3D, *volumes: Float3D
) -> dict[RegionId, tuple[Float32Array, ...]]:
    """The values of every volume in each region's usable voxels; arrays [z, y, x], values [n]."""
    inside = np.flatnonzero(usable & (regions > 0))
    labels = regions.ravel()[inside]
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(len(ALL_REGIONS) + 2))
    found = {}
    for region in ALL_REGIONS:
        mine = inside[order[ends[region.label] : ends[region.label + 1]]]
        found[region] = tuple(volume.ravel()[mine] for volume in volumes)
    return found


def trimmed_mean(values: Float32Array) -> float:
    """Mean without the darkest and the brightest tenth; 0 of nothing."""
    if values.size == 0:
        return 0.0
    ordered = np.sort(values)
    cut = int(_TRIM * values.size)
    return float(ordered[cut : values.size - cut].mean(dtype=np.float64))


def smooth_within(
    values: Float3D, mask: Bool3D, sigma_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[Float3D, Float3D]:
    """Gaussian mean of ``values`` over ``mask`` only, and the share of the kernel that the mask fills."""
    sigma = [sigma_mm / mm for mm in spacing_mm]
    support = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(mask, values, 0.0).astype(np.float32), sigma, truncate=3.0)
    return np.where(support > 1e-3, total / np.maximum(support, 1e-3), 0.0).astype(np.float32), support


def _levels(head: Head, flat: Float3D, usable: Bool3D) -> tuple[float, ...]:
    inside = usable & (head.regions > 0)
    halves = [flat[half][inside[half]] for half in map(head.grid.side_columns, SIDES)]
    sides = [quantiles(half) for half in halves if half.size]
    return tuple(max(values) for values in zip(*sides, strict=True)) if sides else (0.0,) * len(QUANTILES)


def quantiles(values: Float32Array) -> tuple[float, ...]:
    """QUANTILES of the densities [n]."""
    return tuple(float(value) for value in np.quantile(values, QUANTILES))


def _side_scatter_hu(flat: Float3D, usable: Bool3D, grid: Grid) -> float | None:
    """``Tissue.scatter_hu``; arrays [z, y, x] on a symmetric grid.

    Neighbouring blocks are compared, so that an infarct counts at its border only, and the median is taken.
    """
    both = usable & usable[:, :, ::-1]
    difference = np.clip(flat - flat[:, :, ::-1], -_MOST_DIFFERENCE_HU, _MOST_DIFFERENCE_HU)
    left = grid.side_columns("left")
    voxels = _blocks(both[left].astype(np.float32), grid)
    sums = _blocks(np.where(both, difference, np.float32(0))[left], grid)
    full = np.prod([_block_voxels(step) for step in grid.spacing_mm])
    means = np.where(voxels > _LEAST_BLOCK_SHARE * full, sums / np.maximum(voxels, 1.0), np.nan)
    steps = np.concatenate([np.diff(means, axis=axis).ravel() for axis in range(3)])
    steps = steps[~np.isnan(steps)]
    if steps.size < _LEAST_PAIRS:
        return None
    return float(np.median(np.abs(steps))) * _SD_PER_MAD / float(np.sqrt(2.0))


def _block_voxels(step_mm: float) -> int:
    return max(1, round(_BLOCK_MM / step_mm))


def _blocks(values: Float3D, grid: Grid) -> Float64Array:
    """Sums over blocks of _BLOCK_MM; the last blocks may be smaller."""
    sums = values.astype(np.float64)
    for axis, (size, step_mm) in enumerate(zip(values.shape, grid.spacing_mm, strict=True)):
        sums = np.add.reduceat(sums, np.arange(0, size, _block_voxels(step_mm)), axis=axis)
    return sums
