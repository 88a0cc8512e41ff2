from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.head.canonical import Head
from strokecore.result import RegionFinding
from strokecore.scoring.quality import blood_flags, scan_flags
from tests.unit.scoring.heads import SHAPE, flat_head, region_slices


@pytest.fixture(scope="module")
def head() -> Head:
    return flat_head()


def with_blood(head: Head, *boxes: tuple[slice, slice, slice]) -> Head:
    blood = np.zeros(SHAPE, bool)
    for box in boxes:
        blood[box] = True
    return replace(head, brain=replace(head.brain, blood_like=blood, blood_ml=12.3))


def test_a_clean_head_has_no_flags(head: Head) -> None:
    assert scan_flags(head, ()) == ()
    assert blood_flags(head) == ()


def test_noise_is_flagged_where_small_regions_drown(head: Head) -> None:
    # on the canonical grid: a bone kernel, and 14 HU in 5 mm slices
    flags = {n: scan_flags(replace(head, brain=replace(head.brain, noise_hu=n)), ()) for n in (4.0, 7.9)}
    assert [[f.code for f in found] for found in flags.values()] == [[], ["noisy"]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_blood_is_named_by_side_region_and_volume(head: Head, side: str) -> None:
    (flag,) = blood_flags(with_blood(head, region_slices(RegionId("L", side))))  # type: ignore[arg-type]
    assert flag.code == "suspected_haemorrhage"
    assert "12.3 ml" in flag.message
    assert f"{side}, most of it in {side} L" in flag.message


def test_blood_on_both_sides_is_said(head: Head) -> None:
    boxes = [region_slices(RegionId("M2", side)) for side in ("left", "right")]  # type: ignore[arg-type]
    (flag,) = blood_flags(with_blood(head, *boxes))
    assert "on both sides" in flag.message


def test_blood_outside_the_regions_is_said(head: Head) -> None:
    (flag,) = blood_flags(with_blood(head, (slice(6, 20), slice(0, 5), slice(70, 90))))
    assert "left, outside the ASPECTS regions" in flag.message


def test_noise_and_metal_are_warned_of(head: Head) -> None:
    hu = head.hu.copy()
    hu[10, 10:30, 10:30] = 3000.0
    loud = replace(head, hu=hu, brain=replace(head.brain, noise_hu=12.0))
    assert [f.code for f in scan_flags(loud, ())] == ["noisy", "metal"]


def test_regions_that_were_not_judged_are_named(head: Head) -> None:
    row = RegionFinding("I", "left", False, None, 0.0, 0.0, None, None, False, "not_covered")
    (flag,) = scan_flags(head, (row, replace(row, name="M2")))
    assert flag.code == "not_covered"
    assert "left I, left M2" in flag.message


def test_a_scan_that_begins_at_the_regions_is_warned_of(head: Head) -> None:
    covered = head.covered.copy()
    covered[:4] = False
    assert [f.code for f in scan_flags(replace(head, covered=covered), ())] == ["base_not_scanned"]
