"""Slice geometry, partial volume and noise of the simulated scanner, on small analytic objects."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from strokecore.simulate.scanner import (
    NOISE_REFERENCE_MM,
    SliceGeometry,
    acquire,
    patient_from_head,
    sample_slices,
    slice_geometry,
    window_of,
)
from strokecore.simulate.shape import FineGrid, fine_grid
from strokecore.simulate.spec import SampleSpec

SMALL = SampleSpec(seed=5, matrix=96, pixel_mm=2.2, noise_hu=0.0)


def voxel_points(geometry: SliceGeometry) -> npt.NDArray[np.float64]:
    """Patient coordinates of every voxel, from DICOM's formula alone; [k, j, i, 3]."""
    n = np.arange(geometry.matrix) * geometry.pixel_mm
    return (
        geometry.positions_mm[:, None, None]
        + n[None, :, None, None] * geometry.column_direction
        + n[None, None, :, None] * geometry.row_direction
    )


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
@pytest.mark.parametrize("tilt", [0.0, 17.0, -12.0])
def test_slices_are_contiguous_and_sheared_by_the_tilt(position: str, tilt: float) -> None:
    spec = dataclasses.replace(SMALL, patient_position=position, tilt_deg=tilt)
    g = slice_geometry(spec)
    step = g.step_mm
    np.testing.assert_allclose(step[:2], 0, atol=1e-6)  # the table moves along z only
    assert abs(step @ g.normal) == pytest.approx(spec.thickness_mm, abs=1e-5)
    angle = np.degrees(np.arccos(abs(step @ g.normal) / np.linalg.norm(step)))
    assert angle == pytest.approx(abs(tilt), abs=1e-3)
    np.testing.assert_allclose([g.row_direction @ g.column_direction], 0, atol=1e-6)


def test_positive_tilt_lifts_the_front() -> None:
    points = voxel_points(slice_geometry(dataclasses.replace(SMALL, tilt_deg=15.0)))[0]
    flat = points.reshape(-1, 3)
    front, back = flat[flat[:, 1].argmin()], flat[flat[:, 1].argmax()]
    assert front[2] > back[2]


@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP"])
def test_a_point_keeps_its_place_in_every_orientation(
    position: str, flip_rows: bool, flip_columns: bool
) -> None:
    """A bright ball on the patient's right, in front and above is found there through geometry only."""
    spec = dataclasses.replace(
        SMALL, patient_position=position, flip_rows=flip_rows, flip_columns=flip_columns, tilt_deg=14.0
    )
    grid = fine_grid()
    x, y, z = grid.axes_mm
    centre = np.array([-40.0, -30.0, 35.0])
    ball = (
        (x[None, None] - centre[0]) ** 2
        + (y[None, :, None] - centre[1]) ** 2
        + (z[:, None, None] - centre[2]) ** 2
        < 100
    ).astype(np.float32)
    geometry = slice_geometry(spec)
    from_head = patient_from_head(spec)
    share = sample_slices(ball, grid, np.linalg.inv(from_head), geometry, outside=0.0)
    found = np.average(voxel_points(geometry).reshape(-1, 3), axis=0, weights=share.ravel())
    expected = from_head[:3, :3] @ centre + from_head[:3, 3]
    np.testing.assert_allclose(found, expected, atol=0.4)
    volume = share.sum() * geometry.pixel_mm**2 * geometry.thickness_mm
    assert volume == pytest.approx(4 / 3 * np.pi * 1000, rel=0.05)


def test_head_rotation_is_rigid_and_as_described() -> None:
    spec = dataclasses.replace(SMALL, pitch_deg=20.0)
    up = patient_from_head(spec)[:3, :3]
    np.testing.assert_allclose(up @ up.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(up) == pytest.approx(1)
    assert (up @ [0, -1, 0])[2] > 0.3  # chin up: the face turns to superior
    left = patient_from_head(dataclasses.replace(SMALL, yaw_deg=20.0))[:3, :3]
    assert (left @ [0, -1, 0])[0] > 0.3
    lean = patient_from_head(dataclasses.replace(SMALL, roll_deg=20.0))[:3, :3]
    assert (lean @ [0, 0, 1])[0] > 0.3


def test_a_thick_slice_averages_over_its_thickness() -> None:
    grid = fine_grid()
    _, _, z = grid.axes_mm
    half = np.broadcast_to((z > 10.0)[:, None, None], grid.shape).astype(np.float32).copy()
    spec = dataclasses.replace(SMALL, thickness_mm=8.0)
    geometry = slice_geometry(spec)
    from_head = patient_from_head(spec)
    share = sample_slices(half, grid, np.linalg.inv(from_head), geometry, outside=0.0)[:, 48, 48]
    border = 10.0 + from_head[2, 3]
    expected = np.clip((geometry.positions_mm[:, 2] + 4 - border) / 8, 0, 1)
    inside = slice(2, -3)  # away from the ends of the grid
    np.testing.assert_allclose(share[inside], expected[inside], atol=0.12)


def _water(spec: SampleSpec) -> tuple[npt.NDArray[np.float64], SliceGeometry]:
    grid = FineGrid((-100.0, -100.0, -100.0), (170, 170, 170))
    geometry = slice_geometry(spec)
    middle = dataclasses.replace(geometry, positions_mm=geometry.positions_mm[10:16])
    return acquire(spec, np.full(grid.shape, 30, np.float32), grid, middle).astype(np.float64), middle


@pytest.mark.parametrize("thickness", [1.25, 5.0])
def test_noise_falls_with_the_root_of_the_thickness(thickness: float) -> None:
    spec = SampleSpec(seed=3, matrix=128, pixel_mm=0.45, noise_hu=4.0, thickness_mm=thickness)
    hu, _ = _water(spec)
    expected = 0.8 * 4.0 * np.sqrt(NOISE_REFERENCE_MM / thickness)
    assert hu.std() == pytest.approx(expected, rel=0.08)


def test_noise_is_correlated_like_filtered_back_projection() -> None:
    """Power rises from zero frequency, peaks, and is gone well before the pixel's own limit."""
    spec = SampleSpec(seed=3, matrix=128, pixel_mm=0.45, noise_hu=4.0)
    hu, _ = _water(spec)
    power = (np.abs(np.fft.fft2(hu - hu.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    f = np.hypot(np.fft.fftfreq(128, 0.45)[:, None], np.fft.fftfreq(128, 0.45))
    low, peak, high = (power[(f > a) & (f < b)].mean() for a, b in ((0.01, 0.05), (0.15, 0.3), (0.8, 1.0)))
    assert peak > 1.8 * low
    assert peak > 20 * high


def test_the_bone_kernel_is_noisier() -> None:
    soft, _ = _water(SampleSpec(seed=3, matrix=128, noise_hu=4.0))
    bone, _ = _water(SampleSpec(seed=3, matrix=128, noise_hu=4.0, kernel="BONE"))
    assert bone.std() > 2 * soft.std()


def test_iterative_reconstruction_leaves_blotches_instead_of_grain() -> None:
    grain, plastic = (
        _water(SampleSpec(seed=3, matrix=128, pixel_mm=0.45, noise_hu=4.0, plastic=p))[0] for p in (0.0, 0.9)
    )
    assert plastic.std() == pytest.approx(grain.std(), rel=0.1)
    steps = [np.diff(hu, axis=2).std() / hu.std() for hu in (grain, plastic)]
    assert steps[1] < 0.6 * steps[0]


def test_edge_enhancement_overshoots_at_an_edge_and_leaves_flat_tissue() -> None:
    grid = FineGrid((-100.0, -100.0, -100.0), (170, 170, 170))
    edge = np.full(grid.shape, 30, np.float32)
    edge[:, :, 85:] = 60
    spec = SampleSpec(seed=3, matrix=256, pixel_mm=0.45, noise_hu=0.0, cupping=0.0)
    geometry = slice_geometry(spec)
    middle = dataclasses.replace(geometry, positions_mm=geometry.positions_mm[14:16])
    soft, sharp = (
        acquire(dataclasses.replace(spec, edge_enhancement=e), edge, grid, middle)[0, 100] for e in (0.0, 1.0)
    )
    assert soft.min() >= 30
    assert sharp.min() < 29
    assert sharp[60] == soft[60] == 30


def test_a_window_is_a_part_of_the_series() -> None:
    grid = fine_grid()
    _, _, z = grid.axes_mm
    rise = np.broadcast_to(z[:, None, None], grid.shape).astype(np.float32).copy()
    spec = dataclasses.replace(SMALL, tilt_deg=10.0)
    geometry, to_head = slice_geometry(spec), np.linalg.inv(patient_from_head(spec))
    ball = np.zeros(grid.shape, np.bool_)
    ball[60:100, 60:120, 50:110] = True
    window = window_of(ball, grid, patient_from_head(spec), geometry)
    everything = sample_slices(rise, grid, to_head, geometry, outside=0.0)
    part = sample_slices(rise, grid, to_head, geometry, outside=0.0, window=window)
    np.testing.assert_allclose(part, everything[window.index], atol=1e-3)
    held = sample_slices(ball.astype(np.float32), grid, to_head, geometry, outside=0.0)
    assert held[window.index].sum() == pytest.approx(held.sum())
    assert part.size < 0.3 * everything.size
