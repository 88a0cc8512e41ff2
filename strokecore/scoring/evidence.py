"""What speaks for early ischaemic change in a region: its distribution of densities against two references.

Both hemispheres of one head share scanner, beam hardening and age, so the mirror region across the
mid-sagittal plane is the natural reference (2.0 HU between the sides of a region agreed best with the final
infarct in Mokin et al., Stroke 2017;48:1574). It is blind where the partner is ill too, so this person's own
brain is the second. One mean is a poor measure of a region: an infarct takes a part of it, sulci and white
matter darken a part of it without any disease, and how much of both lies inside the borders differs between
the sides. The bright part of the distribution is grey matter, wherever it lies in the region; where it
darkens, grey matter does. The dark part tells how much of the difference is fluid and white matter. So both
references are compared at three quantiles, in HU of the flattened density, and none vetoes another: they are
added as log-odds (decision.py) in units of how far they scatter in people without infarct.

How far that is differs between heads: texture of the reconstruction, motion and unlike gyri make all regions
of one head differ between the sides more than those of another. Blocks of about a centimetre tell, most of
which no infarct's border crosses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.anatomy.regions import RegionId
from strokecore.arrays import UInt8Array
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid
from strokecore.scoring.tissue import MIN_MIRROR_SHARE, MIN_VOXELS, Tissue, by_region, quantiles

# Two voxels closer than this share noise (the reconstruction kernel and the resampling); mm.
_NOISE_CORRELATION_MM: Final = 2.0
# How far borders are moved when it is asked whether a call depends on them; in whole voxels of the grid,
# which makes it 4 mm up and down.
BORDER_SHIFT_MM: Final = 3.0


@dataclass(frozen=True)
class Evidence:
    """The measurements of one region, HU, at tissue.QUANTILES; negative is darker.

    Attributes
    ----------
    differences_hu: the region minus its mirror; None where the mirror cannot be compared.
    levels_hu: the region minus this person's brain.
    error_hu: standard error of a region's mean by image noise.
    scatter_hu: Tissue.scatter_hu of the head.
    """

    differences_hu: tuple[float, ...] | None
    levels_hu: tuple[float, ...]
    error_hu: float
    scatter_hu: float | None = None


def region_evidence(head: Head, tissue: Tissue, regions: UInt8Array) -> dict[RegionId, Evidence]:
    """The measurements of every region that can be measured.

    Parameters
    ----------
    regions: uint8 [z, y, x], RegionId.label: the head's own or another opinion on where they are.
    """
    densities = {
        region: values
        for region, (values,) in by_region(regions, tissue.usable, tissue.flat).items()
        if values.size >= MIN_VOXELS
    }
    read = {region: quantiles(values) for region, values in densities.items()}
    found = {}
    for region, mine in read.items():
        other = densities.get(region.mirror)
        comparable = other is not None and other.size >= MIN_MIRROR_SHARE * densities[region].size
        found[region] = Evidence(
            differences_hu=_minus(mine, read[region.mirror]) if comparable else None,
            levels_hu=_minus(mine, tissue.levels_hu),
            error_hu=_standard_error(head, densities[region].size),
            scatter_hu=tissue.scatter_hu,
        )
    return found


def _minus(mine: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(mine, other, strict=True))


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
