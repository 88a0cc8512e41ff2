"""A series and its truth in the canonical frame: places, sides, numbers."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.errors import Refusal
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import level_plane_mm
from tests.unit.reports import output_cases
from tests.unit.trainer.prepare import miniature_aisd as mini
from trainer.data.canonical import affected_regions, canonical_case
from trainer.data.cases import ARRAYS

MIDDLE = CANONICAL_GRID.shape[2] // 2


@pytest.fixture(scope="module")
def case():
    return mini.dicom_case()


def test_arrays_lie_on_the_canonical_grid(case):
    for name, kind in ARRAYS.items():
        assert getattr(case, name).shape == CANONICAL_GRID.shape
        assert getattr(case, name).dtype == kind
    assert case.hu[~case.inside & (case.hu > -1024)].max() > 500  # bone
    assert 25 < case.hu[case.brain].astype(float).mean() < 40


def test_infarct_keeps_its_place_side_and_volume(case):
    assert case.lesion[:, :, :MIDDLE].sum() > 0.99 * case.lesion.sum()  # x < 0 is the patient's right
    source_ml = float(mini.head().infarct.sum()) * 1.8**2 * 5 / 1000
    assert case.record.lesion_ml == pytest.approx(source_ml, rel=0.05)
    assert case.record.lesion_ml == pytest.approx(case.lesion.sum() * 0.002, rel=0.001)
    dark = case.lesion & case.brain
    mirrored = dark[:, :, ::-1] & case.brain
    assert case.hu[dark].astype(float).mean() < case.hu[mirrored].astype(float).mean() - 4


def test_record_says_what_the_arrays_hold(case):
    asked = {f"{region.side}:{region.name}" for region in mini.SPEC.affected}
    assert asked <= set(case.record.affected)
    assert all(name.startswith("right:") for name in case.record.affected)
    assert case.record.labels == "territory"
    assert case.record.slice_thickness_mm == 5.0
    assert case.record.level_plane_mm == pytest.approx(
        level_plane_mm(case.regions, CANONICAL_GRID), abs=0.001
    )


def test_the_nodes_regions_and_the_truths_agree_on_the_side(case):
    """The truth's own regions, and the atlas as the node places it, name the same side everywhere."""
    known = (case.territory > 0) & (case.regions > 0)
    assert known.sum() > 10_000
    assert ((case.territory[known] > 10) == (case.regions[known] > 10)).mean() > 0.999
    for region in ALL_REGIONS:
        x = np.nonzero(case.territory == region.label)[2]
        assert (x.mean() < MIDDLE) == (region.side == "right"), region


def test_affected_takes_a_tenth_of_a_region():
    regions = np.zeros((1, 10, 20), np.uint8)
    regions[0, :, :10], regions[0, :, 10:] = 5, 15  # M1 left and right
    lesion = np.zeros(regions.shape, bool)
    lesion[0, 0, :9] = True  # 9 of 100
    assert affected_regions(lesion, regions) == ()
    lesion[0, 0, :10] = True
    assert affected_regions(lesion, regions) == ("left:M1",)
    lesion[0, 0, 10:] = True
    assert affected_regions(lesion, regions) == ("left:M1", "right:M1")


def test_what_the_node_refuses_is_refused():
    series = output_cases.small_series()
    series.hu[:] = -1000.0
    nothing = np.zeros(series.hu.shape, bool)
    with pytest.raises(Refusal):
        canonical_case(series, nothing, None, case_id="air", split="train")
