"""A case's name must not tell who the patient is: it ends in every file, log and picture that is made."""

from __future__ import annotations

import re
from typing import Final

from pydicom import Dataset as Header

from strokecore.reading import tags

# A case's id is a file name on every system, and a pseudonym has no need of more.
_CASE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEAST_NAME_LETTERS: Final = 3  # shorter parts of a patient's name are in too many words


def identity_in_name(name: str, headers: list[Header]) -> str | None:
    """Why a folder's name cannot be a case's id: it is no plain name, or tells who the patient is.

    The reason never repeats the name. Headers that say PatientIdentityRemoved hold pseudonyms, not patients.
    """
    if not _CASE_NAME.fullmatch(name):
        return (
            "its name is not a plain id (letters, digits, '.', '_' and '-', at most 64); rename it to a "
            "pseudonym"
        )
    for header in headers:
        if tags.text(header, "PatientIdentityRemoved").upper() == "YES":
            continue
        for attribute in ("PatientID", "PatientName", "PatientBirthDate"):
            if _tells(name, attribute, _text(header, attribute)):
                return (
                    f"its name holds the {attribute} of its DICOM headers; rename it to a pseudonym (or, if "
                    "the headers hold one already, set PatientIdentityRemoved to YES in them)"
                )
    return None


def _tells(name: str, attribute: str, value: str) -> bool:
    """Whether a folder's name holds an identifying value."""
    name, value = name.lower(), value.lower().strip()
    if not value:
        return False
    if attribute == "PatientName":
        words = re.split(r"[^a-z]+", name)
        parts = [part for part in re.split(r"[\s^=]+", value) if len(part) >= _LEAST_NAME_LETTERS]
        return any(part in words or (len(part) > _LEAST_NAME_LETTERS and part in name) for part in parts)
    return name == value or (len(value) > _LEAST_NAME_LETTERS and value in name)


def _text(header: Header, attribute: str) -> str:
    """The value as text; a person's name as its groups and components are written in the file."""
    try:
        return str(tags.raw(header, attribute) or "")
    except Exception:  # a person's name in a character set that is not the declared one
        return ""
