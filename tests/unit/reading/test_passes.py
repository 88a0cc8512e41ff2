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


# --- slabs: thin slices through the skull base, thick ones above ---


def slab(first_mm: float, last_mm: float, step_mm: float) -> list[float]:
    """Offsets from ``first_mm`` up to ``last_mm``, both included."""
    return [float(o) for o in np.arange(first_mm, last_mm + 0.01, step_mm)]


def write_slabs(folder: Path, *slabs: tuple[list[float], float], **arguments: Any) -> None:
    """Slabs of (offsets, SliceThickness), from one scan."""
    offsets = [o for slices, _ in slabs for o in slices]
    thicknesses = [t for slices, t in slabs for _ in slices]
    write_series(
        folder, **(SMALL | {"offsets_mm": offsets, "thicknesses_mm": thicknesses, "seed": 1} | arguments)
    )


def offsets_of(series: Series) -> list[float]:
    return [round(float(o), 3) for o in series.positions_mm[:, 2]]


@pytest.mark.parametrize(
    ("thin", "thick"), [(3.0, 6.0), (3.0, 7.0), (2.5, 5.0), (4.0, 7.0), (1.0, 5.0), (5.0, 10.0)]
)
@pytest.mark.parametrize("overlap", [1, 3])  # thick slices
@pytest.mark.parametrize("thin_below", [True, False])
def test_where_slabs_overlap_the_thick_slices_stay(
    tmp_path: Path, thin: float, thick: float, overlap: int, thin_below: bool
) -> None:
    """A position that is held twice at the joint is scanned tissue all the same."""
    turn = 1.0 if thin_below else -1.0
    fine = slab(-63, 0, thin)
    coarse = slab(fine[-1] - (overlap - 1) * thick, 66, thick)
    write_slabs(tmp_path, ([turn * o for o in fine], thin), ([turn * o for o in coarse], thick))
    series = read_series(tmp_path)
    expected = [*(o for o in fine if o < coarse[0] - 0.1), *coarse]
    np.testing.assert_allclose(offsets_of(series), sorted(turn * o for o in expected), atol=1e-3)
    assert severities(series)["overlapping_slabs"] == "info"
    assert "slice_gaps" not in severities(series)


@pytest.mark.parametrize(("thin", "thick"), [(3.0, 6.0), (2.5, 5.0), (2.0, 6.0)])
@pytest.mark.parametrize("thin_below", [True, False])
def test_woven_slices_are_no_missing_ones(
    tmp_path: Path, thin: float, thick: float, thin_below: bool
) -> None:
    turn = 1.0 if thin_below else -1.0
    fine, coarse = slab(-22 * thin, 0, thin), slab(thin / 2 - 2 * thick, 66, thick)
    write_slabs(tmp_path, ([turn * o for o in fine], thin), ([turn * o for o in coarse], thick))
    series = read_series(tmp_path)
    expected = [*(o for o in fine if o < coarse[0]), *coarse]
    np.testing.assert_allclose(offsets_of(series), sorted(turn * o for o in expected), atol=1e-3)
    assert severities(series)["overlapping_slabs"] == "info"


@pytest.mark.parametrize(
    ("slabs", "expected"),
    [
        # thin in the middle, its ends in both neighbours
        (
            [(slab(-65, -20, 5), 5.0), (slab(-20, 20, 2.5), 2.5), (slab(20, 65, 5), 5.0)],
            [*slab(-65, -20, 5), *slab(-17.5, 17.5, 2.5), *slab(20, 65, 5)],
        ),
        # thick in the middle
        (
            [(slab(-65, -20, 2.5), 2.5), (slab(-20, 20, 5), 5.0), (slab(20, 65, 2.5), 2.5)],
            [*slab(-65, -22.5, 2.5), *slab(-20, 20, 5), *slab(22.5, 65, 2.5)],
        ),
        # three thicknesses
        (
            [(slab(-65, -20, 2.5), 2.5), (slab(-20, 20, 5), 5.0), (slab(20, 66, 8), 8.0)],
            [*slab(-65, -22.5, 2.5), *slab(-20, 15, 5), *slab(20, 66, 8)],
        ),
        # the whole head, and thin slices of its base as well
        ([(slab(-65, 65, 5), 5.0), (slab(-65, -20, 1.25), 1.25)], slab(-65, 65, 5)),
        # both reconstructions of the whole head
        ([(slab(-65, 65, 5), 5.0), (slab(-65, 65, 1.25), 1.25)], slab(-65, 65, 5)),
        ([(slab(-65, 65, 10), 10.0), (slab(-65, 65, 5), 5.0)], slab(-65, 65, 5)),
        # the thin slices fill what the thick ones left out
        (
            [([*slab(-65, -10, 5), *slab(10, 65, 5)], 5.0), (slab(-12.5, 12.5, 2.5), 2.5)],
            [*slab(-65, -10, 5), *slab(-7.5, 7.5, 2.5), *slab(10, 65, 5)],
        ),
    ],
)
def test_slabs_of_every_order(
    tmp_path: Path, slabs: list[tuple[list[float], float]], expected: list[float]
) -> None:
    write_slabs(tmp_path, *slabs)
    series = read_series(tmp_path)
    assert offsets_of(series) == expected
    assert severities(series)["overlapping_slabs"] == "info"
    assert "slice_gaps" not in severities(series)


@pytest.mark.parametrize("thickness", [None, 5.0])
@pytest.mark.parametrize(
    "told_by", [{"AcquisitionNumber": (3, 4)}, {"AcquisitionTime": ("120000", "120030")}]
)
def test_slabs_of_like_slices_are_told_apart_by_number_or_time(
    tmp_path: Path, thickness: float | None, told_by: dict[str, tuple[Any, Any]]
) -> None:
    below, above = slab(-65, 0, 5), slab(-5, 65, 5)

    def mark(dataset: Dataset, k: int) -> None:
        dataset.SliceThickness = thickness
        for keyword, values in told_by.items():
            setattr(dataset, keyword, values[k >= len(below)])

    write_slabs(tmp_path, (below, 5.0), (above, 5.0), edit=mark)
    series = read_series(tmp_path)
    assert offsets_of(series) == slab(-65, 65, 5)
    assert severities(series)["overlapping_slabs"] == "info"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (slab(-65, 55, 5), slab(-55, 65, 5)),  # two scans of the head, each with an end cut off
        (slab(-65, 65, 5), slab(-20, 20, 5)),  # a part repeated
        (slab(-65, 65, 5), slab(20, 65, 5)),
        (slab(-65, 20, 5), slab(-30, 65, 5)),
        (slab(-65, 65, 5), [0.0]),
    ],
)
@pytest.mark.parametrize("told_by", ["AcquisitionNumber", "AcquisitionTime"])
def test_a_scan_repeated_in_part_is_no_slab(
    tmp_path: Path, first: list[float], second: list[float], told_by: str
) -> None:
    values = (1, 2) if told_by == "AcquisitionNumber" else ("120000", "120030")
    write_slabs(
        tmp_path, (first, 5.0), (second, 5.0), edit=lambda d, k: setattr(d, told_by, values[k >= len(first)])
    )
    with pytest.raises(Refusal, match="duplicate_position"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("slabs", "code"),
    [
        # 4.5 mm were not scanned where the slabs should meet
        ([(slab(-66, 0, 3), 3.0), (slab(9, 66, 6), 6.0)], "missing_slice"),
        ([(slab(-66, 0, 6), 6.0), (slab(9, 66, 3), 3.0)], "missing_slice"),
        # a slice is missing inside a slab, beside a joint that overlaps
        ([([*slab(-66, -33, 3), *slab(-27, 0, 3)], 3.0), (slab(-6, 66, 6), 6.0)], "missing_slice"),
        ([(slab(-66, 0, 3), 3.0), ([*slab(-6, 24, 6), *slab(36, 66, 6)], 6.0)], "missing_slice"),
        # every second slice is declared thinner: no slabs, and one slice is missing
        (
            [
                ([o for o in slab(-65, 65, 10) if o != 5.0], 5.0),
                (slab(-60, 60, 10), 4.0),
            ],
            "missing_slice",
        ),
        # nothing tells the two apart
        ([(slab(-65, 0, 5), 5.0), (slab(0, 65, 5), 5.0)], "duplicate_position"),
    ],
)
def test_slabs_are_refused_where_tissue_was_not_scanned(
    tmp_path: Path, slabs: list[tuple[list[float], float]], code: str
) -> None:
    write_slabs(tmp_path, *slabs)
    with pytest.raises(Refusal, match=code):
        read_series(tmp_path)


@pytest.mark.parametrize("thin_below", [True, False])
@pytest.mark.parametrize(
    ("thicknesses", "spacings", "warned"),
    [
        ((3.0, 6.0), (3.0, 6.0), False),
        ((3.0, 3.0), (3.0, 6.0), True),  # the first slab's thickness on every slice
        ((6.0, 6.0), (3.0, 6.0), False),
        ((3.0, 6.0), (5.0, 5.0), True),  # other slices at one spacing
        ((2.0, 2.0), (2.0, 6.0), True),  # the joint is as wide as two thin slices
        ((None, None), (2.0, 6.0), False),
        ((None, None), (3.0, 6.0), False),
    ],
)
def test_thicknesses_that_do_not_say_what_the_spacing_says(
    tmp_path: Path,
    thicknesses: tuple[float | None, float | None],
    spacings: tuple[float, float],
    warned: bool,
    thin_below: bool,
) -> None:
    turn = 1.0 if thin_below else -1.0
    below = slab(-66, 0, spacings[0])
    above = slab(sum(spacings) / 2, 66, spacings[1])

    def mark(dataset: Dataset, k: int) -> None:
        dataset.SliceThickness = thicknesses[k >= len(below)]

    write_slabs(tmp_path, ([turn * o for o in below], 1.0), ([turn * o for o in above], 1.0), edit=mark)
    series = read_series(tmp_path)
    assert offsets_of(series) == sorted(turn * o for o in (*below, *above))
    assert ("slice_gaps" in severities(series)) == warned
