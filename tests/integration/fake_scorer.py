"""A stand-in for ``strokecore`` with prescribed behaviour, to test the plugin against faults.

``fake_scorer.py PLAN_FOLDER score IN --out OUT ...``: each run takes the first line of PLAN_FOLDER/plan
(``ok`` when it is empty) and appends a line to PLAN_FOLDER/runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SR = "1.2.840.10008.5.1.4.1.1.88.34"


def main() -> int:
    plan_folder, command = Path(sys.argv[1]), sys.argv[2]
    if command in ("info", "engines"):
        unserving = command == "engines" and (plan_folder / "unserving").exists()
        return 1 if unserving or (plan_folder / "broken").exists() else 0
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("--engine", "--model", "--content-datetime", "--outputs", "--supersedes"):
        parser.add_argument(name)
    options = parser.parse_args(sys.argv[3:])
    behaviour = _next(plan_folder)
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in sorted(options.folder.rglob("*.dcm"))]
    with (plan_folder / "runs").open("a") as runs:
        line = {
            "behaviour": behaviour,
            "pid": os.getpid(),
            "folder": str(options.folder.parent),
            "mode": oct(options.folder.parent.stat().st_mode & 0o777),
            "instances": len(headers),
            "supersedes": options.supersedes,
            "content_datetime": options.content_datetime,
        }
        runs.write(json.dumps(line) + "\n")
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "hang":
        time.sleep(3600)
    if behaviour == "fail":
        sys.stderr.write('  File "/x/y.py", line 7, in f\nValueError: the patient is DOE^JANE\n')
        return 1
    if behaviour.startswith("slow"):
        time.sleep(float(behaviour.split()[1]))
    if behaviour == "garbage":
        options.out.mkdir()
        (options.out / "result.json").write_text("{not json")
        return 0
    return _write(behaviour, headers, options)


def _next(plan_folder: Path) -> str:
    plan = plan_folder / "plan"
    lines = plan.read_text().splitlines() if plan.exists() else []
    plan.write_text("\n".join(lines[1:]))
    return lines[0] if lines else "ok"


def _write(behaviour: str, headers: list[Dataset], options: argparse.Namespace) -> int:
    status = behaviour if behaviour in ("refused", "ineligible", "withheld") else "scored"
    by_series: dict[str, list[Dataset]] = {}
    for header in headers:
        by_series.setdefault(header.SeriesInstanceUID, []).append(header)
    # like the real one, prefer a soft-tissue kernel, then the longer series
    chosen = max(by_series.values(), key=lambda s: (s[0].get("ConvolutionKernel") == "SOFT", len(s)))
    # like the real one, a key of patient, study and instances, and not of the patient's name
    named = [chosen[0].PatientID, chosen[0].StudyInstanceUID, *sorted(h.SOPInstanceUID for h in chosen)]
    key = str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(named)))
    scored = status in ("scored", "withheld")
    (options.out / "sc").mkdir(parents=True)
    if status != "ineligible":
        source = chosen[0]
        if behaviour == "wrong study":
            source.StudyInstanceUID = "1.2.3.4"
        if scored:
            _instance(source, SR, "SR", key, options, options.out / "sr.dcm")
        _instance(source, SECONDARY_CAPTURE, "OT", key + status, options, options.out / "sc" / "01.dcm")
    refusal = {"code": "missing_slice", "severity": "refusal", "message": "", "remedy": ""}
    cut = {"code": "vertex_cut", "severity": "warning", "message": "", "remedy": ""}
    result = {
        "schema": 1,
        "status": status,
        "quality": [cut] if behaviour == "cut" else [] if scored else [refusal],
        "series": {"series_instance_uid": chosen[0].SeriesInstanceUID} if scored else None,
        "result_key": key if scored else None,
        "supersedes": options.supersedes,
    }
    (options.out / "result.json").write_text(json.dumps(result))
    (options.out / "report.html").write_text("<!doctype html><title>report</title>")
    return 0 if scored else 3


def _instance(
    source: Dataset, sop_class: str, modality: str, key: str, options: argparse.Namespace, path: Path
) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, key + modality).int}"
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = f"{meta.MediaStorageSOPInstanceUID[:-2]}9"
    dataset.Modality = modality
    dataset.Manufacturer = "StrokeCore"
    image = Dataset()
    image.ReferencedSOPInstanceUID = source.SOPInstanceUID
    dataset.SourceImageSequence = [image]
    dataset.ContentLabel = str(options.content_datetime)[:16]
    for name in ("PatientID", "PatientName", "StudyInstanceUID"):
        setattr(dataset, name, source.get(name, ""))
    dataset.save_as(path, enforce_file_format=True)


if __name__ == "__main__":
    sys.exit(main())
