"""Series that hold more than one stack: a repeated scan, a scout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from strokecore.errors import Refusal
from strokecore.reading.series import Series, read_series
from tests.ct_factory import uid, write_series

SMALL: dict[str, Any] = {"slices": 14, "spacing_mm": 8, "size": 64, "pixel_mm": 3}
SAGITTAL, CORONAL = [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]


def write_pass(folder: Path, name: str, *, seed: int, tags: dict[str, Any], **arguments: Any) -> list[str]:
    """One pass of the series; the SOPInstanceUIDs that it has."""
    uids = []

    def own(dataset: Dataset, k: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"{name}/{k}")
        uids.append(str(dataset.SOPInstanceUID))
        for keyword, value in tags.items():
            setattr(dataset, keyword, value(k) if callable(value) else value)

    write_series(folder / name, **(SMALL | {"seed": seed, "edit": own} | arguments))
    return uids


def instances(series: Series) -> set[str]:
    return {str(d.SOPInstanceUID) for d in series.datasets}


def severities(series: Series) -> dict[str, str]:
    return {flag.code: flag.severity for flag in series.flags}


def clock(start: int, step: int) -> Any:
    """Acquisition time of slice k: ``start`` seconds after noon, and ``step`` more for each."""
    return lambda k: f"12{(start + step * k) // 60:02d}{(start + step * k) % 60:02d}"


@pytest.mark.parametrize("first_name", ["a", "z"])  # whichever file comes first
@pytest.mark.parametrize(
    ("first", "second"),
    [
        # numbered, all of one pass at one time
        (
            {"AcquisitionNumber": 1, "AcquisitionTime": "120000"},
            {"AcquisitionNumber": 2, "AcquisitionTime": "120100"},
        ),
        # numbers that run against the clock
        (
            {"AcquisitionNumber": 7, "AcquisitionTime": "120000"},
            {"AcquisitionNumber": 3, "AcquisitionTime": "120100"},
        ),
        # numbers alone
        ({"AcquisitionNumber": 1, "AcquisitionTime": ""}, {"AcquisitionNumber": 2, "AcquisitionTime": ""}),
        # times alone, another one on every slice (step and shoot), upwards and back
        ({"AcquisitionTime": clock(0, 2)}, {"AcquisitionTime": clock(60, 2)}),
        ({"AcquisitionTime": clock(0, 2)}, {"AcquisitionTime": clock(200, -2)}),
        # the second after midnight
        (
            {"AcquisitionDateTime": "20200101235900"},
            {"AcquisitionDateTime": "20200102000100"},
        ),
    ],
)
def test_of_two_complete_passes_the_later_is_read(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], first_name: str
) -> None:
    write_pass(tmp_path, first_name, seed=1, tags=first)
    later = write_pass(tmp_path, "m", seed=2, tags=second)
    series = read_series(tmp_path)
    assert instances(series) == set(later)
    assert severities(series)["several_passes"] == "warning"
    assert series.hu.shape[0] == 14


def test_passes_at_shifted_positions_are_not_woven_together(tmp_path: Path) -> None:
    """The patient was moved between them: every second slice would be of another head position."""
    write_pass(tmp_path, "a", seed=1, tags={"AcquisitionNumber": 1})
    offsets = [(n - 6.5) * 8 + 3 for n in range(14)]
    later = write_pass(tmp_path, "b", seed=2, tags={"AcquisitionNumber": 2}, offsets_mm=offsets)
    assert instances(read_series(tmp_path)) == set(later)


def test_passes_of_another_field_of_view(tmp_path: Path) -> None:
    write_pass(tmp_path, "a", seed=1, tags={"AcquisitionNumber": 1}, pixel_mm=2.8)
    later = write_pass(tmp_path, "b", seed=2, tags={"AcquisitionNumber": 2})
    assert instances(read_series(tmp_path)) == set(later)


@pytest.mark.parametrize(
    ("first", "second", "arguments"),
    [
        ({}, {}, {}),  # nothing tells them apart
        ({"AcquisitionTime": clock(0, 2)}, {"AcquisitionTime": clock(1, 2)}, {}),  # at the same time
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, {"slices": 9}),  # the second is a part
        ({"AcquisitionTime": clock(0, 2)}, {"AcquisitionTime": clock(60, 2)}, {"slices": 13}),
    ],
)
def test_what_does_not_fall_into_complete_passes_is_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], arguments: dict[str, Any]
) -> None:
    write_pass(tmp_path, "a", seed=1, tags=first)
    whole = [(n - 6.5) * 8 for n in range(14)]
    cut = {"offsets_mm": whole[: arguments["slices"]]} if arguments else {}
    write_pass(tmp_path, "b", seed=2, tags=second, **cut)
    with pytest.raises(Refusal, match="duplicate_position"):
        read_series(tmp_path)


@pytest.mark.parametrize("count", [2, 3, 14])
def test_one_scan_in_several_numbered_parts_stays_whole(tmp_path: Path, count: int) -> None:
    write_pass(tmp_path, "a", seed=1, tags={"AcquisitionNumber": lambda k: k * count // 14 + 1})
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 14
    assert "several_passes" not in severities(series)


def test_alternating_numbers_of_one_interleaved_scan_stay_whole(tmp_path: Path) -> None:
    write_pass(
        tmp_path, "a", seed=1, tags={"AcquisitionNumber": lambda k: k % 2 + 1}, slices=28, spacing_mm=5
    )
    assert read_series(tmp_path).hu.shape[0] == 28


def test_four_passes_are_a_time_series(tmp_path: Path) -> None:
    for n in range(4):
        write_pass(tmp_path, str(n), seed=n, tags={"AcquisitionNumber": n, "AcquisitionTime": f"12000{n}"})
    with pytest.raises(Refusal, match="time_series"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    "odd", [{0: SAGITTAL}, {13: CORONAL}, {0: SAGITTAL, 13: CORONAL}, {0: CORONAL, 1: CORONAL}]
)
def test_one_or_two_images_in_another_plane_are_left_out_and_named(
    tmp_path: Path, odd: dict[int, list[int]]
) -> None:
    """A scout that does not say that it is one."""
    numbers = []

    def turn(dataset: Dataset, k: int) -> None:
        if k in odd:
            dataset.ImageOrientationPatient = odd[k]
            dataset.Rows, dataset.Columns = 32, 128  # its matrix is its own
            numbers.append(str(dataset.InstanceNumber))

    write_series(tmp_path, edit=turn, **SMALL)
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 14 - len(odd)
    (flag,) = (f for f in series.flags if f.code == "odd_images_left_out")
    assert flag.severity == "info"
    assert all(number in flag.message for number in numbers)
    assert np.allclose(series.normal, [0, 0, 1])


def test_three_images_in_another_plane_are_no_scouts(tmp_path: Path) -> None:
    write_series(
        tmp_path, edit=lambda d, k: k < 3 and setattr(d, "ImageOrientationPatient", SAGITTAL), **SMALL
    )
    with pytest.raises(Refusal, match="mixed_orientation"):
        read_series(tmp_path)
