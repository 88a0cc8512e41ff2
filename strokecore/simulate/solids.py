"""Simple solids as distance fields, and the coordinates of the average head's box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.arrays import Float32Array

Point = tuple[float, float, float]

# The box holds the whole head down to below the skull base; 1.5 mm is the atlas's own resolution.
HEAD_SPACING_MM: Final = 1.5
HEAD_BOX_MM: Final = ((-97.5, 97.5), (-121.5, 130.5), (-97.5, 117.0))  # x, y, z


def head_axes() -> tuple[Float32Array, Float32Array, Float32Array]:
    """Coordinates along x, y and z of the head box, millimetres."""
    axes = [
        np.arange(low, high + HEAD_SPACING_MM / 2, HEAD_SPACING_MM, dtype=np.float32)
        for low, high in HEAD_BOX_MM
    ]
    return axes[0], axes[1], axes[2]


@dataclass(frozen=True, eq=False)
class Axes:
    """Broadcastable coordinates of the head box: x [1, 1, nx], y [1, ny, 1], z [nz, 1, 1]."""

    x: Float32Array
    y: Float32Array
    z: Float32Array


def mirrored(axes: Axes) -> Axes:
    return Axes(np.abs(axes.x), axes.y, axes.z)


def ellipsoid_mm(axes: Axes, centre: Point, radii: Point) -> Float32Array:
    """Approximate signed distance to an ellipsoid."""
    x, y, z = ((a - c) / r for a, c, r in zip((axes.x, axes.y, axes.z), centre, radii, strict=True))
    return np.asarray((np.sqrt(x**2 + y**2 + z**2) - 1) * min(radii), np.float32)


def capsule_mm(axes: Axes, start: Point, end: Point, start_radius: float, end_radius: float) -> Float32Array:
    """Signed distance to a rod whose radius changes from start to end; |x| is used, so both sides get one."""
    p = [np.abs(axes.x) - start[0], axes.y - start[1], axes.z - start[2]]
    d = [e - s for s, e in zip(start, end, strict=True)]
    along = np.clip(sum(a * b for a, b in zip(p, d, strict=True)) / sum(b * b for b in d), 0, 1)
    distance = np.sqrt(sum((a - along * b) ** 2 for a, b in zip(p, d, strict=True)))
    return np.asarray(distance - (start_radius + along * (end_radius - start_radius)), np.float32)


def smooth_min(a: Float32Array, b: Float32Array, blend_mm: float) -> Float32Array:
    h = np.clip(0.5 + 0.5 * (b - a) / blend_mm, 0, 1)
    return np.asarray(b * (1 - h) + a * h - blend_mm * h * (1 - h), np.float32)
