"""Prepared cases as model slices: targets, rows of each arm, and cases that cannot be used."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES, sg_share
from strokecore.learned.preprocessing import hu_slices
from tests.unit.trainer.data.slice_cases import PLANE_MM, SPEC, canonical
from trainer.data.cases import Case, Dataset, DatasetWriter
from trainer.data.slices import case_slices, load_slices


@pytest.fixture(scope="module")
def case() -> Case:
    return canonical("a")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, case: Case) -> Path:
    """Four cases, of which "b" is damaged and "c" was changed after it was prepared."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    writer = DatasetWriter(out)
    for name in "abc":
        writer.add(replace(case, record=replace(case.record, id=name)))
    writer.add(canonical("d", "binary"))
    writer.close("folder", "territory")
    path = out / "cases" / "b.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(200) + whole[400:])
    (out / "cases" / "c.npz").write_bytes((out / "cases" / "d.npz").read_bytes())
    return out


def test_densities_are_those_of_the_node(case: Case) -> None:
    slices = case_slices(case, SPEC)
    node = hu_slices(case.hu.astype(np.float32), CANONICAL_GRID, SPEC)
    inside = (node > 0) & (node < 64)
    assert slices.hu.shape == node.shape == (len(slices.z_mm), *SPEC.size)
    assert inside.any()
    assert np.abs(slices.hu.astype(np.float32) - node)[inside].max() <= 1 / 64
    assert slices.hu[:, 0].max() == -1024


def test_targets_name_the_region_of_the_truth(case: Case) -> None:
    slices = case_slices(case, SPEC)
    below = int(np.argmin(np.abs(slices.z_mm - 0)))
    above = int(np.argmin(np.abs(slices.z_mm - 60)))
    left_back = (24, 22)  # posterior and to the patient's left of the middle
    assert BG_CLASSES[slices.bg_target[below][left_back]] == "M1"
    assert SG_CLASSES[slices.sg_target[below][left_back]] == "other"
    assert SG_CLASSES[slices.sg_target[above][left_back]] == "other"
    assert not slices.bg_target[below][:, :16].any()
    np.testing.assert_array_equal(slices.bg_target > 0, slices.sg_target > 0)


def test_binary_cases_have_binary_targets() -> None:
    slices = case_slices(canonical("a", "binary"), SPEC)
    assert slices.binary
    assert set(np.unique(slices.bg_target)) == set(np.unique(slices.sg_target)) == {0, 1}
    assert slices.territories.any()


def test_rows_belong_to_one_arm_and_hold_brain(case: Case) -> None:
    slices = case_slices(case, SPEC)
    share = sg_share(slices.z_mm, PLANE_MM)
    assert (share[slices.bg_rows] < 0.5).all()
    assert (share[slices.sg_rows] >= 0.5).all()
    rows = np.concatenate([slices.bg_rows, slices.sg_rows])
    assert sorted(rows) == sorted(set(rows)) == np.flatnonzero(slices.brain.any(axis=(1, 2))).tolist()


def test_level_rows_show_the_level(case: Case) -> None:
    slices = case_slices(case, SPEC)
    assert 0 < len(slices.level_rows("bg")) < len(slices.bg_rows)
    assert set(slices.level_rows("bg")) <= set(slices.bg_rows)
    assert set(slices.level_rows("sg")) <= set(slices.sg_rows)
    assert (slices.z_mm[slices.level_rows("bg")] > -30).all()
    assert (slices.z_mm[slices.level_rows("sg")] < 60).all()


def test_bad_cases_are_named_and_left_out(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset(prepared)
    skipped: dict[str, str] = {}
    with caplog.at_level(logging.WARNING):
        slices = load_slices(dataset, dataset.records, SPEC, skipped=skipped)
    assert [one.record.id for one in slices] == ["a", "d"]
    assert set(skipped) == {"b", "c"}
    assert "cannot be read" in skipped["b"]
    assert "digest" in skipped["c"]
    assert [record.getMessage().split()[1] for record in caplog.records] == ["b", "c"]


def test_strict_stops_at_a_bad_case(prepared: Path) -> None:
    dataset = Dataset(prepared)
    with pytest.raises(UsageError, match=r"b\.npz"):
        load_slices(dataset, dataset.records, SPEC, strict=True)


def test_no_usable_case_is_an_error(prepared: Path) -> None:
    dataset = Dataset(prepared)
    with pytest.raises(UsageError, match="none of 1 cases"):
        load_slices(dataset, dataset.records[1:2], SPEC)
    with pytest.raises(UsageError, match="split is empty"):
        load_slices(dataset, [], SPEC)


def test_densities_that_are_no_numbers_are_refused(case: Case) -> None:
    hu = case.hu.copy()
    hu[40, 100, 100] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        case_slices(replace(case, hu=hu), SPEC)


def test_a_case_without_brain_is_refused(case: Case) -> None:
    with pytest.raises(UsageError, match="no slice with brain"):
        case_slices(replace(case, brain=np.zeros_like(case.brain)), SPEC)
