"""The network's and the weight-free engine's opinion as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.errors import ModelPackageError
from strokecore.learned.combination import (
    Combination,
    VoxelWeights,
    combined,
    log_odds,
    region_opinions,
    voxel_opinions,
)
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import Calibration, load_package
from strokecore.scoring.asymmetry import LOGIT_LIMIT, AsymmetryEngine
from strokecore.scoring.engine import UNKNOWN, Lesion, RegionEvidence
from tests.unit.learned.package_cases import write_package
from tests.unit.scoring.heads import darken, flat_head

LEARNED_ALONE = {"learned": 1.0, "asymmetry": 0.0, "offset": 0.0}
OTHER_ALONE = {"learned": 0.0, "asymmetry": 1.0, "offset": 0.0}
RIGHT_M1 = RegionId("M1", "right")


def engine_of(folder: Path) -> LearnedEngine:
    package = load_package(folder)
    return LearnedEngine(package, OnnxRuntime(package))


def joined(inside: dict[str, float], outside: dict[str, float]) -> dict[str, object]:
    return {"asymmetry_sha256": AsymmetryEngine().sha256, "inside": inside, "outside": outside}


def curves(slope: float, asymmetry: float, offset: float = 0.0) -> dict[str, object]:
    one = {"slope": slope, "asymmetry": asymmetry, "offset": offset}
    return {"aggregation": "logit_of_mean", "calibration": dict.fromkeys(REGION_NAMES, one)}


@given(st.floats(0.0, 1.0, width=32))
def test_log_odds_are_finite_and_bounded(p: float) -> None:
    found = float(log_odds(np.float32(p)))
    assert abs(found) <= LOGIT_LIMIT + 1e-3
    if 0.001 < p < 0.999:
        assert 1 / (1 + np.exp(-found)) == pytest.approx(p, abs=1e-5)


def test_where_the_weight_free_engine_is_silent_the_network_speaks_for_it() -> None:
    mine, other = voxel_opinions(np.array([0.9, 0.9], np.float32), np.array([0.0, 0.2], np.float32))
    assert other[0] == mine[0]
    assert other[1] == pytest.approx(np.log(0.2 / 0.8), abs=1e-5)


def test_the_weights_of_a_voxel_are_those_of_its_place() -> None:
    learned, weight_free = np.full(2, 0.8, np.float32), np.full(2, 0.3, np.float32)
    weights = Combination("", VoxelWeights(**LEARNED_ALONE), VoxelWeights(**OTHER_ALONE))
    found = combined(learned, weight_free, np.array([7, 0], np.uint8), {}, weights)
    assert found == pytest.approx([0.8, 0.3], abs=1e-5)


def test_what_is_known_of_a_region_moves_its_voxels_and_no_others() -> None:
    weights = Combination("", VoxelWeights(0.0, 0.0, 0.0, region=0.5), VoxelWeights(0.0, 0.0, 0.0))
    first, second = ALL_REGIONS[:2]
    regions = np.array([first.label, second.label, 0], np.uint8)
    found = combined(np.full(3, 0.5, np.float32), np.full(3, 0.5, np.float32), regions, {first: 4.0}, weights)
    assert found == pytest.approx([1 / (1 + np.exp(-2.0)), 0.5, 0.5], abs=1e-5)


def test_in_an_affected_region_the_weight_free_outline_stands() -> None:
    weights = Combination("", VoxelWeights(**LEARNED_ALONE), VoxelWeights(**LEARNED_ALONE))
    first, second = ALL_REGIONS[:2]
    regions = np.array([first.label, first.label, second.label, 0], np.uint8)
    learned, weight_free = np.float32([0.1, 0.8, 0.1, 0.1]), np.float32([0.9, 0.2, 0.9, 0.9])
    found = combined(learned, weight_free, regions, {first: 0.5, second: -0.5}, weights)
    assert found == pytest.approx([0.9, 0.8, 0.1, 0.1], abs=1e-5)


def test_a_region_that_was_not_judged_has_no_opinion() -> None:
    nothing = np.zeros((1, 1, 1))
    evidence = {ALL_REGIONS[0]: UNKNOWN, ALL_REGIONS[1]: RegionEvidence(0.5, None, None)}
    found = region_opinions(Lesion(nothing, nothing > 0, nothing > 0, evidence))
    assert found == {ALL_REGIONS[1]: pytest.approx(0.0, abs=1e-6)}


def test_a_calibration_weighs_both_opinions() -> None:
    curve = Calibration(slope=2.0, offset=-1.0, asymmetry=0.5)
    assert curve.probability(1.0, 4.0) == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert Calibration(2.0, -1.0).probability(1.0, 4.0) == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_with_all_weight_on_one_opinion_the_answer_is_that_one(tmp_path: Path) -> None:
    head = darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0)
    alone = engine_of(write_package(tmp_path / "alone")).segment(head)
    learned = write_package(
        tmp_path / "learned", combination=joined(LEARNED_ALONE, LEARNED_ALONE), regions=curves(1.0, 0.0, 0.5)
    )
    same = engine_of(learned).segment(head)
    # log-odds beyond the limit are cut off
    called = [r.label for r, e in alone.evidence.items() if (e.probability or 0.0) > 0.5]
    elsewhere = ~np.isin(head.regions, called)
    assert called == [RIGHT_M1.label]
    assert same.probability[elsewhere] == pytest.approx(alone.probability[elsewhere], abs=4e-4)
    assert (same.probability >= alone.probability - 4e-4).all()
    for region in ALL_REGIONS:
        assert same.evidence[region].probability == alone.evidence[region].probability

    other = write_package(
        tmp_path / "other", combination=joined(OTHER_ALONE, OTHER_ALONE), regions=curves(1e-9, 1.0)
    )
    found, weight_free = engine_of(other).segment(head), AsymmetryEngine().segment(head)
    for region in ALL_REGIONS:
        expected = weight_free.evidence[region].probability
        assert found.evidence[region].probability == pytest.approx(expected, abs=1e-3)


def test_a_region_unknown_to_the_weight_free_engine_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path / "p", combination=joined(LEARNED_ALONE, LEARNED_ALONE))
    engine, head = engine_of(package), flat_head(noise_hu=1.0)
    whole = AsymmetryEngine().segment(head)
    silent = dict(whole.evidence) | {RIGHT_M1: UNKNOWN}
    answer = Lesion(whole.probability, whole.acute, whole.old, silent)
    monkeypatch.setattr(AsymmetryEngine, "segment", lambda self, head: answer)
    found = engine.segment(head).evidence
    assert found[RIGHT_M1] == UNKNOWN
    assert found[RIGHT_M1.mirror].probability is not None


def test_weights_of_another_weight_free_engine_are_refused(tmp_path: Path) -> None:
    values = joined(LEARNED_ALONE, LEARNED_ALONE) | {"asymmetry_sha256": "0" * 64}
    with pytest.raises(ModelPackageError, match="joins the weight-free engine"):
        load_package(write_package(tmp_path / "p", combination=values))


@pytest.mark.parametrize("inside", [{"learned": -1.0, "asymmetry": 0.0, "offset": 0.0}, {"learned": 1.0}])
def test_weights_that_cannot_be_are_refused(tmp_path: Path, inside: dict[str, float]) -> None:
    with pytest.raises(ModelPackageError, match=r"wrong model\.json"):
        load_package(write_package(tmp_path / "p", combination=joined(inside, LEARNED_ALONE)))
