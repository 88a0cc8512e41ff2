"""Small synthetic CT series as DICOM files, for tests of everything that reads a folder of DICOM.

The picture is an analytic head (``head_hu``): skull, brain, ventricles, and a calcified ball in the
patient's LEFT frontal lobe, so that a mirrored or turned head is noticed. Every voxel is ``hu_at`` of
its own world position, so a test can check positions with ``world_mm`` and the same function. It is no
head for accuracy tests: those use ``strokecore sample``.

    paths = write_series(tmp_path, thickness_mm=5.0, tilt_deg=18.5)
    write_series(tmp_path, series_uid=uid("thin"), spacing_mm=1.0, tags={"ConvolutionKernel": "H60s"})
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Array = npt.NDArray[np.float64]

# Directions (LPS) of increasing column index and of increasing row index, for every way a head lies
# square in the gantry: head first/feet first, supine/prone, and lying on either side.
ORIENTATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "HFS": ((1, 0, 0), (0, 1, 0)),
    "HFP": ((-1, 0, 0), (0, -1, 0)),
    "FFS": ((-1, 0, 0), (0, 1, 0)),
    "FFP": ((1, 0, 0), (0, -1, 0)),
    "HFDR": ((0, -1, 0), (1, 0, 0)),
    "HFDL": ((0, 1, 0), (-1, 0, 0)),
    "FFDR": ((0, 1, 0), (1, 0, 0)),
    "FFDL": ((0, -1, 0), (-1, 0, 0)),
}

LEFT_MARKER_MM = (35.0, -45.0, 10.0)  # LPS; x > 0 is the patient's left
MARKER_RADIUS_MM = 7.0


def uid(name: str) -> str:
    """A UID that is the same for the same name in every run."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def head_hu(points_mm: Array) -> Array:
    """HU of the synthetic head at LPS points [..., 3]; its centre is the origin."""
    x, y, z = points_mm[..., 0], points_mm[..., 1], points_mm[..., 2]

    def ellipsoid(a: float, b: float, c: float, centre: Sequence[float] = (0, 0, 0)) -> npt.NDArray[np.bool_]:
        return ((x - centre[0]) / a) ** 2 + ((y - centre[1]) / b) ** 2 + ((z - centre[2]) / c) ** 2 <= 1

    hu = np.full(x.shape, -1000.0)
    hu[ellipsoid(80, 98, 75)] = 40  # scalp
    hu[ellipsoid(75, 93, 70)] = 900  # skull
    hu[ellipsoid(68, 86, 63)] = 36  # brain
    hu[ellipsoid(10, 30, 14, (-14, 0, 8))] = 6  # ventricles
    hu[ellipsoid(10, 30, 14, (14, 0, 8))] = 6
    radius = MARKER_RADIUS_MM
    hu[ellipsoid(radius, radius, radius, LEFT_MARKER_MM)] = 250
    return hu


def body_hu(points_mm: Array) -> Array:
    """HU of a trunk-like cylinder with spine and lungs: no ring of bone, no brain."""
    x, y = points_mm[..., 0], points_mm[..., 1]
    hu = np.full(x.shape, -1000.0)
    hu[(x / 105) ** 2 + (y / 95) ** 2 <= 1] = 45
    hu[((np.abs(x) - 50) / 35) ** 2 + (y / 60) ** 2 <= 1] = -800
    hu[x**2 + (y - 65) ** 2 <= 20**2] = 600
    return hu


def write_series(
    folder: Path,
    *,
    slices: int = 28,
    spacing_mm: float = 5.0,
    thickness_mm: float | None = None,
    offsets_mm: Sequence[float] | None = None,
    thicknesses_mm: Sequence[float] | None = None,
    tilt_deg: float = 0.0,
    orientation: str | tuple[Sequence[float], Sequence[float]] = "HFS",
    size: int = 128,
    pixel_mm: float = 1.8,
    hu_at: Callable[[Array], Array] = head_hu,
    noise_hu: float = 3.0,
    seed: int = 0,
    signed: bool = False,
    bits_stored: int = 12,
    intercept: float = -1024.0,
    slope: float = 1.0,
    transfer_syntax: str = ExplicitVRLittleEndian,
    patient: str = "test",
    study: str = "study",
    series: str = "series",
    frame_of_reference: str = "frame",
    tags: Mapping[str, Any] | None = None,
    edit: Callable[[Dataset, int], Dataset | None] | None = None,
    enforce_file_format: bool = True,
) -> list[Path]:
    """Write one CT series below ``folder`` and return its files in spatial order.

    Parameters
    ----------
    slices, spacing_mm: number of slices, and millimetres between them along the slice normal, centred
        on the head; ``offsets_mm`` gives the positions one by one instead.
    thickness_mm, thicknesses_mm: declared SliceThickness (default: ``spacing_mm``), or one per slice.
    tilt_deg: gantry tilt: the planes turn about the patient's left-right axis (positive: their upward
        normal leans to posterior), the table still moves along the patient's z axis.
    orientation: key of ORIENTATIONS, or (row direction, column direction); tilt is applied on top.
    size, pixel_mm: square matrix and pixel spacing.
    hu_at: HU at LPS points [..., 3]. noise_hu: standard deviation of added noise.
    signed, bits_stored, intercept, slope: how values are stored.
    patient, study, series, frame_of_reference: names from which ids and UIDs are derived.
    tags: keyword to value, set on every slice; None deletes the element.
    edit: called with each finished dataset and its spatial index; returns what is to be written (the
        dataset itself when it returns None).
    enforce_file_format: False writes the file meta as it is, incomplete ones too.

    File names and InstanceNumber are deliberately shuffled against the spatial order.
    """
    rng = np.random.default_rng(seed)
    row, column = (np.array(v, float) for v in _directions(orientation, tilt_deg))
    normal = np.cross(row, column)
    offsets = (
        (np.arange(slices) - (slices - 1) / 2) * spacing_mm if offsets_mm is None else np.array(offsets_mm)
    )
    table = np.array([0.0, 0.0, math.copysign(1.0, normal[2])])  # the way the table moves
    if abs(normal[2]) < 0.5:
        table = normal  # coronal or sagittal: a reformat has no table
    half = (size - 1) / 2 * pixel_mm
    shuffled = rng.permutation(len(offsets))

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, offset in enumerate(offsets):
        position = table * offset / float(table @ normal) - half * (row + column)
        hu = hu_at(world_mm(position, row, column, pixel_mm, size)) + rng.normal(0, noise_hu, (size, size))
        thickness = thicknesses_mm[k] if thicknesses_mm is not None else thickness_mm or spacing_mm
        dataset = _dataset(hu, signed, bits_stored, intercept, slope)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PatientID = patient
        dataset.PatientName = "Test^Synthetic"
        dataset.StudyInstanceUID = uid(study)
        dataset.SeriesInstanceUID = uid(series)
        dataset.FrameOfReferenceUID = uid(frame_of_reference)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(f"{study}/{series}/{k}")
        dataset.InstanceNumber = int(shuffled[k]) + 1
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        dataset.PixelSpacing = [pixel_mm, pixel_mm]
        dataset.SliceThickness = thickness
        for keyword, value in (tags or {}).items():
            if value is None:
                dataset.pop(keyword, None)
            else:
                setattr(dataset, keyword, value)
        if edit is not None:
            dataset = edit(dataset, k) or dataset
        if transfer_syntax != ExplicitVRLittleEndian:
            dataset.compress(transfer_syntax, generate_instance_uid=False)
        path = folder / f"{series}_{int(shuffled[k]):04d}"
        dataset.save_as(path, enforce_file_format=enforce_file_format)
        paths.append(path)
    return paths


def overwrite(paths: Iterable[Path], old: bytes, new: bytes) -> None:
    """Put other bytes, as many, into files: values that no writer would let through."""
    assert len(old) == len(new)
    for path in paths:
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))


def world_mm(position: Array, row: Array, column: Array, pixel_mm: float, size: int) -> Array:
    """LPS position of every pixel of one slice, float64 [j, i, 3]."""
    index = np.arange(size) * pixel_mm
    return position + index[:, None, None] * column + index[None, :, None] * row


def _directions(
    orientation: str | tuple[Sequence[float], Sequence[float]], tilt_deg: float
) -> tuple[Array, Array]:
    row, column = ORIENTATIONS[orientation] if isinstance(orientation, str) else orientation
    c, s = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
    about_x = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return about_x @ np.array(row, float), about_x @ np.array(column, float)


def _dataset(hu: Array, signed: bool, bits_stored: int, intercept: float, slope: float) -> Dataset:
    """A CT image with all of its mandatory attributes but identity and geometry."""
    low, high = (
        (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)
    )
    stored = np.clip(np.rint((hu - intercept) / slope), low, high)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20200101"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = "120000"
    dataset.AccessionNumber = "A1"
    dataset.Manufacturer = "Synthetic"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = "1"
    dataset.StudyDescription = "CT"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "HEAD"
    dataset.KVP = "120"
    dataset.ConvolutionKernel = "H31s"
    dataset.SeriesNumber = 2
    dataset.AcquisitionNumber = 1
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.RescaleIntercept = intercept
    dataset.RescaleSlope = slope
    dataset.RescaleType = "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 80
    dataset.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    return dataset
