"""Results that speak of other images, or of another patient, than those that they lie beside.

Orthanc copies them into a study (modify, anonymize, merge, split), leaves them where the images went away,
and overwrites images under them. Whoever opens the study would read them as its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from orthanc_plugin.header import PATIENT_TAGS, UNDECODED, read_header
from orthanc_plugin.orthanc_api import NotFound, OrthancApi, OrthancError
from orthanc_plugin.outputs import all_present, remove
from orthanc_plugin.state import SeriesState

log = logging.getLogger(__name__)

# What every output has: strokecore/reports/dicom/instance.py and strokecore/identifiers.py, whose packages
# Orthanc's interpreter does not have.
MANUFACTURER: Final = "StrokeCore"
UID_ROOT: Final = "2.25."
_COPIED_FROM: Final = frozenset({"ModifiedFrom", "AnonymizedFrom"})


def remove_strays(api: OrthancApi, study: str, states: Sequence[SeriesState], *, moved: bool) -> None:
    """Results that Orthanc copied into a study or left in it, beside those that were made of its images.

    A copy speaks of images that are somewhere else or gone. While what was made here is not there it is
    kept: it may be all that there is to see. What is left where its images were moved away, mostly
    because they are another patient's, goes in any case.

    Parameters
    ----------
    states: of the study's CT series. moved: whether images of it were moved into another study.
    """
    current = [i for s in states for i in s.present]
    made = {*current, *(i for s in states for past in s.history for i in past.outputs)}
    with contextlib.suppress(NotFound):
        found = copies(api, study, made)
        if found and all_present(api, current):
            remove(api, found)
            log.warning("%d copied outputs removed: study %s", len(found), study)
        if moved and (left := left_behind(api, study, made)):
            remove(api, left)
            log.warning("%d outputs of images that were moved away removed: study %s", len(left), study)


def remove_other_patients(api: OrthancApi, states: Sequence[SeriesState], sources: Sequence[bytes]) -> None:
    """Earlier outputs that name another patient than the images do now: corrected where they lie.

    A wrong patient on a result is worse than no result, so they go before the new one is made, which can
    have the same UIDs.

    Parameters
    ----------
    states: of the acquisition's series. sources: an image of each.
    """
    earlier = {i for s in states for i in (*s.present, *(o for past in s.history for o in past.outputs))}
    wrong = []
    for instance in earlier:
        try:
            output = api.get_bytes(f"/instances/{instance}/file")
        except OrthancError as error:
            if not error.status:
                raise
            continue  # deleted, or the storage has lost it: nobody can read it
        if not any(same_patient(output, source) for source in sources):
            wrong.append(instance)
    if wrong:
        remove(api, wrong)
        log.warning("%d outputs of another patient removed", len(wrong))


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
