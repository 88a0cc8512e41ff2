"""The prepared data folder: what is written is what is read, and nothing else is taken for it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from trainer.data.cases import Case, CaseRecord, Dataset, DatasetWriter, made_case, write_case

SHAPE = CANONICAL_GRID.shape


def small_case(case_id="case-a", split="train", mark=60) -> Case:
    """Nearly empty arrays; ``mark`` places a voxel so that cases differ."""
    masks = {name: np.zeros(SHAPE, bool) for name in ("brain", "inside", "lesion")}
    for mask in masks.values():
        mask[40, 100, mark] = True
    labels = np.zeros(SHAPE, np.uint8)
    labels[40, 100, mark] = 15
    record = CaseRecord(
        case_id, split, "territory", "bg_only", 9.5, 5.0, 0.002, ("right:M1",), "", {"a": "b"}
    )
    hu = np.full(SHAPE, 33.25, np.float16)
    return Case(
        record, hu, np.zeros_like(hu), masks["brain"], masks["inside"], labels, masks["lesion"], labels
    )


def write(out, *cases, **details) -> Dataset:
    writer = DatasetWriter(out)
    for case in cases:
        writer.add(case)
    return writer.close("folder", "territory", **details)


@pytest.fixture
def dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "data")
    writer.add(small_case("case-b", "test", 70))
    writer.add(small_case())
    writer.skip("case-c", "no truth")
    return writer.close("folder", "territory", licence="own")


def test_what_is_written_is_read(dataset):
    again = Dataset(dataset.folder)
    assert [record.id for record in again.records] == ["case-a", "case-b"]
    assert again.records == dataset.records
    for written, record in zip((small_case(), small_case("case-b", "test", 70)), again.records, strict=True):
        read = again.load(record)
        assert read.record.affected == ("right:M1",)
        for name, values in written.arrays().items():
            np.testing.assert_array_equal(getattr(read, name), values)
            assert getattr(read, name).dtype == values.dtype
    assert [record.id for record in again.split("test")] == ["case-b"]
    assert again.split("validate") == ()
    assert again.about["skipped"] == [{"id": "case-c", "reason": "no truth"}]
    assert again.about["cases"] == {"train": 1, "validate": 0, "test": 1}
    assert again.about["licence"] == "own"


def test_dataset_hash_follows_cases_and_splits(dataset, tmp_path):
    same = write(tmp_path / "same", small_case(), small_case("case-b", "test", 70))
    assert same.sha256 == dataset.sha256
    moved = write(tmp_path / "moved", small_case(), small_case("case-b", "validate", 70))
    other = write(tmp_path / "other", small_case(), small_case("case-b", "test", 71))
    assert len({dataset.sha256, moved.sha256, other.sha256}) == 3


def test_changed_file_is_noticed(dataset):
    record = dataset.records[0]
    path = dataset.folder / "cases" / f"{record.id}.npz"
    arrays = dict(np.load(path))
    arrays["lesion"][40, 100, 61] = True
    np.savez_compressed(path, **arrays)
    with pytest.raises(UsageError, match="digest differs"):
        dataset.load(record)


@pytest.mark.parametrize("damage", ["bits", "missing", "array gone", "pickle"])
def test_damaged_file_is_named(dataset, damage):
    record = dataset.records[0]
    path = dataset.folder / "cases" / f"{record.id}.npz"
    if damage == "bits":
        content = bytearray(path.read_bytes())
        content[1000:1040] = bytes(byte ^ 0xFF for byte in content[1000:1040])
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    elif damage == "array gone":
        with zipfile.ZipFile(path, "w"):
            pass
    else:
        np.savez(path, **{**small_case().arrays(), "hu": np.array([{"code": 1}], dtype=object)})
    with pytest.raises(UsageError, match=r"case-a\.npz cannot be read"):
        dataset.load(record)


def test_half_written_folder_is_no_dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "data")
    writer.add(small_case())
    with pytest.raises(UsageError, match="not a finished dataset"):
        Dataset(tmp_path / "data")
    writer.close("folder", "territory")
    index = tmp_path / "data" / "cases.json"
    index.write_text(index.read_text()[:50])
    with pytest.raises(UsageError, match="not a finished dataset"):
        Dataset(tmp_path / "data")


def test_duplicate_ids_and_finished_folders_are_refused(dataset, tmp_path):
    writer = DatasetWriter(tmp_path / "two")
    writer.add(small_case())
    with pytest.raises(UsageError, match="there twice"):
        writer.add(small_case(mark=50))
    with pytest.raises(UsageError, match="already holds"):
        DatasetWriter(dataset.folder)


def test_an_empty_dataset_is_refused_with_the_reasons(tmp_path):
    writer = DatasetWriter(tmp_path / "data")
    writer.skip("case-a", "no truth")
    with pytest.raises(UsageError, match="case-a: no truth"):
        writer.close("folder", "binary")


@pytest.mark.parametrize("key", ["schema", "preprocess", "atlas_sha256"])
def test_data_of_another_version_is_refused(dataset, key):
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "other"}))
    with pytest.raises(UsageError, match="prepare the data again"):
        Dataset(dataset.folder)


def test_a_stopped_run_finds_its_cases_again(tmp_path):
    (tmp_path / "cases").mkdir()
    made_from = {"scan": "1"}
    record = write_case(tmp_path, small_case(), made_from)
    assert record == replace(small_case().record, digest=small_case().digest())
    assert made_case(tmp_path, "case-a", made_from) == record
    assert made_case(tmp_path, "case-a", {"scan": "2"}) is None
    assert made_case(tmp_path, "case-b", made_from) is None
    (tmp_path / "cases" / "case-a.npz").unlink()
    assert made_case(tmp_path, "case-a", made_from) is None
