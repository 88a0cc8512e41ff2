"""An Orthanc in memory: the REST calls that the plugin makes, with Orthanc 1.10's peculiarities."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from orthanc_plugin.header import TAGS
from orthanc_plugin.orthanc_api import OrthancApi, Response
from orthanc_plugin.settings import Settings

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def time_text(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%S")


@dataclass
class FakeSeries:
    study: str
    tags: dict[str, str]
    instances: dict[str, str] = field(default_factory=dict)  # id -> file uuid
    stable: bool = True
    last_update: datetime = LONG_AGO
    metadata: dict[str, str] = field(default_factory=dict)
    attachments: dict[str, bytes] = field(default_factory=dict)
    instance_tags: dict[str, dict[str, str]] = field(default_factory=dict)
    received: dict[str, datetime] = field(default_factory=dict)  # by instance


@dataclass
class FakeOrthanc:
    """Identifiers are names; an instance's content is its identifier."""

    series: dict[str, FakeSeries] = field(default_factory=dict)
    patient: dict[str, str] = field(default_factory=lambda: {"PatientID": "P", "PatientName": "SECRET"})
    study_tags: dict[str, str] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    lost_files: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api(self) -> OrthancApi:
        return OrthancApi(self)

    def add(self, name: str, study: str = "study", slices: int = 2, **tags: str) -> FakeSeries:
        all_tags = {
            "Modality": "CT",
            "SOPClassUID": CT_IMAGE,
            "SeriesInstanceUID": f"uid-{name}",
            "StudyInstanceUID": f"uid-{study}",
            "FrameOfReferenceUID": "frame",
            "AcquisitionTime": "120000",
            **tags,
        }
        instances = {f"{name}-{i}": f"file-{name}-{i}" for i in range(slices)}
        self.series[name] = FakeSeries(study, all_tags, instances)
        self.change("NewSeries", "Series", name)
        return self.series[name]

    def change(self, kind: str, level: str, name: str, moment: datetime | None = None) -> None:
        self.changes.append(
            {
                "ChangeType": kind,
                "ResourceType": level,
                "ID": name,
                "Seq": len(self.changes) + 1,
                "Date": time_text(moment or datetime.now(UTC) - timedelta(minutes=5)),
            }
        )

    def state(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.series[name].metadata["StrokeCore"]))

    def __call__(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        with self.lock:
            return self._answer(method, path, body, headers)

    def _answer(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        if path == "/instances" and method == "POST":
            return self._store(body or b"")
        if path.startswith("/changes"):
            return self._changes(path)
        if match := re.fullmatch(r"/studies/([^/]+)(/series)?", path):
            return self._study(match[1], bool(match[2]))
        if match := re.fullmatch(r"/series/([^/]+)(?:/(instances|metadata/\w+|attachments/[\w/]+))?", path):
            return self._series(method, match[1], match[2] or "", body or b"", headers)
        if match := re.fullmatch(r"/instances/([^/]+)(?:/([\w/-]+))?", path):
            return self._instance(method, match[1], match[2])
        return Response(200, b"{}") if path == "/system" else Response(404, b"")

    def _store(self, content: bytes) -> Response:
        name, study = content.decode().split("@")
        new = name not in self.stored
        if new:
            self.stored.append(name)
        status = "Success" if new else "AlreadyStored"
        return _json({"ID": name, "ParentSeries": f"of-{name}", "ParentStudy": study, "Status": status})

    def _changes(self, path: str) -> Response:
        if path.endswith("?last"):
            return _json({"Changes": self.changes[-1:], "Done": True, "Last": len(self.changes)})
        since, limit = (int(n) for n in re.findall(r"=(\d+)", path))
        page = self.changes[since : since + limit]
        last = page[-1]["Seq"] if page else since
        return _json({"Changes": page, "Done": last >= len(self.changes), "Last": last})

    def _study(self, name: str, children: bool) -> Response:
        own = {k: s for k, s in self.series.items() if s.study == name}
        if not own:
            return Response(404, b"")
        if children:
            return _json([self._describe(k) for k in own])
        return _json(
            {
                "ID": name,
                "PatientMainDicomTags": self.patient,
                "MainDicomTags": {"StudyInstanceUID": f"uid-{name}", **self.study_tags},
            }
        )

    def _describe(self, name: str) -> dict[str, Any]:
        series = self.series[name]
        return {
            "ID": name,
            "ParentStudy": series.study,
            "Instances": list(series.instances),
            "IsStable": series.stable,
            "LastUpdate": time_text(series.last_update),
            "MainDicomTags": {
                k: v for k, v in series.tags.items() if k in ("Modality", "SeriesDate", "SeriesTime")
            },
        }

    def _series(self, method: str, name: str, what: str, body: bytes, headers: dict[str, str]) -> Response:
        series = self.series.get(name)
        if series is None:
            return Response(404, b"")
        if what == "instances":
            return _json(
                [
                    {"ID": i, "FileUuid": f, "MainDicomTags": series.instance_tags.get(i, {})}
                    for i, f in series.instances.items()
                ]
            )
        if what.startswith("metadata/"):
            return self._metadata(method, series, what.split("/")[1], body, headers)
        if what.startswith("attachments/"):
            kind, _, rest = what.removeprefix("attachments/").partition("/")
            if method == "PUT":
                series.attachments[kind] = body
                return Response(200, b"")
            found = series.attachments.get(kind)
            return (
                Response(404, b"")
                if found is None
                else Response(200, found if rest == "data" else b"md5", {"ETag": "x"})
            )
        return _json(self._describe(name))

    def _metadata(
        self, method: str, series: FakeSeries, name: str, body: bytes, headers: dict[str, str]
    ) -> Response:
        """Revisions as Orthanc 1.10 keeps them in SQLite: always 0 when read, 1 more in a PUT's answer."""
        old = series.metadata.get(name)
        if method == "GET":
            return Response(404, b"") if old is None else Response(200, old.encode(), {"ETag": _etag(old)})
        if headers.get("If-Match") != (None if old is None else _etag(old)):
            return Response(409, b"")
        series.metadata[name] = body.decode()
        return Response(200, b"", {"ETag": _etag(body.decode(), 1)})

    def _instance(self, method: str, name: str, what: str | None) -> Response:
        if name in self.stored:
            if method == "DELETE":
                self.stored.remove(name)
                return Response(200, b"")
            if what == "metadata/SopClassUid":
                return Response(200, b"1.2.840.10008.5.1.4.1.1.7")
            if what == "study":
                return _json({"ID": "study"})
            return _json({"ID": name})
        home = next((k for k, s in self.series.items() if name in s.instances), None)
        if home is None:
            return Response(404, b"")
        if name in self.lost_files and what == "file":
            return Response(500, b"")
        if what == "metadata/ReceptionDate":
            moment = self.series[home].received.get(name, LONG_AGO)
            return Response(200, time_text(moment).encode())
        if what == "file":
            return Response(200, dicom_file(self.series[home].tags))
        return _json({"ID": name, "ParentSeries": home})


def dicom_file(tags: dict[str, Any]) -> bytes:
    """A file without pixels, in explicit little endian; lists of dictionaries are sequences of items."""
    start = _element(0x00020010, b"UI", b"1.2.840.10008.1.2.1") + _element(0x00080005, b"CS", b"ISO_IR 192")
    return b"\0" * 128 + b"DICM" + start + _dataset(tags)


_NUMBERS = {name: tag for tag, name in TAGS.items()} | {"CodeValue": 0x00080100, "CodeMeaning": 0x00080104}


def _dataset(tags: dict[str, Any]) -> bytes:
    known = sorted(_NUMBERS.keys() & tags, key=_NUMBERS.__getitem__)
    return b"".join(_encoded(_NUMBERS[name], tags[name]) for name in known)


def _encoded(tag: int, value: Any) -> bytes:
    if isinstance(value, list):
        items = b"".join(_element(0xFFFEE000, b"", _dataset(item)) for item in value)
        return struct.pack("<HH4sI", tag >> 16, tag & 0xFFFF, b"SQ\0\0", len(items)) + items
    return _element(tag, b"LO", str(value).encode())


def _element(tag: int, vr: bytes, content: bytes) -> bytes:
    content += b" " * (len(content) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return head + (struct.pack("<2sH", vr, len(content)) if vr else struct.pack("<I", len(content))) + content


def _etag(value: str, revision: int = 0) -> str:
    return f'"{revision}-{hashlib.md5(value.encode()).hexdigest()}"'


def _json(value: object) -> Response:
    return Response(200, json.dumps(value).encode())


def make_settings(folder: Path, **options: Any) -> Settings:
    defaults: dict[str, Any] = {
        "command": ("false",),
        "python": "python3",
        "stable_age_s": 1.0,
        "retry_delay_s": 2.0,
        "temporary_directory": str(folder),
    }
    return Settings(**{**defaults, **options})
