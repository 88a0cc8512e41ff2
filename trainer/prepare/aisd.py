"""``trainer prepare aisd``: the Acute Ischemic Stroke Dataset as its users download it.

Liang et al., MICCAI 2021 (github.com/GriffinLiang/AISD): 397 non-contrast CT within 24 h of onset, contoured
with DWI of the same day as reference; 345 for training, 52 for the test. docs/data.md says what is done about
its known defects.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from strokecore.arrays import UInt8Array
from strokecore.errors import Refusal, UsageError
from strokecore.reading.series import Series, read_series
from trainer.data.cases import CaseRecord, Dataset, DatasetWriter, Split
from trainer.prepare.aisd_layout import TEST_IDS, TRAINING_SCANS, AisdCase, find_cases
from trainer.prepare.case_file import UnusableError, dimensions, make_case
from trainer.prepare.png_slices import (
    ASSUMED_WINDOW_HU,
    instance_order,
    match_slices,
    png_series,
    read_slices,
    vertex_first,
)
from trainer.prepare.pool import drop_copies, prepare_cases
from trainer.prepare.splits import hash_split

log = logging.getLogger(__name__)

AisdLabels = Literal["lesion", "acute"]

# Raw mask values: 0 background, 1 remote infarct, 2 clear acute, 3 blurred acute, 4 invisible acute (seen on
# DWI only), 5 infarct (no age given).
RAW_VALUES: Final = range(6)
# "lesion" is the authors' own definition (issues 2 and 17 of their repository) and that of all published
# figures. "acute" leaves the remote infarct out, as the ASPECTS does; 5 stays, because the scans were chosen
# for acute stroke. What no reader can see on the CT (4) is background in both, as the authors have it.
LESION_VALUES: Final[dict[AisdLabels, tuple[int, ...]]] = {"lesion": (1, 2, 3, 5), "acute": (2, 3, 5)}

_WINDOW_KEY: Final = "png_window_hu"
_NAMED: Final = 10  # ids in one warning
_LICENCE: Final = "AISD: non-commercial use only, see github.com/GriffinLiang/AISD"


@dataclass(frozen=True)
class PngWindow:
    """What is known of the 8-bit slices when they must stand for a CT.

    Attributes
    ----------
    hu: what 0 and 255 stand for.
    origin: how that is known.
    mirrored: scans whose 8-bit slices were found mirrored against their DICOM.
    """

    hu: tuple[float, float]
    origin: str
    mirrored: int

    def __str__(self) -> str:
        return f"{self.hu[0]:.0f} to {self.hu[1]:.0f}"


@dataclass(frozen=True)
class AisdJob:
    """One scan to prepare; ``png_window`` is given where the 8-bit slices must stand for the CT."""

    case: AisdCase
    split: Split
    labels: AisdLabels
    png_window: PngWindow | None = None


def prepare_aisd(source: Path, out: Path, labels: AisdLabels, workers: int) -> Iterator[Dataset | int]:
    """Prepare AISD; yields the count done so far, and at last the dataset.

    The official 52 test scans are the test split, whatever their folders are called; a tenth of the others is
    the validation split. What cannot be used is named in dataset.json with the reason.

    Raises
    ------
    UsageError: ``source`` is not AISD, ``labels`` is unknown, or ``out`` already holds a dataset.
    """
    if labels not in LESION_VALUES:
        raise UsageError(f"--labels is {labels!r}, expected {' or '.join(LESION_VALUES)}.")
    cases, problems = find_cases(source)
    writer = DatasetWriter(out)
    for name, reason in problems.items():
        log.warning("%s: %s", name, reason)
        writer.skip(name, reason)
    jobs = {case.id: AisdJob(case, aisd_split(case.id), labels) for case in cases.values()}

    # First what has DICOM: it shows which window the 8-bit slices have and how they are ordered.
    png_only = {case_id: job for case_id, job in jobs.items() if _needs_png(job.case)}
    with_dicom = {case_id: job for case_id, job in jobs.items() if case_id not in png_only}
    yield from prepare_cases(writer, with_dicom, prepare_case, workers)
    window = _png_window(writer.records)
    png_only = {case_id: replace(job, png_window=window) for case_id, job in png_only.items()}
    for done in prepare_cases(writer, png_only, prepare_case, workers):
        yield len(with_dicom) + done

    drop_copies(writer)
    yield writer.close("aisd", "binary", **_protocol(writer.records, labels, window))


def aisd_split(case_id: str) -> Split:
    """Test for the official 52 ids; else train or validate by the id's hash."""
    return "test" if case_id in TEST_IDS else hash_split(case_id, test_share=0.0)


def prepare_case(out: Path, job: AisdJob) -> CaseRecord | str:
    """Make one scan's file; returns its record, or why the scan is left out."""
    try:
        raw = _read_masks(job.case)
        if job.png_window is None:
            series, raw, provenance = _from_dicom(job.case, raw)
        else:
            series, raw, provenance = _from_png(job.case, raw, job.png_window)
        return make_case(
            out,
            series,
            np.isin(raw, LESION_VALUES[job.labels]),
            None,
            case_id=job.case.id,
            split=job.split,
            provenance={
                "labels": job.labels,
                "mask_values": ",".join(str(value) for value in np.unique(raw)),
                **provenance,
            },
        )
    except (Refusal, UnusableError) as error:
        return str(error)


def _needs_png(case: AisdCase) -> bool:
    """Whether only the 8-bit slices can be used: no DICOM, or one of another number of slices (0226134)."""
    if case.ct is None:
        return True
    count = len(case.masks)
    files = sum(path.is_file() for path in case.ct.rglob("*"))
    if files == count or len(case.images) != count:
        return False  # DICOM fits, or nothing does and its reader says why
    try:
        return len(read_series(case.ct).hu) != count
    except Refusal:
        return True


def _read_masks(case: AisdCase) -> UInt8Array:
    if not case.masks:
        raise UnusableError("no masks: mask/<id> is missing or empty; unpack mask.zip again")
    raw = read_slices(case.masks, labels=True)
    wrong = [int(value) for value in np.unique(raw) if value not in RAW_VALUES]
    if wrong:
        raise UnusableError(
            f"mask values {wrong[:5]} are unknown, expected 0 to 5: these are not the raw masks"
        )
    return raw


def _from_dicom(case: AisdCase, raw: UInt8Array) -> tuple[Series, UInt8Array, dict[str, str]]:
    """The CT, the raw mask values on its voxels, and how both were matched."""
    assert case.ct is not None
    series = read_series(case.ct)
    if raw.shape != series.hu.shape:
        raise UnusableError(
            f"the masks are {dimensions(raw)} and the DICOM series is {dimensions(series.hu)} "
            "(slices x rows x columns)"
        )
    if case.images:
        images = read_slices(case.images, labels=False)
        if images.shape != raw.shape:
            raise UnusableError(f"the masks are {dimensions(raw)} and the images are {dimensions(images)}")
        match = match_slices(images, series)
        if match is None:
            raise UnusableError(
                "the PNG images are not clearly those of the DICOM series in any order or mirroring, so that "
                "the masks cannot be placed"
            )
        if match.flip != "none":
            log.warning("%s: its PNG slices are mirrored (%s); turned back", case.id, match.flip)
    else:
        match = instance_order(series)
        if match is None:
            raise UnusableError("no PNG images, and the DICOM slices have no InstanceNumber to order them by")
        log.warning(
            "%s: no PNG images to prove the order of its masks; the order of InstanceNumber is assumed",
            case.id,
        )
    provenance = {
        "pixels": "dicom",
        "slice_order": match.order_name if case.images else f"{match.order_name}, assumed",
        "png_flip": match.flip,
    }
    if match.window_hu is not None:
        low, high = match.window_hu
        provenance |= {_WINDOW_KEY: f"{low:.1f}..{high:.1f}", "png_correlation": f"{match.correlation:.4f}"}
    return series, match.on_series(raw), provenance


def _from_png(
    case: AisdCase, raw: UInt8Array, window: PngWindow
) -> tuple[Series, UInt8Array, dict[str, str]]:
    """The same from 8-bit slices alone, with everything that is assumed."""
    why = "no DICOM" if case.ct is None else "DICOM of another number of slices"
    if not case.images:
        raise UnusableError(f"{why} and no images: image/<id> is missing or empty")
    if window.mirrored:
        raise UnusableError(
            f"{why}, and the PNG slices of {window.mirrored} other scans are mirrored: its side is unknown"
        )
    images = read_slices(case.images, labels=False)
    if images.shape != raw.shape:
        raise UnusableError(f"{why}; the masks are {dimensions(raw)} and the images are {dimensions(images)}")
    top_first = vertex_first(images)
    if top_first is None:
        raise UnusableError(f"{why}, and the 8-bit slices do not show which end is the vertex")
    log.warning(
        "%s: %s; its 8-bit slices are used with a window of %s HU (%s), 5 mm slices and a field of 230 mm",
        case.id,
        why,
        window,
        window.origin,
    )
    series = png_series(images, window.hu, top_first=top_first)
    return (
        series,
        raw[::-1] if top_first else raw,
        {
            "pixels": "png",
            "why_png": why,
            "slice_order": "head to feet, as seen" if top_first else "feet to head, as seen",
            "assumed": f"window {window} HU ({window.origin}), 5 mm slices, field of view 230 mm, "
            "image left is the patient's right",
        },
    )


def _png_window(records: list[CaseRecord]) -> PngWindow:
    """The window of the 8-bit slices, as measured on the scans that have DICOM; assumed where none has."""
    windows = [r.provenance[_WINDOW_KEY].split("..") for r in records if _WINDOW_KEY in r.provenance]
    mirrored = sum(r.provenance.get("png_flip", "none") != "none" for r in records)
    if not windows:
        return PngWindow(ASSUMED_WINDOW_HU, "assumed", mirrored)
    low, high = np.median(np.array(windows, dtype=np.float64), axis=0)
    return PngWindow((float(low), float(high)), f"median of {len(windows)} scans with DICOM", mirrored)


def _protocol(records: list[CaseRecord], labels: AisdLabels, window: PngWindow) -> dict[str, Any]:
    """What dataset.json says of labels, order and the official test set; loud where that is incomplete."""
    missing = sorted(TEST_IDS - {record.id for record in records})
    if missing:
        log.warning(
            "official protocol incomplete: %d of %d test scans; missing or left out: %s%s",
            len(TEST_IDS) - len(missing),
            len(TEST_IDS),
            ", ".join(missing[:_NAMED]),
            " ... (all in dataset.json)" if len(missing) > _NAMED else "",
        )
    pixels = Counter(record.provenance["pixels"] for record in records)
    if pixels["png"]:
        log.warning("%d of %d scans are 8-bit slices, not DICOM", pixels["png"], len(records))
    return {
        "label_choice": labels,
        "label_values": list(LESION_VALUES[labels]),
        "official_test_complete": not missing,
        "official_test_present": len(TEST_IDS) - len(missing),
        "official_test_missing": missing,
        "published_training_scans": TRAINING_SCANS,
        "pixels": dict(pixels),
        "slice_order": dict(Counter(record.provenance["slice_order"] for record in records)),
        "png_window": {"hu": list(window.hu), "origin": window.origin},
        "licence": _LICENCE,
    }
