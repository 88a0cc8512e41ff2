from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.head.canonical import Head
from strokecore.result import AspectsScore, RegionFinding
from strokecore.scoring.aspects import (
    affected_side,
    find_regions,
    longest_run,
    minimum_extent_mm,
    score_hemispheres,
    score_range,
    score_side,
    spans_enough,
)
from strokecore.scoring.engine import Lesion, RegionEvidence
from tests.unit.scoring.heads import SHAPE, flat_head, region_slices

RIGHT_I = RegionId("I", "right")


def lesion_in(
    regions: tuple[RegionId, ...], planes: int | None = None, old: tuple[RegionId, ...] = ()
) -> Lesion:
    acute, cavity = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    for region in regions:
        z, y, x = region_slices(region)
        acute[slice(z.start, z.start + (planes or 99)), y, x] = True
    for region in old:
        cavity[region_slices(region)] = True
    evidence = {r: RegionEvidence(0.9 if r in regions else 0.1, 33.0, 0.0) for r in ALL_REGIONS}
    return Lesion(acute.astype(np.float32), acute & ~cavity, cavity, evidence)


def counted(score: AspectsScore) -> tuple[int | None, int]:
    return score.score, score.assessed


def finding(findings: tuple[RegionFinding, ...], region: RegionId) -> RegionFinding:
    return next(f for f in findings if (f.name, f.side) == region)


@pytest.fixture(scope="module")
def head() -> Head:
    return flat_head()


def test_normal_head_scores_ten_on_both_sides(head: Head) -> None:
    findings = find_regions(head, lesion_in(()))
    assert [(f.name, f.side) for f in findings] == [tuple(r) for r in ALL_REGIONS]
    scores = score_hemispheres(findings)
    assert {side: (s.score, s.assessed) for side, s in scores.items()} == {
        "left": (10, 10),
        "right": (10, 10),
    }


def test_each_region_deducts_one_point_on_its_own_side_only(head: Head) -> None:
    for region in ALL_REGIONS:
        scores = score_hemispheres(find_regions(head, lesion_in((region,))))
        assert scores[region.side].score == 9
        assert scores[region.mirror.side].score == 10


def test_all_ten_regions_give_zero(head: Head) -> None:
    everything = tuple(RegionId(n, "left") for n in REGION_NAMES)
    found = score_hemispheres(find_regions(head, lesion_in(everything)))["left"]
    assert (found.score, found.assessed) == (0, 10)


def test_finding_on_a_single_slice_is_shown_and_not_counted(head: Head) -> None:
    findings = find_regions(head, lesion_in((RIGHT_I,), planes=2))
    found = finding(findings, RIGHT_I)
    assert (found.affected, found.assessable, found.reason) == (False, True, "single_slice")
    assert found.probability == 0.9
    assert found.borderline
    assert score_side(findings, "right").score == 10


def test_a_dark_region_without_an_outlined_lesion_is_not_counted(head: Head) -> None:
    lesion = lesion_in((RIGHT_I,))
    findings = find_regions(head, replace(lesion, acute=np.zeros(SHAPE, bool)))
    found = finding(findings, RIGHT_I)
    assert (found.affected, found.assessable, found.reason) == (False, True, "not_outlined")
    assert found.borderline
    assert score_side(findings, "right").score == 10


def test_a_clear_difference_is_never_simply_normal(head: Head) -> None:
    lesion = lesion_in(())
    evidence = {**lesion.evidence, RIGHT_I: RegionEvidence(0.1, 28.0, -7.4)}
    found = finding(find_regions(head, replace(lesion, evidence=evidence)), RIGHT_I)
    assert (found.affected, found.borderline) == (False, True)
    assert not finding(find_regions(head, lesion), RIGHT_I).borderline


def test_the_decision_point_is_the_sites_own_where_it_has_one_and_else_the_engines(head: Head) -> None:
    lesion = lesion_in((RIGHT_I,))  # 0.9
    assert not finding(find_regions(head, lesion, 0.95), RIGHT_I).affected
    assert not finding(find_regions(head, replace(lesion, threshold=0.95)), RIGHT_I).affected
    assert finding(find_regions(head, replace(lesion, threshold=0.95), 0.3), RIGHT_I).affected


@pytest.mark.parametrize(
    ("score", "probabilities", "expected"),
    [
        (10, [0.0] * 10, (10, 10)),
        (7, [1.0] * 3 + [0.0] * 7, (7, 7)),
        (7, [0.9] * 3 + [0.04] * 7, (6, 8)),
        (9, [0.5, *[0.0] * 9], (9, 10)),
        (10, [0.04, *[0.0] * 9], (10, 10)),  # a tail of one in twenty-five is left out
        (10, [0.3] * 10, (5, 10)),  # the score itself is always in its range
        (6, [1.0] * 2 + [0.0] * 6, (6, 8)),
    ],
)
def test_the_range_holds_nine_in_ten_of_the_possible_scores_and_the_score(
    score: int, probabilities: list[float], expected: tuple[int, int]
) -> None:
    assert score_range(score, probabilities) == expected


def test_an_unknown_probability_leaves_the_range_unknown() -> None:
    assert score_range(9, [0.5, None]) is None


@pytest.mark.parametrize(
    ("thickness", "planes", "counted"),
    [(4, 4, True), (4, 3, True), (4, 2, False), (1, 3, True), (7, 3, False), (7, 6, True)],
)
def test_two_adjacent_slices_are_needed_whatever_the_thickness(
    head: Head, thickness: float, planes: int, counted: bool
) -> None:
    thick = replace(head, slice_thickness_mm=thickness)
    assert finding(find_regions(thick, lesion_in((RIGHT_I,), planes)), RIGHT_I).affected is counted


def test_minimum_extent_grows_with_thick_slices() -> None:
    assert minimum_extent_mm(1.0) == 8.0
    assert minimum_extent_mm(5.0) == 8.0
    assert minimum_extent_mm(8.0) == 12.0


def test_the_longest_uninterrupted_run_of_planes_counts() -> None:
    shown = np.zeros((10, 2), bool)
    shown[[0, 1, 4, 5, 6], 0] = True
    assert longest_run(shown).tolist() == [3, 0]
    assert spans_enough(np.array([2, 3]), 2.5, slice_spacing_mm=5.0).tolist() == [False, True]


def test_old_infarct_is_not_counted_and_a_mostly_old_region_is_not_assessed(head: Head) -> None:
    findings = find_regions(head, lesion_in((RIGHT_I,), old=(RIGHT_I,)))
    found = finding(findings, RIGHT_I)
    assert (found.affected, found.assessable, found.reason) == (False, False, "old_infarct")
    assert found.probability is None
    assert counted(score_side(findings, "right")) == (10, 9)


@pytest.mark.parametrize(("old_columns", "reason"), [(10, "old_infarct"), (0, None)])
def test_csf_beside_an_old_cavity_is_part_of_it(head: Head, old_columns: int, reason: str | None) -> None:
    # a third of the region is the cavity's core and another third CSF-like; sulci alone are no old infarct
    z, y, x = region_slices(RIGHT_I)
    csf = np.zeros(SHAPE, bool)
    csf[z, y, x.start : x.start + 20] = True
    lesion = lesion_in((RIGHT_I,))
    lesion.old[z, y, x.start : x.start + old_columns] = True
    findings = find_regions(replace(head, brain=replace(head.brain, csf=csf)), lesion)
    found = finding(findings, RIGHT_I)
    assert (found.affected, found.reason) == (reason is None, reason)


def test_region_outside_the_scan_is_not_assessed(head: Head) -> None:
    covered = head.covered.copy()
    covered[30:] = False  # the upper 43 % of every supraganglionic region
    findings = find_regions(replace(head, covered=covered), lesion_in((RegionId("M4", "left"),)))
    assert finding(findings, RegionId("M4", "left")).reason == "not_covered"
    assert counted(score_side(findings, "left")) == (None, 7)


def test_eight_assessed_regions_still_score(head: Head) -> None:
    old = (RegionId("M1", "left"), RegionId("M2", "left"))
    findings = find_regions(head, lesion_in((RegionId("I", "left"),), old=old))
    assert counted(score_side(findings, "left")) == (9, 8)
    assert str(score_side(findings, "left")) == "9 (7-9; 8 of 10 assessed)"


@pytest.mark.parametrize(
    ("left", "right", "side"),
    [(10, 10, None), (7, 10, "left"), (10, 0, "right"), (6, 6, "bilateral"), (4, 6, "left"),
     (None, 10, None), (7, None, None)],
)  # fmt: skip
def test_affected_side(left: int | None, right: int | None, side: str | None) -> None:
    assert affected_side({"left": AspectsScore(left, 10), "right": AspectsScore(right, 10)}) == side
