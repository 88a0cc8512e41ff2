"""The figures of a study, against small sets of cases that can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import reduce
from operator import getitem

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, RegionId
from strokecore.evaluate.figures import side_answer, summarise
from strokecore.evaluate.outcomes import Outcome, outcome
from strokecore.evaluate.truth import Blood
from tests.unit.evaluate.cases import random_outcomes, refused_result, result_of, said, said_of, truth_of

DRAWS = 200
# right 7 found as 8; left 9 found as 9; healthy with one false alarm; one refused
FOUR = [
    said("a", "right:I,M1,M2", "right:I,M1", seconds=4.0),
    said("b", "left:C", "left:C", seconds=6.0),
    said("c", "", "left:M6", seconds=8.0),
    outcome("d", truth_of("left:M1,M2,M3,M4,M5"), refused_result()),
]


@pytest.fixture(scope="module")
def figures() -> dict:
    return summarise(FOUR, DRAWS)


def test_cases_and_what_was_processed(figures: dict) -> None:
    assert figures["cases"] == {"all": 4, "with_infarct": 3, "with_blood": 0, "without": 1}
    assert figures["processed"]["fraction"]["value"] == 0.75
    assert figures["processed"]["by_status"] == {"scored": 3, "refused": 1}
    assert figures["processed"]["not_scored_codes"] == {"too_few_slices": 1}
    assert figures["seconds"] == {"cases": 3, "median": 6.0, "p95": pytest.approx(7.8)}


def test_regions_of_a_refused_case_count_as_one_half(figures: dict) -> None:
    found = figures["regions"]
    assert (found["affected"], found["normal"]) == (9, 71)
    assert found["not_assessed"] == {"affected": 5, "normal": 15}
    # positives: three at 0.9, one at 0.1, five at 0.5; negatives: one at 0.9, fifteen at 0.5, the rest at 0.1
    at_09 = 3 * (70 + 0.5)
    at_05 = 5 * (55 + 0.5 * 15)
    at_01 = 1 * 0.5 * 55
    assert found["auc"]["value"] == pytest.approx((at_09 + at_05 + at_01) / (9 * 71))
    assert found["sensitivity"]["value"] == pytest.approx(3 / 9)
    assert found["specificity"]["value"] == pytest.approx(70 / 71)


def test_regions_are_also_told_by_name(figures: dict) -> None:
    by_name = figures["regions"]["by_name"]
    assert list(by_name) == list(REGION_NAMES)
    assert by_name["M2"]["affected"] == 2
    assert by_name["M2"]["sensitivity"]["value"] == 0.0
    assert by_name["M6"]["specificity"]["value"] == pytest.approx(7 / 8)
    assert by_name["M6"]["auc"]["value"] is None
    assert by_name["I"]["auc"]["value"] == 1.0


def test_the_auc_of_cases_with_infarct_leaves_the_others_out() -> None:
    alarm = said("c", "", "left:M6", probability={RegionId("M6", "left"): 0.95})
    found = summarise([FOUR[1], alarm], DRAWS)["regions"]
    assert found["auc_cases_with_infarct"]["value"] == 1.0
    assert found["auc"]["value"] == pytest.approx(38 / 39)


def test_agreement_of_the_scores(figures: dict) -> None:
    found = figures["aspects"]["hemispheres"]
    # true, found: (10, 10) (7, 8) (9, 9) (10, 10) (10, 9) (10, 10); two of the refused case have no score
    assert (found["scored"], found["not_scored"]) == (6, 2)
    assert found["exact"]["value"] == pytest.approx(4 / 6)
    assert found["within_1"]["value"] == 1.0
    assert found["bland_altman"]["bias"]["value"] == pytest.approx(0.0)
    spread = 1.96 * (2 / 5) ** 0.5
    assert found["bland_altman"]["limits"] == pytest.approx([-spread, spread])
    # ANOVA by hand: BMS 2 * 4.8333 / 5, JMS 0, EMS 1 / 5
    assert found["icc_2_1"]["value"] == pytest.approx((29 / 15 - 1 / 5) / (29 / 15 + 1 / 5 - 1 / 15))
    cut = found["dichotomies"][">=8"]
    assert (cut["true_at_or_above"], cut["true_below"]) == (5, 1)
    assert (cut["sensitivity"]["value"], cut["specificity"]["value"]) == (1.0, 0.0)
    assert cut["kappa"]["value"] == pytest.approx(0.0)
    assert found["dichotomies"][">=6"]["specificity"]["value"] is None


def test_agreement_of_affected_hemispheres(figures: dict) -> None:
    found = figures["aspects"]["affected_hemispheres"]
    assert (found["scored"], found["not_scored"]) == (2, 1)
    assert found["exact"]["value"] == 0.5
    assert found["bland_altman"]["bias"]["value"] == 0.5


def test_a_dichotomy_tells_which_way_it_erred() -> None:
    low = said("a", "left:C,L,IC,I,M1", "left:C,L,IC,I")  # 5 called 6
    high = said("b", "left:C,L,IC,I", "left:C,L,IC,I,M1")  # 6 called 5
    cut = summarise([low, low, high], DRAWS)["aspects"]["affected_hemispheres"]["dichotomies"][">=6"]
    assert (cut["true_at_or_above"], cut["true_below"]) == (1, 2)
    assert (cut["sensitivity"]["value"], cut["specificity"]["value"]) == (0.0, 0.0)
    assert cut["kappa"]["value"] == pytest.approx((0 - 4 / 9) / (1 - 4 / 9))


def test_heads_without_infarct(figures: dict) -> None:
    found = figures["without_infarct"]
    assert (found["hemispheres"], found["exactly_10"], found["at_most_7"], found["not_scored"]) == (
        2,
        1,
        0,
        0,
    )
    # opposite an infarct: both of the scored ones are clean, the refused one has no score
    opposite = found["opposite_an_infarct"]
    assert (opposite["hemispheres"], opposite["exactly_10"], opposite["not_scored"]) == (3, 2, 1)
    assert found["all"]["share_exactly_10"]["value"] == pytest.approx(3 / 4)
    assert found["all"]["points_lost"]["value"] == pytest.approx(1 / 4)


def test_what_a_confounder_costs() -> None:
    cases = [
        said_of("a", "", "", confounder="plain"),
        said_of("b", "", "left:M1", confounder="plain"),  # half a point per head, a quarter per hemisphere
        said_of("c", "", "left:M1,M2,M3", confounder="cupping"),
        said_of("d", "", "", confounder="streaks"),
    ]
    found = summarise(cases, DRAWS)["without_infarct"]["by_confounder"]
    assert {name: row["cost"] for name, row in found.items()} == {
        "plain": 0.0,
        "cupping": 1.25,
        "streaks": -0.25,
    }
    assert found["cupping"]["at_most_7"] == 1
    assert found["streaks"]["exactly_10"] == 2
    without_plain = summarise(cases[2:], DRAWS)["without_infarct"]["by_confounder"]
    assert without_plain["cupping"]["cost"] is None


def test_a_score_that_was_withheld_is_no_false_alarm() -> None:
    withheld = replace(
        said("a", "", ""), status="withheld", scores=dict.fromkeys(("left", "right")), blood=True
    )
    found = summarise([withheld, said("b", "", "")], DRAWS)["without_infarct"]
    assert (found["exactly_10"], found["not_scored"], found["share_exactly_10"]["value"]) == (2, 2, 1.0)
    assert found["withheld"]["value"] == 0.5


def test_paint_under_a_full_score_needs_a_warning() -> None:
    painted = said("a", "", "", infarct_ml=0.7)
    warned = replace(painted, warnings=("streaks",))
    called = said("c", "", "right:M1", infarct_ml=5.0)
    found = summarise([painted, warned, called], DRAWS)["without_infarct"]
    assert found["painted_unwarned"] == 1


def test_blood_is_told_by_kind_and_size() -> None:
    kinds = (
        ("parenchymal", 1.0, False),
        ("parenchymal", 5.0, True),
        ("parenchymal", 5.0, False),
        ("subdural", 12.0, True),
    )
    cases = [
        replace(said_of(f"{n}", "", "", blood=Blood(place, ml)), blood=found)
        for n, (place, ml, found) in enumerate(kinds)
    ]
    found = summarise(cases, DRAWS)
    assert {kind: (row["cases"], row["found"]["value"]) for kind, row in found["blood"].items()} == {
        "parenchymal, 0 to 2 ml": (1, 0.0),
        "parenchymal, 2 to 10 ml": (2, 0.5),
        "subdural, 10 ml or more": (1, 1.0),
    }
    assert found["cases"]["with_blood"] == 4
    assert found["cases"]["without"] == found["without_infarct"]["hemispheres"] == 0


def test_a_range_is_judged_by_whether_it_holds_the_truth() -> None:
    cases = [
        replace(said("a", "left:M1,M2", "left:M1"), ranges={"left": (7, 9), "right": (10, 10)}),
        replace(said("b", "left:M1,M2", "left:M1"), ranges={"left": (9, 10), "right": None}),
    ]
    found = summarise(cases, DRAWS)["aspects"]["range"]
    assert found["hemispheres"] == 3
    assert found["coverage"]["value"] == pytest.approx(2 / 3)
    assert found["width"]["value"] == pytest.approx(1.0)


def test_regions_that_are_not_judged_are_in_no_region_figure() -> None:
    doubtful = frozenset({RegionId("M2", "left")})
    cases = [
        said_of("a", "left:M1", "left:M1,M2", unjudged=doubtful),
        said_of("b", "left:M1", "left:M1", unjudged=doubtful),
    ]
    found = summarise(cases, DRAWS)["regions"]
    assert (found["affected"], found["normal"], found["not_judged"]) == (2, 36, 2)
    assert found["specificity"]["value"] == found["auc"]["value"] == 1.0
    assert found["by_name"]["M2"]["normal"] == 2


def test_borderline_regions_are_counted_by_what_they_truly_are() -> None:
    doubt = tuple(r.side == "left" and r.name in ("M1", "M2") for r in ALL_REGIONS)
    found = summarise([replace(said("a", "left:M1", ""), borderline=doubt)], DRAWS)["regions"]["borderline"]
    assert found == {"affected": 1, "normal": 1}


def test_every_person_has_figures_of_his_own() -> None:
    cases = [
        said_of("a", "left:M1", "left:M1", person="person_07"),
        said_of("b", "left:M1", "", person="person_08"),
        said_of("c", "left:M1", "left:M1", person="person_08"),
    ]
    found = summarise(cases, DRAWS)["by_person"]
    assert {name: row["regions"]["sensitivity"]["value"] for name, row in found.items()} == {
        "person_07": 1.0,
        "person_08": 0.5,
    }


def test_the_mean_absolute_error_of_the_score(figures: dict) -> None:
    assert figures["aspects"]["hemispheres"]["mean_absolute_error"]["value"] == pytest.approx(2 / 6)
    assert figures["aspects"]["affected_hemispheres"]["mean_absolute_error"]["value"] == 0.5


def test_the_side(figures: dict) -> None:
    assert figures["side"]["answers"] == {"correct": 2, "not_said": 1}
    assert figures["side"]["correct"]["value"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("true", "found", "answer"),
    [
        ("left:M1", "left", "correct"),
        ("left:M1", "right", "wrong_side"),
        ("left:M1", "bilateral", "both_called"),
        ("left:M1", None, "not_said"),
        ("left:M1;right:M2", "bilateral", "correct"),
        ("left:M1;right:M2", "right", "one_of_two"),
        ("left:M1,M3;right:M2", "left", "correct"),
        ("left:M1,M3;right:M2", "right", "wrong_side"),
    ],
)
def test_a_side_is_correct_wrong_or_not_said(true: str, found: str | None, answer: str) -> None:
    assert side_answer(truth_of(true), found) == answer


def test_volume_error_where_the_volume_is_known() -> None:
    known = truth_of("right:M1", infarct_ml={"left": 1.0, "right": 9.0})
    cases = [
        outcome("a", known, result_of("right:M1", infarct_ml=12.0)),
        outcome("b", known, result_of("right:M1", infarct_ml=4.0)),
        said("c", "right:M1", "right:M1", infarct_ml=500.0),  # truth without volume
        outcome("d", known, refused_result()),
    ]
    found = summarise(cases, DRAWS)["infarct_ml"]
    assert found["cases"] == 2
    assert found["median_absolute_error"] == 4.0
    assert found["bland_altman"]["bias"]["value"] == -2.0


@pytest.mark.parametrize(
    ("case", "undefined"),
    [
        (
            outcome("refused", truth_of("left:M1"), refused_result()),
            ("aspects.hemispheres.exact.value", "aspects.hemispheres.bland_altman.limits", "seconds.median"),
        ),
        (
            said("healthy", "", ""),
            ("regions.auc.value", "aspects.affected_hemispheres.exact.value", "side.correct.value"),
        ),
        (
            said("alone, without a volume or outline", "left:C", "left:C"),
            ("regions.auc.low", "infarct_ml.median_absolute_error", "infarct_dice.mean.value"),
        ),
    ],
)
def test_figures_that_are_not_defined_are_null_and_not_nan(case: Outcome, undefined: tuple[str, ...]) -> None:
    found = summarise([case], DRAWS)
    json.dumps(found, allow_nan=False)
    for path in undefined:
        assert reduce(getitem, path.split("."), found) is None, path


def test_the_same_cases_give_the_same_figures() -> None:
    cases = random_outcomes(12, seed=5)
    first = summarise(cases, DRAWS)
    assert first == summarise(cases, DRAWS)
    assert first["regions"]["auc"]["low"] < first["regions"]["auc"]["value"] < first["regions"]["auc"]["high"]
