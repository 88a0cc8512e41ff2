"""Tiny CT series as bytes, for tests that look at the plugin and not at pixels."""

from __future__ import annotations

import io
import itertools

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_numbers = itertools.count(1)


class Study:
    """One patient's study; every call of ``series`` adds slices of another CT series."""

    def __init__(self) -> None:
        self.patient = f"TEST{next(_numbers)}"
        self.uid = generate_uid()
        self.frame = generate_uid()

    def series(
        self, slices: int = 4, *, first: int = 0, uid: str | None = None, time: str = "120000", **tags: str
    ) -> list[bytes]:
        """Encoded slices ``first`` to ``first + slices - 1`` of a series; ``tags`` are further attributes."""
        uid = uid or generate_uid()
        return [self._slice(uid, index, time, tags) for index in range(first, first + slices)]

    def _slice(self, series_uid: str, index: int, time: str, tags: dict[str, str]) -> bytes:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CT_IMAGE
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = CT_IMAGE
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID = self.uid
        dataset.SeriesInstanceUID = series_uid
        dataset.FrameOfReferenceUID = self.frame
        dataset.PatientID = self.patient
        dataset.PatientName = "SECRET^NAME"
        dataset.Modality = "CT"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20260101", time
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [0, 0, 5 * index]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing, dataset.SliceThickness = [1, 1], 5
        dataset.Rows = dataset.Columns = 8
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.PixelData = np.full((8, 8), index, np.int16).tobytes()
        for name, value in tags.items():
            setattr(dataset, name, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
