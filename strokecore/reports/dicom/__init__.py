"""Results as DICOM objects in the source's own study."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from strokecore.config import OUTPUT_KINDS
from strokecore.files import write_atomically

if TYPE_CHECKING:
    from pydicom import Dataset

    from strokecore.reading.series import Series
    from strokecore.reports.pages import Drawing
    from strokecore.result import Result, SourceMasks

logger = logging.getLogger(__name__)

__all__ = ["encode_refusal", "refusal_key", "write_outputs", "write_refusal"]


def write_outputs(
    series: Series,
    result: Result,
    masks: SourceMasks,
    out: Path,
    drawing: Drawing | None = None,
    kinds: Sequence[str] = OUTPUT_KINDS,
) -> list[Path]:
    """Write those of ``kinds``: seg.dcm (only when something is marked), regions.dcm, sr.dcm, pdf.dcm,
    sc/*.dcm.

    ``result`` is scored or withheld and carries model, result_key and content_datetime; all objects
    follow from it and the source alone, so a second call writes the same bytes. ``masks`` as marks.shown
    gives them. ``drawing`` is made here when None. Returns the paths; report.pdf, which pdf.dcm holds, is
    not among them.
    """
    # highdicom takes half a second to import; the command line's help must not wait for it
    from strokecore.reports.dicom import capture, document, seg, sr
    from strokecore.reports.dicom.instance import Stamp, write
    from strokecore.reports.pages import Drawing
    from strokecore.reports.pdf import pdf_bytes

    if result.model is None:
        raise ValueError("a scored or withheld result names its model")
    stamp = Stamp.of(result)
    drawing = drawing or Drawing.of(series, result, masks)
    captures = capture.build(series, drawing, stamp) if "sc" in kinds else []
    lesion = seg.build_lesion(series, masks, result.model, stamp) if "seg" in kinds else None
    regions = seg.build_regions(series, masks, result.model, stamp) if "regions" in kinds else None
    written = []
    for name, dataset in (("seg.dcm", lesion), ("regions.dcm", regions)):
        if dataset is not None:
            written.append(write(dataset, out / name))
    if "sr" in kinds:
        report = sr.build(
            series,
            result,
            masks,
            result.model,
            stamp,
            lesion=lesion,
            segments=seg.lesion_segments(masks),
            regions=regions,
            captures=captures,
        )
        written.append(write(report, out / "sr.dcm"))
    if "pdf" in kinds:
        pdf = pdf_bytes(result, drawing)
        write_atomically(out / "report.pdf", pdf)
        written.append(write(document.build(pdf, series.datasets, stamp), out / "pdf.dcm"))
    for index, image in enumerate(captures, start=1):
        written.append(write(image, out / "sc" / f"{index:02d}.dcm"))
    return written


def refusal_key(header: Dataset, result: Result) -> str:
    """Key of a refusal: patient, study and series of ``header``, software and the stated reasons.

    The same series refused again for the same reasons has the same key and so the same UIDs.
    """
    from strokecore import identifiers as uids
    from strokecore.reading import tags
    from strokecore.reports import wording

    identity = tuple(
        tags.text(header, keyword) for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    reasons = tuple(f"{flag.code} {flag.message} {flag.remedy}" for flag in wording.reasons(result))
    return uids.refusal_key(identity, result.software, reasons)


def write_refusal(header: Dataset, result: Result, out: Path) -> list[Path]:
    """Write the one Secondary Capture of a head CT that was not scored, into ``out``/sc.

    ``header`` is any instance of the series; whatever it lacks stays empty. Without a
    StudyInstanceUID there is no study to write into: nothing is written and [] returned.
    """
    from strokecore.reports.dicom.instance import write

    image = _refusal(header, result)
    return [] if image is None else [write(image, out / "sc" / "01.dcm")]


def encode_refusal(header: Dataset, result: Result) -> bytes | None:
    """The same Secondary Capture as the bytes of a file; None without a StudyInstanceUID."""
    from strokecore.reports.dicom.instance import encoded

    image = _refusal(header, result)
    return None if image is None else encoded(image)


def _refusal(header: Dataset, result: Result) -> Dataset | None:
    from strokecore.reports.dicom import capture
    from strokecore.reports.dicom.instance import Stamp

    if not header.get("StudyInstanceUID"):
        logger.warning("the refused series has no StudyInstanceUID; no Secondary Capture was written")
        return None
    key = result.result_key or refusal_key(header, result)
    return capture.build_refusal(header, result, Stamp.of(result, key))
