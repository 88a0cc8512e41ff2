"""Source voxels <-> canonical head frame: exact for tilt, gaps and every orientation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from strokecore.head.grid import Grid, HeadFrame
from strokecore.head.resampling import coverage, to_canonical, to_source
from strokecore.reading.series import Series

GRID = Grid(shape=(30, 60, 50), spacing_mm=(2.0, 1.0, 1.0), origin_mm=(-24.5, -29.5, -29.0))


def stack(
    offsets_mm: list[float],
    tilt_deg: float = 0.0,
    pixel_mm: tuple[float, float] = (0.8, 0.9),
    size: tuple[int, int] = (110, 100),
    row: tuple[float, float, float] = (1.0, 0.0, 0.0),
    column: tuple[float, float, float] = (0.0, 1.0, 0.0),
    sheared: bool = True,
) -> Series:
    """An empty stack centred on the origin: slices along z of the gantry, tilted by ``tilt_deg``."""
    angle = np.radians(tilt_deg)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    r, c = turn @ np.array(row), turn @ np.array(column)
    normal = np.cross(r, c)
    # the table moves along patient z (shear), or the slices are stacked along their own normal
    along = np.sign(normal[2]) * np.array([0.0, 0.0, 1.0]) if sheared else normal
    first = -(size[1] - 1) / 2 * pixel_mm[1] * r - (size[0] - 1) / 2 * pixel_mm[0] * c
    positions = first + np.array(offsets_mm)[:, None] * along
    return Series(
        hu=np.zeros((len(offsets_mm), *size), np.float32),
        positions_mm=positions,
        row_direction=r,
        column_direction=c,
        pixel_spacing_mm=pixel_mm,
        slice_thickness_mm=4.0,
        tilt_deg=tilt_deg,
        datasets=(),
        chosen_because="",
        digest="",
    )


def world(series: Series) -> np.ndarray:
    """LPS of every source voxel, [k, j, i, 3]."""
    _, nj, ni = series.hu.shape
    return (
        series.positions_mm[:, None, None]
        + series.column_direction * (np.arange(nj) * series.pixel_spacing_mm[0])[:, None, None]
        + series.row_direction * (np.arange(ni) * series.pixel_spacing_mm[1])[:, None]
    )


def head_points(grid: Grid, frame: HeadFrame) -> np.ndarray:
    """LPS of every canonical voxel, [z, y, x, 3]."""
    z, y, x = np.meshgrid(*grid.axes_mm, indexing="ij")
    head = np.stack([x, y, z], axis=-1)
    return head @ frame.patient_from_head[:3, :3].T + frame.patient_from_head[:3, 3]


def filled(series: Series, values: np.ndarray) -> Series:
    series.hu[...] = values
    return series


def rotated_frame(grid: Grid = GRID, degrees: tuple[float, float, float] = (8.0, -5.0, 12.0)) -> HeadFrame:
    cx, cy, cz = np.cos(np.radians(degrees))
    sx, sy, sz = np.sin(np.radians(degrees))
    turn = (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, (2.0, -3.0, 1.5)
    return HeadFrame(matrix, grid)


UNEVEN = [-34.0, -30.0, -26.0, -22.0, -18.0, -14.0, -10.0, -8.9, -2.0, 5.0, 12.0, 19.0, 26.0, 33.0]
THIN = list(np.arange(-34.0, 34.0, 0.6))


@pytest.mark.parametrize("offsets", [UNEVEN, THIN], ids=["uneven", "thin"])
@pytest.mark.parametrize("tilt_deg", [0.0, 18.5, -25.0])
@pytest.mark.parametrize("pixel_mm", [(0.8, 0.9), (0.45, 0.45)])
def test_linear_function_of_position_is_exact(
    offsets: list[float], tilt_deg: float, pixel_mm: tuple[float, float]
) -> None:
    size = (int(100 / pixel_mm[0]) + 1, int(100 / pixel_mm[1]))
    series = stack(offsets, tilt_deg, pixel_mm, size)
    slope = np.array([1.3, -0.7, 2.1])
    filled(series, world(series) @ slope)
    frame = rotated_frame()
    inside = coverage(series, frame)
    # the half voxel around the outer centres repeats the outer voxel: leave it out
    depth = head_points(GRID, frame) @ series.normal
    inside &= (depth > series.slice_offsets_mm[1]) & (depth < series.slice_offsets_mm[-2])
    inside = ndimage.binary_erosion(inside, iterations=2, border_value=1)
    assert inside.mean() > 0.5
    error = to_canonical(series, frame) - head_points(GRID, frame) @ slope
    assert np.abs(error[inside]).max() < 2e-3


def test_smooth_function_survives_the_round_trip() -> None:
    """Canonical and back to the source voxels of a sheared, unevenly spaced stack."""
    series = stack(UNEVEN, 18.5)
    points = world(series)
    wave = 100 * np.sin(points @ [0.06, 0.05, 0.03])
    filled(series, wave)
    frame = rotated_frame()
    head = (points - frame.patient_from_head[:3, 3]) @ frame.patient_from_head[:3, :3]
    back = to_source(series, frame, to_canonical(series, frame), order=1)
    assert back.dtype == np.float32
    within = np.all(np.abs(head) < [22, 27, 26], axis=-1)
    within &= coverage_of_source(series)
    assert within.sum() > 20_000
    # linear interpolation of this wave over 7 mm gaps: second derivative * gap^2 / 8 < 0.8 HU, twice
    assert np.abs(back - wave)[within].max() < 2.0


def coverage_of_source(series: Series) -> np.ndarray:
    """Source voxels a little inside the scan's border, [k, j, i]."""
    mask = np.zeros(series.hu.shape, bool)
    mask[1:-1, 3:-3, 3:-3] = True
    return mask


def test_nearest_labels_return_to_their_voxels() -> None:
    series = stack(UNEVEN, -18.5)
    frame = rotated_frame()
    points = head_points(GRID, frame)
    labels = ((points @ [0.0, 1.0, 0.0] > 0) * 3).astype(np.uint8)
    back = to_source(series, frame, labels)
    assert back.dtype == np.uint8
    truth = world(series)
    head = (truth - frame.patient_from_head[:3, 3]) @ frame.patient_from_head[:3, :3]
    grid_reach = np.all(np.abs(head) < [24, 29, 28], axis=-1)
    sure = np.abs(truth[..., 1]) > 1.0
    np.testing.assert_array_equal(back[grid_reach & sure], ((truth[..., 1] > 0) * 3)[grid_reach & sure])
    assert not back[np.abs(head[..., 0]) > 26].any()  # outside the grid


@pytest.mark.parametrize("tilt_deg", [0.0, -18.5])
@pytest.mark.parametrize(
    "box",
    [
        np.s_[4:9, 10:17, 30:41],
        np.s_[:8, :14, :14],  # a corner of the grid
        np.s_[-6:, 20:32, -9:],
        np.s_[:, :, :],
    ],
)
def test_every_source_voxel_takes_its_nearest_label(box: tuple[slice, ...], tilt_deg: float) -> None:
    series, frame = stack(UNEVEN, tilt_deg), rotated_frame()
    labels = np.zeros(GRID.shape, np.uint8)
    labels[box] = np.random.default_rng(2).integers(1, 20, labels[box].shape)
    head = (world(series) - frame.patient_from_head[:3, 3]) @ frame.patient_from_head[:3, :3]
    x, y, z = np.moveaxis((head - GRID.origin_mm) / GRID.spacing_mm[::-1], -1, 0).round().astype(int)
    inside = np.all([(i >= 0) & (i < n) for i, n in zip((z, y, x), GRID.shape, strict=True)], axis=0)
    expected = np.zeros(series.hu.shape, np.uint8)
    expected[inside] = labels[z[inside], y[inside], x[inside]]
    assert expected.any()
    np.testing.assert_array_equal(to_source(series, frame, labels), expected)


def test_an_empty_volume_and_one_beside_the_scan_give_nothing() -> None:
    series, frame = stack([18.0, 20.0, 22.0]), HeadFrame(np.eye(4), GRID)
    labels = np.zeros(GRID.shape, np.uint8)
    assert not to_source(series, frame, labels).any()
    labels[:10] = 1  # at z < -9 mm
    assert not to_source(series, frame, labels).any()


def test_voxels_outside_the_scan_are_filled_and_not_covered() -> None:
    series = filled(stack([-10.0, -5.0, 0.0, 5.0, 10.0]), 40.0)
    frame = HeadFrame(np.eye(4), GRID)
    hu, covered = to_canonical(series, frame), coverage(series, frame)
    z = GRID.axes_mm[0]
    np.testing.assert_array_equal(covered.all(axis=(1, 2)), np.abs(z) <= 12.0)
    np.testing.assert_array_equal(covered.any(axis=(1, 2)), np.abs(z) <= 12.0)
    np.testing.assert_array_equal(hu[covered], 40.0)
    np.testing.assert_array_equal(hu[~covered], -1024.0)


def test_thin_slices_lose_noise_as_a_thicker_slice_does() -> None:
    rng = np.random.default_rng(1)
    series = stack(THIN, 0.0, (0.5, 0.5), (120, 100))
    filled(series, rng.normal(0, 12.0, series.hu.shape))
    frame = HeadFrame(np.eye(4), GRID)
    hu, covered = to_canonical(series, frame), coverage(series, frame)
    # 3 slices x 2 x 2 pixels are averaged: at most 12 / sqrt(12), less after interpolation
    assert hu[covered].std() < 12.0 / np.sqrt(12) + 0.1


ORIENTATIONS = list(itertools.product((1, -1), (1, -1), (1, -1)))


@pytest.mark.parametrize(("flip_row", "flip_column", "swap"), ORIENTATIONS)
def test_left_stays_the_patients_left(flip_row: int, flip_column: int, swap: int) -> None:
    """Rows or columns reversed, transposed storage, reversed normal: geometry decides, not the shape."""
    row, column = (flip_row * 1.0, 0.0, 0.0), (0.0, flip_column * 1.0, 0.0)
    if swap < 0:
        row, column = column, row
    series = stack(list(np.arange(-30.0, 31.0, 4.0)), 12.0, row=row, column=column)
    points = world(series)
    marker = np.array([15.0, -8.0, 6.0])  # patient's left, front, upper half
    filled(series, np.where(np.linalg.norm(points - marker, axis=-1) < 5, 100.0, 0.0))
    frame = HeadFrame(np.eye(4), GRID)
    hu = to_canonical(series, frame)
    z, y, x = np.meshgrid(*GRID.axes_mm, indexing="ij")
    bright = np.clip(hu, 0, None)
    centre = [float((axis * bright).sum() / bright.sum()) for axis in (x, y, z)]
    np.testing.assert_allclose(centre, marker, atol=0.8)

    left = np.broadcast_to(x > 0, GRID.shape).astype(np.uint8)
    in_source = to_source(series, frame, left).astype(bool)
    assert in_source[np.linalg.norm(points - marker, axis=-1) < 5].all()
    assert not in_source[points[..., 0] < -1.0].any()


@pytest.mark.parametrize("turn_deg", [0.0, 180.0])
def test_prone_patients_left_is_left(turn_deg: float) -> None:
    """DICOM positions are the patient's: a prone scan only changes the direction cosines."""
    sign = 1.0 if turn_deg == 0.0 else -1.0
    series = stack([-20.0, -10.0, 0.0, 10.0, 20.0], row=(sign, 0, 0), column=(0, sign, 0))
    filled(series, (world(series)[..., 0] > 0) * 50.0)
    hu = to_canonical(series, HeadFrame(np.eye(4), GRID))
    middle = GRID.shape[0] // 2
    assert hu[middle, 30, 40] == 50.0
    assert hu[middle, 30, 10] == 0.0
