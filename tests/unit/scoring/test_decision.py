from __future__ import annotations

from dataclasses import replace

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.scoring.decision import GROUPS, load_decision
from strokecore.scoring.evidence import Evidence
from tests.unit.scoring.heads import plain_decision

REGION = RegionId("M2", "left")


def even(difference: float, level: float, error: float = 0.0) -> Evidence:
    return Evidence(difference, difference, level, error)


def test_darker_is_likelier_in_every_measurement_and_noise_decides_less() -> None:
    decision = plain_decision()
    base = decision.judge(REGION, [even(-2.0, -2.0)]).probability
    assert decision.judge(REGION, [even(-3.0, -2.0)]).probability > base
    assert decision.judge(REGION, [even(-2.0, -3.0)]).probability > base
    certain = decision.judge(REGION, [even(-6.0, -6.0)]).probability
    assert certain > decision.judge(REGION, [even(-6.0, -6.0, error=3.0)]).probability


def test_even_odds_are_where_the_constants_put_them() -> None:
    assert plain_decision().judge(REGION, [even(-2.5, -2.5)]).probability == pytest.approx(0.5)


def test_without_a_mirror_only_the_level_speaks() -> None:
    decision = plain_decision()
    alone = Evidence(None, None, -3.0, 0.0)
    assert decision.judge(REGION, [alone]).probability == pytest.approx(0.5)


def test_a_call_is_borderline_when_the_opinions_do_not_agree() -> None:
    decision = plain_decision()
    dark, light = even(-4.0, -4.0), even(-1.0, -1.0)
    assert decision.judge(REGION, [dark, light]).borderline
    assert not decision.judge(REGION, [dark, dark]).borderline
    assert not decision.judge(REGION, [light, light]).borderline
    assert not replace(decision, threshold=0.001).judge(REGION, [dark, light]).borderline


def test_the_shipped_constants_hold_every_region_and_are_darker_is_likelier() -> None:
    decision = load_decision()
    assert set(decision.normal) == set(REGION_NAMES)
    assert set(decision.weights) == set(decision.alone) == set(GROUPS.values())
    assert 0 < decision.threshold < 1
    for weights in (*decision.weights.values(), *decision.alone.values()):
        assert min(weights.difference, weights.local, weights.level) >= 0
    for region in ALL_REGIONS:
        healthy = even(0.0, decision.normal[region.name].level_mean)
        ill = even(-8.0, decision.normal[region.name].level_mean - 8.0)
        assert decision.judge(region, [healthy]).probability < decision.threshold
        assert decision.judge(region, [ill]).probability > decision.threshold
