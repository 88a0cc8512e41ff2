"""A canonical head to a trained model's input, and its answer back. The trainer calls the same functions.

A model sees axial slices of the canonical frame: means over ``slice_mm`` thick slabs, resampled in plane to
``pixel_mm``. Rows run from anterior to posterior and columns from the patient's right to left; both are
symmetric about the grid's middle, so flipping the last axis is the mirror image across the mid-sagittal
plane.

Resampling is separable and linear: one small matrix per axis, the same in both directions on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES
from strokecore.arrays import BoolArray, Float3D, Float4D, Float32Array, Float64Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.head.grid import Grid

# Changes whenever the same head would give other pixels; a model package made with another version is
# refused.
PREPROCESS_VERSION: Final = "1"

# Density of what the scan does not cover (strokecore.head.frame).
OUTSIDE_HU: Final = -1024.0
# Slabs farther away than this belong to another level of the brain.
FARTHEST_SLAB: Final = 2


@dataclass(frozen=True)
class Channel:
    """One input channel: a CT window, of the head or of its mirror image.

    Attributes
    ----------
    window_hu: (low, high); densities are clipped to it and scaled to 0..1.
    mirror: the head flipped across the mid-sagittal plane.
    slab: which slab, counted upwards from the one that is answered for: -1 is its lower neighbour.
    mean, std: the scaled values are then normalised as (value - mean) / std. The defaults are the averages
        over colours of ImageNet's constants, which DINOv3's weights expect.
    """

    window_hu: tuple[float, float]
    mirror: bool = False
    mean: float = 0.449
    std: float = 0.226
    slab: int = 0

    def __post_init__(self) -> None:
        if not self.window_hu[0] < self.window_hu[1]:
            raise UsageError(f"channel window is {self.window_hu} HU, expected (low, high) with low < high.")
        if self.std <= 0:
            raise UsageError(f"channel std is {self.std}, expected > 0.")
        if abs(self.slab) > FARTHEST_SLAB:
            raise UsageError(f"channel slab is {self.slab}, expected {-FARTHEST_SLAB} to {FARTHEST_SLAB}.")


# The brain window of every reading room (width 80, level 40); the stroke window (width 30, level 35)
# stretches the few HU between healthy and ischaemic tissue (Lev et al., Radiology 1999;213:150: narrow
# windows show more early strokes).
BRAIN_WINDOW: Final = (0.0, 80.0)
STROKE_WINDOW: Final = (20.0, 50.0)
# The mirrored head is windowed as the head that it is compared with.
DEFAULT_CHANNELS: Final = (Channel(BRAIN_WINDOW), Channel(STROKE_WINDOW), Channel(STROKE_WINDOW, mirror=True))


@dataclass(frozen=True)
class InputSpec:
    """How a model wants its slices.

    Attributes
    ----------
    size: (rows, columns) in pixels.
    pixel_mm: in-plane spacing.
    slice_mm: thickness of the slabs and distance of their centres; contiguous.
    channels: in the order of the model's input.
    flat: without the scanner's slow density field (strokecore.head.density_field), else as scanned.
    atlas: behind the windows, a channel for each region name (REGION_NAMES) that is 1 in the person's region
        of either side, as the registration places it.
    """

    size: tuple[int, int] = (136, 112)
    pixel_mm: float = 1.5
    slice_mm: float = 6.0
    channels: tuple[Channel, ...] = DEFAULT_CHANNELS
    flat: bool = False
    atlas: bool = False

    def __post_init__(self) -> None:
        if min(self.size) < 16:
            raise UsageError(f"input size is {self.size}, expected at least 16 x 16 pixels.")
        if not 0.2 <= self.pixel_mm <= 8 or not 1 <= self.slice_mm <= 20:
            raise UsageError(
                f"input pixel_mm is {self.pixel_mm} and slice_mm {self.slice_mm}, expected 0.2-8 and 1-20 mm."
            )
        if not self.channels:
            raise UsageError("input channels are empty, expected at least one window.")

    @property
    def channel_count(self) -> int:
        """Of the model's input."""
        return len(self.channels) + len(REGION_NAMES) * self.atlas

    @property
    def slabs(self) -> tuple[int, ...]:
        """The slabs that the channels show, from below to above; 0, the answered one, always among them."""
        return tuple(sorted({0, *(channel.slab for channel in self.channels)}))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "size": list(self.size),
            "pixel_mm": self.pixel_mm,
            "slice_mm": self.slice_mm,
            "channels": [
                {
                    "window_hu": list(c.window_hu),
                    "mirror": c.mirror,
                    "mean": c.mean,
                    "std": c.std,
                    "slab": c.slab,
                }
                for c in self.channels
            ],
            "flat": self.flat,
            "atlas": self.atlas,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """The inverse of ``to_dict``. Raises UsageError, KeyError or TypeError on other content."""
        rows, columns = values["size"]
        return cls(
            size=(int(rows), int(columns)),
            pixel_mm=float(values["pixel_mm"]),
            slice_mm=float(values["slice_mm"]),
            channels=tuple(
                Channel(
                    (float(c["window_hu"][0]), float(c["window_hu"][1])),
                    bool(c["mirror"]),
                    float(c["mean"]),
                    float(c["std"]),
                    int(c.get("slab", 0)),
                )
                for c in values["channels"]
            ),
            flat=bool(values.get("flat", False)),
            atlas=bool(values.get("atlas", False)),
        )


def slice_centres_mm(grid: Grid, spec: InputSpec) -> Float64Array:
    """Head z of the centres of the model's slices on ``grid``; float64 [n], from below to above."""
    low = grid.origin_mm[2] - grid.spacing_mm[0] / 2
    count = int(grid.shape[0] * grid.spacing_mm[0] // spec.slice_mm)
    return np.asarray(low + spec.slice_mm * (np.arange(count) + 0.5))


def hu_slices(hu: Float3D, grid: Grid, spec: InputSpec) -> Float3D:
    """Slab means of a canonical volume [z, y, x] on the model's pixels; float32 [n, rows, columns], HU.

    What lies outside the scan (-1024) stays far below every window.
    """
    rows, columns = _in_plane(grid, spec)
    slabs = np.tensordot(_slabs(grid, spec), hu.astype(np.float32, copy=False), axes=(1, 0))
    return np.asarray(rows @ slabs @ columns.T, np.float32)


def mask_slices(mask: BoolArray, grid: Grid, spec: InputSpec) -> BoolArray:
    """Where at least half of a model's pixel lies in ``mask`` [z, y, x]; bool [n, rows, columns]."""
    return np.asarray(hu_slices(mask.astype(np.float32), grid, spec) >= 0.5)


def label_slices(labels: UInt8Array, grid: Grid, spec: InputSpec) -> UInt8Array:
    """The label [z, y, x] nearest to each model pixel's centre; uint8 [n, rows, columns], 0 off the grid."""
    z, y, x = (
        _nearest(values, axis, count)
        for values, axis, count in zip(
            (slice_centres_mm(grid, spec), *_pixel_centres_mm(spec)), grid.axes_mm, grid.shape, strict=True
        )
    )
    padded = np.pad(labels, ((0, 1), (0, 1), (0, 1)))  # index -1 reads the padding
    return np.asarray(padded[np.ix_(z, y, x)])


def with_neighbours(
    slices: npt.NDArray[Any], rows: npt.NDArray[np.intp], spec: InputSpec
) -> npt.NDArray[Any]:
    """Those of one head's slices [n, rows, columns] that ``rows`` names, each with its neighbours.

    Returns
    -------
    [len(rows), slabs, rows, columns] in the order of ``spec.slabs``; OUTSIDE_HU beyond the ends.
    """
    margin = max(abs(slab) for slab in spec.slabs)
    padded = np.pad(slices, ((margin, margin), (0, 0), (0, 0)), constant_values=OUTSIDE_HU)
    return np.asarray(padded[rows[:, None] + margin + np.array(spec.slabs)])


def to_channels(stacks: Float4D, regions: UInt8Array, spec: InputSpec) -> Float32Array:
    """Slices with their neighbours to the model's input, float32 [n, channels, rows, columns].

    Parameters
    ----------
    stacks: [n, slabs, rows, columns], HU, as ``with_neighbours`` gives them.
    regions: uint8 [n, rows, columns], RegionId.label; only looked at where ``spec.atlas``.
    """
    out = np.empty((stacks.shape[0], spec.channel_count, *stacks.shape[2:]), np.float32)
    for index, channel in enumerate(spec.channels):
        low, high = channel.window_hu
        slices = stacks[:, spec.slabs.index(channel.slab)]
        scaled = np.clip((slices - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
        out[:, index] = ((scaled - channel.mean) / channel.std)[..., :: -1 if channel.mirror else 1]
    if spec.atlas:
        for index, name in enumerate(REGION_NAMES, start=len(spec.channels)):
            out[:, index] = np.isin(regions, [region.label for region in ALL_REGIONS if region.name == name])
    return out


def to_volume(values: Float3D, grid: Grid, spec: InputSpec) -> Float3D:
    """A model's map [n, rows, columns] on the canonical grid, linear between centres; float32 [z, y, x]."""
    z_axis, y_axis, x_axis = grid.axes_mm
    row_mm, column_mm = _pixel_centres_mm(spec)
    rows = _interpolation(row_mm, y_axis)
    columns = _interpolation(column_mm, x_axis)
    between = _interpolation(slice_centres_mm(grid, spec), z_axis)
    planes = rows @ values.astype(np.float32, copy=False) @ columns.T
    return np.asarray(np.tensordot(between, planes, axes=(1, 0)), np.float32)


def _pixel_centres_mm(spec: InputSpec) -> tuple[Float64Array, Float64Array]:
    """Head y of the rows and x of the columns: the canonical grid's axes are symmetric about 0."""
    rows, columns = spec.size
    return (
        np.asarray((np.arange(rows) - (rows - 1) / 2) * spec.pixel_mm, np.float64),
        np.asarray((np.arange(columns) - (columns - 1) / 2) * spec.pixel_mm, np.float64),
    )


def _slabs(grid: Grid, spec: InputSpec) -> Float32Array:
    """[n, z]: share of each plane in each slab, rows sum to 1."""
    step = grid.spacing_mm[0]
    planes = grid.axes_mm[0]
    centres = slice_centres_mm(grid, spec)[:, None]
    high = np.minimum(planes + step / 2, centres + spec.slice_mm / 2)
    low = np.maximum(planes - step / 2, centres - spec.slice_mm / 2)
    overlap = np.clip(high - low, 0.0, None)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), np.float32)


def _in_plane(grid: Grid, spec: InputSpec) -> tuple[Float32Array, Float32Array]:
    """Weights [rows, y] and [columns, x]: a triangle as wide as the coarser of both spacings, so that
    coarser pixels are means and finer ones are interpolated; beyond the grid the edge is repeated."""
    row_mm, column_mm = _pixel_centres_mm(spec)
    return (
        _triangle(row_mm, grid.axes_mm[1], max(spec.pixel_mm, grid.spacing_mm[1])),
        _triangle(column_mm, grid.axes_mm[2], max(spec.pixel_mm, grid.spacing_mm[2])),
    )


def _triangle(wanted: Float64Array, given: Float64Array, width_mm: float) -> Float32Array:
    inside = np.clip(wanted, given[0], given[-1])
    weight = np.clip(1 - np.abs(inside[:, None] - given[None, :]) / width_mm, 0.0, None)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), np.float32)


def _interpolation(centres: Float64Array, wanted: Float64Array) -> Float32Array:
    """[wanted, centres]: linear between neighbours, constant up to half a step outside, 0 beyond."""
    step = centres[1] - centres[0] if len(centres) > 1 else 1.0
    weight = np.clip(1 - np.abs(np.clip(wanted, centres[0], centres[-1])[:, None] - centres) / step, 0, None)
    outside = (wanted < centres[0] - step / 2 - 1e-9) | (wanted > centres[-1] + step / 2 + 1e-9)
    weight[outside] = 0.0
    return np.asarray(weight, np.float32)


def _nearest(wanted: Float64Array, given: Float64Array, count: int) -> npt.NDArray[np.intp]:
    position = (wanted - given[0]) / (given[1] - given[0])
    # midway between two: the one nearer the middle, so that neither side is preferred
    low, high = np.floor(position + 0.5), np.ceil(position - 0.5)
    index = np.where(position < (count - 1) / 2, low, high).astype(np.intp)
    return np.where((index >= 0) & (index < count), index, -1)
