"""What an output inherits from its source: the only place that copies attributes.

Outputs belong to the source's patient and study, so the attributes of those two entities are copied
(PS3.3 C.7.1.1, C.7.1.3, C.7.2.1-C.7.2.3), and nothing else: series, equipment and private attributes
describe the scanner's work, not ours. Nothing is ever invented: an absent Type 2 attribute becomes
empty, and an attribute that cannot stand without another that the source lacks is left out.

Text is decoded with the source's character set and written as UTF-8 (ISO_IR 192), which can hold every
character of every other set. Numbers are written with the dictionary's VR, whatever VR or decimal comma the
source has; a code string outside its repertoire (an umlaut, a small letter) is left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName, format_number_as_ds

from strokecore.reading import tags
from strokecore.reading.frames import frame_number

logger = logging.getLogger(__name__)

CHARACTER_SET: Final = "ISO_IR 192"
_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{0,16}")
_NUMERIC: Final = ("DS", "IS", "US")

# Required, may be empty: Patient and General Study modules.
TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)

# Copied where the source has a value, left out otherwise.
OPTIONAL: Final = (
    # SOP Common: the zone in which the inherited study date and time are given
    "TimezoneOffsetFromUTC",
    # Patient
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "PatientBirthTime",
    "QualityControlSubject",
    "ReferencedPatientSequence",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    # General Study
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "RequestingService",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    # Patient Study
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "SmokingStatus",
    "PregnancyStatus",
    "AdditionalPatientHistory",
    "Occupation",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "PatientState",
)

# Clinical Trial Subject and Study: a module that is there has these two and one of the two below.
TRIAL_TYPE_1: Final = ("ClinicalTrialSponsorName", "ClinicalTrialProtocolID")
TRIAL_SUBJECT: Final = ("ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID")
TRIAL_TYPE_2: Final = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
TRIAL_OPTIONAL: Final = (
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)


@dataclass(frozen=True)
class Condition:
    """A Type 1C rule: ``attribute`` (with ``value``, if given) needs a value in one of ``needs``.

    Where none has one, attribute and needs are all left out: keeping them would be invalid, and a
    value for the missing one would be invented.
    """

    attribute: str
    needs: tuple[str, ...]
    value: str | None = None


CONDITIONS: Final = (
    # An object that does not claim to be de-identified is handled as identifiable: the safe side.
    Condition(
        "PatientIdentityRemoved", ("DeidentificationMethod", "DeidentificationMethodCodeSequence"), "YES"
    ),
    Condition("ResponsiblePerson", ("ResponsiblePersonRole",)),
    Condition("PatientBirthDateInAlternativeCalendar", ("PatientAlternativeCalendar",)),
    Condition("PatientDeathDateInAlternativeCalendar", ("PatientAlternativeCalendar",)),
)

# What highdicom reads of a source image to place and reference an output.
_REFERENCE_TYPE_1: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_LOSSY: Final = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
# Of a frame of an Enhanced CT image; see reading/frames.py
FRAME: Final = "ReferencedFrameNumber"


def inherit(target: Dataset, source: Dataset) -> None:
    """Give ``target`` the source's patient and study, replacing whatever it had of them."""
    inherited = patient_and_study(source)
    for keyword in (*TYPE_2, *OPTIONAL, *TRIAL_TYPE_1, *TRIAL_SUBJECT, *TRIAL_TYPE_2, *TRIAL_OPTIONAL):
        if keyword in target:
            del target[keyword]
    with config.disable_value_validation():
        target.SpecificCharacterSet = CHARACTER_SET
        target.update(inherited)


def patient_and_study(source: Dataset) -> Dataset:
    """Patient and study attributes of ``source`` as they may be written, text as str.

    StudyInstanceUID is copied where there is one; callers refuse to write without it.
    """
    inherited = Dataset()
    with config.disable_value_validation():
        _copy(inherited, source, ("StudyInstanceUID", *TYPE_2, *OPTIONAL))
        for keyword in TYPE_2:
            if keyword not in inherited:
                _set_empty(inherited, keyword)
        for condition in CONDITIONS:
            _apply(condition, inherited)
        _copy_trial(inherited, source)
    return inherited


def reference(source: Dataset, slice_thickness_mm: float | None = None) -> Dataset:
    """The identity and geometry of one source image, for highdicom; no patient attribute has a value.

    ``slice_thickness_mm`` is the series' thickness, which stands in where the source declares none.
    """
    image = Dataset()
    with config.disable_value_validation():
        _copy(image, source, (*_REFERENCE_TYPE_1, "PositionReferenceIndicator"))
        if (frame := frame_number(source)) is not None:
            setattr(image, FRAME, frame)
        for keyword in (*TYPE_2, "PositionReferenceIndicator"):
            if keyword not in image:
                _set_empty(image, keyword)
        if slice_thickness_mm is not None:
            image.SliceThickness = format_number_as_ds(float(slice_thickness_mm))
    return image


def lossy(target: Dataset, sources: Iterable[Dataset]) -> None:
    """Say of what was made from ``sources`` that one of them was compressed with loss, where one was."""
    for source in sources:
        if tags.text(source, "LossyImageCompression") == "01":
            with config.disable_value_validation():
                _copy(target, source, _LOSSY)
            return


def body_part(source: Dataset) -> str:
    """BodyPartExamined of the source, the first where there are several; "" where there is none."""
    part = tags.text(source, "BodyPartExamined").split("\\")[0].strip()
    return part if _CODE_STRING.fullmatch(part) else ""


def _apply(condition: Condition, inherited: Dataset) -> None:
    if condition.attribute not in inherited:
        return
    if condition.value is not None and inherited[condition.attribute].value != condition.value:
        return
    if not any(keyword in inherited for keyword in condition.needs):
        del inherited[condition.attribute]


def _copy_trial(inherited: Dataset, source: Dataset) -> None:
    trial = Dataset()
    _copy(trial, source, (*TRIAL_TYPE_1, *TRIAL_SUBJECT, *TRIAL_TYPE_2, *TRIAL_OPTIONAL))
    complete = all(keyword in trial for keyword in TRIAL_TYPE_1)
    if not complete or not any(keyword in trial for keyword in TRIAL_SUBJECT):
        return
    for keyword in TRIAL_TYPE_2:
        if keyword not in trial:
            _set_empty(trial, keyword)
    inherited.update(trial)


def _copy(target: Dataset, source: Dataset, keywords: Iterable[str]) -> None:
    """Copy those ``keywords`` that have a value in ``source``, decoded."""
    for keyword in keywords:
        if keyword not in source:
            continue
        try:
            copied = _written_by_the_book(source, keyword)
        # pydicom's parsers raise many kinds; a value that cannot be read is as good as absent
        except Exception:
            logger.warning("attribute %s of the source is unreadable and was not inherited", keyword)
            continue
        if not copied.is_empty and _in_repertoire(copied):
            target.add(copied)


def _written_by_the_book(source: Dataset, keyword: str) -> DataElement:
    """The element with the dictionary's VR: one that the source wrote as text, its numbers checked."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag)
    try:
        element = source[keyword]
        if vr == element.VR:
            return DataElement(tag, vr, _decoded(element.value))
    except ValueError:  # no number for pydicom
        if vr not in _NUMERIC:
            raise
    if vr not in _NUMERIC:
        return DataElement(tag, vr, _decoded(source[keyword].value))
    count = tags.written(source, keyword).count("\\") + 1
    numbers = tags.numbers(source, keyword, count)
    if numbers is None:
        raise ValueError("no numbers")
    values = [format_number_as_ds(n) if vr == "DS" else int(n) for n in numbers]
    return DataElement(tag, vr, values if count > 1 else values[0])


def _in_repertoire(element: DataElement) -> bool:
    """Whether a code string holds what one may hold (PS3.5 6.2): a viewer that gets "SCHÄDEL" shows bytes."""
    if element.VR != "CS":
        return True
    values = element.value if element.VM > 1 else [element.value]
    return all(_CODE_STRING.fullmatch(str(value).strip(" \0")) for value in values)


def _decoded(value: Any) -> Any:
    """``value`` without any trace of the source's character set."""
    if isinstance(value, PersonName):
        return PersonName(str(value))
    if isinstance(value, Dataset):
        item = Dataset()
        for element in value:
            # the outer character set holds inside; private content is not ours to pass on
            if element.tag.is_private or element.keyword == "SpecificCharacterSet":
                continue
            copied = DataElement(element.tag, element.VR, _decoded(element.value))
            if _in_repertoire(copied):
                item.add(copied)
        return item
    if isinstance(value, Sequence):
        return Sequence([_decoded(item) for item in value])
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        return [_decoded(item) for item in value]
    return value


def _set_empty(target: Dataset, keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    target.add(DataElement(tag, dictionary_VR(tag), None))
