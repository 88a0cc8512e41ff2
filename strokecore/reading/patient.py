"""Whose the images are and who may be scored: one person, old enough, read without inventing anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from strokecore.config import ScoringConfig
from strokecore.errors import Refusal
from strokecore.flags import QualityFlag
from strokecore.reading import tags

if TYPE_CHECKING:
    from pydicom import Dataset

_UNIT_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def age_years(header: Dataset) -> float | None:
    """Age in years from PatientAge, else from PatientBirthDate and StudyDate; None when neither says it."""
    # three digits by the standard; "9Y" and "09y" are met too, and a child must not pass for their sake
    match = re.fullmatch(r"(\d{1,3}) ?([DWMY])", tags.text(header, "PatientAge").upper())
    if match:
        return int(match[1]) * _UNIT_YEARS[match[2]]
    born, seen = (_date(tags.text(header, name)) for name in ("PatientBirthDate", "StudyDate"))
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / 365.25


def check_patient(header: Dataset, config: ScoringConfig) -> tuple[QualityFlag, ...]:
    """Refuse a patient younger than the configuration allows; say when the age is unknown.

    Raises
    ------
    Refusal: "under_age". ASPECTS is validated in adults; the developing brain has another contrast.
    """
    if config.minimum_age_years <= 0:
        return ()
    age = age_years(header)
    if age is None:
        return (
            QualityFlag(
                "age_unknown",
                "info",
                "The header does not say the patient's age.",
                f"Not meant for patients younger than {config.minimum_age_years}.",
            ),
        )
    if age < config.minimum_age_years:
        raise Refusal(
            "under_age",
            f"The patient is younger than {config.minimum_age_years} years.",
            "ASPECTS is not validated in children; read the scan without it, or lower the limit with "
            "--minimum-age if your site has validated it.",
        )
    return ()


def one_person(headers: Sequence[Dataset]) -> bool:
    """Whether name, birth date and sex agree wherever they are given; an empty one says nothing.

    For the images of one series, which one machine wrote: within a study, names are also corrected or
    spelled by another machine.
    """
    births = {re.sub(r"\D", "", tags.text(h, "PatientBirthDate")) for h in headers}
    # "U" and other words for unknown say nothing; "Male" is met beside "M"
    sexes = {s[:1] for h in headers if (s := tags.text(h, "PatientSex").upper())[:1] in ("M", "F", "O")}
    return (
        len(births - {""}) <= 1
        and len(sexes) <= 1
        and _one_name(tags.text(h, "PatientName") for h in headers)
    )


def _one_name(names: Iterable[str]) -> bool:
    """Capitals, spaces and empty parts at the end make no other name, nor does a script that is left out."""
    writings: tuple[set[str], ...] = (set(), set(), set())  # alphabetic, ideographic, phonetic
    for name in names:
        for seen, writing in zip(writings, name.split("="), strict=False):
            parts = [" ".join(part.split()).casefold() for part in writing.split("^")]
            seen.add("^".join(parts).rstrip("^"))
    return all(len(seen - {""}) <= 1 for seen in writings)


def _date(text: str) -> date | None:
    """A DICOM date, also in the form 2015.01.02 of the standard's predecessor."""
    match = re.fullmatch(r"(\d{4})([.-]?)(\d{2})\2(\d{2})", text)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None
