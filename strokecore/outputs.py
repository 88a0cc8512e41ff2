"""A finished run onto disk: DICOM outputs, report and result.json in one folder."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from strokecore import dicom, report
from strokecore.pipeline import Scored
from strokecore.series import read_candidate_header

_OURS: Final = ("seg.dcm", "regions.dcm", "sr.dcm", "report.html", "result.json")


def write_all(scored: Scored, folder: Path, out: Path, series_uid: str | None = None) -> Scored:
    """Write everything ``scored`` calls for into ``out``; returns it as written.

    An earlier run's files in ``out`` are removed first, so that no stale picture stands beside a new
    result. A repeated run of the same inputs keeps the earlier run's content date and so its bytes.
    result.json is written last: where it stands, the rest is complete. ``series_uid`` is the series that was
    asked for, if one was.
    """
    out.mkdir(parents=True, exist_ok=True)
    scored = _same_date_for_same_key(scored, out)
    for name in _OURS:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "sc", ignore_errors=True)
    start = time.perf_counter()
    if scored.series is not None and scored.masks is not None:
        dicom.write_outputs(scored.series, scored.result, scored.masks, out)
    elif scored.result.status in ("refused", "failed"):
        header = read_candidate_header(folder, series_uid)
        if header is not None:
            dicom.write_refusal(header, scored.result, out)
    report.write_html(scored.result, out / "report.html", series=scored.series, masks=scored.masks)
    scored = _timed(scored, time.perf_counter() - start)
    report.write_json(scored.result, out / "result.json")
    return scored


def _timed(scored: Scored, seconds: float) -> Scored:
    times = dict(scored.result.timings_s)
    times |= {"dicom": round(seconds, 3), "total": round(times.get("total", 0.0) + seconds, 3)}
    return replace(scored, result=replace(scored.result, timings_s=times))


def _same_date_for_same_key(scored: Scored, out: Path) -> Scored:
    try:
        earlier = json.loads((out / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return scored
    key = scored.result.result_key
    if key is None or not isinstance(earlier, dict) or earlier.get("result_key") != key:
        return scored
    date = earlier.get("content_datetime")
    return replace(scored, result=replace(scored.result, content_datetime=date)) if date else scored
