"""Suspected haemorrhage: density brighter than this person's brain, in the shape and place that blood takes.

Blood is looked for on a head without its density field, so that one threshold holds under the skull and in
the middle. Kinds are told apart by shape: a lump in the brain or in a ventricle, a layer under the inner
table, strands in the fluid spaces. Falx, tentorium and venous sinuses are as dense as blood in everybody, but
have their places; calcium is denser, or found in the same place of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import SIDES
from strokecore.arrays import BoolArray, Float32Array
from strokecore.head.brain import Brain, bounding_box, brain_level, cropped, halved, smoothed
from strokecore.head.cranium import depth, dilate, erode
from strokecore.head.grid import Grid

Place = Literal["parenchymal", "subdural", "subarachnoid", "ventricular"]

# Clot measures 50-80 HU, 15-45 above brain; a small one in a thick slice keeps half of that.
_CLOT_ABOVE_BRAIN_HU: Final = 13.0
_CLOT_SMOOTHING_MM: Final = 1.5
_SKULL_MM: Final = 4.0
_CLOT_CORE_MM: Final = 3.0
_CLOT_ML: Final = 0.5
# In front of the pituitary, orbits and their roofs are mistaken for brain.
_ORBIT_MM: Final = (-22.0, -25.0)  # z and y below which
# Calcium of both pallida or plexuses: a small lump whose mirror image is bright too.
_CALCIUM_ML: Final = 3.0
_MIRROR_HU: Final = 8.0
_MIRROR_REACH_MM: Final = 4

# Sinuses and dura: distance to the midline or to the inner table within which they lie.
_FALX_MM: Final = 4.0
_SINUS_MM: Final = 11.0
_SAGITTAL_SINUS_MM: Final = 10.0

# A layer: this much brighter than brain, here below the inner table, over this area.
_LAYER_ABOVE_BRAIN_HU: Final = 10.0
_LAYER_SMOOTHING_MM: Final = 3.0
_LAYER_MM: Final = (2.0, 4.0)
_LAYER_CM2: Final = 4.0
_LAYER_REACH_MM: Final = 16.0

_STRAND_ABOVE_BRAIN_HU: Final = 9.0
_STRANDS_ML: Final = 4.0
_BASE_MM: Final = ((-35.0, 0.0), (-40.0, 30.0), (-40.0, 40.0))  # z, y, x around the basal cisterns

_ONE_SIDED: Final = 0.8


@dataclass(frozen=True, eq=False)
class Haemorrhage:
    """Blood, or what may be blood.

    Attributes
    ----------
    mask: bool [z, y, x] on the canonical grid; ml: its volume.
    place: of its largest part. side: the patient's, "both" where neither has most of it.
    certain: it withholds the score; otherwise it may as well be calcium, dura or an artefact of the scanner.
    """

    mask: BoolArray
    ml: float
    place: Place
    side: Literal["left", "right", "both"]
    certain: bool


@dataclass(frozen=True, eq=False)
class _Scan:
    """The head inside its skull's box: ``excess`` is density above brain level, smoothed, HU."""

    flat: Float32Array
    level: float
    excess: Float32Array
    depth_mm: Float32Array
    dura: BoolArray
    brain: Brain
    grid: Grid


@dataclass(frozen=True, eq=False)
class _Part:
    mask: BoolArray
    place: Place
    certain: bool


def find_haemorrhage(flat: Float32Array, brain: Brain, grid: Grid) -> Haemorrhage | None:
    """The suspected haemorrhage of a head, None where there is none.

    Parameters
    ----------
    flat: float32 [z, y, x] on ``grid``, density without the head's density field.
    brain: tissue masks of the same head.
    """
    box = bounding_box(brain.intracranial, 0.0, grid.spacing_mm)
    scan = _scan(flat[box], brain.cropped(box), cropped(grid, box))
    parts = [*_clots(scan), *_layers(scan), *_strands(scan)]
    certain = any(part.certain for part in parts)
    parts = [part for part in parts if part.certain == certain]
    if not parts:
        return None
    mask = np.zeros(grid.shape, np.bool_)
    mask[box] = np.any([part.mask for part in parts], axis=0)
    sizes = {
        place: sum(int(p.mask.sum()) for p in parts if p.place == place) for place in {p.place for p in parts}
    }
    place = max(sizes, key=lambda name: sizes[name])
    return Haemorrhage(mask, grid.ml(mask), place, _side(mask, grid), certain)


def _scan(flat: Float32Array, brain: Brain, grid: Grid) -> _Scan:
    depth_mm = depth(brain.intracranial, grid.spacing_mm)
    level = brain_level(flat, depth_mm)
    tissue = brain.intracranial & ~brain.calcification
    excess = smoothed(flat, tissue, _CLOT_SMOOTHING_MM, grid.spacing_mm) - np.float32(level)
    return _Scan(flat, level, excess, depth_mm, _dura(depth_mm, grid), brain, grid)


def _axes(grid: Grid) -> tuple[Float32Array, Float32Array, Float32Array]:
    z, y, x = (axis.astype(np.float32) for axis in grid.axes_mm)
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _dura(depth_mm: Float32Array, grid: Grid) -> BoolArray:
    """Where falx and venous sinuses lie; bool [z, y, x]."""
    z, y, x = _axes(grid)
    falx = (np.abs(x) < _FALX_MM) & ((z > 0) | (y < -30) | ((y > 25) & (z > -25)))
    sagittal = (np.abs(x) < _SAGITTAL_SINUS_MM) & (depth_mm < _SINUS_MM)
    transverse = (depth_mm < _SINUS_MM) & (y > 30) & (z < 0)
    return np.asarray(falx | sagittal | transverse)


def _clots(scan: _Scan) -> list[_Part]:
    """Lumps: components with a core, away from skull, sinuses and orbits."""
    grid = scan.grid
    z, y, _ = _axes(grid)
    orbit = (z < _ORBIT_MM[0]) & (y < _ORBIT_MM[1])
    bright = scan.brain.intracranial & ~scan.brain.calcification & ~scan.dura & ~orbit
    bright &= (scan.depth_mm > _SKULL_MM) & (scan.excess > _CLOT_ABOVE_BRAIN_HU)
    labels, count = ndimage.label(bright)
    dz, dy, dx = grid.spacing_mm
    core = erode(halved(bright), _CLOT_CORE_MM, (dz, 2 * dy, 2 * dx))
    has_core = np.bincount(labels[:, ::2, ::2][core], minlength=count + 1) > 0
    ml = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml
    parts = []
    for label in np.flatnonzero(has_core & (ml >= _CLOT_ML)):
        if label == 0:
            continue
        mask = labels == label
        certain = not (ml[label] < _CALCIUM_ML and _mirror_hu(scan, mask) > _MIRROR_HU)
        parts.append(_Part(mask, _place_of_lump(scan, mask), certain))
    return parts


def _mirror_hu(scan: _Scan, mask: BoolArray) -> float:
    """Mean excess of the brightest place near a mask's mirror image, HU."""
    z, y, x = np.nonzero(mask)
    x = mask.shape[2] - 1 - x
    best = -np.inf
    for dy in range(-_MIRROR_REACH_MM, _MIRROR_REACH_MM + 1, 2):
        for dx in range(-_MIRROR_REACH_MM, _MIRROR_REACH_MM + 1, 2):
            yy, xx = np.clip(y + dy, 0, mask.shape[1] - 1), np.clip(x + dx, 0, mask.shape[2] - 1)
            best = max(best, float(scan.excess[z, yy, xx].mean()))
    return best


def _place_of_lump(scan: _Scan, mask: BoolArray) -> Place:
    return "parenchymal"


def _layers(scan: _Scan) -> list[_Part]:
    """Layers under the inner table of the vault."""
    grid = scan.grid
    z, y, x = _axes(grid)
    low, high = _LAYER_MM
    shell = (scan.depth_mm > low) & (scan.depth_mm <= high)
    smooth = smoothed(scan.flat, shell, _LAYER_SMOOTHING_MM, grid.spacing_mm) - np.float32(scan.level)
    vault = (np.abs(x) > 12) & ~((z < -8) & (y > 30)) & (z > -22)
    bright = shell & vault & (smooth > _LAYER_ABOVE_BRAIN_HU)
    labels, count = ndimage.label(bright, np.ones((3, 3, 3)))
    cm2 = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml / (high - low) * 10
    cm2[0] = 0
    parts = []
    for label in np.flatnonzero(cm2 >= _LAYER_CM2):
        seed = labels == label
        near = dilate(seed, 4.0, grid.spacing_mm) & (scan.depth_mm < _LAYER_REACH_MM)
        parts.append(_Part(seed | near & (scan.excess > 8) & (scan.depth_mm > 0), "subdural", True))
    return parts


def _strands(scan: _Scan) -> list[_Part]:
    """Bright fluid spaces around the base and between the lobes."""
    grid = scan.grid
    z, y, x = _axes(grid)
    (z0, z1), (y0, y1), (x0, x1) = _BASE_MM
    base = (z > z0) & (z < z1) & (y > y0) & (y < y1) & (x > x0) & (x < x1)
    bright = ~scan.brain.calcification & ~scan.dura & (scan.depth_mm > 5) & base
    bright &= scan.excess > _STRAND_ABOVE_BRAIN_HU
    if grid.ml(bright) < _STRANDS_ML:
        return []
    return [_Part(bright, "subarachnoid", True)]


def _side(mask: BoolArray, grid: Grid) -> Literal["left", "right", "both"]:
    left, right = (int(mask[grid.side_columns(side)].sum()) for side in SIDES)
    if max(left, right) < _ONE_SIDED * (left + right):
        return "both"
    return "left" if left > right else "right"
