"""Grouping series into acquisitions and ranking them, on plain values."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import permutations

import pytest

from strokecore.reading.acquisition import (
    CT_IMAGE_STORAGE,
    SeriesSummary,
    exclusion,
    group_acquisitions,
    kernel_kind,
    rank,
    summary_from_tags,
    thickness_class,
)


def series(uid: str, **values: object) -> SeriesSummary:
    base = SeriesSummary(
        uid,
        study_instance_uid="1.2",
        modality="CT",
        frame_of_reference_uid="1.3",
        acquisition_date="20200101",
        acquisition_time_s=36000.0,
        slice_thickness_mm=5.0,
        kernel="H31s",
        extent_mm=140.0,
    )
    return replace(base, **values)  # type: ignore[arg-type]


def names(groups: list[tuple[SeriesSummary, ...]]) -> list[str]:
    return ["".join(s.series_instance_uid for s in group) for group in groups]


def test_series_within_ten_minutes_are_one_acquisition_in_any_order() -> None:
    all_series = [
        series("a"),
        series("b", acquisition_time_s=36599.0),
        series("c", acquisition_time_s=36601.0),  # 10 min after a, 2 s after b
    ]
    for order in permutations(all_series):
        assert names(group_acquisitions(order)) == ["ab", "c"]


def test_only_ct_images_are_grouped() -> None:
    capture = series("c", sop_class_uid="1.2.840.10008.5.1.4.1.1.7")
    found = group_acquisitions(
        [series("a", sop_class_uid=CT_IMAGE_STORAGE), series("b", modality="MR"), capture]
    )
    assert names(found) == ["a"]


def test_other_frame_of_reference_or_study_is_another_acquisition() -> None:
    found = group_acquisitions(
        [series("a"), series("b", frame_of_reference_uid="9"), series("c", study_instance_uid="9")]
    )
    assert sorted(names(found)) == ["a", "b", "c"]


def test_without_frame_of_reference_every_series_stands_alone() -> None:
    found = group_acquisitions(
        [series("a", frame_of_reference_uid=""), series("b", frame_of_reference_uid="")]
    )
    assert sorted(names(found)) == ["a", "b"]


def test_times_across_midnight() -> None:
    late = series("a", acquisition_time_s=86280.0)  # 23:58
    next_day = series("b", acquisition_time_s=180.0, acquisition_date="20200102")  # 00:03
    assert names(group_acquisitions([late, next_day])) == ["ab"]
    assert len(group_acquisitions([late, replace(next_day, acquisition_date="20200103")])) == 2
    undated = [replace(s, acquisition_date="") for s in (late, next_day)]
    assert len(group_acquisitions(undated)) == 1


def test_acquisition_number_decides_where_no_time_is_known() -> None:
    untimed = {"acquisition_time_s": None, "acquisition_date": ""}
    one, same = (series(u, acquisition_number=1, **untimed) for u in "ab")
    other = series("c", acquisition_number=2, **untimed)
    unnumbered = series("d", **untimed)
    assert names(group_acquisitions([one, same, other])) == ["ab", "c"]
    assert names(group_acquisitions([one, unnumbered])) == ["ad"]
    assert names(group_acquisitions([unnumbered, series("t")])) == ["td"]


def test_rank_kernel_then_thickness_then_coverage_then_noise() -> None:
    best_first = [
        series("best", noise_hu=2.0),
        series("noisy", noise_hu=6.0),
        series("short", extent_mm=80.0),
        series("thin", slice_thickness_mm=1.0, extent_mm=200.0),
        series("thick", slice_thickness_mm=8.0),
        series("unnamed kernel", kernel=""),
        series("bone", kernel="H70h", slice_thickness_mm=5.0, extent_mm=200.0),
        series("thin bone", kernel="H70h", slice_thickness_mm=0.6),
    ]
    assert sorted(set(best_first), key=rank) == best_first


@pytest.mark.parametrize(
    ("thickness", "expected"),
    [(3.0, 0), (2.999, 0), (5.0, 0), (6.0, 0), (6.5, 2), (2.5, 1), (0.6, 1), (None, 2)],
)
def test_preferred_thickness(thickness: float | None, expected: int) -> None:
    assert thickness_class(thickness) == expected


@pytest.mark.parametrize(
    ("kernel", "description", "expected"),
    [
        ("H31s", "", "soft"),
        ("J40f\\2", "", "soft"),
        ("Hr38", "", "soft"),
        ("H60s", "", "sharp"),
        ("Hr68f", "", "sharp"),
        ("B70h", "", "sharp"),
        ("STANDARD", "", "soft"),
        ("STD+", "", "soft"),
        ("SOFT", "", "soft"),
        ("BONE", "", "sharp"),
        ("BONEPLUS", "", "sharp"),
        ("EDGE", "", "sharp"),
        ("FC26", "", "soft"),
        ("FC68", "", "soft"),
        ("FC30", "", "sharp"),
        ("FC81", "", "sharp"),
        ("UB", "", "soft"),
        ("YA", "", "sharp"),
        ("", "Head 5.0 bone", "sharp"),
        ("", "Brain 5mm", "soft"),
        ("XYZ", "", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_kernels_of_five_manufacturers(kernel: str, description: str, expected: str) -> None:
    assert kernel_kind(kernel, description) == expected


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, None),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "MPR")}, None),
        ({"modality": "MR"}, "not_ct"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer_only"),
        ({"image_type": ("DERIVED", "SECONDARY", "MIP")}, "not_hounsfield"),
        ({"rescale_type": "US"}, "not_hounsfield"),
        ({"rescale_type": "HU"}, None),
        ({"contrast_given": True}, "contrast_agent"),
        ({"description": "CTA 0.6 H20f"}, "contrast_agent"),
        ({"body_part": "CHEST"}, "not_head"),
        ({"body_part": "HEADNECK"}, None),
    ],
)
def test_series_ruled_out_by_their_headers(change: dict[str, object], code: str | None) -> None:
    ruled_out = exclusion(series("a", **change))
    assert (ruled_out and ruled_out[0]) == code


def test_summary_from_tags_as_orthanc_gives_them() -> None:
    summary = summary_from_tags(
        {
            "SeriesInstanceUID": "1.2.3",
            "StudyInstanceUID": "1.2",
            "Modality": "CT",
            "SOPClassUID": CT_IMAGE_STORAGE,
            "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
            "AcquisitionDate": "20150206",
            "AcquisitionTime": "092921.250",
            "AcquisitionNumber": "3",
            "SliceThickness": "5",
            "ImageOrientationPatient": "1\\0\\0\\0\\0.9\\-0.3",
            "ConvolutionKernel": "UB",
        },
        slices=28,
    )
    assert summary.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert summary.acquisition_time_s == pytest.approx(9 * 3600 + 29 * 60 + 21.25)
    assert (summary.acquisition_date, summary.acquisition_number) == ("20150206", 3)
    assert summary.orientation == (1, 0, 0, 0, 0.9, -0.3)
    assert (summary.slice_thickness_mm, summary.slices) == (5.0, 28)


@pytest.mark.parametrize(
    ("tags", "given"),
    [
        ({"ContrastBolusAgent": "Iomeprol 400"}, True),
        ({"ContrastBolusAgent": "NON IONIC"}, True),
        ({"ContrastBolusAgent": "NONE"}, False),
        ({"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "80"}, True),
        ({"ContrastBolusAgent": "KEIN KM", "ContrastBolusVolume": "0"}, False),
        ({"ContrastBolusVolume": "80 ml"}, True),
        ({"ContrastBolusVolume": "0\\0"}, False),
        ({"ContrastBolusVolume": "-1"}, False),
        ({"ContrastBolusVolume": "0.00\\12,5"}, True),
        ({"ContrastBolusTotalDose": "50"}, True),
        ({"ContrastFlowRate": "4.5"}, True),
        ({"ContrastFlowDuration": "0"}, False),
        ({"ContrastBolusStartTime": "093000"}, True),
        ({"ContrastBolusStartTime": "000000.00"}, False),
        ({"ContrastBolusIngredient": "IODINE"}, True),
        ({"ContrastBolusRoute": "IV"}, True),
        ({"ContrastBolusAgentSequence": "item"}, True),
        ({"ContrastBolusAgentSequence": "Iohexol"}, True),
        ({"ContrastBolusAgentSequence": "No contrast"}, False),
    ],
)
def test_any_evidence_of_an_agent_counts(tags: dict[str, str], given: bool) -> None:
    assert summary_from_tags({"Modality": "CT", **tags}).contrast_given is given


def test_date_time_attribute_comes_before_date_and_time() -> None:
    summary = summary_from_tags({"AcquisitionDateTime": "20150206092921.5+0100", "AcquisitionTime": "000000"})
    assert (summary.acquisition_date, summary.acquisition_time_s) == ("20150206", 34161.5)


@pytest.mark.parametrize("value", ["", " ", "x", "nan", "1e99", "\0", "99:99", "2\\3"])
def test_unusable_tags_count_as_not_said(value: str) -> None:
    keywords = ("AcquisitionTime", "AcquisitionDate", "AcquisitionNumber", "SliceThickness", "ImageType")
    summary = summary_from_tags(dict.fromkeys((*keywords, "ImageOrientationPatient"), value))
    assert summary.acquisition_number is None
    assert summary.acquisition_date == ""
    assert summary.slice_thickness_mm is None
    group_acquisitions([replace(summary, modality="CT")])


def test_importing_the_rules_loads_nothing_heavy() -> None:
    code = (
        "import sys, strokecore.reading.acquisition;"
        "print([m for m in ('numpy', 'pydicom', 'scipy', 'SimpleITK') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
