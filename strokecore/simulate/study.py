"""A whole simulated examination: scout, thick, thin and bone-kernel series of one head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.uid import CTImageStorage

from strokecore.arrays import Float64Array
from strokecore.simulate.face import AIR
from strokecore.simulate.head import BuiltHead, build_head, scan
from strokecore.simulate.scanner import patient_from_head
from strokecore.simulate.spec import SampleSpec, canonical_json
from strokecore.simulate.write import common_header, decimal, set_pixels, uid, write_dicom, write_truth

SCOUT_FOLDER: Final = "scout"
_THIN_MM: Final = 1.25
# A scout's grey values are line integrals, scaled so that soft tissue and skull fill the usual window.
_SCOUT_HU_PER_MM_OF_WATER: Final = 4.0


def write_study(out: Path, spec: SampleSpec) -> Path:
    """Write ``out``/scout, thick, thin and bone, each a series of one examination, and ``out``/truth.

    The thick series is ``spec`` itself; its truth is the one that is written. Returns ``out``.
    """
    built = build_head(spec)
    write_scout(out / SCOUT_FOLDER, spec, built)
    thin = dataclasses.replace(spec, thickness_mm=_THIN_MM, series_number=spec.series_number + 1)
    bone = dataclasses.replace(thin, kernel="BONE", series_number=spec.series_number + 2)
    for name, series in (("thick", spec), ("thin", thin), ("bone", bone)):
        scanned = scan(series, built)
        write_dicom(out / name, series, scanned.hu, scanned.geometry)
        if series is spec:
            write_truth(out, scanned.truth, scanned.infarct, scanned.geometry)
    return out


def write_scout(folder: Path, spec: SampleSpec, built: BuiltHead) -> Path:
    """Write the lateral localizer: the head's projection along its x axis; returns the file."""
    grid = built.person.grid
    water = np.clip(built.person.hu - AIR, 0, None).sum(axis=2) * (grid.spacing_mm / 1000)
    picture = np.clip(np.rint(water[::-1] * _SCOUT_HU_PER_MM_OF_WATER - 600), -1024, 3071).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "IM0001.dcm"
    key = canonical_json(spec.to_dict())
    ds = common_header(spec, CTImageStorage, uid("scout", key), uid("scout series", key))
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.SeriesDescription = "Simulated scout"
    ds.SeriesNumber = 1
    ds.InstanceNumber = 1
    # A scout is its own acquisition, taken before the slices.
    ds.AcquisitionNumber = 0
    ds.SliceThickness = ""
    ds.ConvolutionKernel = "SCOUT"
    ds.ImagePositionPatient = [decimal(v) for v in _top_corner(spec, built, picture.shape)]
    ds.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    ds.PixelSpacing = [decimal(grid.spacing_mm)] * 2
    ds.WindowCenter, ds.WindowWidth = 0, 1200
    set_pixels(ds, picture)
    del ds.RescaleType  # line integrals are no Hounsfield units
    ds.save_as(path, enforce_file_format=True)
    return path


def _top_corner(spec: SampleSpec, built: BuiltHead, shape: tuple[int, ...]) -> Float64Array:
    """Patient coordinates of the scout's first pixel: vertex, front. (Rotation of the head is left out.)"""
    grid = built.person.grid
    top = np.array([0.0, grid.origin_mm[1], grid.origin_mm[2] + (shape[0] - 1) * grid.spacing_mm])
    centre = patient_from_head(dataclasses.replace(spec, pitch_deg=0.0, yaw_deg=0.0, roll_deg=0.0))
    return np.asarray(top + centre[:3, 3])
