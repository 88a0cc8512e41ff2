"""Every refusal and every warning of reading, one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import EnhancedCTImageStorage

from strokecore.errors import Refusal
from strokecore.reading.geometry import missing_gaps
from strokecore.reading.series import Series, read_series
from tests.ct_factory import body_hu, head_hu, overwrite, uid, write_series

CORONAL = ((1, 0, 0), (0, 0, -1))
SAGITTAL = ((0, 1, 0), (0, 0, -1))


def refusal(folder: Path) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_series(folder)
    assert caught.value.remedy
    return caught.value


def flags(series: Series) -> dict[str, str]:
    """What they say beside the extent of the scan, which every series has."""
    return {flag.code: flag.severity for flag in series.flags if flag.code != "coverage"}


def on_slice(k: int, change: Callable[[Dataset], Any]) -> Callable[[Dataset, int], None]:
    """An edit of slice ``k`` alone."""

    def edit(dataset: Dataset, index: int) -> None:
        if index == k:
            change(dataset)

    return edit


# --- not a non-contrast head CT: ineligible, nothing is stored in the PACS ---


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("not_ct", {"tags": {"Modality": "MR"}}),
        ("not_ct", {"tags": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}}),
        ("localizer_only", {"tags": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}),
        ("not_hounsfield", {"tags": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}}),
        ("not_hounsfield", {"tags": {"RescaleType": "CBF"}}),
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "Iomeprol 400", "ContrastBolusVolume": "50"}}),
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "Iomeprol 400"}, "hu_at": body_hu}),
        ("contrast_agent", {"tags": {"SeriesDescription": "HEAD W/WO"}}),
        ("contrast_agent", {"tags": {"SeriesDescription": "CTA HEAD"}}),
        ("not_head", {"tags": {"BodyPartExamined": "CHEST"}}),
        ("not_head", {"tags": {"BodyPartExamined": ""}, "hu_at": body_hu}),
        ("no_brain", {"hu_at": body_hu}),
        ("not_axial", {"orientation": CORONAL}),
        ("not_axial", {"orientation": SAGITTAL}),
        ("time_series", {"offsets_mm": [0.0] * 12 + [5.0] * 12}),
    ],
)
def test_ineligible(tmp_path: Path, code: str, arguments: dict[str, Any]) -> None:
    write_series(tmp_path, **arguments)
    found = refusal(tmp_path)
    assert found.code == code
    assert found.ineligible


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "Iomeprol 400"}}),
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "NON IONIC"}}),
        ("contrast_agent", {"tags": {"ContrastBolusVolume": "50"}}),
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "80"}}),
        ("contrast_agent", {"tags": {"ContrastBolusAgent": "NONE", "ContrastFlowRate": ["0", "4"]}}),
        ("contrast_agent", {"tags": {"ContrastBolusTotalDose": "70"}}),
        ("contrast_agent", {"tags": {"ContrastBolusStartTime": "121500"}}),
    ],
)
def test_a_single_attribute_against_pixels_without_contrast_is_refused(
    tmp_path: Path, code: str, arguments: dict[str, Any]
) -> None:
    """Not scored, and not silent: see test_excluded.py."""
    write_series(tmp_path, **arguments)
    found = refusal(tmp_path)
    assert found.code == code
    assert not found.ineligible


def test_contrast_agent_given_as_a_sequence(tmp_path: Path) -> None:
    agent = Dataset()
    agent.CodeMeaning = "Contrast agent"

    def declare(dataset: Dataset, k: int) -> None:
        if k == 4:  # on any slice
            dataset.ContrastBolusAgentSequence = Sequence([agent])

    write_series(tmp_path, edit=declare)
    assert refusal(tmp_path).code == "contrast_agent"


@pytest.mark.parametrize("volume", [b"80 ml ", b"12,5  ", b"0\\50.0"])
def test_volume_that_is_no_number_of_the_standard(tmp_path: Path, volume: bytes) -> None:
    overwrite(write_series(tmp_path, tags={"ContrastBolusVolume": "765432"}), b"765432", volume)
    assert refusal(tmp_path).code == "contrast_agent"


@pytest.mark.parametrize("agent", ["KEIN KM", "AUCUN", "0 ML", ".", "sin contraste", "NONE"])
def test_words_for_no_agent_are_scored(tmp_path: Path, agent: str) -> None:
    write_series(tmp_path, tags={"ContrastBolusAgent": agent, "ContrastBolusVolume": "0"})
    assert flags(read_series(tmp_path)) == {}


def test_plastic_shell_full_of_air_has_no_brain(tmp_path: Path) -> None:
    def shell(points: np.ndarray) -> np.ndarray:
        hu = head_hu(points)
        hu[hu < 100] = -1000
        return hu

    write_series(tmp_path, hu_at=shell)
    assert refusal(tmp_path).code == "no_brain"


def test_unset_contrast_is_not_invented(tmp_path: Path) -> None:
    write_series(tmp_path, tags={"ContrastBolusAgent": ""})
    series = read_series(tmp_path)
    assert all(d.ContrastBolusAgent == "" for d in series.datasets)
    write_series(tmp_path, tags={"ContrastBolusAgent": None})
    assert all("ContrastBolusAgent" not in d for d in read_series(tmp_path).datasets)


# --- a head CT that cannot be scored: refused, the PACS gets a picture saying so ---


def replace_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:1000]


def drop_pixels(dataset: Dataset) -> None:
    del dataset.PixelData


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("too_few_slices", {"slices": 7, "spacing_mm": 10}),
        ("too_few_slices", {"slices": 1}),
        ("slice_too_thick", {"slices": 14, "spacing_mm": 12}),
        ("slice_too_thick", {"slices": 28, "thickness_mm": 12}),
        ("incomplete_coverage", {"slices": 9}),
        ("no_geometry", {"edit": on_slice(3, lambda d: d.pop("ImagePositionPatient"))}),
        ("no_geometry", {"edit": on_slice(3, lambda d: d.pop("ImageOrientationPatient"))}),
        ("no_geometry", {"tags": {"PixelSpacing": None}}),
        ("no_geometry", {"tags": {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}}),
        ("no_geometry", {"tags": {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}}),
        ("no_study_uid", {"tags": {"StudyInstanceUID": None}}),
        ("no_frame_of_reference", {"tags": {"FrameOfReferenceUID": None}}),
        ("no_frame_of_reference", {"tags": {"FrameOfReferenceUID": ""}}),
        (
            "mixed_frame_of_reference",
            {"edit": on_slice(3, lambda d: setattr(d, "FrameOfReferenceUID", "1.2"))},
        ),
        (
            "mixed_orientation",
            {"edit": on_slice(3, lambda d: setattr(d, "ImageOrientationPatient", [-1, 0, 0, 0, 1, 0]))},
        ),
        ("mixed_matrix", {"edit": on_slice(3, lambda d: setattr(d, "PixelSpacing", [2.0, 2.0]))}),
        ("unreadable_pixels", {"edit": on_slice(3, replace_pixels)}),
        ("unreadable_pixels", {"edit": on_slice(3, drop_pixels)}),
        ("no_rescale", {"tags": {"RescaleIntercept": None}}),
        ("no_rescale", {"tags": {"RescaleSlope": 0}}),
    ],
)
def test_refused_head(tmp_path: Path, code: str, arguments: dict[str, Any]) -> None:
    write_series(tmp_path, **arguments)
    found = refusal(tmp_path)
    assert found.code == code
    assert not found.ineligible


def test_unreadable_slice_of_no_head_is_ineligible(tmp_path: Path) -> None:
    """A damaged chest must not get a "NOT SCORED" picture."""
    write_series(tmp_path, hu_at=body_hu, tags={"BodyPartExamined": None}, edit=on_slice(3, replace_pixels))
    assert refusal(tmp_path).ineligible


def test_partial_arrival_of_a_head_is_too_few_not_no_brain(tmp_path: Path) -> None:
    """The first slices of a scan show neck only; the rest may follow."""
    write_series(tmp_path, slices=4, hu_at=body_hu)
    found = refusal(tmp_path)
    assert (found.code, found.ineligible) == ("too_few_slices", False)


def test_cervical_spine_of_a_head_protocol_is_no_refused_head(tmp_path: Path) -> None:
    """It shows a little brain at its top; the head of the same visit is scored, this must stay silent."""

    def neck(points: np.ndarray) -> np.ndarray:
        return np.where(points[..., 2] > 55, head_hu(points), body_hu(points))

    write_series(tmp_path, hu_at=neck, tags={"SeriesDescription": "C-Spine 2.0"})
    found = refusal(tmp_path)
    assert (found.code, found.ineligible) == ("not_head", True)


def test_skull_base_alone_is_incomplete(tmp_path: Path) -> None:
    def base(points: np.ndarray) -> np.ndarray:
        return np.where(points[..., 2] > 50, head_hu(points), body_hu(points))

    write_series(tmp_path, hu_at=base)
    found = refusal(tmp_path)
    assert (found.code, found.ineligible) == ("incomplete_coverage", False)


def test_missing_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    paths[12].unlink()
    found = refusal(tmp_path)
    assert found.code == "missing_slice"
    assert "10.0 mm" in found.message


def test_missing_slice_of_the_real_scan(shared_data: Path, tmp_path: Path) -> None:
    by_position = sorted(
        (shared_data / "real_head_ct").glob("*.dcm"),
        key=lambda p: float(dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]),
    )
    for lost in (5, 20):
        folder = tmp_path / str(lost)
        folder.mkdir()
        for path in by_position[:lost] + by_position[lost + 1 :]:
            (folder / path.name).symlink_to(path)
        assert refusal(folder).code == "missing_slice"


@pytest.mark.parametrize(
    ("gaps", "thicknesses", "missing"),
    [
        ([5] * 10, [5] * 11, []),
        ([5, 5, 5, 10, 5, 5], [5] * 7, [3]),
        ([5, 5, 15, 5, 10, 5, 5], [5] * 8, [2, 4]),
        ([10, 5, 5, 5], [5] * 5, [0]),  # second slice missing
        ([5, 5, 5, 10], [5] * 5, [3]),
        ([5, 5, 10, 10, 10, 5, 5], [5] * 8, [2, 3, 4]),  # every second one, for a while
        ([4] * 13 + [1.08] + [7] * 13, [4] * 14 + [7] * 14, []),  # the real scan
        ([2.5] * 8 + [5] * 8, [2.5] * 8 + [5] * 9, []),  # thin through the posterior fossa
        ([2.5] * 8 + [3.75] + [5] * 8, [2.5] * 9 + [5] * 9, []),
        ([2.5] * 8 + [5] * 8 + [2.5] * 8, [2.5] * 9 + [5] * 7 + [2.5] * 9, []),  # and thin again
        ([2.5] * 8 + [5] * 8 + [2.5] * 8, [2.5] * 25, list(range(8, 16))),
        ([2] * 8 + [4] + [6] * 8, [None] * 18, []),  # where two slabs meet
        ([2] * 8 + [4] + [6] * 8, [2] * 18, []),
        ([2] * 8 + [8] + [6] * 8, [2] * 9 + [6] * 9, [8]),
        ([10] * 8, [5] * 9, []),  # a protocol that skips is a warning
        ([0.5] * 5 + [1.0] + [0.5] * 5, [1.0] * 12, [5]),  # overlapping thin slices
        ([5, 5, 5, 10, 5, 5], [None] * 7, [3]),
        ([5, 5, 5, 10], [None] * 5, [3]),
        ([5.01, 4.99, 5.0, 10.01, 5.0], [5] * 6, [3]),
        ([5, 5, 5.6, 5, 5], [5] * 6, []),
    ],
)
def test_missing_slices_and_uneven_protocols(
    gaps: list[float], thicknesses: list[float | None], missing: list[int]
) -> None:
    assert missing_gaps(np.array(gaps, float), thicknesses) == missing


def test_duplicate_position_with_other_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", seed=1, edit=on_slice(5, lambda d: setattr(d, "SOPInstanceUID", uid("x"))))
    for path in (tmp_path / "b").iterdir():
        if dcmread(path, stop_before_pixels=True).SOPInstanceUID != uid("x"):
            path.unlink()
    found = refusal(tmp_path)
    assert (found.code, found.ineligible) == ("duplicate_position", False)


def test_identical_copies_are_dropped_with_a_note(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    digest = read_series(tmp_path).digest
    write_series(tmp_path / "b")  # the same instances again
    write_series(tmp_path / "c", edit=on_slice(5, lambda d: setattr(d, "SOPInstanceUID", uid("x"))))
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 28
    assert flags(series) == {"duplicate_slices": "info"}
    assert series.digest == digest


def test_enhanced_multiframe_is_refused_by_name(tmp_path: Path) -> None:
    def multiframe(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
        dataset.NumberOfFrames = 30

    write_series(tmp_path, slices=1, edit=multiframe)
    found = refusal(tmp_path)
    assert (found.code, found.ineligible) == ("enhanced_multiframe", False)


# --- warnings: the scan is read ---


@pytest.mark.parametrize(
    ("code", "severity", "arguments"),
    [
        ("sharp_kernel", "warning", {"tags": {"ConvolutionKernel": "H60s"}}),
        ("sharp_kernel", "warning", {"tags": {"ConvolutionKernel": None, "SeriesDescription": "Bone"}}),
        ("thick_slices", "warning", {"slices": 18, "spacing_mm": 8}),
        ("thin_slices", "info", {"slices": 80, "spacing_mm": 1.5, "size": 64, "pixel_mm": 3}),
        ("uneven_slices", "info", {"offsets_mm": [*range(-60, 0, 4), *range(0, 64, 6)]}),
        ("slice_gaps", "warning", {"slices": 16, "spacing_mm": 8, "thickness_mm": 5}),
        ("gantry_tilt", "info", {"tilt_deg": -15}),
        ("derived_images", "info", {"tags": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}}),
        ("lossy_compression", "warning", {"tags": {"LossyImageCompression": "01"}}),
        ("no_slice_thickness", "info", {"tags": {"SliceThickness": None}}),
        ("no_slice_thickness", "info", {"tags": {"SliceThickness": -1}}),
        (
            "rescale_missing",
            "warning",
            {
                "signed": True,
                "bits_stored": 16,
                "intercept": 0,
                "tags": {"RescaleIntercept": None, "RescaleSlope": None},
            },
        ),
    ],
)
def test_warnings(tmp_path: Path, code: str, severity: str, arguments: dict[str, Any]) -> None:
    write_series(tmp_path, **arguments)
    assert flags(read_series(tmp_path)) == {code: severity}


def test_slices_beside_the_line_of_the_stack(tmp_path: Path) -> None:
    def shift(dataset: Dataset, k: int) -> None:
        if k >= 14:
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x + 6, y, z]

    write_series(tmp_path, edit=shift)
    series = read_series(tmp_path)
    assert flags(series)["irregular_positions"] == "warning"
    assert series.positions_mm[20, 0] - series.positions_mm[0, 0] == pytest.approx(6)  # kept as it is


def test_a_plain_scan_has_no_flags(tmp_path: Path) -> None:
    write_series(tmp_path)
    assert flags(read_series(tmp_path)) == {}
