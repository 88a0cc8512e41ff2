"""A finished run onto disk: DICOM outputs, report and result.json in one folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strokecore.anatomy.atlas import load_atlas
from strokecore.config import OUTPUT_KINDS, ScoringConfig
from strokecore.errors import UsageError
from strokecore.files import PARTIAL_SUFFIX, locked, partial_pattern
from strokecore.flags import QualityFlag
from strokecore.reading import tags
from strokecore.reading.files import read_header
from strokecore.reading.series import candidate_header_in_memory, read_candidate_header
from strokecore.reading.tags import quiet_pydicom
from strokecore.reports import dicom, marks
from strokecore.reports.dicom.instance import MANUFACTURER
from strokecore.reports.html import write_html
from strokecore.reports.pages import Drawing
from strokecore.reports.result_json import write_json
from strokecore.result import Scored, SoftwareInfo, blank_result, failed, internal_error

if TYPE_CHECKING:
    from pydicom import Dataset

# result.json goes first and comes last: it never stands beside half a result
_OURS: Final = ("result.json", "seg.dcm", "regions.dcm", "sr.dcm", "pdf.dcm", "report.pdf", "report.html")
_PICTURES: Final = "sc"


def prepare(folder: Path, out: Path) -> None:
    """Make ``out`` and see that results may be written there, before minutes are spent on scoring.

    Raises
    ------
    UsageError: ``out`` is a file, the input folder itself, or holds images that are not ours under names
        that a run replaces.
    OSError: it cannot be written to.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("The output is a file; name a folder.")
    out.mkdir(parents=True, exist_ok=True)
    if folder.is_dir() and out.samefile(folder):
        raise UsageError("The output folder is the input folder; results beside the images mix with them.")
    with _alone_in(out), tempfile.TemporaryFile(dir=out):
        if foreign := sum(not _replaceable(path) for path in _replaced(out)):
            raise UsageError(
                f"The output folder holds {foreign} files that StrokeCore did not write, under the names of "
                "its results; they would be replaced. Name another folder."
            )


def write_all(
    scored: Scored,
    folder: Path,
    out: Path,
    series_uid: str | None = None,
    kinds: Sequence[str] = OUTPUT_KINDS,
) -> Scored:
    """Write everything ``scored`` calls for into ``out``; returns it as written.

    An earlier run's files in ``out`` are removed first, so that no stale picture stands beside a new
    result. A repeated run of the same inputs keeps the earlier run's content date and so its bytes.
    result.json is removed first and written last: where it stands, the rest is complete. Of two runs into one
    folder the second waits and replaces the first. ``series_uid`` is the series that was asked for, if any;
    ``kinds``: of OUTPUT_KINDS, what is written of a scored or withheld scan. A refusal has its picture
    always.

    Raises
    ------
    UsageError: see prepare().
    OSError: the folder is full or lost. What was written is removed; result.json says "failed" where it can.
    """
    prepare(folder, out)
    header = None
    if scored.result.status in ("refused", "failed"):
        header = read_candidate_header(folder, series_uid)
    if header is not None:
        scored = replace(
            scored, result=replace(scored.result, result_key=dicom.refusal_key(header, scored.result))
        )
    with _alone_in(out), quiet_pydicom():
        scored = _same_date_for_same_key(scored, out)
        _clear(out)
        try:
            return _write(scored, header, out, kinds)
        except BaseException as error:
            _clear(out)
            if isinstance(error, OSError):
                with suppress(OSError):
                    write_json(_not_written(scored, error).result, out / "result.json")
            raise


def failed_run(
    config: ScoringConfig,
    error: Exception,
    *,
    content_datetime: str | None = None,
    supersedes: str | None = None,
) -> Scored:
    """What is written of a run that a defect ended."""
    software = SoftwareInfo.of(config, load_atlas(config.atlas).sha256)
    return Scored(failed(blank_result(software, content_datetime, supersedes), internal_error(error)))


def failure_picture(flag: QualityFlag, contents: Sequence[bytes], content_datetime: str) -> bytes | None:
    """The NOT SCORED picture of a head CT that nothing was computed of, made without a disk.

    ``contents``: encoded instances, one or more of each series of the study. None where no series can be a
    head CT, or it is not certain whose it is.
    """
    header = candidate_header_in_memory(contents)
    if header is None:
        return None
    config = ScoringConfig()
    software = SoftwareInfo.of(config, load_atlas(config.atlas).sha256)
    with quiet_pydicom():
        return dicom.encode_refusal(header, failed(blank_result(software, content_datetime), flag))


def reason(error: OSError) -> str:
    """What the system said, such as "No space left on device", without a path.

    pydicom raises a new error of the same kind, with the system's as its cause.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        found = found.__cause__ or found.__context__
    return type(error).__name__


def _write(scored: Scored, header: Dataset | None, out: Path, kinds: Sequence[str]) -> Scored:
    start = time.perf_counter()
    drawing = None
    if scored.series is not None and scored.masks is not None:
        masks = marks.shown(scored.series, scored.result, scored.masks)
        drawing = Drawing.of(scored.series, scored.result, masks)
        dicom.write_outputs(scored.series, scored.result, masks, out, drawing, kinds)
    elif header is not None:
        dicom.write_refusal(header, scored.result, out)
    write_html(scored.result, out / "report.html", drawing)
    scored = _timed(scored, time.perf_counter() - start)
    write_json(scored.result, out / "result.json", drawing.volumes if drawing else None)
    return scored


def _replaced(out: Path) -> list[Path]:
    """Files of ``out`` that a run removes, half-written ones included."""
    ours = [out / name for name in _OURS if (out / name).exists()]
    halves = [path for name in _OURS for path in out.glob(partial_pattern(name))]
    return ours + halves + [path for path in (out / _PICTURES).rglob("*") if path.is_file()]


def _replaceable(path: Path) -> bool:
    """Whether a file may be removed: one that is not ours may be someone's only copy."""
    if path.suffix in (".json", ".html", ".pdf", PARTIAL_SUFFIX):
        return True
    if path.suffix != ".dcm":
        return False
    try:
        header = read_header(path)
    except Exception:  # damaged: half of an output of ours
        return True
    return header is None or tags.text(header, "Manufacturer") == MANUFACTURER


def _clear(out: Path) -> None:
    for path in _replaced(out):
        path.unlink(missing_ok=True)
    if (out / _PICTURES).is_dir():
        shutil.rmtree(out / _PICTURES)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the folder's lock."""
    with ExitStack() as lock:
        # some network file systems have no locks on folders: there, runs are not kept apart
        with suppress(OSError):
            lock.enter_context(locked(out))
        yield


def _not_written(scored: Scored, error: OSError) -> Scored:
    flag = QualityFlag(
        "not_written",
        "refusal",
        f"The results could not be written: {reason(error)}.",
        "Make room in the output folder and score the scan again.",
    )
    return Scored(failed(scored.result, flag))


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
