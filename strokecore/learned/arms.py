"""The two arms of a trained model: their classes, which slice belongs to which, and how they are joined.

The basal-ganglia (BG) arm answers for slices below the plane midway between the two ASPECTS levels, the
supraganglionic (SG) arm above it. The trainer makes its targets and the node its infarct map with these
same functions.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, Float32Array, Float64Array, Int64Array, UInt8Array
from strokecore.head.grid import Grid

Arm = Literal["bg", "sg"]

# "other" is infarct outside the ten regions (anterior and posterior cerebral artery, cerebellum): it counts
# in the segmentation and its volume, never in ASPECTS. The caudate's body reaches the upper level.
BG_CLASSES: Final = ("background", "C", "L", "IC", "I", "M1", "M2", "M3", "other")
SG_CLASSES: Final = ("background", "C", "M4", "M5", "M6", "other")
CLASSES: Final[dict[Arm, tuple[str, ...]]] = {"bg": BG_CLASSES, "sg": SG_CLASSES}
# The cortex of one vascular branch at the ganglionic level and above it.
COUPLED: Final = (("M1", "M4"), ("M2", "M5"), ("M3", "M6"))
# The arms' answers are mixed linearly within this distance of the plane between the levels, so that the
# infarct map has no step there.
BLEND_MM: Final = 3.0

_LOWER: Final = tuple(r.label for r in ALL_REGIONS if r.name in ("M1", "M2", "M3"))
_UPPER: Final = tuple(r.label for r in ALL_REGIONS if r.name in ("M4", "M5", "M6"))


def arm_target(lesion: BoolArray, territory: UInt8Array, arm: Arm) -> Int64Array:
    """Class index of each pixel for one arm.

    Parameters
    ----------
    lesion: infarct, any shape.
    territory: RegionId.label of each pixel, 0 outside the regions; same shape.
    """
    classes = CLASSES[arm]
    other = classes.index("other")
    table = np.full(256, other, np.int64)
    for region in ALL_REGIONS:
        table[region.label] = classes.index(region.name) if region.name in classes else other
    return np.where(lesion, table[territory], 0)


def level_plane_mm(regions: UInt8Array, grid: Grid) -> float:
    """Head z midway between the ganglionic (M1-M3) and the supraganglionic (M4-M6) level of a person's atlas.

    Raises ValueError when either level is missing from ``regions`` (uint8 [z, y, x]).
    """
    lower = np.isin(regions, _LOWER).sum(axis=(1, 2), dtype=np.float64)
    upper = np.isin(regions, _UPPER).sum(axis=(1, 2), dtype=np.float64)
    if not lower.any() or not upper.any():
        raise ValueError("the regions of one ASPECTS level are missing")
    # the plane with as little as possible of the upper level below it and of the lower level above it; the
    # levels of a turned head overlap by a few millimetres
    below = np.concatenate([[0.0], np.cumsum(upper)])
    above = np.concatenate([np.cumsum(lower[::-1])[::-1], [0.0]])
    wrong = below + above
    best = np.flatnonzero(wrong == wrong.min())
    between = (float(best[0]) + float(best[-1])) / 2 - 0.5
    return grid.origin_mm[2] + grid.spacing_mm[0] * between


def sg_share(z_mm: Float64Array, plane_mm: float) -> Float64Array:
    """How much the SG arm counts in slices at head ``z_mm``: 0 below the plane, 1 above, linear between."""
    return np.clip((z_mm - plane_mm) / (2 * BLEND_MM) + 0.5, 0.0, 1.0)


def infarct_probability(bg: Float32Array, sg: Float32Array, share: Float64Array) -> Float32Array:
    """1 - p(background) of both arms, joined.

    Parameters
    ----------
    bg: [n, 9, H, W] class probabilities of the BG arm; sg: [n, 6, H, W] of the SG arm.
    share: [n], from ``sg_share``.

    Returns
    -------
    float32 [n, H, W].
    """
    weight = share.astype(np.float32)[:, None, None]
    return np.asarray((1 - weight) * (1 - bg[:, 0]) + weight * (1 - sg[:, 0]), np.float32)
