"""Which series of a folder is read, and what the Series says about it."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from strokecore.errors import Refusal, UsageError
from strokecore.reading.series import Series, read_candidate_header, read_series
from strokecore.reading.tags import quiet_pydicom
from tests.ct_factory import LEFT_MARKER_MM, body_hu, head_hu, overwrite, uid, write_series


def codes(series: Series) -> set[str]:
    """What the flags say beside the extent of the scan, which every series has."""
    return {flag.code for flag in series.flags} - {"coverage"}


def test_real_head_ct(shared_data: Path) -> None:
    started = time.perf_counter()
    series = read_series(shared_data / "real_head_ct")
    assert time.perf_counter() - started < 1.5
    assert series.hu.shape == (28, 512, 512)
    assert series.hu.dtype == np.float32
    assert series.hu.min() == -1024  # padding is stored as -1500
    assert series.tilt_deg == pytest.approx(18.5, abs=0.01)
    np.testing.assert_allclose(np.diff(series.slice_offsets_mm), [4] * 13 + [1.08] + [7] * 13, atol=0.01)
    assert codes(series) == {"thick_slices", "uneven_slices", "gantry_tilt"}
    assert "soft-tissue kernel" in series.chosen_because
    assert len(series.datasets) == 28
    assert not any("PixelData" in d for d in series.datasets)


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("S21570", "no_brain"),
        ("S21570/S1000", "localizer_only"),
        ("S21570/S2010", "no_brain"),
        ("S21570/S4010", "not_ct"),
        ("S21610/S2010", "no_brain"),
    ],
)
def test_plastic_head_is_ineligible(shared_data: Path, folder: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_series(shared_data / "head_phantom" / folder)
    assert caught.value.code == code
    assert caught.value.ineligible


def test_choice_among_everything_one_visit_produces(tmp_path: Path) -> None:
    """Thick, thin and bone reconstructions, reformat, contrast phase, localizer, captures, another scan."""
    write_series(tmp_path, series="scout", slices=1, tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    write_series(tmp_path, series="thin", slices=80, spacing_mm=1.5, size=64, pixel_mm=3)
    write_series(tmp_path, series="thick")
    write_series(tmp_path, series="bone", tags={"ConvolutionKernel": "H70h"})
    write_series(tmp_path, series="coronal", orientation=((1, 0, 0), (0, 0, -1)))
    write_series(tmp_path, series="contrast", tags={"ContrastBolusAgent": "Iomeprol"})
    write_series(
        tmp_path, series="neck", hu_at=body_hu, frame_of_reference="n", tags={"BodyPartExamined": "NECK"}
    )
    later = {"AcquisitionTime": "140000", "ConvolutionKernel": "H60s"}
    write_series(tmp_path, series="later", tags=later)

    def capture(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        dataset.Modality = "OT"

    write_series(tmp_path, series="capture", slices=1, edit=capture)

    series = read_series(tmp_path)

    assert series.series_instance_uid == uid("thick")
    assert series.chosen_because.startswith(
        "soft-tissue kernel, 5.0 mm slices, 28 images: the best ranked of"
    )
    reasons = dict(series.not_selected)
    assert reasons.pop(uid("thin")) == "slices further from 3-6 mm"
    assert reasons.pop(uid("bone")) == "sharper kernel"
    assert reasons.pop(uid("contrast")) == "contrast agent declared"
    assert reasons.pop(uid("scout")) == "localizer"
    assert reasons.pop(uid("neck")) == "another body part"
    assert reasons.pop(uid("capture")) == "no CT images"
    assert reasons.pop(uid("later")) == "another acquisition of the same study"
    assert list(reasons) == [uid("coronal")]
    assert {str(d.SeriesInstanceUID) for d in series.study_datasets} == {
        uid(n) for n in ("scout", "thin", "bone", "coronal", "contrast", "neck", "later", "capture")
    }


def test_coverage_then_noise_decide_between_like_series(tmp_path: Path) -> None:
    write_series(tmp_path / "a", series="short", slices=20, noise_hu=2)
    write_series(tmp_path / "b", series="noisy", noise_hu=9)
    write_series(tmp_path / "c", series="quiet", noise_hu=3)
    series = read_series(tmp_path)
    assert series.series_instance_uid == uid("quiet")
    assert dict(series.not_selected) == {uid("short"): "less coverage", uid("noisy"): "more noise"}


def test_of_two_equal_scans_the_later_is_taken(tmp_path: Path) -> None:
    write_series(tmp_path, series="first", tags={"AcquisitionTime": "120000"})
    write_series(tmp_path, series="repeated", tags={"AcquisitionTime": "123000"})
    series = read_series(tmp_path)
    assert series.series_instance_uid == uid("repeated")
    assert dict(series.not_selected) == {uid("first"): "another acquisition of the same study"}


def test_next_series_when_the_best_ranked_is_damaged(tmp_path: Path) -> None:
    paths = write_series(tmp_path, series="thick")
    paths[10].unlink()
    write_series(tmp_path, series="thin", slices=90, spacing_mm=1.5, size=64, pixel_mm=3)
    series = read_series(tmp_path)
    assert series.series_instance_uid == uid("thin")
    (flag,) = (f for f in series.flags if f.code == "better_series_refused")
    assert flag.severity == "warning"
    assert "missing_slice" in flag.message
    assert "gap of 10.0 mm" in dict(series.not_selected)[uid("thick")]


def test_forced_series(tmp_path: Path) -> None:
    write_series(tmp_path, series="thick")
    write_series(tmp_path, series="bone", tags={"ConvolutionKernel": "H70h"})
    series = read_series(tmp_path, uid("bone"))
    assert series.series_instance_uid == uid("bone")
    assert "sharp_kernel" in codes(series)
    with pytest.raises(UsageError):
        read_series(tmp_path, "1.2.3")


def test_forced_series_is_checked_like_any_other(tmp_path: Path) -> None:
    write_series(tmp_path, series="plain")
    write_series(tmp_path, series="contrast", tags={"ContrastBolusAgent": "Iomeprol"})
    with pytest.raises(Refusal, match="contrast_agent"):
        read_series(tmp_path, uid("contrast"))


@pytest.mark.parametrize(
    ("second", "code"),
    [({"patient": "other", "study": "other"}, "mixed_patients"), ({"study": "other"}, "mixed_studies")],
)
def test_more_than_one_patient_or_study_is_refused(tmp_path: Path, second: dict[str, str], code: str) -> None:
    write_series(tmp_path, series="a")
    write_series(tmp_path, series="b", slices=2, **second)  # type: ignore[arg-type]
    with pytest.raises(Refusal) as caught:
        read_series(tmp_path)
    assert caught.value.code == code
    assert read_candidate_header(tmp_path) is None  # whose picture would it be?
    forced = read_series(tmp_path, uid("a"))
    assert forced.series_instance_uid == uid("a")
    assert forced.not_selected == ()


def test_two_patients_in_one_series_are_refused_even_when_forced(tmp_path: Path) -> None:
    def swap(dataset: Dataset, k: int) -> None:
        dataset.PatientID = "other" if k == 3 else "test"

    write_series(tmp_path, edit=swap)
    with pytest.raises(Refusal, match="mixed_patients"):
        read_series(tmp_path, uid("series"))


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("PatientName", "Miller^Anna", "Smith^John"),
        ("PatientName", "Miller^Anna", "Miller^Ann"),
        ("PatientName", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^花子"),
        ("PatientBirthDate", "19500607", "19500706"),
        ("PatientSex", "F", "M"),
    ],
)
@pytest.mark.parametrize("only", [0, 13, 27])
def test_two_persons_in_one_series_are_refused(
    tmp_path: Path, keyword: str, first: str, second: str, only: int
) -> None:
    write_series(
        tmp_path,
        size=32,
        pixel_mm=7,
        edit=lambda d, k: setattr(d, keyword, second if k == only else first),
    )
    for asked in (None, uid("series")):
        with pytest.raises(Refusal, match="mixed_patients") as caught:
            read_series(tmp_path, asked)
        assert not any(word in str(caught.value) for word in ("Miller", "1950", "Yamada"))
        assert read_candidate_header(tmp_path, asked) is None  # whose picture would it be?


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("PatientName", "Miller^Anna", ""),
        ("PatientName", "Miller^Anna", "MILLER ^anna^^"),
        ("PatientName", "Yamada^Tarou", "Yamada^Tarou=山田^太郎"),
        ("PatientBirthDate", "19500607", ""),
        ("PatientBirthDate", "19500607", "1950.06.07"),
        ("PatientSex", "F", ""),
        ("PatientSex", "", "M"),
        ("PatientSex", "F", "U"),
    ],
)
def test_an_empty_or_otherwise_written_value_is_no_second_person(
    tmp_path: Path, keyword: str, first: str, second: str
) -> None:
    with quiet_pydicom():
        write_series(tmp_path, edit=lambda d, k: setattr(d, keyword, second if k % 2 else first))
    assert read_series(tmp_path).hu.shape[0] == 28


def test_a_series_of_one_person_is_scored_when_asked_for_beside_a_mixed_one(tmp_path: Path) -> None:
    write_series(tmp_path, series="good")
    write_series(tmp_path, series="mixed", slices=3, edit=lambda d, k: setattr(d, "PatientSex", "FM"[k % 2]))
    with pytest.raises(Refusal, match="mixed_patients"):
        read_series(tmp_path)
    assert read_series(tmp_path, uid("good")).series_instance_uid == uid("good")


def test_no_patient_data_in_messages(tmp_path: Path) -> None:
    secret = {"PatientID": "ID-4711", "PatientName": "Mustermann^Max", "PatientBirthDate": "19500607"}
    write_series(tmp_path, series="a", slices=3, tags=secret)
    write_series(tmp_path, series="b", slices=3, tags=secret | {"PatientID": "ID-4712"})
    with pytest.raises(Refusal) as caught:
        read_series(tmp_path)
    assert not any(word in str(caught.value) for word in ("471", "Mustermann", "1950"))


def test_head_without_body_part_is_told_by_its_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "head", tags={"BodyPartExamined": None})
    assert read_series(tmp_path / "head").hu.shape[0] == 28
    write_series(tmp_path / "body", tags={"BodyPartExamined": None}, hu_at=body_hu)
    with pytest.raises(Refusal, match="not_head") as caught:
        read_series(tmp_path / "body")
    assert caught.value.ineligible


@pytest.mark.parametrize("part", ["NECK", "WHOLEBODY", "WHOLE BODY", "CHEST", "CSPINE"])
@pytest.mark.parametrize("description", ["Head 5 mm", "Schädel nativ", "CRANE SANS INJECTION"])
def test_a_series_described_as_a_head_is_one_if_its_pixels_are(
    tmp_path: Path, part: str, description: str
) -> None:
    tags = {"BodyPartExamined": part, "SeriesDescription": description}
    write_series(tmp_path / "head", tags=tags)
    assert read_series(tmp_path / "head").hu.shape[0] == 28
    write_series(tmp_path / "body", tags=tags, hu_at=body_hu)
    with pytest.raises(Refusal, match=r"not_head|no_brain") as caught:
        read_series(tmp_path / "body")
    assert caught.value.ineligible


def test_a_whole_body_is_no_head(tmp_path: Path) -> None:
    """The head at its top is no reason for a picture that says it was not scored."""

    def body(points: np.ndarray) -> np.ndarray:
        return np.where(points[..., 2] > -80, head_hu(points), body_hu(points))

    offsets = [-5.0 * n + 80 for n in range(150)]
    write_series(
        tmp_path,
        hu_at=body,
        offsets_mm=offsets,
        size=64,
        pixel_mm=3.0,
        tags={"BodyPartExamined": "WHOLEBODY"},
    )
    with pytest.raises(Refusal, match="not_head") as caught:
        read_series(tmp_path)
    assert caught.value.ineligible


def test_digest_is_of_content_not_of_files(tmp_path: Path) -> None:
    first = tmp_path / "first"
    paths = write_series(first)
    again = tmp_path / "again"
    again.mkdir()
    for number, path in enumerate(paths):
        shutil.copy(path, again / f"{number}.dcm")
    digest = read_series(first).digest
    assert read_series(again).digest == digest
    assert len(digest) == 64

    def one_pixel(dataset: Dataset) -> None:
        pixels = bytearray(dataset.PixelData)
        pixels[5000] ^= 1
        dataset.PixelData = bytes(pixels)

    def rescale(dataset: Dataset) -> None:
        dataset.RescaleIntercept = -1023

    def position(dataset: Dataset) -> None:
        dataset.ImagePositionPatient = [
            v + d for v, d in zip(dataset.ImagePositionPatient, (0, 0, 0.2), strict=True)
        ]

    for change in (one_pixel, rescale, position):
        dataset = dcmread(paths[5])
        change(dataset)
        dataset.save_as(again / "5.dcm")
        assert read_series(again).digest != digest


def test_candidate_header_for_a_refused_head(tmp_path: Path) -> None:
    paths = write_series(tmp_path, series="head")
    paths[9].unlink()
    write_series(tmp_path, series="scout", slices=1, tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    with pytest.raises(Refusal, match="missing_slice") as caught:
        read_series(tmp_path)
    assert not caught.value.ineligible
    header = read_candidate_header(tmp_path)
    assert header is not None
    assert header.SeriesInstanceUID == uid("head")
    assert "PixelData" not in header
    assert read_candidate_header(tmp_path, uid("scout")) is None
    assert read_candidate_header(tmp_path / "nowhere") is None


def test_left_marker_is_where_the_patients_left_is(tmp_path: Path) -> None:
    write_series(tmp_path, noise_hu=0)
    series = read_series(tmp_path)
    k = int(np.abs(series.positions_mm[:, 2] - LEFT_MARKER_MM[2]).argmin())
    j, i = (np.argwhere(series.hu[k] == 250).mean(axis=0) * series.pixel_spacing_mm[0]).tolist()
    point = series.positions_mm[k] + i * series.row_direction + j * series.column_direction
    np.testing.assert_allclose(point[:2], LEFT_MARKER_MM[:2], atol=1.0)


# --- numbers that are written otherwise than the standard has it ---

GEOMETRY = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"]


@pytest.mark.parametrize("vr", ["LO", "SH", "UT", "ST", "UN"])
@pytest.mark.parametrize("keywords", [[k] for k in (*GEOMETRY, "RescaleIntercept")] + [GEOMETRY])
def test_numbers_with_a_text_vr(tmp_path: Path, vr: str, keywords: list[str]) -> None:
    def retype(dataset: Dataset, k: int) -> None:
        for keyword in keywords:
            value = dataset[keyword].value
            text = "\\".join(map(str, value if dataset[keyword].VM > 1 else [value]))
            del dataset[keyword]
            if vr == "UN":
                dataset.add_new(keyword, vr, text.encode())
            else:
                dataset.add_new(keyword, vr, text.split("\\") if vr in ("LO", "SH") else text)

    write_series(tmp_path / "plain", slices=12, spacing_mm=8)
    plain = read_series(tmp_path / "plain")
    with quiet_pydicom():
        write_series(tmp_path / "text", slices=12, spacing_mm=8, edit=retype)
    series = read_series(tmp_path / "text")
    np.testing.assert_array_equal(series.positions_mm, plain.positions_mm)
    np.testing.assert_array_equal(series.hu, plain.hu)
    assert (series.pixel_spacing_mm, series.slice_thickness_mm) == (plain.pixel_spacing_mm, 8.0)
    assert codes(series) == codes(plain)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"1.8\\1.8 ", b"1,8\\1,8 "),
        (b"8.25", b"8,25"),
        (b"-1024.0 ", b"-1024,0 "),
        (b".25000000", b",25000000"),
    ],
)
def test_a_decimal_comma_is_a_point_with_a_warning(tmp_path: Path, old: bytes, new: bytes) -> None:
    written = {"slices": 12, "spacing_mm": 8.25, "thickness_mm": 8.25, "pixel_mm": 1.8, "noise_hu": 0}
    tilted = {"orientation": ((1, 0, 0), (0, 0.9682458366, -0.25))} if old.startswith(b".") else {}
    write_series(tmp_path / "point", **written, **tilted)  # type: ignore[arg-type]
    overwrite(write_series(tmp_path / "comma", **written, **tilted), old, new)  # type: ignore[arg-type]
    point, comma = read_series(tmp_path / "point"), read_series(tmp_path / "comma")
    np.testing.assert_array_equal(comma.positions_mm, point.positions_mm)
    np.testing.assert_array_equal(comma.hu, point.hu)
    assert codes(comma) == codes(point) | {"decimal_comma"}
    assert (comma.pixel_spacing_mm, comma.slice_thickness_mm) == (point.pixel_spacing_mm, 8.25)


@pytest.mark.parametrize("value", ["1,8,1,8", "1,000.5\\1.8", "1.8;1.8", "1,8", "1_8\\1_8", "1.8\\"])
def test_what_is_no_number_with_a_comma_either_is_refused(tmp_path: Path, value: str) -> None:
    def retype(dataset: Dataset, k: int) -> None:
        del dataset.PixelSpacing
        dataset.add_new("PixelSpacing", "LO", value.split("\\"))

    with quiet_pydicom():
        write_series(tmp_path, slices=12, spacing_mm=8, edit=retype)
    with pytest.raises(Refusal, match="no_geometry"):
        read_series(tmp_path)


# --- a part of the head is missing ---


@pytest.mark.parametrize(
    ("lost_below", "lost_above", "cut"),
    [
        (0, 0, set()),
        (5, 0, {"base_cut"}),
        (0, 5, {"vertex_cut"}),
        (0, 10, {"vertex_cut"}),
        (6, 6, {"base_cut", "vertex_cut"}),
    ],
)
@pytest.mark.parametrize("orientation", ["HFS", "FFS"])
def test_a_cut_head_is_said(
    tmp_path: Path, lost_below: int, lost_above: int, cut: set[str], orientation: str
) -> None:
    offsets = [(n - 14) * 5.0 for n in range(lost_below, 29 - lost_above)]
    if orientation == "FFS":
        offsets = [-o for o in offsets]
    write_series(tmp_path, offsets_mm=offsets, orientation=orientation)
    series = read_series(tmp_path)
    assert codes(series) == cut
    (flag,) = (f for f in series.flags if f.code == "coverage")
    assert f"{len(offsets)} slices over {5 * (len(offsets) - 1)} mm" in flag.message
    assert ("0 mm below" in flag.message) is ("base_cut" in cut) or lost_below == 0
    for code in cut:
        assert f"{len(offsets)} slices" in next(f.message for f in series.flags if f.code == code)


def test_a_part_of_the_real_scan(shared_data: Path, tmp_path: Path) -> None:
    whole = read_series(shared_data / "real_head_ct")
    assert "24 mm below and 14 mm above" in next(f.message for f in whole.flags if f.code == "coverage")
    kept = {str(d.SOPInstanceUID) for d in whole.datasets[:22]}
    for path in (shared_data / "real_head_ct").glob("*.dcm"):
        if str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) in kept:
            (tmp_path / path.name).symlink_to(path)
    assert "vertex_cut" in codes(read_series(tmp_path))


# --- pixels that are no Hounsfield units, whatever the header says ---


def fatty(points: np.ndarray) -> np.ndarray:
    """The synthetic head with fat under its skin."""
    hu = head_hu(points)
    hu[hu == 40] = -90
    return hu


def unsign(dataset: Dataset, k: int) -> None:
    dataset.PixelRepresentation = 0


@pytest.mark.parametrize("bits_stored", [12, 13, 16])
@pytest.mark.parametrize("intercept", [0, -24, 1])
@pytest.mark.parametrize("padded", [False, True])
def test_a_lost_sign_is_found_by_air_fat_and_bone(
    tmp_path: Path, bits_stored: int, intercept: int, padded: bool
) -> None:
    def pad(dataset: Dataset, k: int) -> None:
        if padded:
            values = np.frombuffer(dataset.PixelData, "<i2").reshape(128, 128).copy()
            values[:20], values[-20:] = -2000, -2000
            dataset.PixelData = values.tobytes()
            dataset.PixelPaddingValue = -2000

    def lose(dataset: Dataset, k: int) -> None:
        pad(dataset, k)
        unsign(dataset, k)
        if padded:
            dataset.PixelPaddingValue = 65536 - 2000

    storage: dict[str, Any] = {"signed": True, "bits_stored": bits_stored, "intercept": intercept}
    written = {"slices": 12, "spacing_mm": 8, "hu_at": fatty, **storage}
    write_series(tmp_path / "right", edit=pad, **written)
    write_series(tmp_path / "wrong", edit=lose, **written)
    right, wrong = read_series(tmp_path / "right"), read_series(tmp_path / "wrong")
    np.testing.assert_array_equal(wrong.hu, right.hu)
    assert codes(wrong) == codes(right) | {"sign_corrected"}


def test_a_lost_sign_of_the_real_scan(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "real_head_ct").glob("*.dcm"):
        dataset = dcmread(path)
        hu = dataset.pixel_array.astype(float) * dataset.RescaleSlope + dataset.RescaleIntercept
        dataset.PixelData = np.clip(hu, -2000, 4000).astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.PixelRepresentation = 1, 0, 0
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.pop("PixelPaddingValue", None)
        dataset.save_as(tmp_path / path.name)
    series = read_series(tmp_path)
    assert "sign_corrected" in codes(series)
    np.testing.assert_array_equal(series.hu, read_series(shared_data / "real_head_ct").hu)


def windowed(dataset: Dataset, k: int) -> None:
    values = np.frombuffer(dataset.PixelData, "<u2").astype(float) - 1024
    dataset.PixelData = (np.clip(values, 0, 80) / 80 * 255).astype("<u2").tobytes()
    dataset.RescaleIntercept = 0


def blank_background(dataset: Dataset, k: int) -> None:
    values = np.frombuffer(dataset.PixelData, "<u2").copy()
    values[values < 900] = 1024
    dataset.PixelData = values.tobytes()


def clipped(dataset: Dataset, k: int) -> None:
    dataset.PixelData = np.minimum(np.frombuffer(dataset.PixelData, "<u2"), 1024 + 250).tobytes()


@pytest.mark.parametrize(
    "arguments",
    [
        {"signed": True, "bits_stored": 16, "intercept": 0, "edit": unsign},  # no fat: not certain enough
        {"edit": lambda d, k: setattr(d, "RescaleIntercept", 0)},
        {"edit": lambda d, k: setattr(d, "RescaleIntercept", 1024)},
        {"edit": lambda d, k: setattr(d, "RescaleSlope", 10)},
        {"edit": windowed},
        {"edit": blank_background},
        {"edit": clipped},
    ],
)
def test_a_head_that_is_not_in_hounsfield_units_is_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    write_series(tmp_path, slices=12, spacing_mm=8, **arguments)
    with pytest.raises(Refusal, match="implausible_hounsfield") as caught:
        read_series(tmp_path)
    assert not caught.value.ineligible


@pytest.mark.parametrize("metal_hu", [3071.0, 8000.0])
def test_crowns_and_clips_are_plausible(tmp_path: Path, metal_hu: float) -> None:
    def with_metal(points: np.ndarray) -> np.ndarray:
        hu = head_hu(points)
        hu[(np.abs(points - [0, -60, -40]) < [40, 12, 15]).all(axis=-1)] = metal_hu
        return hu

    write_series(tmp_path, hu_at=with_metal, bits_stored=16)
    assert codes(read_series(tmp_path)) == set()


# --- whatever else lies in the folder ---


def test_files_are_found_by_content_in_any_depth(tmp_path: Path) -> None:
    for n, path in enumerate(write_series(tmp_path)):
        target = tmp_path / f"level{n % 3}" / "deeper" / f"no extension {n}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert read_series(tmp_path).hu.shape[0] == 28


def test_junk_is_passed_over(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "readme.txt").write_text("hello " * 100)
    (tmp_path / "noise.dcm").write_bytes(np.random.default_rng(0).bytes(4000))
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would block for ever
    directory = dcmread(paths[0])
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    directory.SOPInstanceUID = "1.2.3"
    directory.save_as(tmp_path / "DICOMDIR")
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 28
    assert codes(series) == set()


@pytest.mark.parametrize("form", ["bytes", "sequence", "overlay"])
def test_large_elements_are_not_kept(tmp_path: Path, form: str) -> None:
    size = 4_000_000

    def add(dataset: Dataset, k: int) -> None:
        block = dataset.private_block(0x0029, "RAW DATA", create=True)
        if form == "bytes":
            block.add_new(0x10, "OB", bytes(size))
        elif form == "sequence":
            item = Dataset()
            item.add_new((0x0009, 0x0010), "LO", "X")
            item.add_new((0x0009, 0x1001), "OB", bytes(size))
            block.add_new(0x10, "SQ", [item])
        else:
            dataset.add_new((0x6000, 0x3000), "OW", bytes(size))

    small = {"slices": 14, "spacing_mm": 8.0, "size": 64, "pixel_mm": 3.0}
    write_series(tmp_path / "plain", **small)  # type: ignore[arg-type]
    write_series(tmp_path / "large", edit=add, **small)  # type: ignore[arg-type]
    plain = read_series(tmp_path / "plain")
    tracemalloc.start()
    large = read_series(tmp_path / "large")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * size  # of 14 times that
    np.testing.assert_array_equal(large.hu, plain.hu)
    assert (large.digest, large.flags) == (plain.digest, plain.flags)


def make_archive(folder: Path, kind: str) -> Path:
    """An archive of ``folder`` in it, with a name that says nothing."""
    made = {"zip": "zip", "tar": "tar", "gzip": "gztar", "xz": "xztar", "bzip2": "bztar"}[kind]
    archive = shutil.make_archive(str(folder.parent / "packed"), made, folder)
    return Path(archive).rename(folder.parent / "Miller_Anna")


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip", "xz", "bzip2"])
def test_archives_are_named_in_the_remedy(tmp_path: Path, kind: str) -> None:
    write_series(tmp_path / "series", slices=2, size=16, pixel_mm=3)
    archive = make_archive(tmp_path / "series", kind)
    (tmp_path / "in").mkdir()
    archive.rename(tmp_path / "in" / archive.name)
    with pytest.raises(Refusal, match="no_dicom") as caught:
        read_series(tmp_path / "in")
    assert f"an archive ({kind})" in caught.value.remedy
    assert "unpack" in caught.value.remedy
    assert "Miller" not in str(caught.value)
    with pytest.raises(UsageError, match=kind):
        read_series(tmp_path / "in" / archive.name)


def test_an_archive_beside_the_series_does_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "series")
    make_archive(tmp_path / "in" / "series", "zip")
    assert codes(read_series(tmp_path / "in")) == set()


def test_series_in_a_linked_folder_is_read_once(tmp_path: Path) -> None:
    write_series(tmp_path / "store")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "store")
    series = read_series(tmp_path / "in")
    assert series.hu.shape[0] == 28
    assert codes(series) == set()


def test_a_folder_that_vanishes_while_it_is_read_is_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path)
    walk = os.walk

    def with_a_ghost(folder: Path, **options: Any) -> Any:
        yield from walk(folder, **options)
        yield str(folder / "gone"), [], ["IM1"]

    monkeypatch.setattr(os, "walk", with_a_ghost)
    assert "damaged_files" in codes(read_series(tmp_path))


def test_damaged_header_is_flagged_and_its_slice_missed(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    paths[-1].write_bytes(paths[-1].read_bytes()[:200])
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 27
    assert "damaged_files" in codes(series)


def test_unreadable_folder_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "a")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "damaged_files" in codes(read_series(tmp_path))


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="no_dicom") as caught:
        read_series(tmp_path)
    assert caught.value.ineligible
    with pytest.raises(UsageError):
        read_series(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        read_series(tmp_path / "file")


def test_file_without_preamble_is_read(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        dataset = dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    assert read_series(tmp_path).hu.shape[0] == 28


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, ""])
def test_identity_that_only_the_file_meta_has(tmp_path: Path, keyword: str, value: str | None) -> None:
    """The heads of the RSNA challenges come without SOPClassUID."""
    write_series(tmp_path / "whole")
    write_series(tmp_path / "less", tags={keyword: value})
    whole, series = read_series(tmp_path / "whole"), read_series(tmp_path / "less")
    assert codes(series) == set()
    assert [d[keyword].value for d in series.datasets] == [d[keyword].value for d in whole.datasets]


def test_images_without_any_sop_class_say_what_is_missing(tmp_path: Path) -> None:
    def drop(dataset: Dataset, k: int) -> None:
        del dataset.SOPClassUID, dataset.file_meta.MediaStorageSOPClassUID
        dataset.preamble = bytes(128)

    write_series(tmp_path, edit=drop, enforce_file_format=False)
    with pytest.raises(Refusal, match="no_sop_class") as caught:
        read_series(tmp_path)
    assert "SOPClassUID" in caught.value.message
    assert not caught.value.ineligible


def test_a_head_stripped_to_what_the_challenges_keep_names_what_is_missing(tmp_path: Path) -> None:
    identity = {"Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"}
    geometry = {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"}

    def strip(dataset: Dataset, k: int) -> None:
        for element in list(dataset):
            pixels = element.tag.group in (0x0028, 0x7FE0)
            if not pixels and element.keyword not in identity | geometry:
                del dataset[element.tag]

    write_series(tmp_path, edit=strip)
    with pytest.raises(Refusal, match="no_frame_of_reference") as caught:
        read_series(tmp_path)
    assert "frame of reference" in caught.value.message


def test_localizer_filed_under_the_same_series_is_left_out(tmp_path: Path) -> None:
    def scout(dataset: Dataset, k: int) -> None:
        if k == 0:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    write_series(tmp_path, edit=scout)
    series = read_series(tmp_path)
    assert series.hu.shape[0] == 27
    assert codes(series) == {"other_images_left_out"}
