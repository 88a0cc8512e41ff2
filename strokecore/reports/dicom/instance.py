"""What all outputs have in common: who made them, when, and how they are written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from strokecore import identifiers as uids
from strokecore._version import __version__
from strokecore.files import write_atomically
from strokecore.reading import tags
from strokecore.reports.dicom import inherit
from strokecore.result import Result

MANUFACTURER: Final = "StrokeCore"
MODEL_NAME: Final = "StrokeCore ASPECTS"
# SH, at most 16 characters (PS3.6)
IMPLEMENTATION_VERSION: Final = f"STROKECORE{__version__}".replace(".", "_")[:16]
# DICOM asks for a serial number of the device; a software's serial number is its version
DEVICE_SERIAL_NUMBER: Final = __version__

# Series numbers far from any scanner's, so that ours sort last in a viewer; one series per kind.
SERIES_NUMBER: Final = {"seg": 9801, "regions": 9802, "sr": 9803, "sc": 9804, "pdf": 9805}
SERIES_DESCRIPTION: Final = {
    "seg": "StrokeCore findings (research)",
    "regions": "StrokeCore ASPECTS regions (research)",
    "sr": "StrokeCore ASPECTS report (research)",
    "sc": "StrokeCore ASPECTS summary (research)",
    "pdf": "StrokeCore ASPECTS document (research)",
}


@dataclass(frozen=True)
class Stamp:
    """Identity and time of everything written for one result."""

    key: str
    moment: datetime

    @classmethod
    def of(cls, result: Result, key: str | None = None) -> Stamp:
        """Stamp of ``result``. Raises ValueError where it has no key or no content date and time."""
        key = key or result.result_key
        if not key:
            raise ValueError("the result has no result_key; it is fixed before outputs are written")
        if not result.content_datetime:
            raise ValueError("the result has no content_datetime; it is fixed once per result key")
        return cls(key, datetime.fromisoformat(result.content_datetime))

    def series_uid(self, kind: str) -> str:
        return uids.output_uid(self.key, f"{kind}-series")

    def instance_uid(self, kind: str, index: int = 0) -> str:
        return uids.output_uid(self.key, kind, index)

    def date_and_time(self, source: Dataset) -> tuple[str, str]:
        """DA and TM in the zone the source declares, else the wall clock of content_datetime."""
        moment = self.moment
        zone = _zone(tags.text(source, "TimezoneOffsetFromUTC"))
        if zone is not None and moment.tzinfo is not None:
            moment = moment.astimezone(zone)
        return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")


def finish(dataset: Dataset, source: Dataset, stamp: Stamp, kind: str, index: int = 0) -> Dataset:
    """Make ``dataset`` an output of ``stamp``: patient and study inherited, identity and times fixed.

    Libraries write random UIDs and the present moment into several attributes; here they are all
    replaced, so that the same result is always the same bytes.
    """
    inherit.inherit(dataset, source)
    date, time = stamp.date_and_time(source)
    dataset.SOPInstanceUID = stamp.instance_uid(kind, index)
    dataset.SeriesInstanceUID = stamp.series_uid(kind)
    dataset.SeriesNumber = SERIES_NUMBER[kind]
    dataset.SeriesDescription = SERIES_DESCRIPTION[kind]
    dataset.InstanceNumber = index + 1
    for keyword in ("InstanceCreationDate", "SeriesDate", "ContentDate"):
        setattr(dataset, keyword, date)
    for keyword in ("InstanceCreationTime", "SeriesTime", "ContentTime"):
        setattr(dataset, keyword, time)
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.DeviceSerialNumber = DEVICE_SERIAL_NUMBER
    dataset.SoftwareVersions = __version__
    body_part = inherit.body_part(source)
    if body_part and kind != "sr":
        dataset.BodyPartExamined = body_part
    # carries the time of the run and the version of the library, which are not part of the key
    if "ContributingEquipmentSequence" in dataset:
        del dataset.ContributingEquipmentSequence
    _fix_dimension_organization(dataset, stamp, kind)
    dataset.file_meta = _file_meta(dataset)
    return dataset


def write(dataset: Dataset, path: Path) -> Path:
    """Write a DICOM file so that ``path`` never holds half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encoded(dataset))
    return path


def encoded(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uids.constant_uid("implementation")
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return meta


def _fix_dimension_organization(dataset: Dataset, stamp: Stamp, kind: str) -> None:
    uid = uids.output_uid(stamp.key, f"{kind}-dimensions")
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword, ()):
            item.DimensionOrganizationUID = uid


def _zone(offset: str) -> timezone | None:
    """Zone of a DICOM offset such as "+0100"; None when it is absent or malformed."""
    # PS3.3 C.12.1.1.8: -1200 to +1400
    match = re.fullmatch(r"([+-])(0\d|1[0-4])([0-5]\d)", offset)
    if match is None:
        return None
    delta = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(delta if match[1] == "+" else -delta)
