"""Results into Orthanc, and out again when they are no longer true."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final

from orthanc_plugin.header import PATIENT_TAGS, UNDECODED, read_header
from orthanc_plugin.orthanc_api import NotFound, OrthancApi, OrthancError
from orthanc_plugin.settings import REPORT_ATTACHMENT, RESULT_ATTACHMENT
from orthanc_plugin.worker import Answer, AttemptError

log = logging.getLogger(__name__)

REFUSED: Final = "output_refused"  # by an error of Orthanc's own, or without an answer
SECONDARY_CAPTURES: Final = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4")
# What every output has: strokecore/reports/dicom/instance.py and strokecore/identifiers.py, whose packages
# Orthanc's interpreter does not have.
MANUFACTURER: Final = "StrokeCore"
UID_ROOT: Final = "2.25."
_COPIED_FROM: Final = frozenset({"ModifiedFrom", "AnonymizedFrom"})


def store_outputs(api: OrthancApi, study: str, contents: Iterable[bytes]) -> tuple[str, ...]:
    """Store instances; returns their Orthanc ids. What is there already stays as it is.

    Raises AttemptError, leaving nothing new behind, when an instance would land in another study, when
    Orthanc does not take it, or (code REFUSED) when it answers with an error of its own or not at all.
    """
    identifiers: list[str] = []
    new: list[str] = []
    for content in contents:
        try:
            stored = api.store(content)
        except OrthancError as error:
            ours = 400 <= error.status < 500  # the fault of what is stored; else it may pass, or never
            with contextlib.suppress(OrthancError):
                remove(api, new)
            raise AttemptError("output_rejected" if ours else REFUSED, str(error)) from error
        identifiers.append(stored.instance)
        if stored.new:
            new.append(stored.instance)
        if stored.study != study:
            remove(api, new)
            raise AttemptError("output_wrong_study", "an output does not belong to its source's study")
    return tuple(identifiers)


def all_present(api: OrthancApi, instances: Sequence[str]) -> bool:
    return bool(instances) and all(api.exists(f"/instances/{i}") for i in instances)


def is_output_series(series: Mapping[str, Any]) -> bool:
    """Whether a series, as Orthanc describes it, holds outputs or copies of some."""
    tags: Mapping[str, str] = series.get("MainDicomTags", {})
    return tags.get("Manufacturer") == MANUFACTURER and tags.get("Modality") != "CT"


def is_copy(api: OrthancApi, instance: str) -> bool:
    """Whether Orthanc made an instance of an output series out of an output. Raises NotFound.

    Modify and anonymize note where it comes from; merge and split do not, but give it a UID of their own.
    """
    uid = str(api.get(f"/instances/{instance}").get("MainDicomTags", {}).get("SOPInstanceUID", ""))
    if not uid.startswith(UID_ROOT):
        return True
    return not _COPIED_FROM.isdisjoint(api.get(f"/instances/{instance}/metadata"))


def copies(api: OrthancApi, study: str, made: Container[str]) -> list[str]:
    """Copies of outputs in a study: instances that nobody scored there. Raises NotFound.

    ``made``: the instances that are recorded as made there. One that was modified in its place is no copy.
    """
    found = []
    for series in api.get(f"/studies/{study}/series"):
        if is_output_series(series):
            found += [i for i in series["Instances"] if i not in made and is_copy(api, i)]
    return found


def left_behind(api: OrthancApi, study: str, made: Container[str]) -> list[str]:
    """Outputs in a study that refer to none of its CT images, ``made`` aside. Raises NotFound."""
    listed = api.get(f"/studies/{study}/series")
    images: list[bytes] = []
    for series in listed:
        if series.get("MainDicomTags", {}).get("Modality") == "CT":
            described = api.get(f"/series/{series['ID']}/instances")
            images += [str(i["MainDicomTags"]["SOPInstanceUID"]).encode() for i in described]
    found = []
    for instance in (i for s in listed if is_output_series(s) for i in s["Instances"] if i not in made):
        file = api.get_bytes(f"/instances/{instance}/file")  # ours: the UIDs stand in it as they are
        if not any(image in file for image in images):
            found.append(instance)
    return found


def same_patient(one: bytes, other: bytes) -> bool:
    """Whether two files name the same patient; what one of them does not say decides nothing."""
    first, second = (read_header(file, PATIENT_TAGS) for file in (one, other))
    return all(
        _comparable(first[name]) == _comparable(second[name])
        for name in first.keys() & second.keys()
        if _comparable(first[name]) and _comparable(second[name])
    )


def _comparable(text: str) -> str:
    """The part of a name that every character set can write; "" where it could not be decoded."""
    alphabetic = text.split("=")[0].rstrip("^ ")
    return "" if UNDECODED in alphabetic else alphabetic


def remove(api: OrthancApi, instances: Iterable[str]) -> None:
    for instance in instances:
        try:
            api.delete(f"/instances/{instance}")
        except NotFound:
            continue


def remove_notices(api: OrthancApi, study: str, instances: Iterable[str]) -> None:
    """Remove NOT SCORED pictures that are no longer true; only Secondary Captures of ``study`` ever go."""
    for instance in instances:
        try:
            sop_class = api.get_bytes(f"/instances/{instance}/metadata/SopClassUid").decode(
                "ascii", "replace"
            )
            if sop_class in SECONDARY_CAPTURES and api.get(f"/instances/{instance}/study").get("ID") == study:
                api.delete(f"/instances/{instance}")
        except NotFound:
            continue


def attach(api: OrthancApi, series: Iterable[str], answer: Answer) -> None:
    """Keep result.json and the report as attachments of the source series.

    They repeat what the DICOM objects say, so a failure here does not fail the attempt.
    """
    for identifier in series:
        try:
            api.put_attachment(identifier, RESULT_ATTACHMENT, json.dumps(answer.result).encode())
            if answer.report:
                api.put_attachment(identifier, REPORT_ATTACHMENT, answer.report.read_bytes())
        except (OrthancError, OSError) as error:
            log.warning("result not attached: %s", type(error).__name__)
