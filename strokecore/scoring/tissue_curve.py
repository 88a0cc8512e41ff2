"""What this person's normal brain measures: HU as a function of the expected grey-matter share."""

from __future__ import annotations

from typing import Final

import numpy as np

from strokecore.anatomy.regions import SIDES, RegionId
from strokecore.arrays import Bool3D, Float3D
from strokecore.head.canonical import Head

GREY_NUCLEI: Final = ("C", "L")
GREY_BINS: Final = 8
MIN_BIN_VOXELS: Final = 50


def tissue_curve(head: Head, usable: Bool3D) -> Float3D:
    """Expected HU of this person's normal tissue at every voxel; float32 [z, y, x], NaN when unknown.

    A straight line through the median HU in bins of the expected grey share, fitted in each hemisphere; the
    brighter hemisphere's is kept: an infarct can then not pull its own reference down, and both
    hemispheres share one curve.
    """
    lines = [_fit_line(head, usable, head.grid.side_columns(side)) for side in SIDES]
    known = [line for line in lines if line is not None]
    if not known:
        return np.full(head.hu.shape, np.nan, dtype=np.float32)
    slope, level = max(known, key=lambda line: line[1] + 0.5 * line[0])
    return (level + slope * expected_grey(head)).astype(np.float32)


def expected_grey(head: Head) -> Float3D:
    """Expected grey share as CT sees it: C and L are grey throughout; float32 [z, y, x].

    The atlas's maps come from MRI, where the myelin-rich pallidum looks like white matter. On CT it is as
    dense as the putamen; a curve that expects white matter there would call an infarct of it normal.
    """
    return np.where(_nuclei(head), np.float32(1.0), head.grey)


def _nuclei(head: Head) -> Bool3D:
    return np.isin(head.regions, [RegionId(name, side).label for name in GREY_NUCLEI for side in SIDES])


def _fit_line(head: Head, usable: Bool3D, half: tuple[slice, ...]) -> tuple[float, float] | None:
    """(slope, level) of HU over the grey share inside one hemisphere's regions.

    Without the nuclei: they would fill the greyest bin alone and become their own reference.
    """
    mask = (usable & (head.regions > 0) & ~_nuclei(head))[half]
    grey, hu = head.grey[half][mask], head.hu[half][mask]
    bins = np.clip((grey * GREY_BINS).astype(int), 0, GREY_BINS - 1)
    counts = np.bincount(bins, minlength=GREY_BINS)
    filled = np.flatnonzero(counts >= MIN_BIN_VOXELS)
    if filled.size == 0:
        return None
    medians = np.array([np.median(hu[bins == b]) for b in filled])
    if filled.size == 1:
        return 0.0, float(medians[0])
    slope, level = np.polyfit((filled + 0.5) / GREY_BINS, medians, 1, w=np.sqrt(counts[filled]))
    return float(slope), float(level)
