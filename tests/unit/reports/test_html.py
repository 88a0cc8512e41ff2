"""The page for a browser."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from strokecore.config import RegionCut
from strokecore.flags import QualityFlag
from strokecore.reports import html
from strokecore.reports.pages import Drawing
from tests.unit.reports import output_cases as cases


@pytest.fixture(scope="module")
def page(result, series, masks, tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "wording.html"
    html.write_html(result, path, Drawing.of(series, result, masks))
    return path.read_text(encoding="utf-8")


def visible(page: str) -> str:
    return re.sub(r"base64,[^\"]+", "", page)


def test_html_shows_line_pictures_table_and_remedies(page):
    assert "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)" in page
    assert "<b>7 <small>(6-8)</small></b>" in page
    assert page.count("data:image/png;base64,") == 2 + 2  # and a patch for each kind of mark
    assert page.count('<td class="affected">affected</td>') == 2
    assert page.count('<td class="affected borderline">affected, borderline</td>') == 1
    assert page.count('<td class="borderline">borderline (not outlined)</td>') == 1
    assert "Old infarct, not counted: " in page
    assert "W 40 L 40" in page
    assert "For adults with suspected stroke of the anterior circulation" in page
    assert "This site counts" not in page
    assert "not assessed (old infarct)" in page
    assert "Send 5 mm slices." in page
    assert "RESEARCH USE ONLY" in page
    assert "The patient's right is on the left" in page


def test_html_is_one_file_that_loads_nothing(page):
    seen = visible(page)
    assert "http" not in seen
    assert not re.search(r"<(script|link|iframe)", seen)
    assert re.findall(r"src=\"([^\"]{0,20})", seen) == ["data:image/png;"] * 4


def test_html_has_no_identity(page, series):
    for header in series.datasets:
        for keyword in ("PatientID", "PatientBirthDate", "AccessionNumber", "SOPInstanceUID"):
            assert str(header[keyword].value) not in visible(page)
    assert "Doe" not in visible(page)
    assert series.series_instance_uid not in visible(page)


def test_html_of_withheld_hides_the_score(result, series, masks, tmp_path):
    withheld = cases.withheld(result)
    html.write_html(withheld, tmp_path / "r.html", Drawing.of(series, withheld, masks))
    seen = visible((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Suspected haemorrhage: 12 ml, right, most of it in right L. Score withheld" in seen
    assert '<p class="headline">HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS</p>' in seen
    assert "12.3 ml of blood-like density" in seen
    assert "0.91" not in seen
    assert '"affected"' not in seen
    assert 'class="scores"' not in seen


def test_html_shows_the_cut_of_the_site(result, tmp_path):
    software = replace(result.software, region_cut=RegionCut(0.42, "f" * 64))
    html.write_html(replace(result, software=software), tmp_path / "r.html")
    assert "from a probability of 0.42 on" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_html_of_a_refusal_has_reason_and_remedy_and_no_table(tmp_path):
    html.write_html(cases.refused(cases.GAP), tmp_path / "r.html")
    seen = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "ASPECTS NOT SCORED" in seen
    assert "What to do: Send the series again." in seen
    assert "<table>" not in seen
    assert "<img" not in seen


def test_html_escapes_what_it_is_told(tmp_path):
    flag = QualityFlag("odd", "refusal", "<script>alert(1)</script>", "a & b")
    html.write_html(cases.refused(flag), tmp_path / "r.html")
    seen = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>" not in seen
    assert "a &amp; b" in seen
