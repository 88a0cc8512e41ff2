"""The acquisitions of one study as Orthanc holds them now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from orthanc_plugin.arrival import looks_whole
from orthanc_plugin.header import UNDECODED, read_header
from orthanc_plugin.orthanc_api import OrthancApi, OrthancError, parse_orthanc_time
from strokecore.reading.acquisition import (
    SeriesSummary,
    doubtful_exclusion,
    exclusion,
    group_acquisitions,
    summary_from_tags,
)

HEADER_TRIES: Final = 3  # files that Orthanc cannot read, before its index has to do

# Attributes that the outputs inherit: if one changes while scoring runs, the result is dropped.
_PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDY_TAGS = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID")


@dataclass(frozen=True)
class Member:
    """One CT series of an acquisition.

    Attributes
    ----------
    id: Orthanc's identifier of the series.
    excluded: (code, reason) when its tags alone rule it out (localizer, contrast, map), else None.
    instances: (Orthanc's identifier, identifier of the stored file), sorted; the second changes when an
        instance is overwritten and is empty for excluded series.
    stable: nothing arrived for StableAge.  last_update: when the last instance arrived.
    expected: how many instances there will be, where the sender's tags say it.
    whole: of one that is not stable, whether its slices look like a whole head already, see arrival.py.
    """

    id: str
    summary: SeriesSummary
    excluded: tuple[str, str] | None
    instances: tuple[tuple[str, str], ...]
    stable: bool
    last_update: datetime | None
    expected: int | None = None
    whole: bool = False


@dataclass(frozen=True)
class Acquisition:
    """The unit of work. ``fingerprint`` covers patient, study and the instances of the candidates."""

    study: str
    members: tuple[Member, ...]
    fingerprint: str

    @property
    def candidates(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.excluded is None)

    @property
    def excluded(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.excluded is not None)

    def member_of_uid(self, series_instance_uid: str) -> Member | None:
        return next((m for m in self.members if m.summary.series_instance_uid == series_instance_uid), None)


def read_acquisitions(api: OrthancApi, study: str) -> list[Acquisition]:
    """CT acquisitions of a study. SEG, SR and captures, our own included, are no CT and never appear.

    Raises NotFound when the study is gone.
    """
    description = api.get(f"/studies/{study}")
    tags = {**_texts(description.get("PatientMainDicomTags")), **_texts(description.get("MainDicomTags"))}
    members: dict[str, Member] = {}
    for series in api.get(f"/studies/{study}/series"):
        if _texts(series.get("MainDicomTags")).get("Modality") == "CT" and series.get("Instances"):
            member = _member(api, series)
            members[member.summary.series_instance_uid] = member
    if all(m.excluded for m in members.values()):
        # what only one attribute excludes is looked at by its pixels where the study has nothing else
        members |= {uid: _not_excluded(api, m) for uid, m in members.items() if doubtful_exclusion(m.summary)}
    groups = group_acquisitions(m.summary for m in members.values())
    grouped = {s.series_instance_uid for group in groups for s in group}
    # Secondary captures that call themselves CT belong to no acquisition, yet each gets its state.
    groups += [(m.summary,) for uid, m in members.items() if uid not in grouped]
    return [_acquisition(study, tags, (members[s.series_instance_uid] for s in group)) for group in groups]


def _member(api: OrthancApi, series: dict[str, Any]) -> Member:
    identifiers = sorted(series["Instances"])
    tags = {
        **_texts(series["MainDicomTags"]),
        **_header(api, identifiers[:HEADER_TRIES]),
    }
    summary = summary_from_tags(tags, len(identifiers))
    excluded = exclusion(summary)
    member = Member(
        series["ID"],
        summary,
        excluded,
        # A perfusion series has thousands of instances, and its files do not matter here.
        tuple((i, "") for i in identifiers),
        series.get("IsStable") is True,
        parse_orthanc_time(series.get("LastUpdate")),
        # Orthanc's own ExpectedNumberOfInstances knows nothing of CT
        int(expected) if (expected := tags.get("ImagesInAcquisition", "").strip()).isdecimal() else None,
    )
    return member if excluded else _not_excluded(api, member)


def _not_excluded(api: OrthancApi, member: Member) -> Member:
    """``member`` as a candidate, with its files."""
    instances = api.get(f"/series/{member.id}/instances")
    numbers = {_texts(i.get("MainDicomTags")).get("AcquisitionNumber") for i in instances}
    summary = member.summary
    if len(numbers) > 1:  # a scanner that counts slices with it
        summary = replace(summary, acquisition_number=None)
    files = tuple(sorted((i["ID"], str(i.get("FileUuid", ""))) for i in instances))
    tags = [_texts(i.get("MainDicomTags")) for i in instances]
    whole = not member.stable and looks_whole(tags, member.expected)
    return replace(member, summary=summary, excluded=None, instances=files, whole=whole)


def _header(api: OrthancApi, instances: Iterable[str]) -> dict[str, str]:
    """Tags of the first instance whose file can be read.

    Empty when none can: that series then fails alone, where its files are exported, and the rest of the
    study is not held up by it.
    """
    for identifier in instances:
        try:
            tags = read_header(api.get_bytes(f"/instances/{identifier}/file"))
            # what could not be decoded is left to the index
            return {name: text for name, text in tags.items() if text and UNDECODED not in text}
        except OrthancError as error:  # 404 too may mean that the index knows it and the storage does not
            if not error.status:
                raise  # Orthanc itself does not answer
    return {}


def _acquisition(study: str, tags: dict[str, str], members: Iterable[Member]) -> Acquisition:
    ordered = tuple(sorted(members, key=lambda m: m.id))
    content = [
        [tags.get(name, "") for name in (*_PATIENT_TAGS, *_STUDY_TAGS)],
        [(m.id, m.instances) for m in ordered if m.excluded is None],
    ]
    return Acquisition(study, ordered, hashlib.sha256(json.dumps(content).encode()).hexdigest())


def _texts(values: object) -> dict[str, str]:
    """The text values of a JSON object; sequences and the like are left out."""
    return {k: v for k, v in values.items() if isinstance(v, str)} if isinstance(values, dict) else {}
