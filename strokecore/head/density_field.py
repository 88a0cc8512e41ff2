"""The slow density field of one scan: what the scanner adds to tissue, so that ``hu - field`` is flat.

Beam hardening that the scanner does not correct makes brain denser towards the skull (cupping), more so
between the petrous bones and under the vertex, and shades it from side to side and from front to back. The
field is found from cells of tissue, each of one depth under the inner table, one height, one sector and one
side. A cell is compared with what the same cell measures in heads without a field, because cortex lies under
the skull and white matter does not. The fit can follow only what a scanner does: a density that rises towards
the skull, and gentle slopes. An infarct is a step and dark, a layer of blood is a step and bright: both are
left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage
from scipy.optimize import lsq_linear

from strokecore.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from strokecore.head.alignment import summed
from strokecore.head.brain import Brain
from strokecore.head.cranium import depth
from strokecore.head.grid import Grid

# Cells: depth under the inner table (finer where cupping is steep), height, angle from the front around a
# vertical axis through the middle of the hemispheres, side.
_DEPTHS_MM: Final = np.array([2.5, 5.0, 8.0, 11.0, 15.0, 20.0, 27.0, 36.0, 60.0])
_HEIGHTS_MM: Final = np.arange(-52.0, 79.0, 10.0)
_SECTORS: Final = 8
_AXIS_Y_MM: Final = 5.0
_CELLS: Final = (len(_DEPTHS_MM) - 1, len(_HEIGHTS_MM) - 1, _SECTORS, 2)
_LEAST_CELL_ML: Final = 0.15
_FULL_CELL_ML: Final = 1.6
# Around the ventricles leukoaraiosis, and the ventricle's own partial volume, darken most heads of the old.
_VENTRICLE_RIM_MM: Final = 9.0

# Smoothed over about a thick slice, so that thin slices, sharp kernels and noise measure alike.
_SMOOTHING_MM: Final = (2.0, 1.5, 1.5)
_BIN_HU: Final = 0.5
_MOST_HU: Final = 100.0
_BINS_HU: Final = np.arange(0.0, _MOST_HU, _BIN_HU) + _BIN_HU / 2
# A cell is measured by this quantile of its tissue: what sulci do not dilute, mostly.
_QUANTILE: Final = 0.9
# Where the field has been taken off, fluid is darker than the one and blood brighter than brain by the other.
_FLUID_HU: Final = 17.0
_BLOOD_ABOVE_BRAIN_HU: Final = 14.0

# Cupping falls off under the skull with these lengths (5-20 mm are seen) and changes slowly with height.
_LENGTHS_MM: Final = np.array([5.0, 10.0, 20.0])
_NODES_MM: Final = np.array([-50.0, -25.0, 0.0, 25.0, 50.0, 75.0])
# From one depth of a column to the next, outwards: a field grows no faster than the shortest length, give or
# take a cell's own anatomy. More is the edge of a layer.
_EDGE_HU: Final = 5.0
_MOST_CUPPING_HU: Final = 45.0
# Shading: the slope's value at these distances from the middle, at most about what scanners leave.
_HALF_WIDTH_MM: Final = 65.0
_HALF_LENGTH_MM: Final = 85.0
_HALF_HEIGHT_MM: Final = 50.0
_MOST_SHADING_HU: Final = 2.0
_USUAL_SHADING_HU: Final = 1.0

# Residuals of cells: anatomy scatters by 1-2 HU; what is darker may be an infarct and counts for less.
_DARK_HU: Final = 3.0
_BRIGHT_HU: Final = 4.5
_MIRROR_HU: Final = 1.5
_ROUNDS: Final = 5
_STEPS: Final = 4

# What a cell without a field measures, HU above the middle depths: rows are heights, columns depths.
_TISSUE_HEIGHTS_MM: Final = np.arange(-47.0, 74.0, 20.0)
_TISSUE_HU: Final = np.array(
    [
        [5.7, 4.6, 4.9, 4.6, 3.5, 2.8, 4.3, 0.0],
        [3.1, 2.1, 2.3, 2.5, 2.3, 1.5, 3.2, 1.4],
        [2.7, 1.0, 0.5, 0.5, 0.6, 1.5, 3.2, 1.2],
        [2.0, 0.5, 0.0, -0.4, -0.3, 0.4, 1.8, 0.2],
        [1.7, -0.1, -0.4, -0.4, -0.5, -0.6, -0.4, -1.7],
        [1.6, 0.1, -0.1, -0.3, -0.5, -0.4, -0.4, -2.1],
        [1.9, 0.7, 0.8, -0.5, -0.7, -0.7, -0.9, -2.0],
    ]
)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Cells of tissue, arrays of shape (depth, height, sector, side); side 1 is the patient's left.

    counts: int64 [..., bin], voxels by density. ml: volume. depth_mm, x_mm, y_mm, z_mm: means of the voxels.
    """

    counts: Int64Array
    ml: Float64Array
    depth_mm: Float64Array
    x_mm: Float64Array
    y_mm: Float64Array
    z_mm: Float64Array


@dataclass(frozen=True, eq=False)
class _Field:
    """The fitted field.

    cupping_hu: float64 [length, node], at the inner table. sideways_hu: slope to the left, and how it changes
    with height. forward_hu: slope to the back. level_hu: of tissue without the field.
    """

    cupping_hu: Float64Array
    sideways_hu: tuple[float, float] = (0.0, 0.0)
    forward_hu: float = 0.0
    level_hu: float = 0.0

    def at(self, cells: _Cells) -> Float64Array:
        """The field in cells, HU."""
        cupping = _cupping_basis(cells) @ self.cupping_hu.ravel()
        return np.asarray(cupping + self.sideways_at(cells) + self.forward_hu * cells.y_mm / _HALF_LENGTH_MM)

    def sideways_at(self, cells: _Cells) -> Float64Array:
        slope, twist = self.sideways_hu
        return np.asarray((slope + twist * _height(cells.z_mm)) * cells.x_mm / _HALF_WIDTH_MM)


def density_field(hu: Float32Array, brain: Brain, grid: Grid, covered: BoolArray) -> Float32Array:
    """The slow density that is scanner and not tissue; ``hu`` minus it is flat at the person's own level.

    Parameters
    ----------
    hu: float32 [z, y, x] on ``grid``; covered: bool [z, y, x], inside the scan.

    Returns
    -------
    float32 [z, y, x], HU: near 0 deep in the brain, at the skull as at the inner table, 0 outside the scan.
    """
    depth_mm = depth(brain.intracranial, grid.spacing_mm)
    field = _fit(_tissue_cells(hu, brain, depth_mm, grid))
    return np.where(covered, _on_grid(field, depth_mm, grid), 0).astype(np.float32)


def _tissue_cells(hu: Float32Array, brain: Brain, depth_mm: Float32Array, grid: Grid) -> _Cells:
    """Every second pixel of the smoothed slices, sorted into cells."""
    every = (slice(None), slice(None, None, 2), slice(None, None, 2))
    inside = brain.intracranial
    weight = _smoothed(inside.astype(np.float32), grid)
    smooth = _smoothed(np.where(inside, np.clip(hu, -_MOST_HU, 2 * _MOST_HU), 0).astype(np.float32), grid)
    smooth /= np.maximum(weight, 1e-3)
    z, y, x = (axis[part] for axis, part in zip(grid.axes_mm, every, strict=True))
    deep = depth_mm[every]
    use = (deep >= _DEPTHS_MM[0]) & (deep < _DEPTHS_MM[-1]) & ~brain.calcification[every]
    use &= ((z >= _HEIGHTS_MM[0]) & (z < _HEIGHTS_MM[-1]))[:, None, None]
    if brain.ventricles.any():
        dz, dy, dx = grid.spacing_mm
        use &= depth(~brain.ventricles[every], (dz, 2 * dy, 2 * dx)) > _VENTRICLE_RIM_MM
    iz, iy, ix = np.nonzero(use)
    places = (deep[use].astype(np.float64), x[ix], y[iy], z[iz])
    angle = np.arctan2(np.abs(places[1]), _AXIS_Y_MM - places[2]) / np.pi
    cell = np.ravel_multi_index(
        (
            np.searchsorted(_DEPTHS_MM, places[0], side="right") - 1,
            np.searchsorted(_HEIGHTS_MM, places[3], side="right") - 1,
            np.minimum((angle * _SECTORS).astype(np.int64), _SECTORS - 1),
            (places[1] > 0).astype(np.int64),
        ),
        _CELLS,
    )
    size, bins = int(np.prod(_CELLS)), len(_BINS_HU)
    density = np.clip(smooth[use] / _BIN_HU, 0, bins - 1).astype(np.int64)
    counts = np.bincount(cell * bins + density, minlength=size * bins).reshape(*_CELLS, bins)
    number = np.bincount(cell, minlength=size)
    depths, xs, ys, zs = (
        (np.bincount(cell, values, size) / np.maximum(number, 1)).reshape(_CELLS) for values in places
    )
    ml = number.reshape(_CELLS).astype(np.float64) * 4 * grid.voxel_ml
    return _Cells(counts, ml, depths, xs, ys, zs)


def _smoothed(values: Float32Array, grid: Grid) -> Float32Array:
    """Smoothed, and thinned to every second pixel of each slice."""
    for axis, (sigma, step) in enumerate(zip(_SMOOTHING_MM, grid.spacing_mm, strict=True)):
        # a line that is left out along one axis need not be smoothed along the next
        values = ndimage.gaussian_filter1d(values, sigma / step, axis=axis, truncate=3.0)
        values = values[(slice(None),) * axis + (slice(None, None, 2 if axis else 1),)]
    return values


def _fit(cells: _Cells) -> _Field:
    """The field of a person's cells, in rounds: each tells fluid, blood and lesions better from tissue."""
    size = np.sqrt(np.minimum(cells.ml / _FULL_CELL_ML, 1.0)) * (cells.ml >= _LEAST_CELL_ML)
    field = _Field(np.zeros((len(_LENGTHS_MM), len(_NODES_MM))))
    if np.count_nonzero(size) < size.size // 20:
        return field
    offset, ceiling = np.zeros(_CELLS), np.full(_CELLS, _MOST_HU)
    for _ in range(_ROUNDS):
        density, seen_ml = _densities(cells, _FLUID_HU + offset, ceiling)
        relative = density - _tissue_hu(cells)
        if not field.level_hu:
            middle = size[2:6] > 0
            field = _Field(field.cupping_hu, level_hu=float(np.median(relative[2:6][middle])))
        sound = (size > 0) & (seen_ml >= _LEAST_CELL_ML)
        sound &= ~_beyond_an_edge(relative - field.level_hu, sound)
        weight = size * sound
        sideways = _sideways(cells, relative, weight)
        field = _Field(field.cupping_hu, sideways, field.forward_hu, field.level_hu)
        field = _symmetric(cells, relative - field.sideways_at(cells), weight, field)
        offset = field.at(cells)
        ceiling = field.level_hu + offset + _BLOOD_ABOVE_BRAIN_HU
    return field


def _densities(cells: _Cells, above: Float64Array, below: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Each cell's quantile of what is denser than ``above`` and less dense than ``below``; its volume, ml."""
    counted = cells.counts * ((above[..., None] < _BINS_HU) & (below[..., None] > _BINS_HU))
    total = np.cumsum(counted, axis=-1, dtype=np.float64)
    wanted = total[..., -1:] * _QUANTILE
    at = np.argmax(total >= np.maximum(wanted, 1e-9), axis=-1)[..., None]
    here = np.take_along_axis(total, at, -1)
    before = here - np.take_along_axis(counted, at, -1)
    share = (wanted - before) / np.maximum(here - before, 1)
    voxels = np.maximum(cells.counts.sum(axis=-1), 1)
    return ((at + share) * _BIN_HU)[..., 0], total[..., -1] / voxels * cells.ml


def _tissue_hu(cells: _Cells) -> Float64Array:
    """What the cells of a head without a field measure, relative to the middle depths."""
    rows = [np.interp(z, _TISSUE_HEIGHTS_MM, _TISSUE_HU[:, k]) for k, z in enumerate(cells.z_mm)]
    return np.stack(rows)


def _beyond_an_edge(excess: Float64Array, sound: BoolArray) -> BoolArray:
    """Cells at or outside a step that no field makes, going outwards in a column, and the one inside it."""
    middles = (_DEPTHS_MM[1:] + _DEPTHS_MM[:-1]) / 2
    beyond = np.zeros(_CELLS, np.bool_)
    stopped = np.zeros(_CELLS[1:], np.bool_)
    inner = np.where(sound[-1], excess[-1], 0.0)
    for k in range(_CELLS[0] - 2, -1, -1):
        growth = float(np.exp(min(middles[k + 1] - middles[k], _LENGTHS_MM[0]) / _LENGTHS_MM[0]))
        edge = sound[k] & ~stopped & (excess[k] > np.maximum(inner, 0) * growth + _EDGE_HU)
        beyond[k + 1] |= edge
        stopped |= edge
        beyond[k] = stopped
        inner = np.where(sound[k] & ~stopped, excess[k], inner)
    return beyond


def _sideways(cells: _Cells, relative: Float64Array, weight: Float64Array) -> tuple[float, float]:
    """Slope to the left and its change with height: the mode of mirror differences, mostly outside the
    territory of the middle cerebral artery, so that an infarct of all of it does not pull."""
    both = np.sqrt(weight[..., 0] * weight[..., 1]) * _outside_mca(cells)[..., 0]
    use = both > 0
    if not use.any():
        return 0.0, 0.0
    difference = (relative[..., 1] - relative[..., 0])[use]
    lever = (cells.x_mm[..., 1] - cells.x_mm[..., 0])[use] / _HALF_WIDTH_MM
    height, importance = _height(cells.z_mm.mean(axis=-1)[use]), both[use]
    slopes = np.linspace(-_MOST_SHADING_HU, _MOST_SHADING_HU, 41)
    near = np.exp(-(((difference - slopes[:, None] * lever) / _MIRROR_HU) ** 2))
    support = (near * importance).sum(axis=1)
    support *= np.exp(-0.5 * (slopes / _USUAL_SHADING_HU) ** 2 * 0.06)
    slope, twist = float(slopes[np.argmax(support)]), 0.0
    for _ in range(_STEPS):
        left = difference - (slope + twist * height) * lever
        w = importance * np.exp(-((left / _MIRROR_HU) ** 2))
        a, b, c = ((w * lever**2 * height**n).sum() for n in range(3))
        a, c = a + 2.0, c + 10.0
        p, q = ((w * lever * difference * height**n).sum() for n in range(2))
        slope, twist = float((c * p - b * q) / (a * c - b * b)), float((a * q - b * p) / (a * c - b * b))
    return float(np.clip(slope, -_MOST_SHADING_HU, _MOST_SHADING_HU)), float(np.clip(twist, -1.0, 1.0))


def _outside_mca(cells: _Cells) -> Float64Array:
    """Weight of cells for the slope: 1 at the poles, in the posterior fossa, at the vertex; else little."""
    sector = np.arange(_SECTORS)[None, None, :, None]
    outside = (cells.z_mm < -27) | (cells.z_mm > 63) | (sector == 0) | (sector >= _SECTORS - 2)
    return np.where(outside, 1.0, 0.15)


def _symmetric(cells: _Cells, relative: Float64Array, weight: Float64Array, start: _Field) -> _Field:
    """Cupping, the slope to the back and the level, by least squares that outliers do not move."""
    # of two mirrored cells that differ, the brighter one is sound
    difference = relative[..., 1] - relative[..., 0]
    doubt = np.exp(-((np.maximum(np.abs(difference) - 1.0, 0) / 2.5) ** 2))
    pair = (weight[..., 0] > 0) & (weight[..., 1] > 0)
    darker = np.stack([difference > 0, difference < 0], axis=-1) & pair[..., None]
    weight = weight * np.where(darker, doubt[..., None], 1.0)

    use = weight > 0
    basis = _cupping_basis(cells)[use]
    number = basis.shape[1]
    design = np.column_stack([basis, cells.y_mm[use] / _HALF_LENGTH_MM, np.ones(len(basis))])
    penalty = _penalty()
    low = np.r_[np.zeros(number), -_MOST_SHADING_HU, -np.inf]
    high = np.r_[np.full(number, _MOST_CUPPING_HU), _MOST_SHADING_HU, np.inf]
    wanted = relative[use]
    solution = np.r_[start.cupping_hu.ravel(), start.forward_hu, start.level_hu]
    for _ in range(_STEPS):
        left = wanted - design @ solution
        scale = np.where(left < 0, _DARK_HU, _BRIGHT_HU)
        robust = weight[use] * np.exp(-((left / scale) ** 2))
        normal = summed(design * robust[:, None], design) + penalty
        target = summed(design * robust[:, None], wanted[:, None])[:, 0]
        root = np.linalg.cholesky(normal)
        solution = lsq_linear(root.T, np.linalg.solve(root, target), (low, high), method="bvls").x
    return _Field(
        solution[:number].reshape(start.cupping_hu.shape),
        start.sideways_hu,
        float(solution[number]),
        float(solution[number + 1]),
    )


def _penalty() -> Float64Array:
    """Quadratic: cupping changes smoothly with height and is small, the slope to the back is usual."""
    lengths, nodes = len(_LENGTHS_MM), len(_NODES_MM)
    change = np.diff(np.eye(nodes), axis=0)
    one = 0.85 * change.T @ change + 0.08 * np.eye(nodes)
    penalty = np.zeros((lengths * nodes + 2, lengths * nodes + 2))
    penalty[:-2, :-2] = np.kron(np.eye(lengths), one)
    penalty[-2, -2] = 30.0
    penalty[-1, -1] = 1e-6
    return penalty


def _cupping_basis(cells: _Cells) -> Float64Array:
    """float64 [..., length x node]: what cupping of 1 HU at each node adds to the cells."""
    fall = np.exp(-cells.depth_mm[..., None] / _LENGTHS_MM)
    product = fall[..., :, None] * _at_heights(cells.z_mm)[..., None, :]
    return np.asarray(product.reshape(*_CELLS, -1))


def _at_heights(z_mm: Float64Array) -> Float64Array:
    """Weights of the nodes at heights, linear between them; float64 [..., node]."""
    steps = (z_mm[..., None] - _NODES_MM) / (_NODES_MM[1] - _NODES_MM[0])
    inside = np.clip(z_mm, _NODES_MM[0], _NODES_MM[-1])[..., None]
    steps = (inside - _NODES_MM) / (_NODES_MM[1] - _NODES_MM[0])
    return np.asarray(np.maximum(1 - np.abs(steps), 0))


def _height(z_mm: Float64Array) -> Float64Array:
    return np.asarray(np.clip(z_mm / _HALF_HEIGHT_MM, -1, 1))


def _on_grid(field: _Field, depth_mm: Float32Array, grid: Grid) -> Float32Array:
    z, y, x = grid.axes_mm
    slope, twist = field.sideways_hu
    across = (slope + twist * _height(z))[:, None] * x / _HALF_WIDTH_MM
    along = field.forward_hu * y / _HALF_LENGTH_MM
    amplitude = (_at_heights(z) @ field.cupping_hu.T).astype(np.float32)
    out = (across[:, None, :] + along[:, None]).astype(np.float32)
    for k, length in enumerate(_LENGTHS_MM):
        if amplitude[:, k].any():
            out += amplitude[:, k, None, None] * np.exp(depth_mm * np.float32(-1 / length))
    return out
