"""Results into Orthanc, and out again when they are no longer true."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from orthanc_plugin.orthanc_api import NotFound, OrthancApi, OrthancError
from orthanc_plugin.settings import REPORT_ATTACHMENT, RESULT_ATTACHMENT
from orthanc_plugin.worker import Answer, AttemptError

log = logging.getLogger(__name__)

REFUSED: Final = "output_refused"  # by an error of Orthanc's own, or without an answer
SECONDARY_CAPTURES: Final = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4")


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
