"""What speaks for early ischaemic change in a region: three measurements, each a part of its distribution.

Both hemispheres of one head share scanner, beam hardening and age, so the mirror region across the
mid-sagittal plane is the natural reference (2.0 HU between the sides of a region agreed best with the final
infarct in Mokin et al., Stroke 2017;48:1574). It is blind where the partner is ill too, and one mean hides an
infarct that takes a third of a region. Hence three measurements, in HU of the flattened density:

- *difference*: what is typical of the region minus what is typical of its mirror;
- *local*: how much darker than its mirror the darker part of the region is, whatever the rest does;
- *level*: what is typical of the region minus this person's brain, less what that region normally differs by.

None of them vetoes another: they are added as log-odds (decision.py) in units of how far they scatter in
people without infarct.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.anatomy.regions import RegionId
from strokecore.arrays import Bool3D, Float3D, UInt8Array
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid
from strokecore.scoring.tissue import (
    MIN_MIRROR_SHARE,
    MIN_SUPPORT,
    MIN_VOXELS,
    Tissue,
    by_region,
    smooth_within,
)

# Voxels are compared with their mirror after this smoothing: less noise than the 2 HU that matter, and no
# wider than the smallest regions.
LOCAL_SMOOTHING_MM: Final = 3.0
# Share of a region that its darker part is: infarcts take 30 % of a region and more.
DARKER_PART: Final = 0.2
# The fewest voxels with a mirror that a darker part can be told from.
_MIN_PAIRS: Final = 80
# Two voxels closer than this share noise (the reconstruction kernel and the resampling); mm.
_NOISE_CORRELATION_MM: Final = 2.0
# How far borders are moved when it is asked whether a call depends on them.
BORDER_SHIFT_MM: Final = 3.0


@dataclass(frozen=True)
class Evidence:
    """The measurements of one region, HU; negative is darker. ``None``: the mirror cannot be compared.

    Attributes
    ----------
    difference_hu, local_hu, level_hu: see the module's docstring; ``level_hu`` without the normal offset.
    error_hu: standard error of a region's mean by image noise.
    """

    difference_hu: float | None
    local_hu: float | None
    level_hu: float
    error_hu: float


@dataclass(frozen=True, eq=False)
class MirrorMap:
    """Smoothed density of a head and how it differs from its mirror image; all [z, y, x].

    Attributes
    ----------
    smooth: float32, HU, flattened and smoothed within the usable tissue.
    support: float32 0-1, share of the kernel that usable tissue fills.
    difference: float32, HU, this side minus the other; 0 where ``compared`` is false.
    compared: bool, usable and supported on both sides.
    """

    smooth: Float3D
    support: Float3D
    difference: Float3D
    compared: Bool3D

    @classmethod
    def of(cls, tissue: Tissue, grid: Grid, smoothing_mm: float = LOCAL_SMOOTHING_MM) -> MirrorMap:
        smooth, support = smooth_within(tissue.flat, tissue.usable, smoothing_mm, grid.spacing_mm)
        known = tissue.usable & (support > MIN_SUPPORT)
        compared = known & known[:, :, ::-1]
        difference = np.where(compared, smooth - smooth[:, :, ::-1], np.float32(0))
        return cls(smooth, support, difference, compared)


def region_evidence(
    head: Head, tissue: Tissue, mirror: MirrorMap, regions: UInt8Array
) -> dict[RegionId, Evidence]:
    """The measurements of every region that can be measured.

    Parameters
    ----------
    regions: uint8 [z, y, x], RegionId.label: the head's own or another opinion on where they are.
    """
    densities = by_region(regions, tissue.usable, tissue.flat)
    differences = by_region(regions, mirror.compared, mirror.difference)
    voxels = {region: values.size for region, (values,) in densities.items()}
    typical = {
        region: float(np.median(values))
        for region, (values,) in densities.items()
        if values.size >= MIN_VOXELS
    }
    found = {}
    for region, mine in typical.items():
        other, (pairs,) = typical.get(region.mirror), differences[region]
        comparable = pairs.size >= _MIN_PAIRS and voxels[region.mirror] >= MIN_MIRROR_SHARE * voxels[region]
        found[region] = Evidence(
            difference_hu=mine - other if other is not None and comparable else None,
            local_hu=float(np.quantile(pairs, DARKER_PART)) if other is not None and comparable else None,
            level_hu=mine - tissue.level_hu,
            error_hu=_standard_error(head, voxels[region]),
        )
    return found


def moved_borders(regions: UInt8Array, grid: Grid) -> list[UInt8Array]:
    """The regions moved by BORDER_SHIFT_MM in, out, forwards, backwards, up and down, mirrored alike."""
    dz, dy, dx = (max(1, round(BORDER_SHIFT_MM / step)) for step in grid.spacing_mm)
    moved = [_shifted(regions, axis, step) for axis, n in ((0, dz), (1, dy)) for step in (-n, n)]
    left, right = grid.side_columns("left"), grid.side_columns("right")
    for step in (-dx, dx):
        outward = np.zeros_like(regions)
        outward[left] = _shifted(regions[left], 2, step)
        outward[right] = _shifted(regions[right], 2, -step)
        moved.append(outward)
    return moved


def _shifted(regions: UInt8Array, axis: int, step: int) -> UInt8Array:
    """``regions`` moved by ``step`` voxels along an axis; what leaves is lost and nothing comes in."""
    out = np.zeros_like(regions)
    to: list[slice] = [slice(None)] * regions.ndim
    to[axis] = slice(step, None) if step > 0 else slice(None, step)
    source = list(to)
    source[axis] = slice(None, -step) if step > 0 else slice(-step, None)
    out[tuple(to)] = regions[tuple(source)]
    return out


def _standard_error(head: Head, voxels: int) -> float:
    voxel_mm3 = head.grid.voxel_ml * 1000.0
    shared_mm3 = _NOISE_CORRELATION_MM**2 * max(head.slice_thickness_mm, _NOISE_CORRELATION_MM)
    independent = max(1.0, voxels * voxel_mm3 / max(shared_mm3, voxel_mm3))
    return head.brain.noise_hu / float(np.sqrt(independent))


def labellings(head: Head) -> list[UInt8Array]:
    """The head's regions, the second definition's where the atlas has one, and the first, moved."""
    second = [head.second_regions] if head.second_regions.any() else []
    return [head.regions, *second, *moved_borders(head.regions, head.grid)]


def every_evidence(head: Head, tissue: Tissue, mirror: MirrorMap) -> list[Mapping[RegionId, Evidence]]:
    """``region_evidence`` for each of ``labellings``."""
    return [region_evidence(head, tissue, mirror, regions) for regions in labellings(head)]
