from __future__ import annotations

from dataclasses import replace

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.scoring.decision import (
    GROUPS,
    SCATTER_LIMITS,
    Company,
    Decision,
    Judgement,
    Scatter,
    load_decision,
)
from strokecore.scoring.evidence import Evidence
from strokecore.scoring.tissue import QUANTILES
from tests.unit.scoring.heads import plain_decision

COUNT = len(QUANTILES)
REGION = RegionId("M2", "left")


def even(difference: float, level: float, error: float = 0.0) -> Evidence:
    """The same at every quantile."""
    return Evidence((difference,) * COUNT, (level,) * COUNT, error)


def judged(opinions: list[Evidence], decision: Decision | None = None) -> Judgement:
    return (decision or plain_decision()).judge({REGION: opinions})[REGION]


def test_darker_is_likelier_in_every_measurement_and_noise_decides_less() -> None:
    base = judged([even(-2.0, -2.0)]).probability
    assert judged([even(-3.0, -2.0)]).probability > base
    assert judged([even(-2.0, -3.0)]).probability > base
    certain = judged([even(-6.0, -6.0)]).probability
    assert certain > judged([even(-6.0, -6.0, error=3.0)]).probability


def test_even_odds_are_where_the_constants_put_them() -> None:
    assert judged([even(-2.5, -2.5)]).probability == pytest.approx(0.5)


def test_without_a_mirror_only_the_level_speaks() -> None:
    assert judged([Evidence(None, (-2.5,) * COUNT, 0.0)]).probability == pytest.approx(0.5)


def test_a_mirror_brighter_than_healthy_tissue_counts_only_up_to_there() -> None:
    """Blood or calcium of 10 HU above the rest on the other side; this side is as dense as ever."""
    assert judged([even(-10.0, 0.0)]).probability < 0.1
    assert judged([even(-10.0, -10.0)]).probability > 0.9


def test_a_call_is_borderline_when_the_opinions_do_not_agree() -> None:
    dark, light = even(-4.0, -4.0), even(-1.0, -1.0)
    assert judged([dark, light]).borderline
    assert not judged([dark, dark]).borderline
    assert not judged([light, light]).borderline
    assert not judged([dark, light], replace(plain_decision(), threshold=0.0001)).borderline


@pytest.mark.parametrize(
    ("dissenters", "borderline"), [(0, False), (1, False), (2, True), (6, True), (7, False)]
)
def test_one_drawing_of_eight_that_disagrees_is_no_doubt_and_two_are(
    dissenters: int, borderline: bool
) -> None:
    dark, light = even(-4.0, -4.0), even(-1.0, -1.0)
    assert judged([light] * dissenters + [dark] * (8 - dissenters)).borderline is borderline


def test_dark_neighbours_of_the_same_side_make_a_region_likelier_and_of_the_other_side_less() -> None:
    decision = replace(
        plain_decision(), company=dict.fromkeys(GROUPS.values(), Company(0.0, 1.0, 0.5, 0.5, -0.5))
    )
    middling, dark = [even(-2.5, -2.5)], [even(-4.0, -4.0)]
    alone = decision.judge({REGION: middling})[REGION].probability
    for region, likelier in ((RegionId("M3", "left"), True), (RegionId("M3", "right"), False)):
        found = decision.judge({REGION: middling, region: dark})[REGION].probability
        assert (found > alone) is likelier


def test_the_shipped_constants_hold_every_region_and_are_darker_is_likelier() -> None:
    decision = load_decision()
    assert set(decision.normal) == set(REGION_NAMES)
    assert set(decision.weights) == set(decision.alone) == set(GROUPS.values())
    assert 0 < decision.threshold < 1
    healthy = {r: [Evidence((0.0,) * COUNT, decision.normal[r.name].levels_mean, 0.3)] for r in ALL_REGIONS}
    assert all(found.probability < decision.threshold for found in decision.judge(healthy).values())
    for region in ALL_REGIONS:
        # grey matter loses all, what is white or fluid in the region half and less
        levels = [m - d for m, d in zip(decision.normal[region.name].levels_mean, (8, 7, 4), strict=True)]
        ill = [Evidence((-8.0, -7.0, -4.0), tuple(levels), 0.3)]
        found = decision.judge({**healthy, region: ill})
        assert found[region].probability >= decision.threshold
        # a dark neighbour is a hint, and no more
        assert all(f.probability < found[region].probability for r, f in found.items() if r != region)


def test_the_same_difference_says_less_in_a_head_whose_sides_scatter_more() -> None:
    decision = replace(plain_decision(), scatter=Scatter(1.5, 1.0, 0.5))
    quiet, usual, unknown, loud = (
        judged([replace(even(-4.0, -3.0), scatter_hu=scatter)], decision).probability
        for scatter in (1.0, 1.5, None, 2.5)
    )
    assert quiet > usual > loud
    assert unknown == usual


def test_scatter_beyond_what_was_seen_counts_no_more() -> None:
    scatter = Scatter(1.5, 1.0, 0.5)
    low, high = SCATTER_LIMITS
    assert scatter.of_head(100.0) == (high, pytest.approx(high**0.5))
    assert scatter.of_head(0.01) == (low, pytest.approx(low**0.5))
