"""Series, masks and results for the tests of the outputs; nothing here needs the scoring steps."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from strokecore import identifiers as uids
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.flags import QualityFlag
from strokecore.reading.series import Series
from strokecore.result import (
    AspectsScore,
    HaemorrhageInfo,
    ModelInfo,
    RegionFinding,
    Result,
    SeriesInfo,
    SoftwareInfo,
    SourceMasks,
)

MODEL = ModelInfo("asymmetry", "1.0", "a" * 64, "asymmetry", "float32", ("no model package given",))
SOFTWARE = SoftwareInfo("0.1.0", "b" * 64, "c" * 64)
MOMENT = "2026-11-23T05:06:07+00:00"
GAP = QualityFlag("missing_slice", "refusal", "A slice is missing.", "Send the series again.")
SOFT = QualityFlag("noisy", "warning", "Brain noise is 9.1 HU; up to 8 HU is expected.", "Send 5 mm slices.")
BLOOD = QualityFlag(
    "suspected_haemorrhage",
    "warning",
    "12.3 ml of blood-like density, right, most of it in right L.",
    "Read the scan for haemorrhage; ASPECTS is not meant for bleeding.",
)


def small_series(
    *,
    slices: int = 8,
    size: int = 64,
    spacing_mm: float = 3.4,
    tilt_deg: float = 15.0,
    gaps_mm: tuple[float, ...] = (9.0, 9.0, 9.0, 1.5, 12.0, 12.0, 12.0),
    rows_flipped: bool = False,
    columns_flipped: bool = False,
    transposed: bool = False,
) -> Series:
    """A small head (an ellipsoid with a skull) with tilt and uneven gaps, stored in any orientation."""
    tilt = np.deg2rad(tilt_deg)
    row = np.array([1.0, 0.0, 0.0])
    column = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    offsets = np.concatenate([[0.0], np.cumsum(gaps_mm[: slices - 1])])
    # the middle of the middle slice lies in the head's centre
    corner = np.array([0.0, 0.0, 10.0]) - (size - 1) / 2 * spacing_mm * (row + column)
    positions = corner + (offsets[:, None] - offsets.mean()) * np.array([0.0, 0.0, 1.0])
    j, i = np.mgrid[:size, :size]
    points = (
        positions[:, None, None, :]
        + i[None, :, :, None] * spacing_mm * row
        + j[None, :, :, None] * spacing_mm * column
    )
    radius = np.sqrt(((points - [0, 0, 10]) / [70, 85, 75]) ** 2 @ np.ones(3))
    hu = np.full(radius.shape, -1000.0, np.float32)
    hu[radius < 1.0] = 900.0
    hu[radius < 0.93] = 34.0
    # a dark mark in the patient's right front, to see orientation by
    hu[(np.abs(points - [-35, -30, 10]) < [14, 14, 60]).all(axis=-1) & (radius < 0.9)] = 18.0
    return stored(hu, positions, row, column, (spacing_mm, spacing_mm), tilt_deg).oriented(
        rows_flipped, columns_flipped, transposed
    )


class stored:  # noqa: N801  a builder used as a function
    """Voxels and geometry, to be stored the other way round before they become a Series."""

    def __init__(self, hu, positions, row, column, spacing, tilt_deg):
        self.hu, self.positions, self.row, self.column = hu, positions, row, column
        self.spacing, self.tilt_deg = spacing, tilt_deg

    def oriented(self, rows_flipped: bool, columns_flipped: bool, transposed: bool) -> Series:
        hu, positions, row, column = self.hu, self.positions, self.row, self.column
        if columns_flipped:
            positions = positions + (hu.shape[2] - 1) * self.spacing[1] * row
            hu, row = hu[:, :, ::-1], -row
        if rows_flipped:
            positions = positions + (hu.shape[1] - 1) * self.spacing[0] * column
            hu, column = hu[:, ::-1], -column
        if transposed:
            hu, row, column = hu.transpose(0, 2, 1), column, row
        if np.cross(row, column)[2] < 0:
            hu, positions = hu[::-1], positions[::-1]
        headers = [header(k, positions[k], row, column, self.spacing, hu.shape[1:]) for k in range(len(hu))]
        return Series(
            hu=np.ascontiguousarray(hu),
            positions_mm=positions,
            row_direction=row,
            column_direction=column,
            pixel_spacing_mm=self.spacing,
            slice_thickness_mm=5.0,
            tilt_deg=self.tilt_deg,
            datasets=tuple(headers),
            chosen_because="the only soft-tissue series",
            digest="d" * 64,
        )


def header(k, position, row, column, spacing, shape) -> Dataset:
    """A CT header as a scanner might send it, in the memory form that dcmread gives."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = f"1.2.3.4.1.{k + 1}"
    ds.StudyInstanceUID = "1.2.3.4"
    ds.SeriesInstanceUID = "1.2.3.4.1"
    ds.FrameOfReferenceUID = "1.2.3.4.9"
    ds.PositionReferenceIndicator = ""
    ds.Modality = "CT"
    ds.Manufacturer = "SCANNER MAKER"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "PID-1"
    ds.PatientBirthDate = "19500102"
    ds.PatientSex = "F"
    ds.StudyDate = "20260101"
    ds.StudyTime = "101112"
    ds.StudyID = "S1"
    ds.AccessionNumber = "ACC-1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Head"
    ds.BodyPartExamined = "HEAD"
    ds.InstanceNumber = k + 1
    ds.Rows, ds.Columns = (int(n) for n in shape)
    ds.PixelSpacing = [float(v) for v in spacing]
    ds.SliceThickness = 5.0
    ds.ImageOrientationPatient = [float(f"{v:.9f}") for v in (*row, *column)]
    ds.ImagePositionPatient = [float(f"{v:.9f}") for v in position]
    ds.add_new((0x0009, 0x0010), "LO", "SCANNER PRIVATE")
    ds.add_new((0x0009, 0x1001), "LO", "secret scanner note")
    return ds


def recoded(series: Series, **values: object) -> Series:
    """``series`` with other header values; None removes the attribute."""
    headers = []
    for original in series.datasets:
        ds = deepcopy(original)
        for keyword, value in values.items():
            if keyword in ds:
                del ds[keyword]
            if value is not None:
                setattr(ds, keyword, value)
        headers.append(ds)
    return replace(series, datasets=tuple(headers))


def through_file(series: Series, folder: Path) -> Series:
    """``series`` with its headers written and read again, so that text is in its character set's bytes."""
    folder.mkdir(exist_ok=True)
    headers = []
    for k, ds in enumerate(series.datasets):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.save_as(folder / f"{k}.dcm", enforce_file_format=True)
        headers.append(pydicom.dcmread(folder / f"{k}.dcm"))
    return replace(series, datasets=tuple(headers))


def points_of(series: Series) -> np.ndarray:
    """LPS position of every voxel, float64 [k, j, i, 3]."""
    row_mm, column_mm = series.pixel_spacing_mm
    _, rows, columns = series.hu.shape
    j, i = np.mgrid[:rows, :columns]
    return (
        series.positions_mm[:, None, None, :]
        + i[None, :, :, None] * column_mm * series.row_direction
        + j[None, :, :, None] * row_mm * series.column_direction
    )


# Rough boxes (x away from the middle, y, z in mm; centre and half-width) around a head centred at 0.
_BOXES = {
    "C": ((14, -18, 12), (5, 12, 12)),
    "IC": ((21, -4, 10), (2.5, 14, 10)),
    "L": ((29, -4, 8), (5, 14, 9)),
    "I": ((39, -4, 8), (3, 20, 9)),
    "M1": ((42, -42, 8), (16, 15, 12)),
    "M2": ((54, -6, 8), (10, 20, 12)),
    "M3": ((46, 34, 8), (14, 18, 12)),
    "M4": ((38, -38, 36), (16, 15, 13)),
    "M5": ((46, -5, 36), (14, 17, 13)),
    "M6": ((42, 30, 36), (15, 17, 13)),
}


def made_up_masks(series: Series, centre=(0.0, 0.0, 0.0), lesion: bool = True) -> SourceMasks:
    """Twenty made-up ellipsoids around ``centre`` (mm); infarct in right I, M1, M2, old one in left M6."""
    brain = (series.hu > 0) & (series.hu < 80)
    regions, marks = np.zeros(series.hu.shape, np.uint8), np.zeros(series.hu.shape, np.uint8)
    points = (points_of(series)[brain] - np.asarray(centre)).astype(np.float32)
    labels, lesion_values = np.zeros(len(points), np.uint8), np.zeros(len(points), np.uint8)
    for region in ALL_REGIONS:
        (x, y, z), half = _BOXES[region.name]
        middle = (x if region.side == "left" else -x, y, z)
        labels[_inside(points, middle, half) & (labels == 0)] = region.label
    if lesion:
        hit = [r.label for r in ALL_REGIONS if r.side == "right" and r.name in ("I", "M1", "M2")]
        lesion_values[_inside(points, (-46, -20, 8), (18, 30, 14)) & np.isin(labels, hit)] = 2
        lesion_values[_inside(points, (46, 34, 36), (8, 9, 10))] = 3
    regions[brain], marks[brain] = labels, lesion_values
    return SourceMasks(lesion=marks, regions=regions)


def _inside(points, middle, half):
    return sum(((points[:, axis] - middle[axis]) / half[axis]) ** 2 for axis in range(3)) < 1.0


def made_up_result(series: Series, masks: SourceMasks, *, affected: bool = True) -> Result:
    """ASPECTS right 7 (I, M1, M2), left 9 with M6 not assessed; 10 and 10 where ``affected`` is False.

    Borderline: right M2, which counts, and right M3 and left IC, which do not.
    """
    positive = {("I", "right"), ("M1", "right"), ("M2", "right")} if affected else set()
    findings = []
    for region in ALL_REGIONS:
        hit = tuple(region) in positive
        findings.append(
            RegionFinding(
                name=region.name,
                side=region.side,
                affected=hit,
                probability=0.91 if hit else 0.08,
                involved_fraction=0.62 if hit else 0.0,
                volume_ml=7.25 if hit else 0.0,
                mean_hu=27.5 if hit else 33.1,
                contralateral_difference_hu=-5.3 if hit else 0.4,
                assessable=True,
                reason=None,
            )
        )
    if affected:
        left_m6 = next(n for n, f in enumerate(findings) if (f.name, f.side) == ("M6", "left"))
        findings[left_m6] = replace(
            findings[left_m6],
            assessable=False,
            reason="old_infarct",
            probability=None,
            mean_hu=None,
            contralateral_difference_hu=None,
        )
        doubts = {("M2", "right"): {}, ("M3", "right"): {"reason": "not_outlined"}, ("IC", "left"): {}}
        findings = [
            replace(f, borderline=True, **doubts[f.name, f.side]) if (f.name, f.side) in doubts else f
            for f in findings
        ]
    result = Result(
        status="scored",
        aspects={
            "left": AspectsScore(9, 9, (8, 9)) if affected else AspectsScore(10, 10, (10, 10)),
            "right": AspectsScore(7, 10, (6, 8)) if affected else AspectsScore(10, 10, (10, 10)),
        },
        affected_side="right" if affected else None,
        regions=tuple(findings),
        infarct_volume_ml={"left": 0.0, "right": 21.75 if affected else 0.0},
        old_infarct_volume_ml=3.4 if affected else 0.0,
        outside_regions_volume_ml=1.2 if affected else 0.0,
        quality=(SOFT,),
        series=SeriesInfo(
            series.series_instance_uid,
            series.chosen_because,
            len(series.datasets),
            (5.0, *series.pixel_spacing_mm),
            series.tilt_deg,
            series.digest,
        ),
        model=MODEL,
        software=SOFTWARE,
        content_datetime=MOMENT,
        timings_s={"read": 0.5, "total": 3.0},
        other_hypodensity_volume_ml=2.6 if affected else 0.0,
    )
    return replace(result, result_key=uids.result_key(series, SOFTWARE, MODEL))


def withheld(result: Result) -> Result:
    return replace(
        result,
        status="withheld",
        aspects={side: AspectsScore(None, score.assessed) for side, score in result.aspects.items()},
        affected_side=None,
        regions=tuple(finding.without_call() for finding in result.regions),
        infarct_volume_ml={"left": 0.0, "right": 0.0},
        outside_regions_volume_ml=0.0,
        quality=(BLOOD, *result.quality),
        haemorrhage=HaemorrhageInfo("right", 12.3, "right, most of it in right L"),
    )


def refused(*flags: QualityFlag) -> Result:
    none = AspectsScore(None, 0)
    return Result(
        status="refused",
        aspects={"left": none, "right": none},
        affected_side=None,
        regions=(),
        infarct_volume_ml={"left": 0.0, "right": 0.0},
        old_infarct_volume_ml=0.0,
        outside_regions_volume_ml=0.0,
        quality=flags,
        series=None,
        model=None,
        software=SOFTWARE,
        content_datetime=MOMENT,
    )


def real_series(shared_data: Path) -> Series:
    """real_head_ct read straight with pydicom: sorted by position, no checks."""
    headers = [pydicom.dcmread(path) for path in sorted((shared_data / "real_head_ct").glob("*.dcm"))]
    orientation = np.asarray(headers[0].ImageOrientationPatient, float)
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    headers.sort(key=lambda ds: float(np.asarray(ds.ImagePositionPatient, float) @ normal))
    hu = np.stack(
        [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in headers]
    ).astype(np.float32)
    for ds in headers:
        del ds.PixelData
    return Series(
        hu=np.maximum(hu, -1024),
        positions_mm=np.array([ds.ImagePositionPatient for ds in headers], float),
        row_direction=row,
        column_direction=column,
        pixel_spacing_mm=tuple(float(v) for v in headers[0].PixelSpacing),
        slice_thickness_mm=float(headers[0].SliceThickness),
        tilt_deg=18.5,
        datasets=tuple(headers),
        chosen_because="the only series",
        digest="e" * 64,
    )
