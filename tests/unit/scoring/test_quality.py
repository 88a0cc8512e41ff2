from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.head.blood import Haemorrhage
from strokecore.head.canonical import Head
from strokecore.result import AspectsScore, RegionFinding
from strokecore.scoring.quality import blood_flags, haemorrhage_info, scan_flags, unconfirmed_flags
from tests.unit.scoring.heads import SHAPE, flat_head, region_slices


@pytest.fixture(scope="module")
def head() -> Head:
    return flat_head()


def with_blood(
    head: Head, box: tuple[slice, slice, slice], side: str, place: str = "parenchymal", certain: bool = True
) -> Head:
    blood = np.zeros(SHAPE, bool)
    blood[box] = True
    return replace(head, haemorrhage=Haemorrhage(blood, 12.3, place, side, certain))  # type: ignore[arg-type]


def test_a_clean_head_has_no_flags(head: Head) -> None:
    assert scan_flags(head, ()) == ()
    assert blood_flags(head) == ()
    assert haemorrhage_info(head) is None


def test_noise_is_flagged_where_small_regions_drown(head: Head) -> None:
    # on the canonical grid: a bone kernel, and 14 HU in 5 mm slices
    flags = {n: scan_flags(replace(head, brain=replace(head.brain, noise_hu=n)), ()) for n in (4.0, 7.9)}
    assert [[f.code for f in found] for found in flags.values()] == [[], ["noisy"]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_blood_is_named_by_kind_side_region_and_volume(head: Head, side: str) -> None:
    bleeding = with_blood(head, region_slices(RegionId("L", side)), side)  # type: ignore[arg-type]
    found = haemorrhage_info(bleeding)
    assert found is not None
    place = f"parenchymal, {side}, most of it in {side} L"
    assert (found.side, found.ml, found.place) == (side, 12.3, place)
    (flag,) = blood_flags(bleeding)
    assert flag.code == "suspected_haemorrhage"
    assert flag.message == f"12.3 ml of blood-like density, {place}."


def test_blood_outside_the_regions_is_named_by_kind_and_side(head: Head) -> None:
    outside = slice(6, 20), slice(0, 5), slice(30, 90)
    (flag,) = blood_flags(with_blood(head, outside, "both", "subdural"))
    assert "subdural, on both sides." in flag.message


def test_possible_blood_is_warned_of_and_is_no_finding(head: Head) -> None:
    doubtful = with_blood(head, region_slices(RegionId("L", "left")), "left", certain=False)
    (flag,) = blood_flags(doubtful)
    assert (flag.code, flag.severity) == ("possible_haemorrhage", "warning")
    assert "12.3 ml" in flag.message
    assert haemorrhage_info(doubtful) is None


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


def test_borderline_regions_are_named(head: Head) -> None:
    row = RegionFinding("M2", "left", True, 0.6, 0.2, 1.0, 30.0, -2.0, True, borderline=True)
    (flag,) = scan_flags(head, (row, replace(row, name="I", affected=False), replace(row, borderline=False)))
    assert (flag.code, flag.severity) == ("borderline", "warning")
    assert f"{flag.message} {flag.remedy}" == "Borderline: left M2, left I. Look at these yourself."


def test_a_borderline_region_with_a_reason_is_named_once(head: Head) -> None:
    row = RegionFinding("IC", "left", False, 0.5, 0.0, 0.0, 30.0, 0.6, True, "not_outlined", borderline=True)
    (flag,) = scan_flags(head, (row,))
    assert flag.code == "not_outlined"
    assert flag.message.startswith("Borderline, ")
    assert "left IC" in flag.message
    assert "other side" not in flag.message  # it may be brighter than that


@pytest.mark.parametrize(
    ("scores", "volumes_ml", "named"),
    [
        ((10, 9), (0.8, 20.0), "left 0.8 ml"),
        ((9, 10), (0.8, 20.0), "right 20.0 ml"),
        ((10, 10), (0.8, 20.0), "left 0.8 ml, right 20.0 ml"),
        ((10, 9), (0.0, 20.0), None),
        ((None, None), (9.0, 9.0), None),
    ],
)
def test_hypodensity_that_is_marked_but_not_counted_is_said(
    scores: tuple[int | None, int | None], volumes_ml: tuple[float, float], named: str | None
) -> None:
    """By that name: what no region counts is not said to be an infarct, in result.json either."""
    aspects = {"left": AspectsScore(scores[0], 10), "right": AspectsScore(scores[1], 10)}
    flags = unconfirmed_flags(aspects, {"left": volumes_ml[0], "right": volumes_ml[1]})
    assert [(flag.code, flag.severity) for flag in flags] == [("unconfirmed_infarct", "warning")] * bool(
        named
    )
    for flag in flags:
        assert flag.message.startswith("Hypodensity is marked ")
        assert flag.message.endswith(f": {named}.")
        assert "infarct" not in (flag.message + flag.remedy).lower()


def test_a_scan_that_begins_at_the_regions_is_warned_of(head: Head) -> None:
    covered = head.covered.copy()
    covered[:4] = False
    assert [f.code for f in scan_flags(replace(head, covered=covered), ())] == ["base_not_scanned"]


def test_cupping_is_said_where_the_field_is_high_under_the_skull() -> None:
    head = flat_head()
    assert "cupping" not in {flag.code for flag in scan_flags(head, ())}
    field = np.zeros_like(head.hu)
    field[:, :12] = 15.0
    (flag,) = (f for f in scan_flags(replace(head, field=field), ()) if f.code == "cupping")
    assert "15 HU" in flag.message
