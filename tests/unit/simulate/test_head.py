"""The simulated head as a whole: densities, infarct, sides, DICOM and truth."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.simulate import SampleSpec, SimulatedHead, write_sample
from strokecore.simulate.anatomy import average_head
from strokecore.simulate.head import BuiltHead, bend_person, build_head, scan
from strokecore.simulate.infarct import add_lesions
from strokecore.simulate.shape import Bending
from strokecore.simulate.tissue import Person
from strokecore.simulate.write import write_dicom

RIGHT = tuple(RegionId(name, "right") for name in ("I", "M1", "M2", "M3"))
Bare = tuple[Person, Bending]
# A coarse matrix: anatomy does not depend on it, and the tests stay quick.
SPEC = SampleSpec(
    seed=4, affected=RIGHT, delta_hu=12.0, matrix=128, pixel_mm=1.8, tilt_deg=12.0, pitch_deg=6.0, yaw_deg=3.0
)


@pytest.fixture(scope="module")
def bare() -> Bare:
    """The person of SPEC before any lesion, so that the tests bend the average head once."""
    return bend_person(SPEC, average_head())


def with_lesions(bare: Bare, **changes: object) -> BuiltHead:
    person = dataclasses.replace(bare[0], hu=bare[0].hu.copy())
    spec = dataclasses.replace(SPEC, **changes)
    return BuiltHead(person, add_lesions(spec, average_head(), person, bare[1]))


@pytest.fixture(scope="module")
def built(bare: Bare) -> BuiltHead:
    return with_lesions(bare)


@pytest.fixture(scope="module")
def healthy(bare: Bare) -> BuiltHead:
    return with_lesions(bare, affected=())


def read_back(folder: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """HU and patient coordinates of every voxel of the files in ``folder``, by each file's own geometry."""
    hu, points = [], []
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        hu.append(ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept))
        row, column = (
            np.array(ds.ImageOrientationPatient[:3], float),
            np.array(ds.ImageOrientationPatient[3:], float),
        )
        j, i = np.mgrid[: ds.Rows, : ds.Columns]
        points.append(
            np.array(ds.ImagePositionPatient, float)
            + i[..., None] * float(ds.PixelSpacing[1]) * row
            + j[..., None] * float(ds.PixelSpacing[0]) * column
        )
    return np.array(hu), np.array(points)


def test_tissues_have_the_densities_of_a_head_ct(healthy: BuiltHead) -> None:
    person = healthy.person
    hu = person.hu[person.brain]
    grey = np.median(hu[person.inside & (person.grey > 0.95)])
    white = np.median(hu[person.inside & (person.white > 0.95)])
    fluid = np.median(hu[person.inside & (person.grey + person.white < 0.02)])
    assert 35 < grey < 41
    assert 27 < white < 32
    assert 5 <= grey - white <= 10
    assert 3 < fluid < 14
    litres = person.inside.sum() * person.brain_grid.spacing_mm**3 / 1e6
    assert 1.1 < litres < 2.2
    assert np.percentile(person.hu, 99.5) > 900  # bone
    assert person.hu.min() == pytest.approx(-1000, abs=0.1)


def test_the_infarct_has_the_depth_asked_for_and_the_right_place(
    built: BuiltHead, healthy: BuiltHead
) -> None:
    person = built.person
    drop = healthy.person.hu[person.brain] - person.hu[person.brain]
    grey = person.inside & (person.grey > 0.5)
    inside = np.isin(built.lesions.drawn_regions, [r.label for r in RIGHT])
    assert drop[inside & grey].mean() == pytest.approx(SPEC.delta_hu, abs=0.3)
    white = inside & person.inside & (person.white > 0.95)
    assert 0.6 * SPEC.delta_hu < drop[white].mean() < 0.9 * SPEC.delta_hu
    x = person.brain_grid.axes_mm[0]
    assert np.abs(drop[:, :, x > 8]).max() == 0  # nothing on the left
    rows = {(r["name"], r["side"]): r for r in built.lesions.numbers["regions"]}
    assert all(rows[r]["affected"] and rows[r]["mean_drop_hu"] > 0.5 * SPEC.delta_hu for r in RIGHT)
    assert all(rows["M2", "left"][key] in (False, 0.0) for key in ("affected", "mean_drop_hu"))
    assert built.lesions.numbers["infarct_ml"]["left"] == 0
    assert built.lesions.numbers["infarct_ml"]["right"] > 30


def test_the_infarct_does_not_follow_the_persons_own_borders(built: BuiltHead) -> None:
    """Mean distance between the two copies' borders is 1.5-4 mm, so perfect borders are of no use."""
    from scipy import ndimage

    own, drawn = (np.isin(v, [3, 5, 6, 7]) for v in (built.lesions.own_regions, built.lesions.drawn_regions))
    border = own ^ ndimage.binary_erosion(own)
    other = drawn ^ ndimage.binary_erosion(drawn)
    away = ndimage.distance_transform_edt(~other, sampling=built.person.brain_grid.spacing_mm)[border]
    assert 1.5 < away.mean() < 4.0
    assert np.percentile(away, 90) > 3.0


def test_the_same_seed_is_the_same_head_whatever_the_infarct(built: BuiltHead, healthy: BuiltHead) -> None:
    np.testing.assert_array_equal(built.lesions.own_regions, healthy.lesions.own_regions)
    outside = built.lesions.infarct == 0
    place = built.person.brain
    np.testing.assert_allclose(built.person.hu[place][outside], healthy.person.hu[place][outside], atol=0.05)


def test_another_seed_is_another_head(healthy: BuiltHead) -> None:
    other = build_head(dataclasses.replace(SPEC, seed=6, affected=()))
    assert np.mean(other.lesions.own_regions != healthy.lesions.own_regions) > 0.01


@pytest.mark.parametrize(
    ("position", "flip_rows", "flip_columns"),
    [
        ("HFS", False, False),
        ("FFS", False, False),
        ("HFP", False, False),
        ("FFP", True, False),
        ("HFS", True, True),
    ],
)
def test_the_right_side_is_the_patients_right_in_the_written_files(
    position: str, flip_rows: bool, flip_columns: bool, built: BuiltHead, healthy: BuiltHead, tmp_path: Path
) -> None:
    spec = dataclasses.replace(
        SPEC, patient_position=position, flip_rows=flip_rows, flip_columns=flip_columns, noise_hu=0.0
    )
    for name, head in (("sick", built), ("well", healthy)):
        scanned = scan(spec, head)
        write_dicom(tmp_path / name, spec, scanned.hu, scanned.geometry)
    sick, points = read_back(tmp_path / "sick")
    well, _ = read_back(tmp_path / "well")
    darker = well - sick > SPEC.delta_hu / 2
    assert darker.sum() > 200
    assert points[darker][:, 0].mean() < -20
    assert (points[darker][:, 0] < 10).all()
    # Skull base below, vertex above; the face in front: air of the sinuses lies before the ears.
    bone = well > 300
    assert points[bone][:, 2].min() < -40
    assert points[bone][:, 2].max() > 50
    low = points[..., 2] < -45
    sinus_air = low & (well < -300) & (np.hypot(points[..., 0], points[..., 1] + 40) < 25)
    assert sinus_air.sum() > 20


def test_mask_and_regions_lie_on_the_series_voxels(built: BuiltHead) -> None:
    scanned = scan(SPEC, built)
    assert scanned.infarct.shape == scanned.regions.shape == scanned.hu.shape
    labels = scanned.regions[scanned.infarct]
    right = np.isin(labels, [r.label for r in RIGHT]).mean()
    assert right > 0.6
    voxel_ml = SPEC.pixel_mm**2 * SPEC.thickness_mm / 1000
    assert scanned.infarct.sum() * voxel_ml == pytest.approx(scanned.truth["infarct_ml"]["right"], rel=0.15)


def test_blood_is_bright_and_of_the_volume_asked_for(bare: Bare, healthy: BuiltHead) -> None:
    head = with_lesions(bare, affected=(), blood_ml=25.0, blood_side="right")
    assert head.lesions.numbers["blood_ml"]["right"] == pytest.approx(25.0, rel=0.03)
    place = head.person.brain
    clot = head.person.hu[place] - healthy.person.hu[place] > 15
    assert clot.sum() * head.person.brain_grid.spacing_mm**3 / 1000 == pytest.approx(25.0, rel=0.2)
    assert 55 < np.median(head.person.hu[place][clot]) < 75
    x = head.person.brain_grid.axes_mm[0]
    assert not clot[:, :, x > 5].any()


def test_an_old_infarct_is_like_fluid(bare: Bare) -> None:
    head = with_lesions(bare, affected=(), old_infarct=(RegionId("M3", "left"),))
    drawn = head.lesions.drawn_regions == RegionId("M3", "left").label
    assert np.median(head.person.hu[head.person.brain][drawn & head.person.inside]) < 18
    assert head.lesions.numbers["old_infarct_ml"]["left"] > 5
    assert head.lesions.numbers["infarct_ml"] == {"left": 0.0, "right": 0.0}


def test_infarct_in_another_territory_touches_no_aspects_region(bare: Bare) -> None:
    head = with_lesions(bare, affected=(), other_territory=(("PCA", "right"),))
    assert head.lesions.numbers["infarct_ml"]["right"] > 10
    assert not any(r["affected"] for r in head.lesions.numbers["regions"])
    assert (head.lesions.drawn_regions[head.lesions.infarct > 0.5] == 0).mean() > 0.9


def test_a_partial_infarct_has_its_share_and_its_depth(bare: Bare, healthy: BuiltHead) -> None:
    regions = tuple(RegionId(name, "right") for name in ("I", "M2", "M5"))
    shares = (0.6, 0.9, 0.4)
    head = with_lesions(bare, affected=regions, involvement=shares, white_share=0.6, edge_mm=2.0)
    rows = {RegionId(r["name"], r["side"]): r for r in head.lesions.numbers["regions"]}
    for region, share in zip(regions, shares, strict=True):
        assert rows[region]["involved_fraction"] == pytest.approx(share, abs=0.08)
        assert rows[region]["affected"]
    for row in rows.values():
        assert row["affected"] == (row["involved_fraction"] >= 0.30)
        assert row["judged"] == (row["affected"] or row["involved_fraction"] < 0.05)
        assert row["side"] == "right" or row["involved_fraction"] == 0
    np.testing.assert_array_equal(head.lesions.own_regions, healthy.lesions.own_regions)
    person = head.person
    drop = healthy.person.hu[person.brain] - person.hu[person.brain]
    deep = head.lesions.infarct > 0.95
    assert drop[deep & (person.grey > 0.95)].mean() == pytest.approx(12.0, abs=0.7)
    assert drop[deep & (person.white > 0.95)].mean() == pytest.approx(0.6 * 12.0, abs=0.7)


def test_swelling_closes_sulci_of_the_infarct_only(bare: Bare) -> None:
    asked = {"affected": (RegionId("M2", "right"),), "involvement": (0.8,)}
    flat, swollen = (with_lesions(bare, swelling=s, **asked).lesions.tissue for s in (0.0, 0.8))
    assert (swollen >= flat).all()
    more = swollen - flat > 0.1
    assert more.any()
    assert (bare[0].brain_grid.axes_mm[0][np.nonzero(more)[2]] < 0).all()


def test_the_observer_sees_the_depth_without_noise_and_field(bare: Bare) -> None:
    quiet = {"noise_hu": 0.0, "cupping": 0.0}
    field = {"cupping_hu": 20.0, "left_right_shading_hu": 1.5, "front_back_shading_hu": -1.0}
    healthy, sick, troubled = (
        scan(dataclasses.replace(SPEC, **quiet, **fields), with_lesions(bare, affected=regions))
        for regions, fields in (((), {}), (RIGHT, {}), (RIGHT, field))
    )

    def observed(head: SimulatedHead, region: RegionId) -> float:
        return next(
            float(row["observer_difference_hu"])
            for row in head.truth["regions"]
            if (row["name"], row["side"]) == region
        )

    for region in (RegionId("M2", "right"), RegionId("M3", "right")):
        drop = next(
            row["mean_drop_hu"] for row in sick.truth["regions"] if (row["name"], row["side"]) == region
        )
        assert observed(sick, region) - observed(healthy, region) == pytest.approx(-drop, abs=0.6)
        assert -SPEC.delta_hu * 1.1 < observed(sick, region) < -0.5 * SPEC.delta_hu
        assert observed(sick, region.mirror) == pytest.approx(-observed(sick, region))
        assert observed(troubled, region) == pytest.approx(observed(sick, region), abs=0.25)
    assert troubled.hu[len(troubled.hu) // 2].mean() > sick.hu[len(sick.hu) // 2].mean()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "out", SPEC)


def test_the_same_specification_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    again = write_sample(tmp_path / "again", SPEC)
    names = sorted(p.relative_to(sample) for p in sample.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((sample / n).read_bytes() == (again / n).read_bytes() for n in names)


def test_the_headers_say_simulated_and_how_it_was_scanned(sample: Path) -> None:
    datasets = [pydicom.dcmread(p) for p in sorted(sample.glob("*.dcm"))]
    first = datasets[0]
    assert (first.PatientName, first.PatientID) == ("SIMULATED^HEAD", "SIM-4")
    assert first.StudyDescription == "Simulated head CT"
    assert first.BodyPartExamined == "HEAD"
    assert first.RescaleIntercept == -1024
    assert first.BitsStored == 12
    assert float(first.GantryDetectorTilt) == SPEC.tilt_deg
    assert first.PatientPosition == "HFS"
    assert first.StudyInstanceUID.startswith("2.25.")
    assert len({d.SOPInstanceUID for d in datasets}) == len(datasets)
    assert len({d.SeriesInstanceUID for d in datasets}) == 1


def test_reconstructions_of_one_head_share_study_and_frame_of_reference(
    built: BuiltHead, tmp_path: Path
) -> None:
    found = []
    for number, changes in enumerate(({}, {"thickness_mm": 2.5}, {"kernel": "BONE"})):
        spec = dataclasses.replace(SPEC, matrix=64, pixel_mm=3.6, series_number=number, **changes)
        scanned = scan(spec, built)
        found.append(
            pydicom.dcmread(write_dicom(tmp_path / str(number), spec, scanned.hu, scanned.geometry)[0])
        )
    assert len({d.StudyInstanceUID for d in found}) == 1
    assert len({d.FrameOfReferenceUID for d in found}) == 1
    assert len({d.SeriesInstanceUID for d in found}) == 3
    assert len({d.SOPInstanceUID for d in found}) == 3


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy (package dicom3tools) is not installed"
)
def test_dciodvfy_finds_no_error(sample: Path) -> None:
    for path in sorted(sample.glob("*.dcm"))[::8]:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr


def test_the_truth_lies_beside_the_series_with_its_exact_geometry(sample: Path) -> None:
    assert {p.name for p in (sample / "truth").iterdir()} == {"truth.json", "truth.nii.gz"}
    truth = json.loads((sample / "truth" / "truth.json").read_text())
    assert truth["affected_side"] == "right"
    assert truth["aspects"] == {"left": 10, "right": 6}
    assert truth["spec"]["affected"] == [{"name": r.name, "side": r.side} for r in RIGHT]
    assert len(truth["simulator"]["sha256"]) == len(truth["atlas_sha256"]) == 64

    raw = gzip.decompress((sample / "truth" / "truth.nii.gz").read_bytes())
    ni, nj, nk = struct.unpack_from("<3h", raw, 42)
    affine = np.array(struct.unpack_from("<12f", raw, 280)).reshape(3, 4)
    mask = np.frombuffer(raw[352:], np.uint8).reshape(nk, nj, ni)
    assert mask.sum() > 100
    _, points = read_back(sample)  # LPS; NIfTI is RAS
    k, j, i = np.argwhere(mask)[0]
    expected = points[k, j, i] * [-1, -1, 1]
    np.testing.assert_allclose(affine @ [i, j, k, 1], expected, atol=1e-3)
    assert points[mask > 0][:, 0].mean() < -20


def test_a_healthy_head_has_an_empty_truth(healthy: BuiltHead) -> None:
    head = scan(dataclasses.replace(SPEC, affected=(), matrix=64, pixel_mm=3.6), healthy)
    assert not head.infarct.any()
    assert head.truth["affected_side"] is None
    assert head.truth["aspects"] == {"left": 10, "right": 10}
