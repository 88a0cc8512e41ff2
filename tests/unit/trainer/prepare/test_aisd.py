"""The AISD reader on a miniature of the data set, its defects included."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from tests.unit.trainer.prepare import miniature_aisd as mini
from tests.unit.trainer.prepare.fakes import FakeCanonical
from trainer.data.cases import Dataset
from trainer.prepare import aisd
from trainer.prepare.aisd_layout import TEST_IDS
from trainer.prepare.png_slices import png_series, vertex_first

LESION = (1, 2, 3, 5)


@pytest.fixture
def fake(monkeypatch):
    """Readers without registration."""
    stand_in = FakeCanonical()
    monkeypatch.setattr("trainer.prepare.case_file.canonical_case", stand_in)
    return stand_in


def prepare(source, out, labels="lesion") -> Dataset:
    return list(aisd.prepare_aisd(source, out, labels, workers=1))[-1]


def reason(dataset: Dataset, case_id: str) -> str:
    """Why a case was left out; fails when it was not, or not exactly once."""
    (found,) = [s["reason"] for s in dataset.about["skipped"] if s["id"] == case_id]
    assert case_id not in {record.id for record in dataset.records}
    return found


def record(dataset: Dataset, case_id: str):
    (found,) = [r for r in dataset.records if r.id == case_id]
    return found


def test_dicom_and_png_scans_end_in_the_same_place(tmp_path):
    """The whole way: reversed PNG numbers, and a scan of which only PNG is there."""
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, order="reversed instance number")
    mini.write_case(tmp_path / "aisd", mini.EMPTY_CT_ID, dicom=None)
    dataset = prepare(tmp_path / "aisd", tmp_path / "out", "acute")
    assert [r.id for r in dataset.records] == [mini.TRAIN_ID, mini.EMPTY_CT_ID]
    assert dataset.about["pixels"] == {"dicom": 1, "png": 1}
    cases = [dataset.load(r) for r in dataset.records]
    expected_ml = float(mini.head().infarct.sum()) * 1.8**2 * 5 / 1000
    middle = CANONICAL_GRID.shape[2] // 2
    for case in cases:
        assert case.record.lesion_ml == pytest.approx(expected_ml, rel=0.08)
        assert case.lesion[:, :, :middle].sum() > 0.99 * case.lesion.sum()  # the patient's right
        # white pixels become full bone, which moves the inner table of the 8-bit scan inwards a little
        assert case.inside[case.lesion].mean() > 0.92
        assert {"right:I", "right:L", "right:M1", "right:M2", "right:M4"} <= set(case.record.affected)
        assert not any(name.startswith("left") for name in case.record.affected)
        seen = case.lesion & case.brain
        mirrored = seen[:, :, ::-1] & case.brain
        assert case.hu[seen].astype(float).mean() < case.hu[mirrored].astype(float).mean() - 4
    both = (cases[0].lesion & cases[1].lesion).sum() * 2 / sum(c.lesion.sum() for c in cases)
    assert both > 0.7  # the assumed spacing and the missing tilt shift the second by some mm


@pytest.mark.parametrize("order", ["instance number", "reversed instance number"])
@pytest.mark.parametrize("flip", [(), (2,)])
def test_masks_find_their_slices_whatever_the_order(tmp_path, fake, order, flip):
    scan = mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, order=order, flip=flip)
    dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    seen = fake.seen[mini.TRAIN_ID]
    np.testing.assert_array_equal(seen.series.hu, scan.hu)
    np.testing.assert_array_equal(seen.lesion, np.isin(scan.raw, LESION))
    assert seen.territory is None
    provenance = record(dataset, mini.TRAIN_ID).provenance
    assert provenance["slice_order"] == order
    assert provenance["png_flip"] == ("left-right" if flip else "none")
    assert provenance["mask_values"] == "0,1,2,3,4,5"


def test_window_is_measured(tmp_path, fake):
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, window_hu=(5.0, 75.0))
    dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    low, high = dataset.about["png_window"]["hu"]
    assert (low, high) == pytest.approx((5.0, 75.0), abs=0.5)


def test_acute_leaves_remote_infarct_out(tmp_path, fake):
    scan = mini.write_case(tmp_path / "aisd", mini.TRAIN_ID)
    dataset = prepare(tmp_path / "aisd", tmp_path / "out", "acute")
    np.testing.assert_array_equal(fake.seen[mini.TRAIN_ID].lesion, np.isin(scan.raw, (2, 3, 5)))
    assert dataset.about["label_choice"] == "acute"
    assert dataset.about["label_values"] == [2, 3, 5]


def test_without_images_the_instance_number_is_assumed_aloud(tmp_path, fake, caplog):
    scan = mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, image=False)
    with caplog.at_level(logging.WARNING):
        dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    np.testing.assert_array_equal(fake.seen[mini.TRAIN_ID].lesion, np.isin(scan.raw, LESION))
    assert record(dataset, mini.TRAIN_ID).provenance["slice_order"] == "instance number, assumed"
    assert any(mini.TRAIN_ID in m and "assumed" in m for m in caplog.messages)


def test_images_of_another_scan_are_refused(tmp_path, fake):
    root = tmp_path / "aisd"
    mini.write_case(root, mini.VALIDATE_ID)
    scan = mini.write_case(root, mini.TRAIN_ID)
    shuffled = np.random.default_rng(0).permutation(len(scan.hu))
    grey = np.clip(scan.hu / 80 * 255, 0, 255).astype(np.uint8)
    mini.write_png(root / "image" / mini.TRAIN_ID, grey[shuffled])
    dataset = prepare(root, tmp_path / "out")
    assert "in any order" in reason(dataset, mini.TRAIN_ID)


def test_known_defects(tmp_path, fake, caplog):
    root = mini.write_miniature(tmp_path / "aisd")
    with caplog.at_level(logging.WARNING):
        dataset = prepare(root, tmp_path / "out")
    splits = {r.id: r.split for r in dataset.records}
    assert splits[mini.TEST_ID] == "test"  # its folder in dicom-0 is empty, the files lie in dicom-3
    assert splits[mini.TRAIN_ID] == splits[mini.OTHER_TRAIN_ID] == "train"
    assert splits[mini.VALIDATE_ID] == "validate"
    for case_id in (mini.FEWER_DICOM_ID, mini.EMPTY_CT_ID):
        provenance = record(dataset, case_id).provenance
        assert provenance["pixels"] == "png"
        assert "-10 to 90" in provenance["assumed"]  # as measured on the other scans
        assert any(case_id in message for message in caplog.messages)
    assert "another number" in record(dataset, mini.FEWER_DICOM_ID).provenance["why_png"]
    assert "no DICOM" in record(dataset, mini.EMPTY_CT_ID).provenance["why_png"]
    assert not dataset.about["skipped"]


def test_official_test_set_is_enforced(tmp_path, fake, monkeypatch, caplog):
    root = tmp_path / "aisd"
    mini.write_case(root, mini.TEST_ID, folder_name=mini.TEST_ID.lstrip("0"))  # lost its zeros
    mini.write_case(root, mini.TRAIN_ID)
    with caplog.at_level(logging.WARNING):
        dataset = prepare(root, tmp_path / "out")
    assert record(dataset, mini.TEST_ID).split == "test"
    assert dataset.about["official_test_complete"] is False
    assert dataset.about["official_test_missing"] == sorted(TEST_IDS - {mini.TEST_ID})
    assert any("official protocol incomplete: 1 of 52" in m for m in caplog.messages)
    assert any("lost its leading zeros" in m for m in caplog.messages)
    monkeypatch.setattr(aisd, "TEST_IDS", frozenset({mini.TEST_ID}))
    dataset = prepare(root, tmp_path / "complete")
    assert dataset.about["official_test_complete"] is True


def test_a_test_scan_under_another_id_is_left_out(tmp_path, fake):
    root = tmp_path / "aisd"
    scan = mini.write_case(root, mini.TEST_ID)
    mini.write_case(root, mini.TRAIN_ID, scan)
    mini.write_case(root, mini.VALIDATE_ID)
    dataset = prepare(root, tmp_path / "out")
    assert mini.TEST_ID in reason(dataset, mini.TRAIN_ID)
    assert not (tmp_path / "out" / "cases" / f"{mini.TRAIN_ID}.npz").exists()


def test_test_ids_are_the_official_ones(shared_data):
    official = (shared_data / "aisd" / "official_test_ids.txt").read_text().split()
    assert len(TEST_IDS) == len(official) == 52
    assert set(official) == TEST_IDS


def test_split_depends_on_the_id_alone():
    ids = [f"{n:07d}" for n in range(20_000, 24_000)]
    splits = [aisd.aisd_split(i) for i in ids if i not in TEST_IDS]
    assert set(splits) == {"train", "validate"}
    assert splits.count("validate") / len(splits) == pytest.approx(0.10, abs=0.015)
    assert {aisd.aisd_split(i) for i in TEST_IDS} == {"test"}


@pytest.mark.parametrize("nested", [False, True])
def test_unpacked_layouts(tmp_path, fake, nested):
    dicom = "dicom/dicom-0/dicom-0" if nested else "dicom-2"
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, nested=nested, dicom=dicom)
    (tmp_path / "aisd" / "mask" / "__MACOSX").mkdir()
    (tmp_path / "aisd" / "image" / ".DS_Store").touch()
    dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    assert record(dataset, mini.TRAIN_ID).provenance["pixels"] == "dicom"
    assert not dataset.about["skipped"]


def test_bad_scans_are_named_with_their_reason(tmp_path, fake):
    root = tmp_path / "aisd"
    mini.write_case(root, mini.VALIDATE_ID)
    scan = mini.Scan.of(mini.TRAIN_ID)
    png_only = {"dicom": None}
    mini.write_case(root, "0030001", scan, mask=False)
    mini.write_case(root, "0030002", mini.Scan(scan.hu, np.where(scan.raw > 0, 255, 0).astype(np.uint8)))
    mini.write_case(root, "0030003", scan, **png_only)
    (root / "mask" / "0030003" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    mini.write_case(root, "0030004", scan, **png_only)
    (root / "mask" / "0030004" / "007.png").unlink()
    mini.write_case(root, "0030005", scan, dicom=None, image=False)
    few = mini.Scan(scan.hu[10:15], scan.raw[10:15])
    mini.write_case(root, "0030006", few)
    mini.write_case(root, "0030007", mini.Scan(scan.hu, scan.raw[:, :64, :64]))
    mini.write_case(root, "0030008", scan, dicom_slices=16, image=False)
    shutil.copytree(root / "mask" / mini.VALIDATE_ID, root / "mask" / "patient 7")
    dataset = prepare(root, tmp_path / "out")
    assert [r.id for r in dataset.records] == [mini.VALIDATE_ID]
    for case_id, word in (
        ("0030001", "no masks"),
        ("0030002", "255"),
        ("0030003", "004.png"),
        ("0030004", "7"),
        ("0030005", "no images"),
        ("0030006", "too_few_slices"),
        ("0030007", "64 x 64"),
        ("0030008", "16 x 128 x 128"),
    ):
        assert word in reason(dataset, case_id), case_id
    assert "7 digits" in reason(dataset, "mask/patient 7")


def test_side_of_a_png_scan_is_not_guessed_where_others_are_mirrored(tmp_path, fake):
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID, flip=(2,))
    mini.write_case(tmp_path / "aisd", mini.EMPTY_CT_ID, dicom=None)
    dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    assert "side is unknown" in reason(dataset, mini.EMPTY_CT_ID)


def test_png_series_stands_upright(tmp_path):
    hu = mini.head().hu
    png = np.clip(hu / 80 * 255, 0, 255).astype(np.uint8)  # from the feet to the head
    assert vertex_first(png) is False
    assert vertex_first(png[::-1]) is True
    assert vertex_first(png[12:17]) is None  # five alike slices
    upright = png_series(png, (0.0, 80.0), top_first=False)
    turned = png_series(png[::-1], (0.0, 80.0), top_first=True)
    np.testing.assert_array_equal(upright.hu, turned.hu)
    grey = (png > 0) & (png < 255) & (mini.head().regions > 0)  # brain; the head holder is cut off
    assert np.abs(upright.hu[grey] - hu[grey]).max() <= 0.5
    assert upright.hu[0, 0, 0] == -1000
    assert (upright.hu[hu > 400] == 1000).mean() > 0.99


def test_a_stopped_run_goes_on(tmp_path, fake):
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID)
    mini.write_case(tmp_path / "aisd", mini.VALIDATE_ID)
    started = aisd.prepare_aisd(tmp_path / "aisd", tmp_path / "out", "lesion", workers=1)
    assert next(started) == 1
    started.close()
    with pytest.raises(UsageError, match="not a finished dataset"):
        Dataset(tmp_path / "out")
    assert fake.calls == 1
    dataset = prepare(tmp_path / "aisd", tmp_path / "out")
    assert fake.calls == 2
    assert len(dataset.records) == 2
    # a changed mask is another case
    path = tmp_path / "aisd" / "mask" / mini.TRAIN_ID / "015.png"
    Image.fromarray(np.full((128, 128), 2, np.uint8)).save(path)
    (tmp_path / "out" / "dataset.json").unlink()
    prepare(tmp_path / "aisd", tmp_path / "out")
    assert fake.calls == 3


def test_usage_errors(tmp_path, fake):
    mini.write_case(tmp_path / "aisd", mini.TRAIN_ID)
    with pytest.raises(UsageError, match="lesion or acute"):
        prepare(tmp_path / "aisd", tmp_path / "out", "all")
    with pytest.raises(UsageError, match="no mask"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    prepare(tmp_path / "aisd", tmp_path / "out")
    with pytest.raises(UsageError, match="already holds"):
        prepare(tmp_path / "aisd", tmp_path / "out")
    mini.write_case(tmp_path / "masks only", mini.TRAIN_ID, image=False, dicom=None)
    with pytest.raises(UsageError, match="neither image"):
        prepare(tmp_path / "masks only", tmp_path / "third")
