"""From which probability a voxel counts as infarct, and masks at all these thresholds counted at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import Float32Array, Float64Array, Int64Array

# Candidates; the Dice of a trained network changes by less than 0.005 from one to the next near its best.
# Those below 0.05 are for networks that are sure of nothing.
THRESHOLDS: Final = (0.005, 0.01, 0.02, 0.03, *(round(0.05 * step, 2) for step in range(1, 20)))


def levels(probability: Float32Array) -> npt.NDArray[np.intp]:
    """How many of THRESHOLDS each value reaches, compared in float32 as the node does; any shape."""
    return np.searchsorted(np.array(THRESHOLDS, np.float32), probability, side="right")


def reaching(level: npt.NDArray[np.intp]) -> Int64Array:
    """How many values reach each of THRESHOLDS, int64 [thresholds]; ``level`` of any shape."""
    return at_or_above(np.bincount(level.ravel(), minlength=len(THRESHOLDS) + 1))


def at_or_above(counts: Int64Array) -> Int64Array:
    """Counts by thresholds reached [..., T + 1] to counts at or above each threshold [..., T]."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1][..., 1:]


def ranked(means: Float64Array) -> list[float]:
    """THRESHOLDS by ``means`` [thresholds], the largest first; the nearest to one half among equals."""
    order = sorted(range(len(THRESHOLDS)), key=lambda i: (-means[i], abs(THRESHOLDS[i] - 0.5)))
    return [THRESHOLDS[i] for i in order]


def best(means: Float64Array) -> float:
    """The first of ``ranked``."""
    return ranked(means)[0]
