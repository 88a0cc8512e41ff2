"""The detection limit, on cases whose rankings are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.evaluate.detection import detection
from strokecore.evaluate.outcomes import Outcome
from tests.unit.evaluate.cases import said, truth_of

DRAWS = 60
CHANCE = (0.0,) * 20


def differences(**regions: float) -> tuple[float, ...]:
    """Of the left side, HU; 0 elsewhere."""
    return tuple(regions.get(r.name, 0.0) if r.side == "left" else 0.0 for r in ALL_REGIONS)


def case(
    name: str,
    true: str,
    found: str,
    *,
    depth: float | None = None,
    observer: tuple[float, ...] = CHANCE,
    mirror: tuple[float | None, ...] = CHANCE,
    unjudged: frozenset[RegionId] = frozenset(),
    probability: dict[RegionId, float] | None = None,
) -> Outcome:
    truth = truth_of(true, delta_hu=depth, observer_hu=observer, unjudged=unjudged)
    return replace(said(name, true, found, probability=probability), truth=truth, difference_hu=mirror)


def of(found: dict[str, Any], depth: str, group: str = "all") -> dict[str, Any]:
    return found[depth]["regions"][group]


def test_node_observer_and_mirror_rank_the_same_regions() -> None:
    # one region affected: the observer sees it (AUC 1), the mirror difference has two of 39 others darker,
    # and the node has all at 0.1 (AUC 0.5)
    sick = case(
        "a", "left:M1", "", depth=3.0, observer=differences(M1=-3), mirror=differences(M1=-1, M2=-2, C=-2)
    )
    found = of(detection([sick, case("b", "", "")], DRAWS), "3")
    assert (found["affected"], found["normal"]) == (1, 39)
    assert found["observer"]["value"] == 1.0
    assert found["mirror"]["value"] == pytest.approx(37 / 39)
    assert found["auc"]["value"] == 0.5
    assert found["of_observer"]["value"] == 0.0


def test_the_share_of_the_observer_s() -> None:
    # node: M1 above 29 of 39, equal to none; observer: above all
    higher = {r: 0.5 for r in ALL_REGIONS if r.side == "right"}
    sick = case(
        "a",
        "left:M1",
        "",
        depth=5.0,
        observer=differences(M1=-4),
        probability={RegionId("M1", "left"): 0.4, **higher},
    )
    found = of(detection([sick, case("b", "", "")], DRAWS), "5")
    assert found["auc"]["value"] == pytest.approx(29 / 39)
    assert found["of_observer"]["value"] == pytest.approx((29 / 39 - 0.5) / 0.5)


def test_depths_are_apart_and_clear_infarcts_together() -> None:
    cases = [case(f"{d}", "left:M1", "left:M1" if d > 2 else "", depth=d) for d in (2.0, 5.0, 8.0)]
    found = detection([*cases, case("n", "", "")], DRAWS)
    assert list(found) == ["2", "5", "8", "clear"]
    assert [found[d]["infarcts"] for d in found] == [1, 1, 1, 2]
    assert [found[d]["clean"] for d in found] == [1, 1, 1, 1]
    assert of(found, "2")["sensitivity"]["value"] == 0.0
    assert of(found, "clear")["sensitivity"]["value"] == 1.0
    assert of(found, "clear")["specificity"]["value"] == 1.0


def test_groups_hold_their_own_regions() -> None:
    found = detection([case("a", "left:C,M1,M5", "left:C,M1", depth=5.0), case("n", "", "")], DRAWS)
    assert {group: of(found, "5", group)["affected"] for group in found["5"]["regions"]} == {
        "all": 3,
        "C": 1,
        "L": 0,
        "IC": 0,
        "I": 0,
        "M": 2,
    }
    assert of(found, "5", "C")["sensitivity"]["value"] == 1.0
    assert of(found, "5", "M")["sensitivity"]["value"] == 0.5
    assert of(found, "5", "L")["auc"]["value"] is None


def test_a_region_that_is_not_judged_is_left_out_whatever_is_said_of_it() -> None:
    doubtful = frozenset({RegionId("M2", "left")})
    quiet, loud = (
        case("a", "left:M1", f"left:M1{more}", depth=5.0, unjudged=doubtful) for more in ("", ",M2")
    )
    normal = case("n", "", "")
    first, second = (of(detection([c, normal], DRAWS), "5") for c in (quiet, loud))
    assert first == second
    assert first["normal"] == 38
    assert first["auc"]["value"] == 1.0


def test_a_case_without_an_observer_is_left_out_of_his_ranking() -> None:
    sick = case("a", "left:M1", "", depth=5.0, observer=differences(M1=-4))
    lost = case("lost", "left:C", "", depth=5.0, observer=())
    found = of(detection([sick, lost, case("n", "", "")], DRAWS), "5")
    assert found["affected"] == 2
    assert found["observer"]["value"] == 1.0


def test_without_an_observer_there_is_no_share_of_his() -> None:
    found = of(detection([case("a", "left:M1", "", depth=5.0, observer=()), case("n", "", "")], DRAWS), "5")
    assert "observer" not in found
    assert "of_observer" not in found


def test_a_region_that_was_not_measured_is_neither_dark_nor_bright() -> None:
    unmeasured = tuple(None if r == RegionId("M1", "left") else 0.0 for r in ALL_REGIONS)
    found = of(
        detection([case("a", "left:M1", "", depth=5.0, mirror=unmeasured), case("n", "", "")], DRAWS), "5"
    )
    assert found["mirror"]["value"] == 0.5


def test_the_side_counts_from_two_regions_on() -> None:
    cases = [
        case("one", "left:M1", "right:M1", depth=5.0),
        case("right", "left:M1,M2", "left:M1", depth=5.0),
        case("wrong", "left:M1,M2", "right:M1", depth=5.0),
    ]
    assert detection(cases, DRAWS)["clear"]["side_correct"]["value"] == 0.5


def test_cases_of_unknown_depth_have_no_detection_limit() -> None:
    assert detection([said("a", "left:M1", "left:M1"), said("b", "", "")], DRAWS) == {}
