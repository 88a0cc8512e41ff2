"""Infarcts drawn into heads that have none while a training runs: new ones in every step.

A simulated head takes ten seconds, an infarct in its slices twenty milliseconds. Shape, place and involvement
follow the simulator (strokecore.simulate.domain, vascular); depth, border and what white matter loses range
wider than it, because what varies beyond reality in training is what a network learns to ignore (Billot et
al., "SynthSeg", Medical Image Analysis 2023). What an infarct does besides darkening, such as swelling, the
data's own infarcts show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array
from strokecore.learned.arms import arm_target
from strokecore.simulate.domain import INVOLVEMENT, vascular_pattern
from trainer.data.slices import CaseSlices

_WHITE_SHARE: Final = (0.4, 0.9)
_EDGE_MM: Final = (1.0, 5.0)
# The field whose level set the infarct is: (correlation length mm, weight), and how it falls outside regions.
_FIELD: Final = ((14.0, 1.0), (6.0, 0.45))
_OUTSIDE_MM: Final = 5.0
_REACH_MM: Final = 10.0
_LEVEL_MM: Final = 5.0
_ROUNDS: Final = 4
_MOST: Final = 0.97
_SMALL_SHARE: Final = 0.15
# Neighbours of the regions in which the infarct is drawn: its reach and three times the widest border.
_MARGIN_MM: Final = _REACH_MM + 3 * _EDGE_MM[1]
_INHOMOGENEITY: Final = 0.12
_INHOMOGENEITY_MM: Final = 7.0
# Densities relative to the median of the brain, HU: fluid ends, white matter, grey matter; read after a
# smoothing that takes the noise away.
_FLUID_HU, _TISSUE_HU, _WHITE_HU, _GREY_HU = -18.0, -8.0, -3.0, 4.0
_READING_MM: Final = 1.5


def with_fresh_infarct(
    case: CaseSlices, rng: np.random.Generator, depth_hu: tuple[float, float]
) -> CaseSlices:
    """The case with one new infarct of one side, in densities and targets.

    Parameters
    ----------
    case: without infarct.
    depth_hu: range of the depth in grey matter, drawn evenly on a logarithmic scale.

    Returns
    -------
    The case as it is where none of the drawn regions is in view, or too little to have a core.
    """
    wanted = {region.label: float(rng.uniform(*INVOLVEMENT)) for region in vascular_pattern(rng)}
    depth = float(np.exp(rng.uniform(*np.log(depth_hu))))
    white_share, edge_mm = float(rng.uniform(*_WHITE_SHARE)), float(rng.uniform(*_EDGE_MM))
    spacing = (float(case.z_mm[1] - case.z_mm[0]), case.pixel_mm, case.pixel_mm)
    union = np.isin(case.territories, list(wanted)) & case.brain
    if not union.any():
        return case
    # columns run from the patient's right to left, and an infarct keeps to its side
    middle = case.territories.shape[2] // 2
    on_left = union[:, :, middle:].sum() > union[:, :, :middle].sum()
    box = _box(union, spacing, slice(middle, None) if on_left else slice(0, middle))
    labels, brain, hu = case.territories[box], case.brain[box], case.hu[box].astype(np.float32)
    found = _level_set(rng, labels, brain, wanted, spacing)
    profile = ndimage.gaussian_filter(found.astype(np.float32), [edge_mm / mm for mm in spacing])
    lesion = np.zeros(case.brain.shape, np.bool_)
    lesion[box] = (profile > 0.5) & brain
    if not lesion.any():
        return case
    patches = 1 + _INHOMOGENEITY * _noise(rng, labels.shape, spacing, _INHOMOGENEITY_MM)
    level = float(np.median(case.hu[case.brain]))
    weight = _weight(hu - np.float32(level), white_share, spacing)
    dark = case.hu.copy()
    dark[box] = hu - np.float32(depth) * profile * weight * np.clip(patches, 0.5, 1.5)
    bg, sg = (arm_target(lesion, case.territories, arm).astype(np.uint8) for arm in ("bg", "sg"))
    return replace(case, hu=dark, bg_target=bg, sg_target=sg)


def _box(union: BoolArray, spacing: tuple[float, float, float], side: slice) -> tuple[slice, slice, slice]:
    """Bounds of the regions with a margin, within one side."""
    bounds = []
    for axis, mm in enumerate(spacing):
        places = np.flatnonzero(union.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(_MARGIN_MM / mm))
        bounds.append((max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin))
    low, high, _ = side.indices(union.shape[2])
    z, y, (first, last) = bounds
    return slice(*z), slice(*y), slice(max(first, low), min(last, high))


def _level_set(
    rng: np.random.Generator,
    labels: np.ndarray,
    brain: BoolArray,
    wanted: dict[int, float],
    spacing: tuple[float, float, float],
) -> BoolArray:
    """A smooth volume with the wanted share of each region; as strokecore.simulate.vascular, on slices."""
    height = sum(weight * _noise(rng, labels.shape, spacing, length) for length, weight in _FIELD)
    union = np.isin(labels, list(wanted))
    out_mm, nearest = ndimage.distance_transform_edt(~union, sampling=spacing, return_indices=True)
    height = np.asarray(height - out_mm / _OUTSIDE_MM, np.float32)
    height[out_mm > _REACH_MM] = -np.inf
    owner = labels[tuple(nearest)]
    places = {label: place for label in wanted if (place := (labels == label) & brain).any()}
    sigma = [_LEVEL_MM / mm for mm in spacing]
    table = np.zeros(256, np.float32)
    above = height
    for _ in range(_ROUNDS):
        for label, place in places.items():
            table[label] += np.quantile(above[place], 1 - min(wanted[label], _MOST))
        above = height - ndimage.gaussian_filter(table[owner], sigma)
    parts, count = ndimage.label(above > 0)
    size = np.bincount(parts.ravel(), minlength=count + 1)
    size[0] = 0
    return np.asarray(size[parts] > _SMALL_SHARE * size.sum())


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, float, float], length_mm: float
) -> Float32Array:
    """A Gaussian random field of unit variance."""
    sigma = [length_mm / mm for mm in spacing]
    grain = rng.standard_normal(shape, np.float32)
    field = ndimage.gaussian_filter(grain, sigma, mode="wrap", truncate=3.0)
    return np.asarray(field / max(float(field.std()), 1e-6), np.float32)


def _weight(
    relative_hu: Float32Array, white_share: float, spacing: tuple[float, float, float]
) -> Float32Array:
    """What tissue of a density (HU above the brain's median) loses of the depth: 0 fluid, 1 grey matter."""
    sigma = [0.0, *(_READING_MM / mm for mm in spacing[1:])]
    smooth = ndimage.gaussian_filter(relative_hu, sigma)
    tissue = np.clip((smooth - _FLUID_HU) / (_TISSUE_HU - _FLUID_HU), 0, 1)
    grey = np.clip((smooth - _WHITE_HU) / (_GREY_HU - _WHITE_HU), 0, 1)
    return np.asarray(tissue * (white_share + (1 - white_share) * grey), np.float32)
