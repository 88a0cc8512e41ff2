"""Reading single attributes of untrusted DICOM headers: a value that cannot be used counts as absent.

pydicom converts values when they are first looked at and raises whatever the conversion raises, so
every look at a header that came from outside goes through here.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from strokecore.reading.header_words import CODE_SEQUENCES, CONTRAST_KEYWORDS

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?")

# What summary_from_tags looks at beside the contrast agent.
SUMMARY_KEYWORDS: Final = (
    "AcquisitionDate",
    "AcquisitionDateTime",
    "AcquisitionNumber",
    "AcquisitionTime",
    "AnatomicRegionSequence",
    "BodyPartExamined",
    "ConvolutionKernel",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImageType",
    "Modality",
    "ProtocolName",
    "RescaleType",
    "SOPClassUID",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SliceThickness",
    "StudyDescription",
    "StudyInstanceUID",
    "VolumeBasedCalculationTechnique",
)


def raw(header: Dataset, keyword: str) -> Any:
    """The value, or None when it is absent, empty or cannot be converted."""
    try:
        value = header.get(keyword)
    except Exception:  # whatever pydicom raises on this value, it is not usable
        return None
    return None if value is None or (isinstance(value, str) and not value.strip(" \0")) else value


def text(header: Dataset, keyword: str) -> str:
    """The value as text, several values joined by a backslash as in the file; "" when absent."""
    value = raw(header, keyword)
    if value is None or isinstance(value, bytes):
        return ""
    try:
        if isinstance(value, str):
            return str(value).strip(" \0")
        # a person name iterates over its letters
        if hasattr(value, "__iter__") and not isinstance(value, PersonName):
            return "\\".join(str(part).strip(" \0") for part in value)
        return str(value).strip(" \0")
    except Exception:  # person names and multi-values decode only now
        return ""


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, or None.

    Also of an element with a text VR, and with a decimal comma (``has_decimal_comma``).
    """
    parts = _numbers(header, keyword)
    return parts if len(parts) == count and all(math.isfinite(part) for part in parts) else None


def number(header: Dataset, keyword: str) -> float | None:
    """One finite number, the first of several; None otherwise."""
    parts = _numbers(header, keyword)
    return parts[0] if parts and math.isfinite(parts[0]) else None


def has_decimal_comma(header: Dataset, keyword: str) -> bool:
    """Whether ``number`` or ``numbers`` read a comma as a point."""
    return any("," in part and _number(part) is not None for part in written(header, keyword).split("\\"))


def _numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """() when there is none, or when one of several is none."""
    value = raw(header, keyword)
    if value is not None and not isinstance(value, (str, bytes)):
        try:
            return tuple(float(part) for part in (value if hasattr(value, "__iter__") else (value,)))
        except Exception:  # text that is no number for Python, or a value of another kind
            value = None
    parts = [_number(part) for part in written(header, keyword).split("\\")]
    return tuple(part for part in parts if part is not None) if None not in parts else ()


def _number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text.strip(" \0"))
    return float(match[0].replace(",", ".")) if match else None


def written(header: Dataset, keyword: str) -> str:
    """The value as the file has it, also where it does not fit its type: "80 ml" as a volume."""
    converted = text(header, keyword)
    if converted or keyword not in header:
        return converted
    try:
        value = header.get_item(keyword).value
    except Exception:  # a length or a type that is damaged
        return ""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; [] when it is absent, empty or no sequence."""
    value = raw(header, keyword)
    return list(value) if isinstance(value, Sequence) else []


def meanings(header: Dataset, keyword: str) -> str:
    """What the items of a sequence of codes say, joined by a backslash; "" when it is absent or empty.

    An item without a code still is one: it reads "item".
    """
    codes = (i for i in items(header, keyword) if len(i))
    return "\\".join(text(i, "CodeMeaning") or text(i, "CodeValue") or "item" for i in codes)


def contrast_tags(header: Dataset) -> dict[str, str]:
    """The attributes that name a contrast agent or show that one was given, as text."""
    present = [keyword for keyword in CONTRAST_KEYWORDS if keyword in header]
    return {k: (meanings if k in CODE_SEQUENCES else written)(header, k) for k in present}


def summary_tags(header: Dataset) -> dict[str, str]:
    """The attributes the choice of a series depends on, as text."""
    said = {k: (meanings if k in CODE_SEQUENCES else text)(header, k) for k in SUMMARY_KEYWORDS}
    return said | contrast_tags(header)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence what pydicom warns and logs of odd values: it quotes them, and they may be a patient's.

    Values are converted when they are first looked at, so reading and writing both need it.
    """
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
