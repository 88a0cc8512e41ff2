"""What every engine measures alike: the tissue that may be measured, and how dense each region is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import Bool3D, Float3D, Float32Array
from strokecore.head.canonical import Head
from strokecore.scoring.old_infarct import OLD_RIM_MM, find_old_infarct, widened
from strokecore.scoring.tissue_curve import tissue_curve

# Fewer measurable voxels than this leave a region unjudged.
MIN_VOXELS: Final = 150
# Tissue this far below the person's curve is CSF-like: neither normal nor early change; HU.
OLD_RESIDUAL_HU: Final = 21.0
# Dropped from a region's residuals before the mean. More at the dark end: sulci and ventricles that the
# masks missed darken a part of the region, an infarct nearly all of it.
TRIM_DARK: Final = 0.25
TRIM_BRIGHT: Final = 0.05
# A mirror region that keeps less than this share of what the region itself keeps is mostly blood, calcium or
# old infarct; its rim is no reference.
MIN_MIRROR_SHARE: Final = 0.5
# With more of its tissue at the border of an old cavity, early change cannot be told from gliosis.
MAX_NEAR_OLD_SHARE: Final = 0.2
# Two voxels closer than this share noise (the reconstruction kernel and the resampling); mm.
NOISE_CORRELATION_MM: Final = 2.0


@dataclass(frozen=True, eq=False)
class Tissue:
    """One head's tissue, all [z, y, x].

    Attributes
    ----------
    old: bool, old cavities.
    near_old: bool, the cavities and their rim, where nothing is judged.
    residual: float32, HU minus the person's own curve; NaN where that is unknown.
    usable: bool, measurable: brain inside the scan, away from old cavities and not CSF-like.
    """

    old: Bool3D
    near_old: Bool3D
    residual: Float3D
    usable: Bool3D

    @classmethod
    def of(cls, head: Head, old_residual_hu: float = OLD_RESIDUAL_HU) -> Tissue:
        """``old_residual_hu``: tissue this far below the curve is not measured."""
        old = find_old_infarct(head)
        # gliosis and partial volume around a cavity are as old as the cavity
        near_old = widened(old, OLD_RIM_MM, head.grid)
        usable = head.brain.parenchyma & head.covered & ~near_old
        residual = head.hu - tissue_curve(head, usable)
        usable &= residual > -old_residual_hu
        return cls(old, near_old, residual, usable)

    def bordering_on_old(self, head: Head) -> tuple[RegionId, ...]:
        """The regions with too much tissue at the border of an old cavity to be judged."""
        brain = head.brain.parenchyma
        return tuple(
            region
            for region in ALL_REGIONS
            if _share(self.near_old & brain, brain, head.regions == region.label) > MAX_NEAR_OLD_SHARE
        )


@dataclass(frozen=True)
class Measured:
    """One region's measurable tissue: how dark it is below the person's curve, and how sure that is.

    Attributes
    ----------
    voxels: how many could be measured.
    mean_hu: trimmed mean density.
    dark_hu: trimmed mean of how far they lie below the curve.
    error_hu: standard error of the means.
    """

    voxels: int
    mean_hu: float
    dark_hu: float
    error_hu: float

    @classmethod
    def of(cls, head: Head, tissue: Tissue, region: RegionId) -> Measured:
        """Measure one region; everything is 0 where no voxel is usable."""
        mask = (head.regions == region.label) & tissue.usable
        voxels = int(mask.sum())
        if voxels == 0:
            return cls(0, 0.0, 0.0, 0.0)
        return cls(
            voxels,
            mean_hu=_trimmed_mean(head.hu[mask]),
            dark_hu=-_trimmed_mean(tissue.residual[mask]),
            error_hu=_standard_error(head, voxels),
        )

    def has_mirror(self, other: Measured, min_voxels: int = MIN_VOXELS) -> bool:
        """Whether ``other``, the region across the mid-sagittal plane, can serve as its reference."""
        return other.voxels >= max(min_voxels, MIN_MIRROR_SHARE * self.voxels)


def measure_regions(head: Head, tissue: Tissue) -> dict[RegionId, Measured]:
    """All 20 regions."""
    return {region: Measured.of(head, tissue, region) for region in ALL_REGIONS}


def _share(part: Bool3D, whole: Bool3D, region: Bool3D) -> float:
    """How much of ``whole`` inside a region belongs to ``part``."""
    return float((part & region).sum() / max(1, (whole & region).sum()))


def _trimmed_mean(values: Float32Array) -> float:
    ordered = np.sort(values)
    kept = ordered[int(TRIM_DARK * values.size) : values.size - int(TRIM_BRIGHT * values.size)]
    return float(kept.mean(dtype=np.float64))


def _standard_error(head: Head, voxels: int) -> float:
    voxel_mm3 = head.grid.voxel_ml * 1000.0
    shared_mm3 = NOISE_CORRELATION_MM**2 * max(head.slice_thickness_mm, NOISE_CORRELATION_MM)
    independent = max(1.0, voxels * voxel_mm3 / max(shared_mm3, voxel_mm3))
    return head.brain.noise_hu / float(np.sqrt(independent))
