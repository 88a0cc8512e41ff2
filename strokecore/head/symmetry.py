"""The plane that best mirrors a head onto itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.arrays import Float32Array, Float64Array
from strokecore.head.alignment import Image, huber, sample

_MOST_STEPS: Final = 25
# Steps below a hundredth of a degree and of a millimetre end the search.
_CONVERGED_RAD: Final = 2e-4
_CONVERGED_MM: Final = 0.01
# Differences above this (HU, after smoothing) pull linearly only: a large infarct or bleeding on one side, or
# an asymmetric bone, must not turn the plane.
_HUBER_HU: Final = 6.0


@dataclass(frozen=True, eq=False)
class Midplane:
    """The points p with normal . p == offset_mm.

    Attributes
    ----------
    normal: float64 [3], unit vector (x, y, z), about +x.
    offset_mm: distance from the origin along ``normal``.
    residual_hu: root of the mean robust squared mirror difference.
    """

    normal: Float64Array
    offset_mm: float
    residual_hu: float

    def mirrored(self, points: Float64Array) -> Float64Array:
        """Mirror images of points [n, 3]."""
        return np.asarray(points - 2 * (points @ self.normal - self.offset_mm)[:, None] * self.normal)


def fit_midplane(image: Image, importance: Float32Array) -> Midplane:
    """Fit the mirror plane of ``image`` from a start at x = 0, by Gauss-Newton on robust mirror differences.

    Parameters
    ----------
    image: smoothed HU with bone and air clipped, roughly aligned (a few degrees, a centimetre).
    importance: float32 [z, y, x], weight of each voxel's comparison with its mirror image; 0 leaves it out.
    """
    mask = importance > 0
    points = image.points(mask)
    values, trust = image.values[mask], importance[mask].astype(np.float64)
    gradient = image.gradient()
    normal, offset = np.array([1.0, 0.0, 0.0]), 0.0
    residual = float("nan")
    for _ in range(_MOST_STEPS):
        height = points @ normal - offset
        indices = image.indices(points - 2 * height[:, None] * normal)
        within = np.all((indices >= 0) & (indices <= np.array(image.values.shape)[:, None] - 1), axis=0)
        difference = sample(image.values, indices) - values
        weight, cost = huber(difference, _HUBER_HU)
        support = within * trust
        weight = weight * support
        residual = float(np.sqrt((cost * support).sum() / max(float(support.sum()), 1.0)))
        slope = np.stack([sample(g, indices) for g in gradient], axis=1).astype(np.float64)
        # d(mirror image)/d(normal_a) = -2 (p_a normal + height e_a); d/d(offset) = 2 normal
        along = slope @ normal
        jacobian = np.stack(
            [
                -2 * (points[:, 1] * along + height * slope[:, 1]),
                -2 * (points[:, 2] * along + height * slope[:, 2]),
                2 * along,
            ],
            axis=1,
        )
        weighted = jacobian * weight[:, None]
        step = np.linalg.solve(weighted.T @ jacobian + 1e-9 * np.eye(3), -weighted.T @ difference)
        normal = normal + np.array([0.0, step[0], step[1]])
        length = float(np.linalg.norm(normal))
        normal, offset = normal / length, (offset + float(step[2])) / length
        if max(abs(step[0]), abs(step[1])) < _CONVERGED_RAD and abs(step[2]) < _CONVERGED_MM:
            break
    return Midplane(normal, offset, residual)
