"""orthanc_plugin/strays.py: what is ours, what is a copy, and whose results they are."""

from __future__ import annotations

import io

import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from orthanc_plugin import strays
from orthanc_plugin.orthanc_api import OrthancApi, Response
from orthanc_plugin.strays import is_copy, is_output_series, same_patient
from strokecore.identifiers import constant_uid
from strokecore.reports.dicom.instance import MANUFACTURER


def file_of(tags: dict[str, str]) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.4"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name, text in tags.items():
        setattr(dataset, name, text)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"PatientName": "DOE^JANE^^"}, {"PatientName": "DOE^JANE"}, True),
        ({"PatientName": "DOE^JANE"}, {"PatientName": "ROE^JANE"}, False),
        (
            {"PatientName": "DOE^JANE", "PatientSex": "F"},
            {"PatientName": "DOE^JANE", "PatientSex": "M"},
            False,
        ),
        ({"PatientName": "DOE^JANE", "PatientSex": ""}, {"PatientName": "DOE^JANE", "PatientSex": "M"}, True),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "19500102"}, False),
        ({"PatientName": "Yamada^Tarou=山田^太郎"}, {"PatientName": "Yamada^Tarou"}, True),
        ({}, {"PatientName": "DOE^JANE"}, True),
    ],
)
def test_whether_two_files_name_the_same_patient(
    one: dict[str, str], other: dict[str, str], *, same: bool
) -> None:
    assert same_patient(file_of(one), file_of(other)) is same


def test_outputs_are_known_by_what_the_scorer_writes() -> None:
    assert strays.MANUFACTURER == MANUFACTURER
    assert constant_uid("anything").startswith(strays.UID_ROOT)
    assert is_output_series({"MainDicomTags": {"Manufacturer": MANUFACTURER, "Modality": "SR"}})
    assert not is_output_series({"MainDicomTags": {"Manufacturer": "SIEMENS", "Modality": "SR"}})
    assert not is_output_series({"MainDicomTags": {"Modality": "CT"}})


@pytest.mark.parametrize(
    ("uid", "metadata", "copied"),
    [
        ("2.25.1", b'["IndexInSeries", "RemoteAET"]', False),
        ("2.25.1", b'["ModifiedFrom", "RemoteAET"]', True),
        ("2.25.1", b'["AnonymizedFrom"]', True),
        ("1.2.276.1", b"[]", True),
    ],
)
def test_a_copy_says_where_it_is_from_or_has_another_uid(uid: str, metadata: bytes, *, copied: bool) -> None:
    def transport(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        del method, body, headers
        if path.endswith("/metadata"):
            return Response(200, metadata)
        return Response(200, b'{"MainDicomTags": {"SOPInstanceUID": "%s"}}' % uid.encode())

    assert is_copy(OrthancApi(transport), "x") is copied
