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

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import ndimage
from scipy.optimize import lsq_linear

from strokecore.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from strokecore.head.alignment import summed
from strokecore.head.brain import Brain, bounding_box
from strokecore.head.cranium import depth, dilate, erode
from strokecore.head.grid import Grid

Box = tuple[slice, slice, slice]

# Cells: depth under the inner table (finer where cupping is steep), height, angle from the front around a
# vertical axis through the middle of the hemispheres, side.
_DEPTHS_MM: Final = np.array([2.5, 5.0, 8.0, 11.0, 15.0, 20.0, 27.0, 36.0, 60.0])
_HEIGHTS_MM: Final = np.arange(-52.0, 79.0, 10.0)
_SECTORS: Final = 8
_AXIS_Y_MM: Final = 5.0
_CELLS: Final = (len(_DEPTHS_MM) - 1, len(_HEIGHTS_MM) - 1, _SECTORS, 2)
# A cell with less tissue than the one says nothing, one with more than the other says no more.
_LEAST_CELL_ML: Final = 0.15
_FULL_CELL_ML: Final = 1.6
# The level is first taken from the middle depths (8-27 mm); the field is 0 in the median below this depth.
_MIDDLE: Final = slice(2, 6)
_DEEP_MM: Final = 25.0
# A head with fewer cells than this share of all has no field that could be measured.
_LEAST_CELLS: Final = 0.05
# Depth is counted under the inner table without clefts of up to twice this width: ridges of bone, dense dura
# and what the segmentation leaves out are too small to shape the hardening of a beam.
_CLEFT_MM: Final = 8.0
# Around the ventricles leukoaraiosis and the ventricle's own partial volume darken many a head.
_VENTRICLE_RIM_MM: Final = 9.0

# Smoothed over about a thick slice, so that thin and thick slices and all kernels measure alike.
_SMOOTHING_MM: Final = (1.5, 1.0, 1.0)
_BIN_HU: Final = 0.5
_MOST_HU: Final = 100.0
_BINS_HU: Final = np.arange(0.0, _MOST_HU, _BIN_HU) + _BIN_HU / 2
# A cell is measured by this quantile of its tissue, which the width of sulci changes least.
_QUANTILE: Final = 0.9
# Where the field has been taken off, fluid is less dense than the one, blood denser than brain by the other.
_FLUID_HU: Final = 17.0
_BLOOD_ABOVE_BRAIN_HU: Final = 14.0

# Cupping falls off under the skull with these lengths (5-20 mm are seen) and changes slowly with height.
_LENGTHS_MM: Final = np.array([5.0, 10.0, 20.0])
_NODES_MM: Final = np.array([-50.0, -25.0, 0.0, 25.0, 50.0, 75.0])
_MOST_CUPPING_HU: Final = 45.0
# How stiff the cupping is from height to height, and what a small one costs, per full cell.
_STIFFNESS: Final = 0.85
_SMALLNESS: Final = 0.02

# Shading is a slope; its value at these distances from the middle is at most about what scanners leave, and
# small ones are more usual: the costs, per full cell, of the slope to the side, its twist, and to the back.
_HALF_WIDTH_MM: Final = 65.0
_HALF_LENGTH_MM: Final = 85.0
_HALF_HEIGHT_MM: Final = 50.0
_MOST_SHADING_HU: Final = 2.0
_MOST_TWIST_HU: Final = 1.0
_SLOPES_HU: Final = np.linspace(-_MOST_SHADING_HU, _MOST_SHADING_HU, 41)
_SIDEWAYS_COST: Final = 2.0
_TWIST_COST: Final = 10.0
_BACKWARD_COST: Final = 40.0
# An infarct of a whole middle cerebral artery leaves these alone: the frontal sector, the two occipital ones,
# what is below and above these heights. Everything else counts little for the slope to the side.
_FRONTAL_SECTORS: Final = 1
_OCCIPITAL_SECTORS: Final = 2
_MCA_HEIGHTS_MM: Final = (-27.0, 63.0)
_MCA_WEIGHT: Final = 0.3

# From one depth of a column to the next, outwards, a field grows no faster than with the shortest length, but
# for the anatomy of a cell. More is the edge of a layer, and what lies beside it may hold a part of it.
_EDGE_HU: Final = 7.0
_BESIDE: Final = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.bool_)[..., None]
# Residuals beyond about these are no field: anatomy scatters by 1-2 HU between cells, mirrored cells by 1.
_OUTLIER_HU: Final = 3.0
_MIRROR_HU: Final = 1.0
# Of two mirrored cells that differ by more than the one, the darker is doubted, by the scale of the other.
_UNLIKE_HU: Final = (1.0, 2.5)
# How wide the limit of outliers is in the steps of each round: wide first, so that a strong field is not one.
_WIDTHS: Final = ((4.0, 2.5, 1.6, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
_MIRROR_STEPS: Final = 4

# What cells measure without a field, HU, up to a constant: rows are heights, columns depths. From six heads
# of real anatomy (label maps of persons 1-6, slices of 1 and 5 mm, with and without atrophy), set so that
# fields of 0-10 HU come back without bias. Cortex brightens the rim, the cerebellum the lowest rows.
_TISSUE_HEIGHTS_MM: Final = np.arange(-47.0, 74.0, 20.0)
_TISSUE_HU: Final = np.array(
    [
        [5.3, 4.9, 5.4, 5.2, 3.7, 3.0, 4.3, 0.3],
        [3.1, 2.6, 2.8, 2.8, 2.4, 1.5, 3.0, 1.1],
        [2.7, 1.4, 1.1, 1.1, 1.2, 1.7, 3.0, 1.0],
        [2.2, 0.8, 0.4, 0.1, 0.2, 0.6, 1.5, 0.0],
        [2.1, 0.7, 0.3, 0.3, 0.2, 0.1, -0.2, -1.6],
        [1.2, 0.6, 0.6, 0.4, 0.3, 0.7, 0.5, -1.9],
        [1.5, 1.5, 2.1, 0.3, -0.2, 0.1, -0.4, -1.9],
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
    """A fitted field.

    cupping_hu: float64 [length, node], at the inner table. sideways_hu: slope to the left and its change with
    height. backward_hu: slope to the back. level_hu: of tissue without the field, in the units of _TISSUE_HU.
    """

    cupping_hu: Float64Array
    sideways_hu: tuple[float, float] = (0.0, 0.0)
    backward_hu: float = 0.0
    level_hu: float = 0.0

    def at(self, cells: _Cells) -> Float64Array:
        """The field in cells, HU."""
        cupping = _cupping_basis(cells) @ self.cupping_hu.ravel()
        return np.asarray(cupping + self.sideways_at(cells) + self.backward_hu * cells.y_mm / _HALF_LENGTH_MM)

    def sideways_at(self, cells: _Cells) -> Float64Array:
        """Its antisymmetric part in cells, HU."""
        slope, twist = self.sideways_hu
        return np.asarray((slope + twist * _height(cells.z_mm)) * cells.x_mm / _HALF_WIDTH_MM)


def density_field(hu: Float32Array, brain: Brain, grid: Grid, covered: BoolArray) -> Float32Array:
    """The slow density that is scanner and not tissue; ``hu`` minus it is flat at the person's own level.

    Parameters
    ----------
    hu: float32 [z, y, x] on ``grid``; covered: bool [z, y, x], inside the scan.
    brain: its intracranial space, ventricles and calcification are used.

    Returns
    -------
    float32 [z, y, x], HU: its median deep in the brain is 0; outside the skull it is as at the inner table;
    0 outside the scan, and everywhere when there is too little tissue to tell.
    """
    if not brain.intracranial.any():
        return np.zeros(grid.shape, np.float32)
    box = bounding_box(brain.intracranial, max(grid.spacing_mm), grid.spacing_mm)
    depth_mm = np.zeros(grid.shape, np.float32)
    depth_mm[box] = depth(_without_clefts(brain.intracranial[box], grid.spacing_mm), grid.spacing_mm)
    cells = _tissue_cells(hu, brain, depth_mm, grid, box)
    if np.count_nonzero(cells.ml >= _LEAST_CELL_ML) < _LEAST_CELLS * cells.ml.size:
        return np.zeros(grid.shape, np.float32)
    field = _on_grid(_fit(cells), depth_mm, grid)
    deep = field[brain.intracranial & (depth_mm >= _DEEP_MM)]
    if deep.size:
        field -= np.median(deep)
    return np.where(covered, field, np.float32(0))


def _without_clefts(inside: BoolArray, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """A mask and its clefts; measured on every second pixel, which costs a quarter."""
    dz, dy, dx = spacing_mm
    half_mm = (dz, 2 * dy, 2 * dx)
    reach = [int(_CLEFT_MM / step) + 1 for step in half_mm]
    coarse = np.pad(inside[:, ::2, ::2], [(n, n) for n in reach])
    closed = erode(dilate(coarse, _CLEFT_MM, half_mm), _CLEFT_MM, half_mm)
    closed = closed[tuple(slice(n, -n) for n in reach)]
    whole = closed.repeat(2, axis=1).repeat(2, axis=2)[:, : inside.shape[1], : inside.shape[2]]
    return np.asarray(inside | whole)


def _tissue_cells(hu: Float32Array, brain: Brain, depth_mm: Float32Array, grid: Grid, box: Box) -> _Cells:
    """Every second pixel of the smoothed slices, sorted into cells."""
    z, y, x = (axis[part] for axis, part in zip(grid.axes_mm, box, strict=True))
    y, x = y[::2], x[::2]
    inside = brain.intracranial[box]
    weight = _smoothed(inside.astype(np.float32), grid.spacing_mm)
    smooth = _smoothed(np.where(inside, hu[box], 0).astype(np.float32), grid.spacing_mm)
    smooth /= np.maximum(weight, 1e-3)
    deep = depth_mm[box][:, ::2, ::2]
    use = (
        inside[:, ::2, ::2]
        & (deep >= _DEPTHS_MM[0])
        & (deep < _DEPTHS_MM[-1])
        & ~brain.calcification[box][:, ::2, ::2]
    )
    use &= ((z >= _HEIGHTS_MM[0]) & (z < _HEIGHTS_MM[-1]))[:, None, None]
    ventricles = brain.ventricles[box][:, ::2, ::2]
    if ventricles.any():
        dz, dy, dx = grid.spacing_mm
        use &= depth(~ventricles, (dz, 2 * dy, 2 * dx)) > _VENTRICLE_RIM_MM
    iz, iy, ix = np.nonzero(use)
    depths, xs, ys, zs = deep[use].astype(np.float64), x[ix], y[iy], z[iz]
    angle = np.arctan2(np.abs(xs), _AXIS_Y_MM - ys) / np.pi
    places = (
        np.searchsorted(_DEPTHS_MM, depths, side="right") - 1,
        np.searchsorted(_HEIGHTS_MM, zs, side="right") - 1,
        np.minimum((angle * _SECTORS).astype(np.int64), _SECTORS - 1),
        (xs > 0).astype(np.int64),
    )
    cell = np.ravel_multi_index(places, _CELLS)
    size, bins = int(np.prod(_CELLS)), len(_BINS_HU)
    density = np.clip(smooth[use] / _BIN_HU, 0, bins - 1).astype(np.int64)
    number = np.bincount(cell, minlength=size)

    def mean(values: Float64Array) -> Float64Array:
        return np.asarray(np.bincount(cell, values, size) / np.maximum(number, 1)).reshape(_CELLS)

    return _Cells(
        counts=np.bincount(cell * bins + density, minlength=size * bins).reshape(*_CELLS, bins),
        ml=number.reshape(_CELLS).astype(np.float64) * 4 * grid.voxel_ml,
        depth_mm=mean(depths),
        x_mm=mean(xs),
        y_mm=mean(ys),
        z_mm=mean(zs),
    )


def _smoothed(values: Float32Array, spacing_mm: tuple[float, float, float]) -> Float32Array:
    """Smoothed, and thinned to every second pixel of each slice."""
    for axis, (sigma, step) in enumerate(zip(_SMOOTHING_MM, spacing_mm, strict=True)):
        # a line that is left out along one axis need not be smoothed along the next
        values = ndimage.gaussian_filter1d(values, sigma / step, axis=axis, truncate=3.0)
        values = values[(slice(None),) * axis + (slice(None, None, 2 if axis else 1),)]
    return values


def _fit(cells: _Cells) -> _Field:
    """The field of a person's cells, in rounds: each tells fluid, blood and lesions better from tissue."""
    size = np.sqrt(np.minimum(cells.ml / _FULL_CELL_ML, 1.0)) * (cells.ml >= _LEAST_CELL_ML)
    field = _Field(np.zeros((len(_LENGTHS_MM), len(_NODES_MM))))
    offset, ceiling = np.zeros(_CELLS), np.full(_CELLS, _MOST_HU)
    for number, widths in enumerate(_WIDTHS):
        density, tissue_ml = _densities(cells, _FLUID_HU + offset, ceiling)
        relative = density - _tissue_hu(cells)
        sound = (size > 0) & (tissue_ml >= _LEAST_CELL_ML)
        if number == 0:
            middle = relative[_MIDDLE][sound[_MIDDLE]]
            field = replace(field, level_hu=float(np.median(middle)) if middle.size else 0.0)
        weight = size * (sound & ~_beyond_an_edge(relative - field.level_hu, offset, sound))
        field = replace(field, sideways_hu=_sideways(cells, relative, weight))
        field = _symmetric(cells, relative - field.sideways_at(cells), weight, field, widths)
        offset = field.at(cells)
        ceiling = field.level_hu + offset + _BLOOD_ABOVE_BRAIN_HU
    return field


def _densities(cells: _Cells, above: Float64Array, below: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Each cell's quantile, HU, of what is denser than ``above`` and less dense than ``below``; its ml."""
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
    """What the cells of a head without a field measure, HU, up to a constant."""
    rows = [np.interp(z, _TISSUE_HEIGHTS_MM, _TISSUE_HU[:, k]) for k, z in enumerate(cells.z_mm)]
    return np.stack(rows)


def _beyond_an_edge(excess: Float64Array, found: Float64Array, sound: BoolArray) -> BoolArray:
    """Cells at or outside a step that no field makes, going outwards in a column, and the one inside it.

    ``found`` is the field of the round before: what it explains is no step, even where the inner cells of a
    column hold too little tissue to tell how the field has grown, as under the vertex.
    """
    middles = (_DEPTHS_MM[1:] + _DEPTHS_MM[:-1]) / 2
    beyond = np.zeros(_CELLS, np.bool_)
    stopped = np.zeros(_CELLS[1:], np.bool_)
    inner = np.where(sound[-1], excess[-1], 0.0)
    for k in range(_CELLS[0] - 2, -1, -1):
        growth = float(np.exp(min(middles[k + 1] - middles[k], _LENGTHS_MM[0]) / _LENGTHS_MM[0]))
        expected = np.maximum(np.maximum(inner, 0) * growth, found[k])
        edge = sound[k] & ~stopped & (excess[k] > expected + _EDGE_HU)
        edge = ndimage.binary_dilation(edge, _BESIDE)
        beyond[k + 1] |= edge
        stopped |= edge
        beyond[k] = stopped
        inner = np.where(sound[k] & ~stopped, excess[k], inner)
    return beyond


def _sideways(cells: _Cells, relative: Float64Array, weight: Float64Array) -> tuple[float, float]:
    """Slope to the left and its change with height, HU: the mode of the mirrored cells' differences."""
    weight = np.sqrt(weight[..., 0] * weight[..., 1]) * _outside_mca(cells.z_mm.mean(axis=-1))
    use = weight > 0
    if not use.any():
        return 0.0, 0.0
    weight = weight[use]
    difference = (relative[..., 1] - relative[..., 0])[use]
    lever = (cells.x_mm[..., 1] - cells.x_mm[..., 0])[use] / _HALF_WIDTH_MM
    turned = lever * _height(cells.z_mm.mean(axis=-1)[use])
    left = difference - _SLOPES_HU[:, None] * lever
    support = (weight * np.exp(-((left / _MIRROR_HU) ** 2))).sum(axis=1)
    slope, twist = float(_SLOPES_HU[np.argmax(support)]), 0.0
    for _ in range(_MIRROR_STEPS):
        left = difference - slope * lever - twist * turned
        robust = weight * np.exp(-((left / _MIRROR_HU) ** 2))
        a, b, c = (float((robust * v).sum()) for v in (lever * lever, lever * turned, turned * turned))
        p, q = (float((robust * v * difference).sum()) for v in (lever, turned))
        a, c = a + _SIDEWAYS_COST, c + _TWIST_COST
        slope, twist = (c * p - b * q) / (a * c - b * b), (a * q - b * p) / (a * c - b * b)
    return (
        float(np.clip(slope, -_MOST_SHADING_HU, _MOST_SHADING_HU)),
        float(np.clip(twist, -_MOST_TWIST_HU, _MOST_TWIST_HU)),
    )


def _outside_mca(z_mm: Float64Array) -> Float64Array:
    """Weight of cells [depth, height, sector] for the slope to the side."""
    sector = np.arange(_SECTORS)
    pole = (sector < _FRONTAL_SECTORS) | (sector >= _SECTORS - _OCCIPITAL_SECTORS)
    low, high = _MCA_HEIGHTS_MM
    return np.where(pole | (z_mm < low) | (z_mm > high), 1.0, _MCA_WEIGHT)


def _symmetric(
    cells: _Cells, relative: Float64Array, weight: Float64Array, start: _Field, widths: tuple[float, ...]
) -> _Field:
    """Cupping, the slope to the back and the level: least squares that outliers do not move."""
    # of two mirrored cells that differ, the darker may be infarcted; blood has been left out before
    difference = relative[..., 1] - relative[..., 0]
    alike, scale = _UNLIKE_HU
    doubt = np.exp(-((np.maximum(np.abs(difference) - alike, 0) / scale) ** 2))[..., None]
    darker = np.stack([difference > 0, difference < 0], axis=-1)
    darker &= ((weight[..., 0] > 0) & (weight[..., 1] > 0))[..., None]
    weight = weight * np.where(darker, doubt, 1.0)

    use = weight > 0
    basis = _cupping_basis(cells)[use]
    nodes = basis.shape[1]
    design = np.column_stack([basis, cells.y_mm[use] / _HALF_LENGTH_MM, np.ones(len(basis))])
    low = np.r_[np.zeros(nodes), -_MOST_SHADING_HU, -np.inf]
    high = np.r_[np.full(nodes, _MOST_CUPPING_HU), _MOST_SHADING_HU, np.inf]
    penalty, wanted = _penalty(), relative[use]
    solution = np.r_[start.cupping_hu.ravel(), start.backward_hu, start.level_hu]
    for width in widths:
        left = wanted - design @ solution
        robust = (weight[use] * np.exp(-((left / (_OUTLIER_HU * width)) ** 2)))[:, None]
        root = np.linalg.cholesky(summed(design * robust, design) + penalty)
        target = np.linalg.solve(root, summed(design * robust, wanted[:, None])[:, 0])
        solution = lsq_linear(root.T, target, (low, high), method="bvls").x
    cupping = solution[:nodes].reshape(start.cupping_hu.shape)
    return replace(
        start, cupping_hu=cupping, backward_hu=float(solution[nodes]), level_hu=float(solution[nodes + 1])
    )


def _penalty() -> Float64Array:
    """Quadratic cost of the symmetric part's unknowns; float64 [unknown, unknown]."""
    lengths, nodes = len(_LENGTHS_MM), len(_NODES_MM)
    change = np.diff(np.eye(nodes), axis=0)
    penalty = np.diag(np.r_[np.zeros(lengths * nodes), _BACKWARD_COST, 1e-6])  # the level is free
    penalty[:-2, :-2] = np.kron(np.eye(lengths), _STIFFNESS * change.T @ change + _SMALLNESS * np.eye(nodes))
    return penalty


def _cupping_basis(cells: _Cells) -> Float64Array:
    """What cupping of 1 HU at each length and node adds to the cells; float64 [..., length x node]."""
    fall = np.exp(-cells.depth_mm[..., None] / _LENGTHS_MM)
    product = fall[..., :, None] * _at_heights(cells.z_mm)[..., None, :]
    return np.asarray(product.reshape(*_CELLS, -1))


def _at_heights(z_mm: Float64Array) -> Float64Array:
    """Weights of the nodes at heights, linear between them; float64 [..., node]."""
    inside = np.clip(z_mm, _NODES_MM[0], _NODES_MM[-1])[..., None]
    return np.asarray(np.maximum(1 - np.abs(inside - _NODES_MM) / (_NODES_MM[1] - _NODES_MM[0]), 0))


def _height(z_mm: Float64Array) -> Float64Array:
    return np.asarray(np.clip(z_mm / _HALF_HEIGHT_MM, -1, 1))


def _on_grid(field: _Field, depth_mm: Float32Array, grid: Grid) -> Float32Array:
    z, y, x = grid.axes_mm
    slope, twist = field.sideways_hu
    across = (slope + twist * _height(z))[:, None] * x / _HALF_WIDTH_MM
    along = field.backward_hu * y / _HALF_LENGTH_MM
    cupping = (_at_heights(z) @ field.cupping_hu.T).astype(np.float32)
    total = (across[:, None, :] + along[:, None]).astype(np.float32)
    for k, length in enumerate(_LENGTHS_MM):
        total += cupping[:, k, None, None] * np.exp(depth_mm * np.float32(-1 / length))
    return total
