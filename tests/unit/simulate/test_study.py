"""A simulated examination: its series belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from strokecore.simulate import SampleSpec, parse_affected, write_study

SPEC = SampleSpec(
    seed=4,
    affected=parse_affected("right:I,M1,M2,M3"),
    delta_hu=12.0,
    matrix=64,
    pixel_mm=3.6,
    tilt_deg=12.0,
    pitch_deg=6.0,
    yaw_deg=3.0,
)


def test_a_study_is_one_examination_of_four_series(tmp_path: Path) -> None:
    out = write_study(tmp_path / "study", SPEC)
    first = {name: pydicom.dcmread(out / name / "IM0001.dcm") for name in ("scout", "thick", "thin", "bone")}
    assert len({d.StudyInstanceUID for d in first.values()}) == 1
    assert len({d.FrameOfReferenceUID for d in first.values()}) == 1
    assert len({d.SeriesInstanceUID for d in first.values()}) == 4
    assert len({d.SeriesNumber for d in first.values()}) == 4
    assert "LOCALIZER" in first["scout"].ImageType
    assert first["thin"].SliceThickness < first["thick"].SliceThickness
    assert first["bone"].ConvolutionKernel == "BONE"
    assert (out / "truth" / "truth.json").is_file()
    scout = first["scout"].pixel_array.astype(int)
    rows = np.flatnonzero(scout.max(axis=1) > 700)
    assert scout[:10].max() < 500  # nothing above the vertex
    assert rows.size > 80
