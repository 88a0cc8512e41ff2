from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.arrays import Float4D
from strokecore.errors import UsageError
from strokecore.head.brain import Brain
from strokecore.head.canonical import Head
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.engine import against_mirror
from strokecore.learned.preprocessing import STROKE_WINDOW
from strokecore.scoring.aspects import find_regions
from strokecore.scoring.engine import Lesion
from tests.unit.trainer.evaluation_cases import (
    HEALTHY_HU,
    LESION_HU,
    M2,
    M5,
    SPEC,
    box,
    make_case,
    make_dataset,
)
from trainer.data.cases import Case, Dataset
from trainer.measure.thresholds import THRESHOLDS
from trainer.package.calibrate import (
    CLEAN_SHARE,
    clean_cut,
    figures,
    fit_calibration,
    fit_regions,
    mirrored,
    ranked_thresholds,
)
from trainer.package.evidence import Evidence, collect

LEFT_M2, LEFT_M5 = (ALL_REGIONS.index(RegionId(name, "left")) for name in ("M2", "M5"))


def dark_is_infarct(slices: Float4D) -> tuple[Float4D, Float4D]:
    """Probability 0 at healthy brain, 1 at infarct, linear between; air is healthy."""
    low, high = STROKE_WINDOW
    hu = slices[:, 0] * (high - low) + low
    infarct = np.where(hu > low, np.clip((HEALTHY_HU - hu) / (HEALTHY_HU - LESION_HU), 0, 1), 0)
    arms = [np.zeros((len(hu), classes, *hu.shape[1:]), np.float32) for classes in (9, 6)]
    for arm in arms:
        arm[:, 0], arm[:, 1] = 1 - infarct, infarct
    return arms[0], arms[1]


def affected_in(case: Case, *names: str) -> Case:
    return replace(case, record=replace(case.record, affected=names))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    both = make_case("both", "validate", "coupled", (M2, M5))
    half = ((16.0, 40.0), (-20.0, 0.0), (10.0, 40.0))  # the front half of M5
    flat = ((16.0, 18.5), (-20.0, 20.0), (10.0, 40.0))  # one plane of M5
    cases = [
        affected_in(both, "left:M2", "left:M5"),
        affected_in(make_case("half", "validate", "sg_only", (half,)), "left:M5"),
        affected_in(make_case("flat", "validate", "sg_only", (flat,)), "left:M5"),
        make_case("free", "validate", "lesion_free"),
    ]
    return make_dataset(tmp_path_factory.mktemp("calibrate") / "data", cases)


@pytest.fixture(scope="module")
def evidence(dataset: Dataset) -> Evidence:
    records = [next(r for r in dataset.records if r.id == n) for n in ("both", "half", "flat", "free")]
    return collect(dark_is_infarct, dataset, records, SPEC, fit_regions, joined=False)[0]


def test_evidence_is_on_the_side_and_region_of_the_infarct(evidence: Evidence) -> None:
    assert evidence.affected[:, LEFT_M2].tolist() == [True, False, False, False]
    assert evidence.affected[:, LEFT_M5].tolist() == [True, True, True, False]
    assert evidence.affected.sum() == 4
    odds = evidence.log_odds
    assert np.isnan(odds[:, ALL_REGIONS.index(RegionId("C", "left"))]).all()  # not in these cases
    assert odds[0, LEFT_M2] > 1.5
    assert odds[3, LEFT_M2] < -9
    assert odds[0, LEFT_M5] > odds[1, LEFT_M5] > odds[2, LEFT_M5] > odds[3, LEFT_M5]
    assert odds[1, LEFT_M5] == pytest.approx(0.0, abs=0.35)


def test_dice_and_volume_at_each_threshold(evidence: Evidence) -> None:
    assert np.isnan(evidence.dice[3]).all()
    assert evidence.called_ml[3].max() == 0.0
    at = THRESHOLDS.index(0.5)
    assert evidence.dice[0, at] > 0.9
    assert (np.diff(evidence.called_ml, axis=1) <= 0).all()
    true_ml = 2 * 24 * 40 * 30 / 1000
    assert evidence.called_ml[0, at] == pytest.approx(true_ml, rel=0.15)


@pytest.mark.parametrize("case_id", ["half", "flat"])
def test_what_counts_as_outlined_is_what_the_node_counts(
    dataset: Dataset, evidence: Evidence, case_id: str
) -> None:
    """The same lesion through aspects.find_regions, with every region probable."""
    from strokecore.learned.engine import infarct_map, outline
    from strokecore.scoring.engine import RegionEvidence

    row = ["both", "half", "flat", "free"].index(case_id)
    case = dataset.load(next(r for r in dataset.records if r.id == case_id))
    hu = case.hu.astype(np.float32)
    probability = infarct_map(dark_is_infarct, hu, case.regions, case.brain, CANONICAL_GRID, SPEC)
    nothing = np.zeros(CANONICAL_GRID.shape, bool)
    head = Head(
        hu=hu,
        field=np.zeros_like(hu),
        second_regions=np.zeros(hu.shape, np.uint8),
        grid=CANONICAL_GRID,
        brain=Brain(case.inside, nothing, nothing, case.brain, nothing, 1.0),
        haemorrhage=None,
        regions=case.regions,
        tissue=hu,
        covered=~nothing,
        slice_thickness_mm=case.record.slice_thickness_mm,
    )
    for at in map(THRESHOLDS.index, (0.1, 0.5, 0.9)):
        acute = outline(probability, {"left"}, THRESHOLDS[at], CANONICAL_GRID) & case.inside
        sure = dict.fromkeys(ALL_REGIONS, RegionEvidence(0.9, None, None))
        lesion = Lesion(probability, acute, nothing, sure)
        counted = [finding.affected for finding in find_regions(head, lesion)]
        assert counted == evidence.outlined[row, :, at].tolist()


def test_the_figures_count_what_is_probable_and_outlined(evidence: Evidence) -> None:
    outlined = evidence.outlined.copy()
    outlined[2] = False  # as if the flat one were not tall enough
    decisions = fit_regions(evidence.log_odds, evidence.affected, evidence.judged)
    found = figures(replace(evidence, outlined=outlined), 0.5, decisions)
    assert (found["cases"], found["with_infarct"]) == (4, 3)
    assert found["regions"] == np.isfinite(evidence.log_odds).sum()
    assert found["regions_affected"] == 4
    assert found["affected_by_name"]["M5"] == 3
    assert found["region_auc"] == 1.0
    assert found["region_specificity"] == 1.0
    assert found["region_sensitivity"] == 0.75
    assert found["probable_not_outlined"] == 1
    assert found["false_ml_without_infarct"] == 0.0


def test_regions_are_cut_by_healthy_hemispheres() -> None:
    """Of 100 healthy hemispheres 92 stay below the cut; sick and unjudged ones do not count."""
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 0.1, (60, 20))
    affected, judged = np.zeros((60, 20), bool), np.ones((60, 20), bool)
    left = [region.side == "left" for region in ALL_REGIONS]
    place = ALL_REGIONS.index(RegionId("M1", "left"))
    probability[:50, place] = np.linspace(0.2, 0.7, 50)  # the right sides stay below 0.1
    affected[50:, place] = True
    probability[50:, place] = 0.95
    judged[50:, [not side for side in left]] = False
    cut = clean_cut(probability, affected, judged)
    highest = np.concatenate([probability[:50][:, left].max(1), probability[:50][:, np.invert(left)].max(1)])
    assert (highest < cut).mean() == pytest.approx(CLEAN_SHARE, abs=0.015)
    assert clean_cut(probability[:19], affected[:19], judged[:19]) == 0.5  # too few to cut by
    unknown = probability.copy()
    unknown[:, place] = np.nan
    assert clean_cut(unknown, affected, judged) == 0.2


def test_the_partners_evidence_is_taken_off_where_it_misleads() -> None:
    """Heads that look ill on both sides alike: the truth hangs on the difference alone."""
    rng = np.random.default_rng(3)
    pairs = [ALL_REGIONS.index(region.mirror) for region in ALL_REGIONS]
    affected = rng.random((200, 20)) < 0.1
    common = rng.normal(0, 3, (200, 20))
    common = (common + common[:, pairs]) / np.sqrt(2)
    log_odds = common + 4.0 * affected + rng.normal(0, 1, (200, 20)) - 4
    judged = np.ones_like(affected)
    assert fit_regions(log_odds, affected, judged).mirror_weight == 0.75
    alone = rng.normal(0, 1, (200, 20)) + 4.0 * affected - 4
    assert fit_regions(alone, affected, judged).mirror_weight == 0.0


def test_a_region_is_compared_with_its_partner_as_on_the_node() -> None:
    values = np.random.default_rng(0).normal(size=(1, 20))
    values[0, LEFT_M5] = np.nan
    found = mirrored(values, 0.5)[0]
    given = {r: float(v) for r, v in zip(ALL_REGIONS, values[0], strict=True) if not np.isnan(v)}
    node = against_mirror(given, 0.5)
    for region, value in zip(ALL_REGIONS, found, strict=True):
        assert np.isnan(value) if region not in node else value == pytest.approx(node[region])
    assert node[RegionId("M5", "right")] == pytest.approx(0.5 * given[RegionId("M5", "right")])


def test_without_an_infarct_no_threshold_can_be_chosen() -> None:
    with pytest.raises(UsageError, match="no validation case has an infarct"):
        ranked_thresholds(np.full((3, len(THRESHOLDS)), np.nan), np.zeros((3, len(THRESHOLDS))))


def test_among_equal_thresholds_the_middle_one_is_chosen() -> None:
    dice = np.full((2, len(THRESHOLDS)), 0.7)
    nothing = np.zeros_like(dice)
    assert ranked_thresholds(dice, nothing)[0] == 0.5
    dice[:, 3] = 0.8
    assert ranked_thresholds(dice, nothing)[0] == THRESHOLDS[3]


def test_false_infarct_in_healthy_heads_raises_the_threshold() -> None:
    dice = np.full((2, len(THRESHOLDS)), 0.6)
    dice[1] = np.nan  # without infarct
    dice[0, 0] = 0.62  # a little better with the lowest threshold ..
    called = np.zeros_like(dice)
    called[1, 0] = 20.0  # .. at the price of 20 ml in the healthy head
    assert ranked_thresholds(dice, called)[0] == 0.5
    assert ranked_thresholds(dice, np.zeros_like(dice))[0] == THRESHOLDS[0]


def drawn(
    cases: int, slope: float, offset: float, seed: int = 0
) -> tuple[
    np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int, int], np.dtype[np.bool_]]
]:
    rng = np.random.default_rng(seed)
    x = rng.normal(-3, 3, (cases, 20))
    return x, rng.random((cases, 20)) < special.expit(slope * x + offset)


def test_with_many_cases_the_true_curve_is_found() -> None:
    x, affected = drawn(3000, 0.8, 1.5)
    for name, curve in fit_calibration(x, affected).items():
        assert curve.slope == pytest.approx(0.8, abs=0.12), name
        assert curve.offset == pytest.approx(1.5, abs=0.3), name


def test_a_region_of_its_own_kind_is_found_when_its_cases_say_so() -> None:
    x, affected = drawn(3000, 1.0, 1.0)
    own = [region.name == "IC" for region in ALL_REGIONS]
    _, other = drawn(3000, 1.0, -2.0)
    affected[:, own] = other[:, own]
    found = fit_calibration(x, affected)
    assert found["IC"].offset == pytest.approx(-2.0, abs=0.5)
    assert found["M1"].offset == pytest.approx(1.0, abs=0.3)


def test_a_region_with_few_cases_follows_the_others() -> None:
    x, affected = drawn(300, 1.0, 1.0)
    column = ALL_REGIONS.index(RegionId("IC", "left"))
    own = [region.name == "IC" for region in ALL_REGIONS]
    x[:, own] = np.nan
    x[:2, column], affected[:2, column] = (-6.0, 4.0), (True, False)  # two cases, both odd
    found = fit_calibration(x, affected)
    others = [curve for name, curve in found.items() if name != "IC"]
    mean = np.mean([curve.offset for curve in others])
    assert abs(found["IC"].offset - mean) < 1.5
    assert found["IC"].slope > 0.5
    assert all(curve.slope > 0 for curve in found.values())


@pytest.mark.parametrize("kind", ["separated", "reversed", "none_affected", "empty"])
def test_extreme_data_leave_a_rising_finite_curve(kind: str) -> None:
    x = np.random.default_rng(1).normal(-2, 4, (30, 20))
    affected = {
        "separated": x > 0,
        "reversed": x < 0,
        "none_affected": np.zeros(x.shape, bool),
        "empty": x > 0,
    }[kind]
    if kind == "empty":
        x = np.full(x.shape, np.nan)
    found = fit_calibration(x, affected)
    assert set(found) == set(REGION_NAMES)
    for curve in found.values():
        assert 0 < curve.slope < 20
        assert abs(curve.offset) < 30
        assert 0 <= curve.probability(-9.2) <= curve.probability(9.2) <= 1
    if kind == "empty":
        assert found["M1"].slope == pytest.approx(1.0)
        assert found["M1"].offset == pytest.approx(0.0)


def test_boxes_of_the_test_cases_hold_what_they_say(dataset: Dataset) -> None:
    assert CANONICAL_GRID.spacing_mm == (2.0, 1.0, 1.0)
    flat = dataset.load(next(r for r in dataset.records if r.id == "flat"))
    assert flat.lesion[box(M5)].any(axis=(1, 2)).sum() <= 2
    assert isinstance(dataset.folder, Path)
