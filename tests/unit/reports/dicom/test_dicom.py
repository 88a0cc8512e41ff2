"""All outputs of one result together: validity, character sets, identity and bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from strokecore.flags import QualityFlag
from strokecore.reports import dicom
from strokecore.result import HAEMORRHAGE, SourceMasks
from tests.unit.reports import output_cases as cases

ROOT = Path(__file__).resolve().parents[4]
GAP = QualityFlag("missing_slice", "refusal", "A slice is missing.", "Send the series again.")
needs_dciodvfy = pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed"
)

# what the source looks like -> header values (None removes the attribute)
SOURCES = {
    "latin 1": {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürg^^Dr."},
    "cyrillic": {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Иванов^Пётр"},
    "utf-8": {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Wang^XiaoDong=王^小东"},
    "chinese": {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "StudyDescription": "頭部",
    },
    "one-component name, no birth date": {
        "PatientName": "ANONYMOUS",
        "PatientBirthDate": None,
        "PatientSex": None,
    },
    "no character set, empty method": {
        "SpecificCharacterSet": None,
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "",
    },
    "compressed with loss": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "12.5",
        "LossyImageCompressionMethod": "ISO_15444_1",
    },
    "no patient id, no study id": {"PatientID": None, "StudyID": None, "AccessionNumber": None},
    "bare": dict.fromkeys(
        (
            *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
            *("StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription"),
            *("BodyPartExamined", "SpecificCharacterSet", "PositionReferenceIndicator", "InstanceNumber"),
        )
    ),
}


@pytest.fixture(scope="module")
def written(series, masks, result, tmp_path_factory):
    """The files of one result."""
    return dicom.write_outputs(series, result, masks, tmp_path_factory.mktemp("outputs"))


@pytest.mark.parametrize("name", SOURCES)
def test_any_source_gives_valid_outputs_of_its_patient(name, series, masks, tmp_path):
    series = cases.through_file(cases.recoded(series, **SOURCES[name]), tmp_path / "source")
    result = cases.made_up_result(series, masks)
    written = dicom.write_outputs(series, result, masks, tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "seg.dcm",
        "regions.dcm",
        "sr.dcm",
        "pdf.dcm",
        "sc/01.dcm",
        "sc/02.dcm",
    ]
    written += dicom.write_refusal(series.datasets[0], cases.refused(GAP), tmp_path / "refused")
    source = series.datasets[0]
    for path in written:
        output = pydicom.dcmread(path)
        assert output.SpecificCharacterSet == "ISO_IR 192"
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "AccessionNumber",
            "StudyDescription",
        ):
            assert str(output.get(keyword) or "") == str(source.get(keyword) or ""), (path.name, keyword)
        assert output.StudyInstanceUID == source.StudyInstanceUID
        assert output.SeriesInstanceUID != source.SeriesInstanceUID
        assert output.PatientName == "" or str(output.PatientName).encode() in path.read_bytes()
        assert b"secret scanner note" not in path.read_bytes()
        assert not [element for element in output.iterall() if element.tag.is_private]
        assert errors(path) == []


@pytest.mark.parametrize("vr", ["LO", "UT"])
def test_geometry_that_the_source_has_as_text_is_written_as_numbers(
    vr, series, masks, result, written, tmp_path
):
    headers = []
    for original in series.datasets:
        ds = deepcopy(original)
        for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Rows"):
            value = original[keyword].value
            texts = list(map(str, value if original[keyword].VM > 1 else [value]))
            del ds[keyword]
            ds.add_new(keyword, vr, texts if vr == "LO" else "\\".join(texts))
        headers.append(ds)
    text = replace(series, datasets=tuple(headers))
    again = dicom.write_outputs(text, result, masks, tmp_path)
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


@pytest.mark.parametrize("part", ["SCHÄDEL", "Kopf", "HEAD, BRAIN", "A" * 17, "头"])
def test_a_code_string_outside_its_repertoire_is_left_out(part, series, masks, result, tmp_path):
    with pydicom.config.disable_value_validation():
        recoded = cases.recoded(series, BodyPartExamined=part, PatientSex="weiblich")
    for path in dicom.write_outputs(recoded, result, masks, tmp_path):
        output = pydicom.dcmread(path)
        assert "BodyPartExamined" not in output
        assert output["PatientSex"].is_empty
        assert errors(path) == []


def test_real_scan_gives_valid_outputs(shared_data, tmp_path):
    series = cases.real_series(shared_data)
    masks = cases.made_up_masks(series, centre=(0.0, 0.0, 25.0))
    result = cases.made_up_result(series, masks)
    written = dicom.write_outputs(series, result, masks, tmp_path)
    written += dicom.write_refusal(series.datasets[0], cases.refused(GAP), tmp_path / "refused")
    assert {path.name: errors(path) for path in written if errors(path)} == {}


@needs_dciodvfy
def test_a_withheld_result_gives_valid_outputs(series, masks, result, tmp_path):
    blood = SourceMasks(
        np.where(masks.lesion == 2, HAEMORRHAGE, masks.lesion).astype(np.uint8), masks.regions
    )
    written = dicom.write_outputs(series, cases.withheld(result), blood, tmp_path)
    assert {path.name: errors(path) for path in written if errors(path)} == {}


def test_same_result_is_the_same_bytes(series, masks, result, written, tmp_path):
    again = dicom.write_outputs(series, result, masks, tmp_path)
    for one, other in zip(written, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_same_refusal_is_the_same_bytes(series, tmp_path):
    refused = cases.refused(GAP)
    (one,) = dicom.write_refusal(series.datasets[0], refused, tmp_path / "1")
    (other,) = dicom.write_refusal(series.datasets[0], refused, tmp_path / "2")
    assert one.read_bytes() == other.read_bytes()


def test_same_result_is_the_same_bytes_in_another_process(written, tmp_path):
    program = (
        "import sys; from pathlib import Path; from strokecore.reports import dicom\n"
        "from tests.unit.reports import output_cases as cases\n"
        "series = cases.small_series(); masks = cases.made_up_masks(series)\n"
        "dicom.write_outputs(series, cases.made_up_result(series, masks), masks, Path(sys.argv[1]))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "17", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, env=environment, cwd=ROOT)
    for path in [*written, written[0].parent / "report.pdf"]:
        other = tmp_path / path.relative_to(written[0].parent)
        assert path.read_bytes() == other.read_bytes(), path.name


def test_another_key_shares_no_identity(series, masks, result, written, tmp_path):
    other = replace(result, result_key="7c1d6e1e-5d0b-5b06-8d6b-3b6f2b0f9f11")
    assert own_uids(written).isdisjoint(own_uids(dicom.write_outputs(series, other, masks, tmp_path)))


def test_identities_are_unique_within_a_result(written):
    headers = [pydicom.dcmread(path) for path in written]
    assert len({h.SOPInstanceUID for h in headers}) == len(headers)
    assert len({h.SeriesInstanceUID for h in headers}) == 5  # seg, regions, sr, pdf and one of captures
    assert all(str(h.file_meta.MediaStorageSOPInstanceUID) == h.SOPInstanceUID for h in headers)
    assert all(h.SOPInstanceUID.startswith("2.25.") and len(h.SOPInstanceUID) <= 64 for h in headers)


def test_the_document_is_the_pdf_of_the_folder(written, series):
    output = pydicom.dcmread(next(path for path in written if path.name == "pdf.dcm"))
    assert output.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert (output.Modality, output.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    content = output.EncapsulatedDocument[: output.EncapsulatedDocumentLength]
    assert content == (written[0].parent / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(output.EncapsulatedDocument) % 2 == 0
    assert {item.ReferencedSOPInstanceUID for item in output.SourceInstanceSequence} == {
        header.SOPInstanceUID for header in series.datasets
    }


@pytest.mark.parametrize(
    "kinds", [("sc",), ("pdf",), ("sr",), ("sc", "sr"), ("sr", "seg"), ("pdf", "regions")]
)
def test_only_the_chosen_outputs_are_written_and_referred_to(kinds, series, masks, result, tmp_path):
    written = dicom.write_outputs(series, result, masks, tmp_path, kinds=kinds)
    assert {path.parent.name if path.parent.name == "sc" else path.stem for path in written} == set(kinds)
    assert (tmp_path / "report.pdf").exists() == ("pdf" in kinds)
    ours = {pydicom.dcmread(path).SOPInstanceUID for path in written}
    for path in written:
        assert errors(path) == []
        if path.name == "sr.dcm":
            referred = {
                str(e.value)
                for e in pydicom.dcmread(path).iterall()
                if e.keyword == "ReferencedSOPInstanceUID" and str(e.value).startswith("2.25.")
            }
            assert referred == ours - {pydicom.dcmread(path).SOPInstanceUID}


def test_content_time_is_the_results(written):
    for path in written:
        output = pydicom.dcmread(path)
        assert (output.ContentDate, output.ContentTime) == ("20261123", "050607")
        assert (output.InstanceCreationDate, output.InstanceCreationTime) == ("20261123", "050607")


@pytest.mark.parametrize("zone", ["+9999", "-12:0", "+0160", "Z"])
def test_a_zone_that_is_none_does_not_stop_the_outputs(zone, series, tmp_path):
    header = cases.recoded(series, TimezoneOffsetFromUTC=zone).datasets[0]
    (path,) = dicom.write_refusal(header, cases.refused(GAP), tmp_path)
    assert pydicom.dcmread(path).ContentTime == "050607"


def test_several_body_parts_become_one(series, tmp_path):
    header = cases.recoded(series, BodyPartExamined=["HEAD", "NECK"]).datasets[0]
    (path,) = dicom.write_refusal(header, cases.refused(GAP), tmp_path)
    assert pydicom.dcmread(path).BodyPartExamined == "HEAD"


def test_content_time_is_given_in_the_zone_the_source_declares(series, tmp_path):
    header = cases.recoded(series, TimezoneOffsetFromUTC="+0930").datasets[0]
    output = pydicom.dcmread(dicom.write_refusal(header, cases.refused(GAP), tmp_path)[0])
    assert (output.ContentTime, output.TimezoneOffsetFromUTC) == ("143607", "+0930")


def test_time_and_key_are_never_made_up(series, masks, result, tmp_path):
    with pytest.raises(ValueError, match="content_datetime"):
        dicom.write_outputs(series, replace(result, content_datetime=None), masks, tmp_path)
    with pytest.raises(ValueError, match="result_key"):
        dicom.write_outputs(series, replace(result, result_key=None), masks, tmp_path)


def test_refusal_without_a_study_is_not_written(tmp_path):
    assert dicom.write_refusal(Dataset(), cases.refused(GAP), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@needs_dciodvfy
def test_refusal_of_the_barest_header(tmp_path):
    header = Dataset()
    header.StudyInstanceUID = "1.2.3"
    (path,) = dicom.write_refusal(header, cases.refused(GAP), tmp_path)
    output = pydicom.dcmread(path)
    assert output.Modality == "OT"
    assert output.pixel_array.shape == (1024, 1024, 3)
    assert errors(path) == []


def test_values_outside_their_vr_are_written_as_they_came(series, masks, result, tmp_path):
    with pydicom.config.disable_value_validation():
        series = cases.recoded(series, PatientBirthDate="1950.01.02", PatientAge="75", PatientSex="U")
    written = dicom.write_outputs(series, result, masks, tmp_path)
    for path in written:
        with pydicom.config.disable_value_validation():
            output = pydicom.dcmread(path)
            assert (output.PatientBirthDate, output.PatientAge) == ("1950.01.02", "75")


def test_refusals_for_another_reason_are_another_object(series, tmp_path):
    header = series.datasets[0]
    other = QualityFlag("too_few_slices", "refusal", "3 slices found.", "Send the series again.")
    uids = set()
    for index, flag in enumerate((GAP, other, replace(GAP, message="Two slices are missing."))):
        (path,) = dicom.write_refusal(header, cases.refused(flag), tmp_path / str(index))
        uids.add(pydicom.dcmread(path).SOPInstanceUID)
    assert len(uids) == 3


def test_no_half_written_file_stays(written):
    assert not list(written[0].parent.rglob("*.part"))


def errors(path) -> list[str]:
    """Error lines of dciodvfy; [] where it is not installed (those tests say so elsewhere)."""
    if shutil.which("dciodvfy") is None:
        return []
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    assert len(lines) > 0, "dciodvfy always names the object's kind"
    return [line for line in lines if "Error" in line]


def own_uids(paths) -> set[str]:
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID")
    return {
        str(element.value)
        for path in paths
        for element in pydicom.dcmread(path).iterall()
        if element.keyword in keywords and str(element.value).startswith("2.25.")
    }
