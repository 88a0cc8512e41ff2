"""A simulated head as a DICOM CT series, with the truth in a folder of its own beside it."""

from __future__ import annotations

import gzip
import json
import struct
import uuid
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from strokecore.arrays import BoolArray
from strokecore.simulate.scanner import SliceGeometry
from strokecore.simulate.spec import SIMULATOR_VERSION, SampleSpec, canonical_json

TRUTH_FOLDER: Final = "truth"
RESCALE_INTERCEPT: Final = -1024

# Root of the simulator's invented identifiers (a fixed random UUID).
_NAMESPACE: Final = uuid.UUID("6f2c1f0e-6b5f-4c43-9d0a-2f6a0b6f5b11")
# What a reconstruction may change without becoming another examination: series of one head that differ only
# in these share study, frame of reference and acquisition.
_RECONSTRUCTION_FIELDS: Final = (
    "thickness_mm",
    "kernel",
    "pixel_mm",
    "matrix",
    "series_number",
    "flip_rows",
    "flip_columns",
)
_DATE: Final = "20260101"
_SECONDS_PER_DAY: Final = 86_400
_KERNEL_NAME: Final = {"SOFT": "SOFT", "BONE": "BONE"}
_WINDOW: Final = {"SOFT": (40, 80), "BONE": (500, 2500)}


def uid(*parts: str) -> str:
    """A 2.25 UID derived from ``parts`` and the simulator's version."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join((SIMULATOR_VERSION, *parts))).int}"


def study_key(spec: SampleSpec) -> str:
    """Identity of the examination: the specification without what only a reconstruction changes."""
    return canonical_json({k: v for k, v in spec.to_dict().items() if k not in _RECONSTRUCTION_FIELDS})


def write_dicom(
    out: Path, spec: SampleSpec, hu: npt.NDArray[np.int16], geometry: SliceGeometry
) -> list[Path]:
    """Write ``hu`` [k, j, i] as CT Image Storage, explicit little endian; returns files in slice order."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(len(hu)):
        path = out / f"IM{k + 1:04d}.dcm"
        _slice_dataset(spec, hu[k], geometry, k).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def common_header(spec: SampleSpec, sop_class: str, instance_uid: str, series_uid: str) -> FileDataset:
    """Patient, study, series and equipment of a simulated examination; openly marked as simulated."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    meta.ImplementationVersionName = "STROKECORE_SIM"
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    seconds = spec.seed % _SECONDS_PER_DAY
    clock = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = instance_uid
    for name in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(ds, name, _DATE)
    for name in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(ds, name, clock)
    ds.AccessionNumber = f"SIM{spec.seed}"
    ds.Modality = "CT"
    ds.Manufacturer = "SIMULATED"
    ds.ManufacturerModelName = "StrokeCore simulator"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = SIMULATOR_VERSION
    ds.InstitutionName = "SIMULATED"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Simulated head CT"
    ds.PatientName = "SIMULATED^HEAD"
    ds.PatientID = f"SIM-{spec.seed}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.PatientAge = f"{spec.age_years:03d}Y"
    ds.BodyPartExamined = "HEAD"
    ds.KVP = 120
    ds.PatientPosition = spec.patient_position
    ds.ProtocolName = "Head simulated"
    ds.StudyInstanceUID = uid("study", study_key(spec))
    ds.SeriesInstanceUID = series_uid
    ds.StudyID = str(spec.seed)
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = uid("frame", study_key(spec))
    ds.PositionReferenceIndicator = "OM"
    ds.BurnedInAnnotation = "NO"
    return ds


def _slice_dataset(
    spec: SampleSpec, hu: npt.NDArray[np.int16], geometry: SliceGeometry, k: int
) -> FileDataset:
    key = canonical_json(spec.to_dict())
    ds = common_header(spec, CTImageStorage, uid("instance", key, str(k)), uid("series", key))
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesDescription = f"Simulated head {spec.thickness_mm:g} mm {spec.kernel.lower()}"
    ds.SliceThickness = decimal(spec.thickness_mm)
    ds.DataCollectionDiameter = 500
    ds.ReconstructionDiameter = decimal(spec.pixel_mm * spec.matrix)
    ds.GantryDetectorTilt = decimal(spec.tilt_deg)
    ds.TableHeight = 150
    ds.RotationDirection = "CW"
    ds.ExposureTime = 1000
    ds.XRayTubeCurrent = 250
    ds.Exposure = 250
    ds.FilterType = "HEAD"
    ds.FocalSpots = 0.7
    ds.ConvolutionKernel = _KERNEL_NAME[spec.kernel]
    ds.SeriesNumber = spec.series_number
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [decimal(v) for v in geometry.positions_mm[k]]
    ds.ImageOrientationPatient = [decimal(v) for v in (*geometry.row_direction, *geometry.column_direction)]
    ds.SliceLocation = decimal(float(geometry.positions_mm[k] @ geometry.normal))
    ds.PixelSpacing = [decimal(geometry.pixel_mm)] * 2
    ds.WindowCenter, ds.WindowWidth = _WINDOW[spec.kernel]
    set_pixels(ds, hu)
    return ds


def set_pixels(ds: FileDataset, hu: npt.NDArray[np.int16]) -> None:
    """Store HU [j, i] as 12-bit unsigned pixels, as most scanners do."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.BitsAllocated = 16
    ds.BitsStored = 12
    ds.HighBit = 11
    ds.PixelRepresentation = 0
    ds.RescaleIntercept = RESCALE_INTERCEPT
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"
    ds.PixelData = (hu.astype(np.int32) - RESCALE_INTERCEPT).clip(0, 4095).astype("<u2").tobytes()


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    text = f"{float(value):.9g}"
    return text if len(text) <= 16 else f"{float(value):.8f}"[:16]


def write_truth(out: Path, truth: dict[str, Any], mask: BoolArray, geometry: SliceGeometry) -> None:
    """truth.json and truth.nii.gz in ``out``/truth; scoring never reads them."""
    folder = out / TRUTH_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "truth.json").write_text(json.dumps(truth, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    with (
        (folder / "truth.nii.gz").open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        file.write(_nifti_header(geometry, mask.shape) + mask.astype(np.uint8).tobytes())


def _nifti_header(geometry: SliceGeometry, shape: tuple[int, ...]) -> bytes:
    """A NIfTI-1 header (348 bytes and the empty extension) for uint8 [k, j, i] voxels.

    Written by hand because the affine of a tilted stack is sheared, which image libraries that think in
    orthonormal directions cannot store. NIfTI axes are right, anterior, superior: x and y of LPS change sign.
    """
    nk, nj, ni = shape
    affine = np.stack(
        [
            geometry.row_direction * geometry.pixel_mm,
            geometry.column_direction * geometry.pixel_mm,
            geometry.step_mm,
            geometry.positions_mm[0],
        ],
        axis=1,
    ) * np.array([[-1.0], [-1.0], [1.0]])
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, ni, nj, nk, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 2, 8)  # uint8
    struct.pack_into(
        "<8f",
        header,
        76,
        1.0,
        geometry.pixel_mm,
        geometry.pixel_mm,
        float(np.linalg.norm(geometry.step_mm)),
        0,
        0,
        0,
        0,
    )
    struct.pack_into("<f", header, 108, 352.0)
    struct.pack_into("<f", header, 112, 1.0)
    header[123] = 2  # millimetres
    struct.pack_into("<2h", header, 252, 0, 1)  # no quaternion; sform in scanner coordinates
    struct.pack_into("<12f", header, 280, *affine.ravel())
    header[344:348] = b"n+1\0"
    return bytes(header)
