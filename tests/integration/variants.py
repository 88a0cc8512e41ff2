"""Copies of a CT series as another patient's, or as another reconstruction of the same acquisition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.uid import generate_uid


class Patient:
    """Identity of one study; files copied with it belong together."""

    def __init__(self, number: int) -> None:
        self.identifier = f"VARIANT{number}"
        self.study_uid = generate_uid()
        self.frame_uid = generate_uid()

    def copy(
        self,
        files: Iterable[Path],
        out: Path,
        change: Callable[[Dataset], None] | None = None,
    ) -> Path:
        """Write ``files`` as one new series of this patient into ``out``; ``change`` edits each."""
        out.mkdir(parents=True)
        series_uid = generate_uid()
        for index, file in enumerate(sorted(files)):
            dataset = pydicom.dcmread(file)
            dataset.PatientID = self.identifier
            dataset.PatientName = "SECRET^NAME"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study_uid, series_uid
            dataset.FrameOfReferenceUID = self.frame_uid
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            if change is not None:
                change(dataset)
            dataset.save_as(out / f"{index:04d}.dcm", enforce_file_format=True)
        return out
