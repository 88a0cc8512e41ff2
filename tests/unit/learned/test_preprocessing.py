"""Canonical head to model input and back: place, side, thickness, windows, and what the package records."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID, Grid
from strokecore.learned.preprocessing import (
    BRAIN_WINDOW,
    STROKE_WINDOW,
    Channel,
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
    to_volume,
    with_neighbours,
)

GRID = CANONICAL_GRID
Z, Y, X = (axis.astype(np.float32) for axis in GRID.axes_mm)
# as it ships, finer than the canonical grid, as coarse as twice it, and slices that cut its planes
SPECS = [
    InputSpec(),
    InputSpec(size=(160, 144), pixel_mm=0.5, slice_mm=5.0),
    InputSpec(size=(112, 96), pixel_mm=2.0, slice_mm=5.0),
    InputSpec(size=(64, 64), pixel_mm=3.0, slice_mm=3.0),
]


def pixels_mm(count: int, spec: InputSpec) -> np.ndarray:
    return np.asarray((np.arange(count) - (count - 1) / 2) * spec.pixel_mm)


def ramp(axis: int) -> np.ndarray:
    """A volume whose density is the head coordinate along one array axis."""
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.broadcast_to(GRID.axes_mm[axis].astype(np.float32).reshape(shape), GRID.shape).copy()


@pytest.mark.parametrize("spec", SPECS)
def test_every_pixel_lies_where_it_says(spec: InputSpec) -> None:
    """A density that is a coordinate comes out as the coordinate of the pixel's or slab's centre."""
    z, y, x = (hu_slices(ramp(axis), GRID, spec) for axis in range(3))
    rows, columns = pixels_mm(spec.size[0], spec), pixels_mm(spec.size[1], spec)
    assert z.dtype == np.float32
    assert z.shape == (len(slice_centres_mm(GRID, spec)), *spec.size)
    # a slab that cuts planes is off by up to an eighth of a plane, a coarse pixel by less
    np.testing.assert_allclose(z[:, 9, 9], slice_centres_mm(GRID, spec), atol=0.25)
    # where the triangle of a coarse pixel is not cut by the grid's edge
    within = np.abs(rows) < 110
    np.testing.assert_allclose(y[5, within, 9], rows[within], atol=0.05)
    within = np.abs(columns) < 90
    np.testing.assert_allclose(x[5, 9, within], columns[within], atol=0.05)


@pytest.mark.parametrize("spec", SPECS)
def test_slices_are_contiguous_slabs_of_the_grid(spec: InputSpec) -> None:
    centres = slice_centres_mm(GRID, spec)
    step = GRID.spacing_mm[0]
    np.testing.assert_allclose(np.diff(centres), spec.slice_mm)
    assert centres[0] - spec.slice_mm / 2 == pytest.approx(Z[0] - step / 2)
    assert centres[-1] + spec.slice_mm / 2 <= Z[-1] + step / 2 + 1e-6
    # an even slab: every plane has its share, and no more
    plane = np.zeros(GRID.shape, np.float32)
    plane[10] = 1.0
    assert hu_slices(plane, GRID, spec)[:, 9, 9].sum() * spec.slice_mm == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_a_mirrored_head_gives_mirrored_slices(spec: InputSpec) -> None:
    rng = np.random.default_rng(0)
    hu = rng.uniform(0, 80, GRID.shape).astype(np.float32)
    labels = rng.integers(0, 21, GRID.shape).astype(np.uint8)
    mask = hu > 30
    np.testing.assert_allclose(
        hu_slices(hu[..., ::-1], GRID, spec), hu_slices(hu, GRID, spec)[..., ::-1], atol=1e-3
    )
    np.testing.assert_array_equal(
        label_slices(labels[..., ::-1], GRID, spec), label_slices(labels, GRID, spec)[..., ::-1]
    )
    differs = mask_slices(mask[..., ::-1], GRID, spec) != mask_slices(mask, GRID, spec)[..., ::-1]
    assert differs.mean() < 1e-3  # rounding at exactly one half


@pytest.mark.parametrize("spec", SPECS)
def test_the_patients_left_stays_in_the_high_columns(spec: InputSpec) -> None:
    """And posterior in the high rows, superior in the high slices: head axes are LPS."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[np.ix_(Z > 20, Y > 30, X > 10)] = 7
    for found in (label_slices(labels, GRID, spec) > 0, mask_slices(labels > 0, GRID, spec)):
        z, y, x = np.nonzero(found)
        assert slice_centres_mm(GRID, spec)[z].min() > 20 - spec.slice_mm / 2 - 1e-6
        assert pixels_mm(spec.size[0], spec)[y].min() > 30 - spec.pixel_mm / 2 - 1e-6
        assert pixels_mm(spec.size[1], spec)[x].min() > 10 - spec.pixel_mm / 2 - 1e-6
        area_mm2 = found[np.searchsorted(slice_centres_mm(GRID, spec), 50)].sum() * spec.pixel_mm**2
        rows, columns = (side * spec.pixel_mm / 2 for side in spec.size)
        assert area_mm2 == pytest.approx((min(rows, 115) - 30) * (min(columns, 95) - 10), rel=0.06)


def test_labels_are_never_mixed() -> None:
    labels = np.where(np.arange(GRID.shape[2]) % 2, 3, 20).astype(np.uint8)
    volume = np.broadcast_to(labels, GRID.shape).copy()
    assert set(np.unique(label_slices(volume, GRID, InputSpec()))) == {3, 20}


def test_pixels_beyond_the_grid_have_no_label() -> None:
    spec = InputSpec(size=(256, 256), pixel_mm=1.0)
    found = label_slices(np.ones(GRID.shape, np.uint8), GRID, spec)
    inside = np.ix_(
        np.ones(len(found), bool), np.abs(pixels_mm(256, spec)) < 115, np.abs(pixels_mm(256, spec)) < 95
    )
    assert found[inside].all()
    assert found.sum() == found[inside].size


def test_mask_needs_half_a_pixel() -> None:
    """Two of three planes of a 6 mm slab are infarct; one of three is not."""
    for planes, expected in ((2, True), (1, False)):
        mask = np.zeros(GRID.shape, bool)
        mask[30 : 30 + planes] = True
        assert mask_slices(mask, GRID, InputSpec())[:, 68, 56].any() == expected


@pytest.mark.parametrize("spec", SPECS)
def test_a_smooth_map_comes_back(spec: InputSpec) -> None:
    z, y, x = np.meshgrid(Z, Y, X, indexing="ij", sparse=True)
    smooth = (np.exp(-(((x - 20) / 30) ** 2) - ((y + 10) / 30) ** 2 - ((z - 8) / 25) ** 2)).astype(np.float32)
    back = to_volume(hu_slices(smooth, GRID, spec), GRID, spec)
    assert back.dtype == np.float32
    assert back.shape == GRID.shape
    rows, columns = (side * spec.pixel_mm / 2 - 2 for side in spec.size)
    reach = np.ix_(np.abs(Z) < 70, np.abs(Y) < rows, np.abs(X) < columns)
    assert np.abs(back - smooth)[reach].max() < 0.03


def test_nothing_comes_back_beyond_the_slices() -> None:
    spec = InputSpec(size=(64, 48), pixel_mm=2.0)
    back = to_volume(np.ones((27, 64, 48), np.float32), GRID, spec)
    inside = np.ix_(np.abs(Z) < 200, np.abs(Y) < 64, np.abs(X) < 48)
    np.testing.assert_allclose(back[inside][:81], 1.0, atol=1e-6)
    assert back.sum() == pytest.approx(back[inside].sum())


NO_REGIONS = np.zeros((2, 16, 16), np.uint8)


def test_the_atlas_is_a_channel_for_each_name_of_either_side() -> None:
    spec = InputSpec(size=(16, 16), atlas=True)
    regions = NO_REGIONS.copy()
    regions[0, 2:5, 3] = RegionId("C", "right").label
    regions[1, 7, 12] = RegionId("M6", "left").label
    channels = to_channels(np.zeros((2, 1, 16, 16), np.float32), regions, spec)
    assert channels.shape == (2, spec.channel_count, 16, 16) == (2, 13, 16, 16)
    place = {name: 3 + index for index, name in enumerate(REGION_NAMES)}
    np.testing.assert_array_equal(channels[0, place["C"]], regions[0] > 0)
    np.testing.assert_array_equal(channels[1, place["M6"]], regions[1] > 0)
    assert channels[:, 3:].sum() == 4
    assert InputSpec.from_dict(spec.to_dict()) == spec


def test_neighbours_lie_beside_and_nothing_beyond_the_ends() -> None:
    slices = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 16, 16), np.float32)
    spec = InputSpec(
        size=(16, 16), channels=(Channel((0, 8)), Channel((0, 8), slab=-1), Channel((0, 8), slab=1))
    )
    stacks = with_neighbours(slices, np.array([0, 2]), spec)
    assert stacks[:, :, 5, 5].tolist() == [[-1024, 0, 1], [1, 2, 3]]
    channels = to_channels(stacks, NO_REGIONS, spec)
    shown = (channels[:, :, 5, 5] * 0.226 + 0.449) * 8
    np.testing.assert_allclose(shown, [[0, 0, 1], [2, 1, 3]], atol=1e-5)


def test_channels_are_windows_of_head_and_mirror() -> None:
    slices = np.linspace(-100, 120, 2 * 16 * 16, dtype=np.float32).reshape(2, 16, 16)
    channels = to_channels(slices[:, None], NO_REGIONS, InputSpec(size=(16, 16)))
    assert channels.shape == (2, 3, 16, 16)
    assert channels.dtype == np.float32
    for index, (low, high), source in (
        (0, BRAIN_WINDOW, slices),
        (1, STROKE_WINDOW, slices),
        (2, STROKE_WINDOW, slices[..., ::-1]),
    ):
        scaled = (np.clip(source, low, high) - low) / (high - low)
        np.testing.assert_allclose(channels[:, index], (scaled - 0.449) / 0.226, rtol=1e-5, atol=1e-5)


def test_outside_the_scan_is_black_in_every_window() -> None:
    channels = to_channels(
        np.full((1, 1, 16, 16), -1024, np.float32), NO_REGIONS[:1], InputSpec(size=(16, 16))
    )
    np.testing.assert_allclose(channels, -0.449 / 0.226, rtol=1e-5)


def test_spec_survives_json() -> None:
    spec = InputSpec(
        size=(448, 384),
        pixel_mm=0.5,
        slice_mm=5.0,
        channels=(Channel((-10.0, 90.0), mirror=True, mean=0.1, std=0.5), Channel((0.0, 40.0))),
    )
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(KeyError):
        InputSpec.from_dict({"size": [64, 64]})


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"size": (8, 64)}, "input size"),
        ({"pixel_mm": 0.0}, "pixel_mm"),
        ({"slice_mm": 40.0}, "slice_mm"),
        ({"channels": ()}, "channels"),
    ],
)
def test_meaningless_specs_are_refused(values: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        InputSpec(**values)


def test_meaningless_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="low < high"):
        Channel((80.0, 0.0))
    with pytest.raises(UsageError, match="std"):
        Channel((0.0, 80.0), std=0.0)


def test_a_grid_of_other_planes_works_alike() -> None:
    thin = Grid((60, 230, 190), (1.0, 1.0, 1.0), (-94.5, -114.5, -30.0))
    volume = np.broadcast_to(thin.axes_mm[0].astype(np.float32)[:, None, None], thin.shape).copy()
    np.testing.assert_allclose(
        hu_slices(volume, thin, InputSpec())[:, 5, 5], slice_centres_mm(thin, InputSpec()), atol=1e-3
    )
