from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from strokecore.flags import QualityFlag
from strokecore.reports import wording as report
from strokecore.reports.drawing import Drawing
from strokecore.result import AspectsScore
from tests.unit.reports import output_cases as cases

GAP = QualityFlag("missing_slice", "refusal", "A slice is missing.", "Send the series again.")


@pytest.fixture(scope="module")
def series():
    return cases.small_series()


@pytest.fixture(scope="module")
def masks(series):
    return cases.made_up_masks(series)


@pytest.fixture(scope="module")
def result(series, masks):
    return cases.made_up_result(series, masks)


def score(result, right, left, side):
    return replace(
        result,
        aspects={"right": AspectsScore(*right), "left": AspectsScore(*left)},
        affected_side=side,
    )


# --- result.json


def test_json_is_the_contract(result, tmp_path):
    report.write_json(result, tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(report.schema())
    jsonschema.validate(written, report.schema())
    assert written["schema"] == 1
    assert written["aspects"] == {
        "left": {"score": 9, "assessed": 9},
        "right": {"score": 7, "assessed": 10},
    }
    assert written["affected_side"] == "right"
    assert len(written["regions"]) == 20
    assert written["regions"][0] == {
        "name": "C",
        "side": "left",
        "affected": False,
        "probability": 0.08,
        "involved_fraction": 0.0,
        "volume_ml": 0.0,
        "mean_hu": 33.1,
        "contralateral_difference_hu": 0.4,
        "assessable": True,
        "reason": None,
    }
    assert written["infarct_volume_ml"] == {"left": 0.0, "right": 21.75}
    assert written["quality"][0]["code"] == "noisy"
    assert written["series"]["slices"] == 8
    assert written["model"]["fallbacks"] == ["no model package given"]
    assert written["result_key"] == result.result_key
    assert written["content_datetime"] == cases.MOMENT
    assert list(tmp_path.iterdir()) == [tmp_path / "result.json"]


def test_json_has_exactly_the_keys_of_the_design_and_three_more(result):
    assert set(report.to_json(result)) == {
        *("schema", "status", "aspects", "affected_side", "regions", "infarct_volume_ml"),
        *("old_infarct_volume_ml", "outside_regions_volume_ml", "quality", "series", "model"),
        *("software", "supersedes", "timings_s"),
        *("result_key", "content_datetime", "not_selected"),
    }


@pytest.mark.parametrize("status", ["refused", "ineligible", "failed"])
def test_json_of_a_run_without_a_score(status, tmp_path):
    bare = replace(cases.refused(GAP), status=status, aspects={}, infarct_volume_ml={})
    report.write_json(bare, tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert written["regions"] == []
    assert written["aspects"]["left"] == {"score": None, "assessed": 0}
    assert written["series"] is None


def test_json_takes_numpy_numbers(result):
    finding = replace(result.regions[0], probability=np.float32(0.5), affected=np.bool_(False))
    written = report.to_json(replace(result, regions=(finding, *result.regions[1:])))
    jsonschema.validate(written, report.schema())
    assert written["regions"][0]["probability"] == 0.5


def test_a_value_that_is_not_a_number_is_a_defect(result, tmp_path):
    finding = replace(result.regions[0], mean_hu=float("nan"))
    broken = replace(result, regions=(finding, *result.regions[1:]))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_json(broken, tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "broken",
    [
        {"regions": ()},
        {"status": "done"},
        {"infarct_volume_ml": {"left": -1.0, "right": 0.0}},
        {"series": None},
        {"result_key": None},
    ],
    ids=str,
)
def test_a_result_that_breaks_its_contract_is_not_written(broken, result, tmp_path):
    with pytest.raises(jsonschema.ValidationError):
        report.write_json(replace(result, **broken), tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


# --- the line to copy


def test_summary_of_a_right_infarct(result):
    whole = score(result, (7, 10), (10, 10), "right")
    assert report.summary_line(whole) == "ASPECTS right 7: I, M1, M2; left 10"


def test_summary_names_the_affected_side_first(result):
    mirrored = replace(
        score(result, (10, 10), (7, 10), "left"),
        regions=tuple(replace(f, side="left" if f.side == "right" else "right") for f in result.regions),
    )
    assert report.summary_line(mirrored) == "ASPECTS left 7: I, M1, M2; right 10"


def test_summary_without_infarct(series, masks):
    normal = cases.made_up_result(series, masks, affected=False)
    assert report.summary_line(normal) == "ASPECTS right 10; left 10"


def test_summary_shows_partial_and_missing_scores(result):
    assert report.summary_line(result) == "ASPECTS right 7: I, M1, M2; left 9 (9 of 10 assessed)"
    few = score(result, (None, 6), (10, 10), None)
    assert report.summary_line(few) == "ASPECTS right not scored (6 of 10 assessed); left 10"


def test_summary_of_withheld_names_place_and_volume_but_no_score(result):
    line = report.summary_line(cases.withheld(result))
    assert line == (
        "ASPECTS withheld, haemorrhage suspected: "
        "12.3 ml of blood-like density, right, most of it in right L."
    )


def test_summary_of_a_score_despite_blood_says_so(result):
    despite = replace(result, quality=(*result.quality, cases.BLOOD))
    line = report.summary_line(despite)
    assert line == "ASPECTS right 7: I, M1, M2; left 9 (9 of 10 assessed); haemorrhage suspected"


def test_summary_of_a_refusal_says_what_to_do():
    line = report.summary_line(cases.refused(GAP))
    assert line == "ASPECTS NOT SCORED: A slice is missing. Send the series again."


def test_reasons_are_never_empty():
    assert report.reasons(cases.refused())[0].code == "failed"
    assert report.reasons(cases.refused(cases.SOFT, GAP)) == [GAP]


def test_numbers():
    assert report.number(None, "{:.2f}") == "-"
    assert report.number(-0.02, "{:+.1f}") == "+0.0"
    assert report.number(-2.14, "{:+.1f}") == "-2.1"


# --- terminal


def printed(result) -> str:
    console = Console(file=io.StringIO(), width=120)
    report.print_table(result, console)
    return console.file.getvalue()


def test_table_in_the_terminal(result):
    said = printed(result)
    assert len(re.findall(r"\baffected\b", said)) == 3
    assert "not assessed (old infarct)" in said
    assert "ASPECTS right 7: I, M1, M2" in said
    assert "Send 5 mm slices." in said
    assert "Research use only." in said


def test_square_brackets_in_messages_are_printed_as_they_are():
    flag = QualityFlag("odd", "warning", "Kernel [bold]B60[/bold].", "")
    assert "Kernel [bold]B60[/bold]." in printed(cases.refused(flag))


def test_terminal_withholds(result):
    said = printed(cases.withheld(result))
    assert "0.91" not in said
    assert not re.search(r"\baffected\b", said)
    assert "12.3 ml" in said


# --- report.html


@pytest.fixture(scope="module")
def page(result, series, masks, tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "report.html"
    report.write_html(result, path, Drawing.of(series, result, masks))
    return path.read_text(encoding="utf-8")


def visible(page: str) -> str:
    return re.sub(r"base64,[^\"]+", "", page)


def test_html_shows_line_pictures_table_and_remedies(page):
    assert "ASPECTS right 7: I, M1, M2; left 9 (9 of 10 assessed)" in page
    assert page.count("data:image/png;base64,") == 2
    assert page.count('<td class="affected">affected</td>') == 3
    assert "not assessed (old infarct)" in page
    assert "Send 5 mm slices." in page
    assert "RESEARCH USE ONLY" in page
    assert "The patient's right is on the left" in page


def test_html_is_one_file_that_loads_nothing(page):
    seen = visible(page)
    assert "http" not in seen
    assert not re.search(r"<(script|link|iframe)", seen)
    assert re.findall(r"src=\"([^\"]{0,20})", seen) == ["data:image/png;"] * 2


def test_html_has_no_identity(page, series):
    for header in series.datasets:
        for keyword in ("PatientID", "PatientBirthDate", "AccessionNumber", "SOPInstanceUID"):
            assert str(header[keyword].value) not in visible(page)
    assert "Doe" not in visible(page)
    assert series.series_instance_uid not in visible(page)


def test_html_of_withheld_hides_the_score(result, series, masks, tmp_path):
    withheld = cases.withheld(result)
    report.write_html(withheld, tmp_path / "r.html", Drawing.of(series, withheld, masks))
    seen = visible((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Score withheld" in seen
    assert "12.3 ml of blood-like density" in seen
    assert "0.91" not in seen
    assert '"affected"' not in seen
    assert 'class="scores"' not in seen


def test_html_of_a_refusal_has_reason_and_remedy_and_no_table(tmp_path):
    report.write_html(cases.refused(GAP), tmp_path / "r.html")
    seen = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "ASPECTS NOT SCORED" in seen
    assert "What to do: Send the series again." in seen
    assert "<table>" not in seen
    assert "<img" not in seen


def test_html_escapes_what_it_is_told(tmp_path):
    flag = QualityFlag("odd", "refusal", "<script>alert(1)</script>", "a & b")
    report.write_html(cases.refused(flag), tmp_path / "r.html")
    seen = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in seen
    assert "a &amp; b" in seen
