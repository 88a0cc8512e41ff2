from __future__ import annotations

import io
import warnings

import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from strokecore.reports.dicom import inherit


def source(**values: object) -> Dataset:
    ds = Dataset()
    ds.StudyInstanceUID = "1.2.3"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", "meaning"
    return item


def test_absent_type_2_becomes_empty_and_nothing_else_appears():
    inherited = inherit.patient_and_study(source())
    assert {element.keyword for element in inherited} == {"StudyInstanceUID", *inherit.TYPE_2}
    assert all(inherited[keyword].is_empty for keyword in inherit.TYPE_2)


def test_patient_and_study_are_copied_and_nothing_of_the_scanner():
    ds = source(
        PatientName="Doe^Jane",
        PatientID="7",
        AccessionNumber="ACC",
        StudyDescription="Head",
        PatientWeight="70.5",
        Manufacturer="MAKER",
        StationName="CT1",
        SeriesDescription="thin",
        KVP="120",
    )
    ds.add_new((0x0009, 0x0010), "LO", "SCANNER PRIVATE")
    ds.add_new((0x0009, 0x1001), "LO", "private")
    inherited = inherit.patient_and_study(ds)
    assert inherited.PatientName == "Doe^Jane"
    assert inherited.AccessionNumber == "ACC"
    assert inherited.PatientWeight == 70.5
    assert {element.keyword for element in inherited if not element.is_empty} == {
        "StudyInstanceUID",
        "PatientName",
        "PatientID",
        "AccessionNumber",
        "StudyDescription",
        "PatientWeight",
    }


# source values -> keywords that must be there / must not be there
CONDITIONAL = [
    ({"PatientIdentityRemoved": "YES", "DeidentificationMethod": "tool"}, "PatientIdentityRemoved", ""),
    ({"PatientIdentityRemoved": "YES", "DeidentificationMethod": ""}, "", "PatientIdentityRemoved"),
    ({"PatientIdentityRemoved": "YES"}, "", "PatientIdentityRemoved"),
    (
        {"PatientIdentityRemoved": "YES", "DeidentificationMethodCodeSequence": [code("113100")]},
        "PatientIdentityRemoved DeidentificationMethodCodeSequence",
        "DeidentificationMethod",
    ),
    (
        {"PatientIdentityRemoved": "YES", "DeidentificationMethodCodeSequence": []},
        "",
        "PatientIdentityRemoved DeidentificationMethodCodeSequence",
    ),
    ({"PatientIdentityRemoved": "NO"}, "PatientIdentityRemoved", "DeidentificationMethod"),
    ({"DeidentificationMethod": ""}, "", "DeidentificationMethod"),
    ({"ResponsiblePerson": "Doe^Joe", "ResponsiblePersonRole": "PARENT"}, "ResponsiblePerson", ""),
    ({"ResponsiblePerson": "Doe^Joe"}, "", "ResponsiblePerson"),
    (
        {"PatientBirthDateInAlternativeCalendar": "4711"},
        "",
        "PatientBirthDateInAlternativeCalendar",
    ),
    (
        {"PatientBirthDateInAlternativeCalendar": "4711", "PatientAlternativeCalendar": "HEBREW"},
        "PatientBirthDateInAlternativeCalendar PatientAlternativeCalendar",
        "",
    ),
    (
        {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialSubjectID": "1"},
        "ClinicalTrialSponsorName ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName",
        "",
    ),
    ({"ClinicalTrialSponsorName": "S"}, "", "ClinicalTrialSponsorName ClinicalTrialSiteID"),
    (
        {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P"},
        "",
        "ClinicalTrialSponsorName ClinicalTrialProtocolID",
    ),
]


@pytest.mark.parametrize(("values", "present", "absent"), CONDITIONAL)
def test_conditional_attributes(values, present, absent):
    inherited = inherit.patient_and_study(source(**values))
    assert [k for k in present.split() if k not in inherited] == []
    assert [k for k in absent.split() if k in inherited] == []


NAMES = [
    ("ISO_IR 100", "Müller^Jürg"),
    ("ISO_IR 144", "Иванов^Пётр"),
    ("ISO_IR 192", "王^小明=王^小明"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ("ISO_IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO_IR 100", "ANONYMOUS"),
]


@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_text_is_decoded_in_every_place(charset, name):
    ds = source(SpecificCharacterSet=charset.split("\\"), PatientName=name)
    ds.StudyDescription = name.split("=")[-1].replace("^", " ")
    item = code("1")
    item.CodeMeaning = ds.StudyDescription
    ds.ProcedureCodeSequence = Sequence([item])
    ds.OtherPatientNames = [name, name]
    read = stored(ds)
    target = Dataset()
    inherit.inherit(target, read)
    again = stored(target)
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert str(again.PatientName) == name
    assert [str(one) for one in again.OtherPatientNames] == [name, name]
    assert again.StudyDescription == ds.StudyDescription
    assert again.ProcedureCodeSequence[0].CodeMeaning == ds.StudyDescription
    assert name.encode("utf-8") in raw(target)


def test_bytes_that_break_their_character_set_do_not_stop_an_output():
    ds = source(SpecificCharacterSet="ISO_IR 192", PatientName="Doe^Jane")
    broken = raw(ds).replace(b"Doe^Jane", b"Do\xff^Jane")
    read = pydicom.dcmread(io.BytesIO(broken))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inherited = inherit.patient_and_study(read)
    assert "Jane" in str(inherited.PatientName)


def test_an_unreadable_value_is_as_good_as_absent(caplog):
    ds = source(PatientWeight="70.5", PatientID="secret-7")
    broken = raw(ds).replace(b"70.5", b"7x.5")
    inherited = inherit.patient_and_study(pydicom.dcmread(io.BytesIO(broken)))
    assert "PatientWeight" not in inherited
    assert inherited.PatientID == "secret-7"
    assert "PatientWeight" in caplog.text
    assert "secret" not in caplog.text


def test_values_outside_their_vr_are_passed_on_as_they_are():
    ds = source()
    with pydicom.config.disable_value_validation():
        ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "1950.01.02", "U", "75"
    inherited = inherit.patient_and_study(ds)
    assert (inherited.PatientBirthDate, inherited.PatientSex, inherited.PatientAge) == (
        "1950.01.02",
        "U",
        "75",
    )


@pytest.mark.parametrize(
    ("vr", "value", "written"),
    [
        ("LO", "70.5", "70.5"),
        ("LO", "70,5", "70.5"),
        ("UT", "70,50 ", "70.5"),
        ("LO", "heavy", None),
        ("FD", 70.5, "70.5"),
    ],
)
def test_a_number_is_written_with_the_vr_of_the_dictionary(vr, value, written):
    ds = source()
    ds.add_new("PatientWeight", vr, value)
    inherited = inherit.patient_and_study(ds)
    if written is None:
        assert "PatientWeight" not in inherited
    else:
        assert (inherited["PatientWeight"].VR, str(inherited.PatientWeight)) == ("DS", written)


def test_a_decimal_comma_is_written_as_a_point():
    broken = raw(source(PatientWeight="70.5", PixelSpacing=["0.45", "0.45"])).replace(b"70.5", b"70,5")
    read = pydicom.dcmread(io.BytesIO(broken.replace(b"0.45\\0.45", b"0,45\\0,45")))
    assert inherit.patient_and_study(read).PatientWeight == 70.5
    assert inherit.reference(read).PixelSpacing == [0.45, 0.45]


@pytest.mark.parametrize("value", ["MÄNNLICH", "f", "F/M", "x" * 17])
def test_code_strings_outside_their_repertoire(value):
    with pydicom.config.disable_value_validation():
        ds = source(
            PatientSex=value, SmokingStatus=value, PatientIdentityRemoved=value, BodyPartExamined=value
        )
    inherited = inherit.patient_and_study(ds)
    assert inherited["PatientSex"].is_empty
    assert "SmokingStatus" not in inherited
    assert "PatientIdentityRemoved" not in inherited
    assert inherit.body_part(ds) == ""


def test_private_and_character_set_are_dropped_inside_sequences():
    ds, item = source(), code("1")
    item.SpecificCharacterSet = "ISO_IR 100"
    item.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    ds.ProcedureCodeSequence = Sequence([item])
    copied = inherit.patient_and_study(ds).ProcedureCodeSequence[0]
    assert {element.keyword for element in copied} == {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"}


def test_target_keeps_no_patient_of_its_own():
    target = source(PatientName="Wrong^Person", PatientComments="wrong", PatientID="wrong")
    inherit.inherit(target, source(PatientID="right"))
    assert target.PatientID == "right"
    assert target["PatientName"].is_empty
    assert "PatientComments" not in target


def test_source_is_left_as_it_was():
    ds = source(PatientName="Doe^Jane", SpecificCharacterSet="ISO_IR 100")
    before = ds.to_json()
    inherit.patient_and_study(ds)
    inherit.reference(ds)
    assert ds.to_json() == before


def test_reference_carries_identity_and_geometry_but_no_patient():
    ds = source(PatientName="Doe^Jane", PatientID="7", SOPInstanceUID="1.2.3.4", PixelSpacing=[0.5, 0.5])
    reference = inherit.reference(ds, 4.0)
    assert reference.SOPInstanceUID == "1.2.3.4"
    assert reference.PixelSpacing == [0.5, 0.5]
    assert reference.SliceThickness == 4.0
    assert all(reference[keyword].is_empty for keyword in inherit.TYPE_2)


def raw(ds: Dataset) -> bytes:
    """``ds`` as a DICOM file; without the identifiers that a complete file has."""
    ds.file_meta, ds.preamble = FileMetaDataset(), b"\0" * 128
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()


def stored(ds: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(raw(ds)))
