"""What every output says of a result, in words."""

from __future__ import annotations

from dataclasses import replace

from strokecore.reports import wording
from strokecore.result import AspectsScore
from tests.unit.reports import output_cases as cases


def score(result, right, left, side):
    return replace(
        result,
        aspects={"right": AspectsScore(*right), "left": AspectsScore(*left)},
        affected_side=side,
    )


def test_summary_of_a_right_infarct(result):
    whole = score(result, (7, 10), (10, 10), "right")
    assert wording.summary_line(whole) == "ASPECTS right 7: I, M1, M2; left 10"


def test_summary_names_the_affected_side_first(result):
    mirrored = replace(
        score(result, (10, 10), (7, 10), "left"),
        regions=tuple(replace(f, side="left" if f.side == "right" else "right") for f in result.regions),
    )
    assert wording.summary_line(mirrored) == "ASPECTS left 7: I, M1, M2; right 10"


def test_summary_without_infarct(series, masks):
    normal = cases.made_up_result(series, masks, affected=False)
    assert wording.summary_line(normal) == "ASPECTS right 10; left 10"


def test_summary_shows_partial_and_missing_scores(result):
    assert wording.summary_line(result) == "ASPECTS right 7: I, M1, M2; left 9 (9 of 10 assessed)"
    few = score(result, (None, 6), (10, 10), None)
    assert wording.summary_line(few) == "ASPECTS right not scored (6 of 10 assessed); left 10"


def test_summary_of_withheld_names_place_and_volume_but_no_score(result):
    line = wording.summary_line(cases.withheld(result))
    assert line == (
        "ASPECTS withheld, haemorrhage suspected: "
        "12.3 ml of blood-like density, right, most of it in right L."
    )


def test_summary_of_a_score_despite_blood_says_so(result):
    despite = replace(result, quality=(*result.quality, cases.BLOOD))
    line = wording.summary_line(despite)
    assert line == "ASPECTS right 7: I, M1, M2; left 9 (9 of 10 assessed); haemorrhage suspected"


def test_summary_of_a_refusal_says_what_to_do():
    line = wording.summary_line(cases.refused(cases.GAP))
    assert line == "ASPECTS NOT SCORED: A slice is missing. Send the series again."


def test_reasons_are_never_empty():
    assert wording.reasons(cases.refused())[0].code == "failed"
    assert wording.reasons(cases.refused(cases.SOFT, cases.GAP)) == [cases.GAP]


def test_numbers():
    assert wording.number(None, "{:.2f}") == "-"
    assert wording.number(-0.02, "{:+.1f}") == "+0.0"
    assert wording.number(-2.14, "{:+.1f}") == "-2.1"
