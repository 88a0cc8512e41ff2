"""What every output says of a result, in words."""

from __future__ import annotations

from dataclasses import replace

from strokecore.config import RegionCut
from strokecore.flags import QualityFlag
from strokecore.reports import wording
from strokecore.result import AspectsScore, RegionFinding, SoftwareInfo
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
    assert wording.summary_line(result) == (
        "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)"
    )
    few = score(result, (None, 6), (10, 10), None)
    assert wording.summary_line(few) == "ASPECTS right not scored (6 of 10 assessed); left 10"


def test_a_score_carries_its_doubt():
    said = {
        "7 (6-8)": AspectsScore(7, 10, (6, 8)),
        "7 (6-8; 9 of 10 assessed)": AspectsScore(7, 9, (6, 8)),
        "10": AspectsScore(10, 10, (10, 10)),
        "9": AspectsScore(9, 10),
        "9 (9 of 10 assessed)": AspectsScore(9, 9),
        "not scored (6 of 10 assessed)": AspectsScore(None, 6),
    }
    assert {words: str(score) for words, score in said.items()} == {words: words for words in said}


def test_what_is_said_of_a_region(result):
    row = RegionFinding("M2", "left", False, 0.2, 0.0, 0.0, 30.0, -2.5, True)
    said = {
        "normal": row,
        "affected": replace(row, affected=True),
        "affected, borderline": replace(row, affected=True, borderline=True),
        "borderline": replace(row, borderline=True),
        "borderline (not outlined)": replace(row, borderline=True, reason="not_outlined"),
        "not counted (single slice)": replace(row, reason="single_slice"),
        "not assessed (old infarct)": replace(row, assessable=False, reason="old_infarct"),
    }
    assert {words: wording.statement(result, row) for words, row in said.items()} == {w: w for w in said}
    assert wording.statement(cases.withheld(result), said["borderline"]) == "withheld"
    assert not wording.doubtful(cases.withheld(result), said["borderline"])


def test_the_haemorrhage_has_volume_and_place(result):
    assert wording.haemorrhage(cases.withheld(result)) == "12 ml, right, most of it in right L"
    assert wording.haemorrhage(result) == ""


def test_the_cut_of_the_site_is_named(result):
    software = SoftwareInfo("0.1.0", "b" * 64, "c" * 64, RegionCut(0.42, "f" * 64))
    assert "from a probability of 0.42 on" in wording.decision(replace(result, software=software))
    assert wording.decision(result) == ""


def test_summary_of_withheld_names_place_and_volume_but_no_score(result):
    line = wording.summary_line(cases.withheld(result))
    assert line == (
        "HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS. "
        "12.3 ml of blood-like density, right, most of it in right L."
    )


def test_summary_of_a_score_despite_blood_says_so(result):
    blood = cases.withheld(result).haemorrhage
    despite = replace(result, quality=(*result.quality, cases.BLOOD), haemorrhage=blood)
    line = wording.summary_line(despite)
    assert line == (
        "HAEMORRHAGE SUSPECTED, right, 12 ml - scored all the same: "
        "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)"
    )


def test_the_headline_is_the_haemorrhage_with_side_and_volume(result):
    withheld = cases.withheld(result)
    assert wording.headline(withheld) == "HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS"
    both = replace(withheld, haemorrhage=replace(withheld.haemorrhage, side="both", ml=0.31))
    assert wording.headline(both) == "HAEMORRHAGE SUSPECTED, both sides, under 1 ml - no ASPECTS"
    assert wording.headline(cases.refused(cases.GAP)) == "ASPECTS NOT SCORED"
    assert wording.headline(result) == ""


def test_affected_regions_are_named_by_side(result, series, masks):
    assert wording.affected_regions(result) == "right I, M1, M2"
    assert wording.affected_regions(cases.made_up_result(series, masks, affected=False)) == "none"
    assert wording.affected_regions(cases.withheld(result)) == "none"


def test_flags_say_what_result_json_says_refusals_and_warnings_first(result):
    flag = QualityFlag("unconfirmed_infarct", "warning", "Hypodensity is marked: 2.7 ml.", "")
    gap = QualityFlag("missing_slice", "refusal", "A slice is missing.", "")
    info = QualityFlag("a", "info", "A.")
    assert wording.flags(replace(result, quality=(info, flag, gap))) == [gap, flag, info]


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
