"""Artefacts of single slices: streaks from teeth and petrous bones, and a head that moves."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import Float32Array, Float64Array
from strokecore.simulate.spec import STREAM_ARTEFACT, SampleSpec

# Where rays meet the most metal or bone, head coordinates: petrous apices and crowns of the molars.
STREAK_SOURCES_MM: Final = (
    (36.0, 20.0, -43.0),
    (-36.0, 20.0, -43.0),
    (24.0, -48.0, -82.0),
    (-24.0, -48.0, -82.0),
)
_SOURCE_REACH_MM: Final = (7.0, 7.0, 11.0, 11.0)  # across the slice
_SOURCE_HU: Final = (7.0, 7.0, 16.0, 16.0)  # sd of a line's brightness at its source
_LINES: Final = 9
_LINE_MM: Final = 1.3  # half width at the source; it opens with the distance
_LINE_OPENING: Final = 0.03
_LINE_REACH_MM: Final = 55.0
_BAR_HU: Final = -9.0  # the dark bar between the two petrous bones
_BAR_MM: Final = 4.0
_GRID_MM: Final = 1.5
# Neighbouring thin slices see the same streaks and the same movement.
BLOCK_MM: Final = 5.0
# A head that moves does so while the brain is scanned: share of the stack, from below.
_MOVING_SHARE: Final = (0.35, 0.8)


def streaks(
    spec: SampleSpec, block: int, u_mm: Float64Array, v_mm: Float64Array, sources: Float64Array
) -> Float32Array:
    """HU to add to one slice; float32 [j, i].

    Parameters
    ----------
    block: number of the slice's block of BLOCK_MM; it decides where the lines run.
    u_mm, v_mm: coordinates of columns and rows in the slice.
    sources: [4, 3], (u, v, distance from the slice) of STREAK_SOURCES_MM.
    """
    shape = (len(v_mm), len(u_mm))
    near = np.exp(-((sources[:, 2] / _SOURCE_REACH_MM) ** 2))
    if near.max() < 0.02:
        return np.zeros(shape, np.float32)
    rng = np.random.default_rng([spec.seed, STREAM_ARTEFACT, block])
    step = max(1, round(_GRID_MM / abs(u_mm[1] - u_mm[0])))
    u, v = u_mm[None, ::step], v_mm[::step, None]
    total = np.zeros((v.size, u.size), np.float64)
    for source, share, spread in zip(sources, near, _SOURCE_HU, strict=True):
        angles, bright = rng.uniform(0, np.pi, _LINES), rng.normal(0, spread, _LINES)
        du, dv = u - source[0], v - source[1]
        away = np.hypot(du, dv)
        width, fading = _LINE_MM + _LINE_OPENING * away, share * np.exp(-away / _LINE_REACH_MM)
        for angle, hu in zip(angles, bright, strict=True):
            across = np.cos(angle) * dv - np.sin(angle) * du
            total += hu * fading * np.exp(-((across / width) ** 2))
    first, second = sources[0, :2], sources[1, :2]
    between = second - first
    along = ((u - first[0]) * between[0] + (v - first[1]) * between[1]) / (between @ between)
    across = ((u - first[0]) * between[1] - (v - first[1]) * between[0]) / np.linalg.norm(between)
    bar = np.clip(4 * np.minimum(along, 1 - along), 0, 1) * np.exp(-((across / _BAR_MM) ** 2))
    total += _BAR_HU * min(near[0], near[1]) * bar
    large = ndimage.zoom(total, (shape[0] / total.shape[0], shape[1] / total.shape[1]), order=1)
    return np.asarray(spec.streaks * large, np.float32)


def moving_slices(spec: SampleSpec, count: int) -> range:
    """Which of ``count`` slices were taken while the head moved; none without ``motion_mm``."""
    if spec.motion_mm <= 0:
        return range(0)
    rng = spec.rng(STREAM_ARTEFACT)
    first = int(rng.uniform(*_MOVING_SHARE) * count)
    return range(first, first + max(1, round(BLOCK_MM / spec.thickness_mm)))


def moved(spec: SampleSpec, hu: Float32Array) -> Float32Array:
    """One slice [j, i] seen twice: half of the views from where the head went."""
    angle = float(np.random.default_rng([spec.seed, STREAM_ARTEFACT, 0]).uniform(0, 2 * np.pi))
    shift = spec.motion_mm / spec.pixel_mm * np.array([np.sin(angle), np.cos(angle)])
    half_way, there = (ndimage.shift(hu, shift * f, order=1, mode="nearest") for f in (0.5, 1.0))
    return np.asarray(0.45 * hu + 0.15 * half_way + 0.4 * there, np.float32)
