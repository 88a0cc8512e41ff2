"""``trainer prepare folder``: a hospital's own cases, one folder each. docs/data.md describes the format.

    SOURCE/<case>/ct/*.dcm or <case>/*.dcm or <case>/ct.nii.gz    the CT, in Hounsfield units
    SOURCE/<case>/infarct.nii.gz, or a DICOM SEG, or no_infarct   the truth
    SOURCE/<case>/territories.nii.gz                              optional: the truth's region of each voxel
    SOURCE/splits.csv                                             optional: case,split

The folder's name is the case's id and ends in every file that is made; it must be a pseudonym.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SIDES
from strokecore.arrays import BoolArray, UInt8Array
from strokecore.errors import Refusal, UsageError
from strokecore.reading import tags
from strokecore.reading.files import DicomFile, find_dicom
from strokecore.reading.series import Series, read_series
from strokecore.reading.tags import quiet_pydicom
from trainer.data.cases import CaseRecord, Dataset, DatasetWriter, Labels, Split
from trainer.prepare.case_file import UnusableError, make_case
from trainer.prepare.identity import identity_in_name
from trainer.prepare.nifti import ct_series, labels_on, read_nifti
from trainer.prepare.pool import drop_copies, prepare_cases
from trainer.prepare.seg_truth import (
    SEGMENTATION_STORAGE,
    is_infarct_segmentation,
    read_infarct,
    share_on,
)
from trainer.prepare.splits import TEST_SHARE, hash_split, read_splits

log = logging.getLogger(__name__)

CT_FOLDER: Final = "ct"
SPLITS_FILE: Final = "splits.csv"
NO_INFARCT_FILE: Final = "no_infarct"
REVIEWED_FILE: Final = "reviewed"

_NAMED: Final = 5
_SIDE_SHARE: Final = 0.5


@dataclass(frozen=True)
class FolderJob:
    """One case folder to prepare."""

    folder: Path
    split: Split


def prepare_folder(source: Path, out: Path, workers: int) -> Iterator[Dataset | int]:
    """Prepare a folder of cases; yields the count done so far, and at last the dataset.

    Cases are split by SOURCE/splits.csv, else 70 : 10 : 20 by the hash of their names.

    Raises
    ------
    UsageError: no case folders, a splits.csv that does not fit them, or ``out`` already holds a dataset.
    """
    folders = case_folders(source)
    splits = read_splits(source / SPLITS_FILE, [folder.name for folder in folders])
    writer = DatasetWriter(out)
    jobs: dict[str, FolderJob] = {}
    patients: dict[str, list[str]] = defaultdict(list)
    for number, folder in enumerate(folders, start=1):
        place = f"case folder {number} of {len(folders)} by name"
        headers = [file.header for file in _dicom(folder)]
        reason = identity_in_name(folder.name, headers)
        if reason is not None:
            # the name itself must not reach any file or log
            log.warning("%s is left out: %s", place, reason)
            writer.skip(place, reason)
            continue
        split = splits.get(folder.name) or hash_split(folder.name, test_share=TEST_SHARE)
        jobs[folder.name] = FolderJob(folder, split)
        if headers and (patient := tags.text(headers[0], "PatientID")):
            patients[patient].append(folder.name)
    yield from prepare_cases(writer, jobs, prepare_case, workers)
    drop_copies(writer)
    shared = _in_two_splits(patients, writer.records)
    labels: Labels = "territory" if all(r.labels == "territory" for r in writer.records) else "binary"
    yield writer.close(
        "folder",
        labels,
        splits=SPLITS_FILE if splits else "hash of the case's name",
        one_patient_in_two_splits=shared,
        licence="the hospital's own data",
    )


def case_folders(source: Path) -> list[Path]:
    """The sub-folders of ``source`` by name. Raises UsageError when there is none."""
    if not source.is_dir():
        raise UsageError(f"{source} is no folder; give the folder that holds one folder per case.")
    folders = sorted(f for f in source.iterdir() if f.is_dir() and not f.name.startswith((".", "__")))
    if not folders:
        raise UsageError(f"{source} holds no case folders; docs/data.md shows the format.")
    return folders


def prepare_case(out: Path, job: FolderJob) -> CaseRecord | str:
    """Make one case's file; returns its record, or why the case is left out."""
    try:
        with quiet_pydicom():
            series, pixels = _read_ct(job.folder)
            lesion, truth = _read_truth(job.folder, series)
            territory = _read_territories(job.folder, series, lesion)
        return make_case(
            out,
            series,
            lesion,
            territory,
            case_id=job.folder.name,
            split=job.split,
            provenance={"pixels": pixels, "truth": truth},
        )
    except (Refusal, UnusableError) as error:
        return str(error)


def _read_ct(folder: Path) -> tuple[Series, str]:
    """The CT and its kind: "dicom" or "nifti"."""
    nifti = _nifti(folder, "ct")
    dicom = any(not _is_segmentation(file) for file in _dicom(folder))
    if nifti is not None and dicom:
        raise UnusableError(
            "there are both ct.nii and DICOM images; keep the one that the truth was drawn on"
        )
    if nifti is not None:
        return ct_series(read_nifti(nifti)), "nifti"
    if not dicom:
        raise UnusableError("there is no CT: neither ct.nii.gz nor DICOM images")
    own = folder / CT_FOLDER
    return read_series(own if own.is_dir() else folder), "dicom"


def _read_truth(folder: Path, series: Series) -> tuple[BoolArray, str]:
    """The infarct, bool [k, j, i], and its origin. Nothing is taken for lesion-free unless it says so."""
    nifti = _nifti(folder, "infarct")
    segs = [f for f in _dicom(folder) if _is_segmentation(f) and is_infarct_segmentation(f.header)]
    marked_free = (folder / NO_INFARCT_FILE).exists()
    if (nifti is not None) + len(segs) > 1:
        raise UnusableError("there is more than one infarct (infarct.nii.gz, SEG); keep the corrected one")
    if nifti is not None:
        lesion = labels_on(read_nifti(nifti), series, range(2), nifti.name) > 0
        origin = "nifti"
    elif segs:
        reviewed = (folder / REVIEWED_FILE).exists()
        lesion = read_infarct(segs[0].path, series, reviewed=reviewed)
        origin = "seg, reviewed" if reviewed else "seg"
    elif marked_free:
        return np.zeros(series.hu.shape, np.bool_), NO_INFARCT_FILE
    else:
        raise UnusableError(
            "there is no truth: no infarct.nii.gz and no SEG with an infarct; a CT without infarct needs an "
            f"empty file named {NO_INFARCT_FILE}"
        )
    if marked_free and lesion.any():
        raise UnusableError(f"{NO_INFARCT_FILE} is there and so is an infarct; remove the wrong one")
    return lesion, origin


def _read_territories(folder: Path, series: Series, lesion: BoolArray) -> UInt8Array | None:
    """Region of each voxel, uint8 [k, j, i]; None where unknown. Without infarct there is nothing to know."""
    path = _nifti(folder, "territories")
    if path is None:
        return None if lesion.any() else np.zeros(series.hu.shape, np.uint8)
    known = {0, *(region.label for region in ALL_REGIONS)}
    labels = labels_on(read_nifti(path), series, known, path.name)
    for side in SIDES:
        mask = np.isin(labels, [region.label for region in ALL_REGIONS if region.side == side])
        if mask.any() and share_on(side, mask, series) < _SIDE_SHARE:
            raise UnusableError(
                f"most voxels that {path.name} labels {side} lie on the other side of the head"
            )
    return labels


def _nifti(folder: Path, stem: str) -> Path | None:
    found = [path for name in (f"{stem}.nii.gz", f"{stem}.nii") if (path := folder / name).is_file()]
    if len(found) > 1:
        raise UnusableError(f"there are both {stem}.nii.gz and {stem}.nii; keep one")
    return found[0] if found else None


def _dicom(folder: Path) -> tuple[DicomFile, ...]:
    with quiet_pydicom():
        return find_dicom(folder).files


def _is_segmentation(file: DicomFile) -> bool:
    return tags.text(file.header, "SOPClassUID") == SEGMENTATION_STORAGE


def _in_two_splits(patients: Mapping[str, list[str]], records: list[CaseRecord]) -> list[list[str]]:
    """Cases whose headers name the same patient and that lie in several splits; said aloud."""
    split = {record.id: record.split for record in records}
    shared = [
        sorted(case for case in cases if case in split)
        for cases in patients.values()
        if len({split[case] for case in cases if case in split}) > 1
    ]
    for cases in sorted(shared)[:_NAMED]:
        log.warning(
            "cases %s have the same PatientID and lie in different splits, so that the test is not "
            "independent; put them into one split with %s",
            ", ".join(cases[:_NAMED]),
            SPLITS_FILE,
        )
    return sorted(shared)
