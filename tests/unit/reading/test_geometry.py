"""Order and world position of every voxel, whichever way the patient lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from strokecore.reading.geometry import angle_deg, off_line_mm, tilt_deg
from strokecore.reading.series import Series, read_series
from tests.ct_factory import ORIENTATIONS, head_hu, write_series


def world_mm(series: Series) -> np.ndarray:
    """LPS of every voxel of ``series``, [k, j, i, 3], from its own geometry."""
    _, rows, columns = series.hu.shape
    along_j, along_i = series.pixel_spacing_mm
    j = np.arange(rows)[:, None, None] * along_j * series.column_direction
    i = np.arange(columns)[None, :, None] * along_i * series.row_direction
    return series.positions_mm[:, None, None, :] + (j + i)[None]


def assert_every_voxel_is_in_its_place(series: Series) -> None:
    expected = np.rint(head_hu(world_mm(series)))
    # the head's surfaces fall between voxels, and positions are written with six decimals
    assert (series.hu != expected).mean() < 1e-4


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("tilt", [0.0, 18.5, -20.0])
def test_eight_orientations(tmp_path: Path, orientation: str, tilt: float) -> None:
    write_series(
        tmp_path, orientation=orientation, tilt_deg=tilt, noise_hu=0, size=96, pixel_mm=2.3, slices=20,
        spacing_mm=7, thickness_mm=6,
    )  # fmt: skip
    series = read_series(tmp_path)
    assert_every_voxel_is_in_its_place(series)
    assert series.tilt_deg == pytest.approx(tilt, abs=1e-4)  # the same sign in all eight
    assert (np.diff(series.slice_offsets_mm) > 0).all()
    feet_first = orientation.startswith("FF")
    assert (series.positions_mm[-1, 2] < series.positions_mm[0, 2]) == feet_first


def test_row_and_column_spacing_are_not_confused(tmp_path: Path) -> None:
    def stretch(dataset: Dataset, k: int) -> None:
        dataset.PixelSpacing = [1.8, 0.9]  # along j (between rows), along i

    write_series(tmp_path, edit=stretch, tags={"Rows": 128})
    series = read_series(tmp_path)
    assert series.pixel_spacing_mm == (1.8, 0.9)


def test_uneven_and_tilted_slices_are_where_they_say(tmp_path: Path) -> None:
    offsets = [*np.arange(-60, 0, 4.0), *np.arange(1.0, 70, 7.0)]
    write_series(tmp_path, offsets_mm=offsets, thickness_mm=4.0, tilt_deg=12, noise_hu=0)
    series = read_series(tmp_path)
    np.testing.assert_allclose(series.slice_offsets_mm - series.slice_offsets_mm[0], np.array(offsets) + 60)
    assert_every_voxel_is_in_its_place(series)


def test_order_ignores_names_and_instance_numbers(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a")
    expected = [dcmread(p).SOPInstanceUID for p in paths]
    numbers = [dcmread(p).InstanceNumber for p in paths]
    assert numbers != sorted(numbers)  # the factory shuffles them
    series = read_series(tmp_path / "a")
    assert [d.SOPInstanceUID for d in series.datasets] == expected
    write_series(tmp_path / "b", tags={"InstanceNumber": None, "SliceLocation": "7"})
    again = read_series(tmp_path / "b")
    assert [d.SOPInstanceUID for d in again.datasets] == expected


def test_far_from_the_origin_and_roughly_written_directions(tmp_path: Path) -> None:
    """Some scanners put the origin a metre away and write four decimals, not quite of unit length."""

    def move(dataset: Dataset, k: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y - 120.0, z + 1234.5]
        dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 0.9483, -0.3173]

    write_series(tmp_path, tilt_deg=18.5, edit=move)
    series = read_series(tmp_path)
    assert np.linalg.norm(series.column_direction) == pytest.approx(1, abs=1e-12)
    assert series.row_direction @ series.column_direction == pytest.approx(0, abs=1e-12)
    assert series.tilt_deg == pytest.approx(18.5, abs=0.01)


def test_sign_of_the_tilt_follows_the_anatomy() -> None:
    stack = np.array([[0, 0, 0], [0, 0, 5.0], [0, 0, 10.0]])
    leaning_back = np.array([0, np.sin(0.3), np.cos(0.3)])
    assert tilt_deg(stack, leaning_back) == pytest.approx(np.degrees(0.3))
    assert tilt_deg(stack, leaning_back * [1, -1, 1]) == pytest.approx(-np.degrees(0.3))
    assert tilt_deg(-stack, -leaning_back) == pytest.approx(np.degrees(0.3))
    assert tilt_deg(stack, np.array([0, 0, 1.0])) == 0
    assert tilt_deg(stack, np.array([np.sin(0.3), 0, np.cos(0.3)])) == pytest.approx(np.degrees(0.3))


def test_small_angles_are_exact() -> None:
    assert angle_deg(np.array([0, 0, 1.0]), np.array([0, 1e-6, 1.0])) == pytest.approx(np.degrees(1e-6))


def test_distance_from_the_line() -> None:
    assert off_line_mm(np.array([[0, 0, 0], [3.0, 4.0, 5.0], [0, 0, 10.0]])) == pytest.approx(5)
