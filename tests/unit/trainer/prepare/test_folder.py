"""The reader of a hospital's own cases: NIfTI, DICOM and SEG, geometry, sides, names and splits."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pydicom
import pytest

from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.reading.series import read_series
from strokecore.reports.dicom import seg
from strokecore.reports.dicom.instance import Stamp, write
from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, SourceMasks
from strokecore.simulate.write import write_dicom
from tests.unit.reports import output_cases
from tests.unit.trainer.prepare import miniature_aisd as mini
from tests.unit.trainer.prepare.fakes import FakeCanonical
from trainer.data.cases import Dataset
from trainer.prepare.case_file import UnusableError
from trainer.prepare.folder import prepare_folder
from trainer.prepare.identity import identity_in_name
from trainer.prepare.nifti import ct_series, labels_on, read_nifti
from trainer.prepare.seg_truth import read_infarct
from trainer.prepare.splits import hash_split, read_splits

nibabel = pytest.importorskip("nibabel")

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def fake(monkeypatch):
    stand_in = FakeCanonical()
    monkeypatch.setattr("trainer.prepare.case_file.canonical_case", stand_in)
    return stand_in


@pytest.fixture(scope="module")
def scan():
    """HU and infarct of the simulated head, [k, j, i], with a tilted gantry."""
    head = mini.head()
    assert head.spec.tilt_deg
    return head


@pytest.fixture(scope="module")
def dicom_series(scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ct")
    write_dicom(folder, scan.spec, scan.hu, scan.geometry)
    return read_series(folder)


def affine_of(geometry) -> np.ndarray:
    """RAS from the indices (i, j, k) of a simulated series; sheared where the gantry is tilted."""
    affine = np.eye(4)
    affine[:3, 0] = geometry.row_direction * geometry.pixel_mm
    affine[:3, 1] = geometry.column_direction * geometry.pixel_mm
    affine[:3, 2] = geometry.step_mm
    affine[:3, 3] = geometry.positions_mm[0]
    return RAS @ affine


def stored(volume, affine, axes=(0, 1, 2), flipped=()):
    """[k, j, i] as NIfTI [i, j, k], its axes then permuted and flipped with the affine that says so."""
    values = np.transpose(volume, (2, 1, 0))
    affine = affine.copy()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
        values = np.flip(values, axis)
    order = [*axes, 3]
    return nibabel.Nifti1Image(np.ascontiguousarray(np.transpose(values, axes)), affine[:, order])


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def nifti_case(folder, scan, *, territories=False, infarct=True):
    affine = affine_of(scan.geometry)
    save(stored(scan.hu, affine), folder / "ct.nii.gz")
    if infarct:
        save(stored(scan.infarct.astype(np.uint8), affine), folder / "infarct.nii.gz")
    if territories:
        save(stored(scan.infarct_regions, affine), folder / "territories.nii.gz")
    return folder


def dicom_case(folder, scan):
    write_dicom(folder / "ct", scan.spec, scan.hu, scan.geometry)
    return folder


def write_seg(path, series, lesion_values, algorithm="MANUAL"):
    """seg.dcm as the node writes it (values 1 left, 2 right, 3 old), then marked as edited."""
    masks = SourceMasks(lesion=lesion_values.astype(np.uint8), regions=np.zeros(series.hu.shape, np.uint8))
    result = output_cases.made_up_result(series, masks)
    dataset = seg.build_lesion(series, masks, output_cases.MODEL, Stamp.of(result))
    for segment in dataset.SegmentSequence:
        segment.SegmentAlgorithmType = algorithm
    return write(dataset, path)


def edited(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def prepare(source, out) -> Dataset:
    return list(prepare_folder(source, out, workers=1))[-1]


def reasons(dataset) -> dict[str, str]:
    return {s["id"]: s["reason"] for s in dataset.about["skipped"]}


def noisy(scan, seed):
    """The same head with noise of its own: another scan."""
    noise = np.random.default_rng(seed).integers(-1, 2, scan.hu.shape)
    return replace(scan, hu=(scan.hu + noise).astype(np.int16))


# ---- geometry


@pytest.mark.parametrize(
    ("axes", "flipped"),
    [((0, 1, 2), ()), ((0, 1, 2), (2,)), ((0, 1, 2), (0, 1)), ((2, 0, 1), (1,)), ((1, 2, 0), (0, 2))],
)
def test_nifti_ct_lies_where_the_dicom_lies(scan, dicom_series, tmp_path, axes, flipped):
    """Whatever the axis order of the file, every voxel keeps its place in the patient."""
    save(stored(scan.hu, affine_of(scan.geometry), axes, flipped), tmp_path / "ct.nii.gz")
    made = ct_series(read_nifti(tmp_path / "ct.nii.gz"))
    assert np.diff(made.slice_offsets_mm).min() > 0
    assert abs(made.tilt_deg) == pytest.approx(abs(dicom_series.tilt_deg), abs=0.1)
    assert made.slice_thickness_mm == pytest.approx(5.0, abs=0.01)
    rng = np.random.default_rng(0)
    k, j, i = (rng.integers(0, n, 300) for n in made.hu.shape)
    points = (
        made.positions_mm[k]
        + j[:, None] * made.pixel_spacing_mm[0] * made.column_direction
        + i[:, None] * made.pixel_spacing_mm[1] * made.row_direction
    )
    ours, dicoms = made.hu[k, j, i], values_at(dicom_series, points)
    np.testing.assert_array_equal(ours, dicoms)


def values_at(series, points):
    """HU at patient points, by the DICOM geometry."""
    away = points[:, None, :] - series.positions_mm[None, :, :]
    k = np.argmin(np.abs(away @ series.normal), axis=1)
    offset = points - series.positions_mm[k]
    j = np.rint(offset @ series.column_direction / series.pixel_spacing_mm[0]).astype(int)
    i = np.rint(offset @ series.row_direction / series.pixel_spacing_mm[1]).astype(int)
    return series.hu[k, j, i]


@pytest.mark.parametrize(("axes", "flipped"), [((0, 1, 2), ()), ((0, 1, 2), (1,)), ((2, 1, 0), (0, 2))])
def test_labels_of_any_axis_order_fit_the_dicom(scan, dicom_series, tmp_path, axes, flipped):
    image = stored(scan.infarct.astype(np.uint8), affine_of(scan.geometry), axes, flipped)
    save(image, tmp_path / "infarct.nii.gz")
    labels = labels_on(read_nifti(tmp_path / "infarct.nii.gz"), dicom_series, range(2), "infarct.nii.gz")
    np.testing.assert_array_equal(labels > 0, scan.infarct)


def test_labels_on_another_grid_are_refused(scan, dicom_series, tmp_path):
    affine = affine_of(scan.geometry)
    mask = scan.infarct.astype(np.uint8)
    shifted, upright, wide = affine.copy(), affine.copy(), affine.copy()
    shifted[0, 3] += 0.9  # half a pixel
    upright[:3, 2] = [0, 0, 5]  # the stack without its tilt
    wide[:3, 0] *= 1.02
    for wrong in (shifted, upright, wide):
        save(stored(mask, wrong), tmp_path / "infarct.nii.gz")
        with pytest.raises(UnusableError, match="does not lie on the CT's voxels"):
            labels_on(read_nifti(tmp_path / "infarct.nii.gz"), dicom_series, range(2), "infarct")
    save(stored(mask[1:], affine), tmp_path / "infarct.nii.gz")
    with pytest.raises(UnusableError, match="not the CT's grid"):
        labels_on(read_nifti(tmp_path / "infarct.nii.gz"), dicom_series, range(2), "infarct")
    save(stored(mask * 0.5, affine), tmp_path / "infarct.nii.gz")
    with pytest.raises(UnusableError, match=r"0\.5"):
        labels_on(read_nifti(tmp_path / "infarct.nii.gz"), dicom_series, range(2), "infarct")


def test_uncertain_orientation_is_refused(scan, tmp_path):
    affine = affine_of(scan.geometry)
    image = stored(scan.infarct.astype(np.uint8), affine)
    image.set_sform(affine, code=0)
    image.set_qform(affine, code=0)
    save(image, tmp_path / "none.nii.gz")
    with pytest.raises(UnusableError, match="left is unknown"):
        read_nifti(tmp_path / "none.nii.gz")
    image.set_sform(affine, code=1)
    image.set_qform(affine @ np.diag([-1, 1, 1, 1]), code=1)
    save(image, tmp_path / "both.nii.gz")
    with pytest.raises(UnusableError, match="left is uncertain"):
        read_nifti(tmp_path / "both.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b\x08\x00broken")
    with pytest.raises(UnusableError, match="cannot be read"):
        read_nifti(tmp_path / "broken.nii.gz")


def test_nifti_that_is_no_head_in_hu_is_refused(scan, tmp_path):
    affine = affine_of(scan.geometry)
    windowed = np.clip(scan.hu, 0, 80)
    for volume, word in ((windowed, "Hounsfield"), (scan.hu[:6], "6 slices")):
        save(stored(volume, affine), tmp_path / "ct.nii.gz")
        with pytest.raises(UnusableError, match=word):
            ct_series(read_nifti(tmp_path / "ct.nii.gz"))
    coronal = affine.copy()
    coronal[:3, 1], coronal[:3, 2] = [0, 0, 1.8], [0, -5.0, 0]
    save(stored(scan.hu, coronal), tmp_path / "ct.nii.gz")
    with pytest.raises(UnusableError, match="not axial"):
        ct_series(read_nifti(tmp_path / "ct.nii.gz"))


# ---- the whole way


def test_nifti_case_with_territories_is_prepared(scan, tmp_path):
    nifti_case(tmp_path / "in" / "case-a", scan, territories=True)
    dataset = prepare(tmp_path / "in", tmp_path / "out")
    (record,) = dataset.records
    assert dataset.about["labels"] == record.labels == "territory"
    case = dataset.load(record)
    middle = CANONICAL_GRID.shape[2] // 2
    assert case.lesion[:, :, :middle].sum() > 0.99 * case.lesion.sum()
    assert {"right:I", "right:L", "right:M1", "right:M2", "right:M4"} <= set(record.affected)
    assert not any(name.startswith("left") for name in record.affected)
    # the truth's regions and the node's own agree over most of the infarct
    known = case.lesion & (case.territory > 0) & (case.regions > 0)
    assert (case.territory[known] == case.regions[known]).mean() > 0.6
    assert case.inside[case.lesion].mean() > 0.95


# ---- DICOM and SEG


def test_corrected_seg_is_read_and_what_is_no_early_infarct_left_out(scan, dicom_series, tmp_path, fake):
    values = np.where(scan.infarct, INFARCT["right"], 0)
    for label, value in ((10, OLD_INFARCT), (9, OTHER_HYPODENSITY), (8, HAEMORRHAGE)):  # left M6, M5, M4
        values[(scan.regions == label) & (values == 0)] = value
    case = dicom_case(tmp_path / "in" / "case-a", scan)
    write_seg(case / "seg.dcm", dicom_series, values)
    dataset = prepare(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(fake.seen["case-a"].lesion, scan.infarct)
    assert dataset.records[0].labels == "binary"
    assert dataset.records[0].provenance["truth"] == "seg"


def test_seg_may_lie_beside_its_images(scan, dicom_series, tmp_path, fake):
    write_dicom(tmp_path / "in" / "case-a", scan.spec, scan.hu, scan.geometry)
    write_seg(tmp_path / "in" / "case-a" / "seg.dcm", dicom_series, np.where(scan.infarct, 2, 0))
    prepare(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(fake.seen["case-a"].lesion, scan.infarct)


@pytest.mark.parametrize(
    ("value", "change", "word"),
    [
        (2, lambda ds: setattr(ds.SegmentSequence[0], "SegmentAlgorithmType", "AUTOMATIC"), "AUTOMATIC"),
        (1, None, "says left"),
        (3, None, "only an old infarct"),
        (2, lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"), "frame of reference"),
        (2, lambda ds: _move_first_frame(ds), "mm from the nearest slice"),
        (2, lambda ds: _make_it_a_tumour(ds), "neither infarct"),
        (2, lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"), "FRACTIONAL"),
        (2, lambda ds: delattr(ds, "PerFrameFunctionalGroupsSequence"), "cannot be read"),
    ],
)
def test_bad_segs_are_refused(scan, dicom_series, tmp_path, value, change, word):
    path = write_seg(tmp_path / "seg.dcm", dicom_series, np.where(scan.infarct, value, 0))
    if change is not None:
        edited(path, change)
    with pytest.raises(UnusableError, match=word):
        read_infarct(path, dicom_series, reviewed=False)


def test_two_segs_are_one_too_many(scan, dicom_series, tmp_path, fake):
    case = dicom_case(tmp_path / "in" / "two-segs", scan)
    for name in ("seg.dcm", "again.dcm"):
        write_seg(case / name, dicom_series, np.where(scan.infarct, 2, 0))
    nifti_case(tmp_path / "in" / "good", noisy(scan, 1))
    assert "more than one" in reasons(prepare(tmp_path / "in", tmp_path / "out"))["two-segs"]


def _move_first_frame(dataset):
    plane = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    x, y, z = plane.ImagePositionPatient
    plane.ImagePositionPatient = [x, y, float(z) + 2.0]


def _make_it_a_tumour(dataset):
    segment = dataset.SegmentSequence[0]
    segment.SegmentLabel = "Lesion"
    segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "108369006"


def test_reviewed_automatic_seg_is_accepted(scan, dicom_series, tmp_path, fake):
    case = dicom_case(tmp_path / "in" / "case-a", scan)
    write_seg(case / "seg.dcm", dicom_series, np.where(scan.infarct, 2, 0), "AUTOMATIC")
    (case / "reviewed").touch()
    assert prepare(tmp_path / "in", tmp_path / "out").records[0].provenance["truth"] == "seg, reviewed"


# ---- truth


def test_no_truth_is_not_lesion_free(scan, tmp_path, fake):
    root = tmp_path / "in"
    nifti_case(root / "nothing", noisy(scan, 1), infarct=False)
    (nifti_case(root / "marked", noisy(scan, 2), infarct=False) / "no_infarct").touch()
    (nifti_case(root / "contradiction", noisy(scan, 3)) / "no_infarct").touch()
    empty = replace(noisy(scan, 4), infarct=np.zeros_like(scan.infarct))
    nifti_case(root / "empty-mask", empty)
    (root / "no-ct").mkdir()
    dataset = prepare(root, tmp_path / "out")
    found = reasons(dataset)
    assert "no truth" in found["nothing"]
    assert "remove the wrong one" in found["contradiction"]
    assert "no CT" in found["no-ct"]
    assert {r.id: r.group for r in dataset.records} == {
        "marked": "lesion_free",
        "empty-mask": "lesion_free",
    }
    # without infarct its regions are known: none
    assert {r.labels for r in dataset.records} == {"territory"}


def test_mirrored_territories_are_refused(scan, tmp_path, fake):
    mirrored = scan.infarct_regions.astype(int)
    mirrored[mirrored > 0] = (mirrored[mirrored > 0] + 9) % 20 + 1  # left labels on the right
    case = nifti_case(tmp_path / "in" / "mirrored", scan)
    save(stored(mirrored.astype(np.uint8), affine_of(scan.geometry)), case / "territories.nii.gz")
    nifti_case(tmp_path / "in" / "good", noisy(scan, 1), territories=True)
    dataset = prepare(tmp_path / "in", tmp_path / "out")
    assert "other side" in reasons(dataset)["mirrored"]
    np.testing.assert_array_equal(fake.seen["good"].territory, scan.infarct_regions)


# ---- identity


def test_a_patients_name_or_id_never_reaches_the_data(scan, tmp_path, fake, caplog):
    root = tmp_path / "in"
    patient = "SIM-41"  # the PatientID that the simulator writes; its PatientName is SIMULATED^HEAD
    for name in (patient, "simulated-2", "Müller Hans"):
        write_dicom(root / name, scan.spec, scan.hu[:1], scan.geometry)
    (dicom_case(root / "case-a", scan) / "no_infarct").touch()
    with caplog.at_level(logging.INFO):
        dataset = prepare(root, tmp_path / "out")
    assert [r.id for r in dataset.records] == ["case-a"]
    assert len(dataset.about["skipped"]) == 3
    written = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json")) + caplog.text
    for secret in (patient, "simulated-2", "Müller", "Hans", "SIMULATED"):
        assert secret not in written
    assert "PatientID" in written
    assert "PatientName" in written
    assert "case folder" in written


def test_pseudonymised_headers_may_share_the_folders_name():
    header = pydicom.Dataset()
    header.PatientID, header.PatientName, header.PatientBirthDate = "P0042", "DOE^JANE", "19500102"
    for name in ("P0042", "p0042", "x-p0042-b", "doe", "jane_2", "19500102"):
        assert identity_in_name(name, [header]), name
    for name in ("case-42", "p004", "case-b"):
        assert identity_in_name(name, [header]) is None, name
    header.PatientIdentityRemoved = "YES"
    assert identity_in_name("P0042", [header]) is None
    assert identity_in_name("../P1", [header])


def test_one_patient_in_two_splits_is_said(scan, tmp_path, fake, caplog):
    for seed, name in enumerate(("case-a", "case-b")):
        (dicom_case(tmp_path / "in" / name, noisy(scan, seed)) / "no_infarct").touch()
    (tmp_path / "in" / "splits.csv").write_text("case,split\ncase-a,train\ncase-b,test\n")
    with caplog.at_level(logging.WARNING):
        dataset = prepare(tmp_path / "in", tmp_path / "out")
    assert dataset.about["one_patient_in_two_splits"] == [["case-a", "case-b"]]
    assert any("not independent" in message for message in caplog.messages)


# ---- splits


def test_splits_file_decides(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("\ufeffcase, split\na,train\nb, test\n", encoding="utf-8")
    assert read_splits(path, ["a", "b"]) == {"a": "train", "b": "test"}
    assert read_splits(tmp_path / "absent.csv", ["a"]) == {}
    for text, word in (
        ("case,split\na,train\n", "leaves out 1"),
        ("case,split\na,train\nb,test\nc,test\n", "1 cases that have no folder"),
        ("case,split\na,train\na,test\n", "before"),
        ("case,split\na,dev\n", "train, validate or test"),
        ("name,set\na,train\n", "columns"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=word):
            read_splits(path, ["a", "b"])


def test_hash_split_is_fixed_and_has_its_shares():
    names = [f"case-{n}" for n in range(4000)]
    splits = [hash_split(name, test_share=0.2) for name in names]
    assert splits == [hash_split(name, test_share=0.2) for name in names]
    for split, share in (("train", 0.7), ("validate", 0.1), ("test", 0.2)):
        assert splits.count(split) / len(names) == pytest.approx(share, abs=0.02)
    # by name alone, on every machine and in every version
    first = ["train", "train", "validate", "test", "train", "train"]
    assert [hash_split(f"case-{n}", test_share=0.2) for n in range(6)] == first


def test_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        list(prepare_folder(tmp_path / "absent", tmp_path / "out", 1))
    (tmp_path / "in").mkdir()
    with pytest.raises(UsageError, match="no case folders"):
        list(prepare_folder(tmp_path / "in", tmp_path / "out", 1))
