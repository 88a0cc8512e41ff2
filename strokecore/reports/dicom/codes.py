"""Coded concepts used in SEG and SR: what each number means, in one place.

Public codes come from SNOMED CT (SCT), the DICOM controlled terminology (DCM) and UCUM. The ASPECTS
itself is SCT 1290002002; four public value sets agree on it. SNOMED has no codes for the M1-M6 cortical
regions of the ASPECTS nor for some of its measurements: those live in the private scheme 99STROKECORE,
which every object that uses it identifies in its Coding Scheme Identification Sequence.
"""

from __future__ import annotations

from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from strokecore.anatomy.regions import CORTICAL, FULL_NAMES, Side

PRIVATE_SCHEME: Final = "99STROKECORE"


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


def _own(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


def _ucum(value: str, meaning: str) -> Code:
    return Code(value, "UCUM", meaning)


# Name of the algorithm behind the suspected haemorrhage, which is the same beside every engine
HAEMORRHAGE_RULE: Final = "StrokeCore haemorrhage"
# and of what makes the score; its engine and model are parameters
ASPECTS_ALGORITHM: Final = "StrokeCore ASPECTS"

# Findings and categories
ASPECTS: Final = _sct("1290002002", "Alberta Stroke Program Early CT Score")
INFARCT: Final = _sct("55641003", "Infarct")
CHRONIC: Final = _sct("90734009", "Chronic")
HEMORRHAGE: Final = _sct("50960005", "Hemorrhage")
SUSPECTED: Final = _sct("415684004", "Suspected")
LESION: Final = _sct("52988006", "Lesion")
ABNORMAL_STRUCTURE: Final = _sct("49755003", "Morphologically Abnormal Structure")
ANATOMICAL_STRUCTURE: Final = _sct("91723000", "Anatomical Structure")
PRESENT: Final = _sct("52101004", "Present")
ABSENT: Final = _sct("272519000", "Absent")
EQUIVOCAL: Final = _sct("42425007", "Equivocal")
INDETERMINATE: Final = _sct("82334004", "Indeterminate")
YES: Final = _sct("373066001", "Yes")

# Places
BRAIN: Final = _sct("12738006", "Brain")
CEREBRAL_HEMISPHERE: Final = _sct("372073000", "Cerebral hemisphere")
LATERALITY: Final[dict[Side, Code]] = {
    "left": _sct("7771000", "Left"),
    "right": _sct("24028007", "Right"),
}
BOTH_SIDES: Final = _sct("51440002", "Bilateral")
REGION_SITE: Final[dict[str, Code]] = {
    "C": _sct("11000004", "Caudate nucleus"),
    "L": _sct("41648007", "Lentiform nucleus"),
    "IC": _sct("85637007", "Internal capsule"),
    "I": _sct("36169008", "Insula"),
    **{name: _own(name, f"ASPECTS {name}, {FULL_NAMES[name]}") for name in CORTICAL},
}

# Measurements
PROBABILITY: Final = _own("PROBABILITY", "Probability of early ischemic change")
INVOLVED_FRACTION: Final = _own("INVOLVED", "Involved fraction of region")
ASSESSED_REGIONS: Final = _own("ASSESSED", "Number of ASPECTS regions assessed")
MEAN_ATTENUATION: Final = _dcm("112181", "Mean Attenuation Coefficient")
ATTENUATION_DIFFERENCE: Final = _own("MIRROR_DIFF", "Attenuation difference to contralateral region")
VOLUME: Final = _sct("118565006", "Volume")
AREA: Final = _sct("42798000", "Area")
EARLY_VOLUME: Final = _own("EARLY_VOLUME", "Volume of early ischemic change in affected regions")

# Statements
EARLY_ISCHEMIC_CHANGE: Final = _own("EARLY_CHANGE", "Early ischemic change")
BORDERLINE: Final = _own("BORDERLINE", "Borderline")
REASON: Final = _own("REASON", "Reason code")
PLACE: Final = _own("PLACE", "Place of the finding")
REGION_CUT: Final = _own("REGION_CUT", "Decision point of the site")
SUMMARY: Final = _own("SUMMARY", "ASPECTS summary")
QUALITY_FLAG: Final = _own("QUALITY", "Quality flag")
ENGINE: Final = _own("ENGINE", "Engine")
SEGMENTATION_NOTE: Final = _own("SEG_NOTE", "Segmentation object")
INTENDED_USE: Final = _own("INTENDED_USE", "Intended use")
SUPERSEDES: Final = _own("SUPERSEDES", "Supersedes")
SUPERSEDES_KEY: Final = _own("SUPERSEDES_KEY", "Supersedes result")
SUMMARY_HEADING: Final = _dcm("121111", "Summary")
AFFECTED_REGIONS: Final = _own("AFFECTED", "Affected regions")
LIMITATION: Final = _own("LIMITATION", "Limitation")
NOT_OUTLINED: Final = _own("NOT_OUTLINED", "Finding without an outline")
SERIES_CHOICE: Final = _own("SERIES_CHOICE", "Reason for series selection")
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")

# Procedure
CT_OF_HEAD: Final = _sct("303653007", "Computed tomography of head")

# Units
SCORE_UNIT: Final = _ucum("{score}", "score")
REGION_COUNT_UNIT: Final = _ucum("{regions}", "regions")
NO_UNIT: Final = _ucum("1", "no units")
HOUNSFIELD: Final = _ucum("[hnsf'U]", "Hounsfield unit")
MILLILITRE: Final = _ucum("ml", "milliliter")
SQUARE_MILLIMETRE: Final = _ucum("mm2", "square millimeter")


def private_scheme() -> CodingSchemeIdentificationItem:
    """The item that tells a reader what 99STROKECORE is."""
    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name="StrokeCore private codes",
        responsible_organization="StrokeCore",
    )
