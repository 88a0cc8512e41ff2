from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from strokecore.flags import QualityFlag
from strokecore.reading.tags import quiet_pydicom
from strokecore.reports import pages, picture
from strokecore.reports.pages import Drawing
from strokecore.result import AspectsScore, SourceMasks
from tests.unit.reports import output_cases as cases


@pytest.fixture(scope="module")
def case():
    series = cases.small_series()
    masks = cases.made_up_masks(series)
    return series, cases.made_up_result(series, masks), masks


@pytest.fixture
def words(monkeypatch):
    """Everything that is written on a page."""
    said: list[str] = []
    original = ImageDraw.ImageDraw.text

    def spy(self, xy, text, *args, **kwargs):
        said.append(text)
        box = self.textbbox(xy, text, font=args[1] if len(args) > 1 else None, anchor=kwargs.get("anchor"))
        assert box[0] >= 0, text
        assert box[2] <= self.im.size[0], text
        assert box[3] <= self.im.size[1], text
        return original(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", spy)
    return said


def test_summary_shows_scores_levels_table_and_warnings(case, words):
    page = pages.summary_page(*case)
    assert page.shape == (1024, 1024, 3)
    assert page.dtype == np.uint8
    said = " ".join(words)
    assert words[words.index("RIGHT") + 1] == "7"
    assert words[words.index("LEFT") + 1] == "9"
    assert "(6-8)" in words
    assert "(8-9)" in words
    assert "9 of 10 assessed" in words
    assert words.count("borderline") == 4  # three rows and the legend
    assert "Ganglionic level" in said
    assert "Supraganglionic level" in said
    assert "RESEARCH USE ONLY" in said
    assert "Brain noise is 9.1 HU" in said
    assert "n/a old infarct" in said
    assert said.count("0.91") == 3


def test_summary_carries_no_identity(case, words):
    pages.summary_page(*case)
    pages.montage_pages(*case)
    said = " ".join(words)
    for identity in ("Doe", "Jane", "PID-1", "ACC-1", "19500102", "1.2.3.4"):
        assert identity not in said


def test_an_image_number_that_is_none_is_not_drawn(case, words):
    series, result, masks = case
    odd = cases.recoded(series, InstanceNumber=None)
    for header in odd.datasets:
        header[0x00200013] = RawDataElement(Tag(0x00200013), "IS", 6, b"secret", 0, False, True)
    with quiet_pydicom():
        pages.summary_page(odd, result, masks)
    assert not [word for word in words if "secret" in word]
    assert [word for word in words if "level, slice" in word]


def test_withheld_page_hides_the_score_and_names_the_blood(case, words):
    series, result, masks = case
    pages.summary_page(series, cases.withheld(result), masks)
    said = " ".join(words)
    assert "SUSPECTED HAEMORRHAGE" in words
    assert "ASPECTS withheld" in said
    assert "12.3 ml" in said
    assert "right L" in said
    assert "0.91" not in said
    assert "7" not in words
    # the outlines mean no more than where the regions lie
    assert "region" in words
    assert not {"affected", "not affected", "borderline", "infarct"} & set(words)
    assert "haemorrhage" in words
    assert not [word for word in words if word.startswith("Infarct:")]


def test_too_few_assessed_is_not_a_number(case, words):
    series, result, masks = case
    few = replace(result, aspects={"left": AspectsScore(None, 6), "right": AspectsScore(7, 10)})
    pages.summary_page(series, few, masks)
    assert "not scored" in words
    assert "(6 of 10 assessed)" in words


def test_many_flags_do_not_run_over(case, words):
    series, result, masks = case
    flags = tuple(
        QualityFlag(f"flag_{n}", "info", "A long statement about the scan " * 3, "Do something. " * 4)
        for n in range(12)
    )
    pages.summary_page(series, replace(result, quality=(*flags, cases.SOFT)), masks)
    said = " ".join(words)
    assert "Brain noise is 9.1 HU" in said  # the warning before the information
    assert "more in the report" in said


def test_montage_shows_each_slice_with_a_region_once_from_below(case, words):
    series, result, masks = case
    (page,) = pages.montage_pages(series, result, masks)
    assert page.shape == (1024, 1024, 3)
    shown = [int(word.split()[1]) for word in words if word.startswith("image ")]
    crossed = np.flatnonzero((masks.regions > 0).any(axis=(1, 2)) | (masks.lesion > 0).any(axis=(1, 2)))
    assert shown == [int(series.datasets[k].InstanceNumber) for k in crossed]


def test_montage_of_a_stack_stored_downwards_still_goes_up(words):
    series = cases.small_series(columns_flipped=True)
    assert series.normal[2] < 0
    masks = cases.made_up_masks(series)
    pages.montage_pages(series, cases.made_up_result(series, masks), masks)
    shown = [int(word.split()[1]) for word in words if word.startswith("image ")]
    heights = [series.positions_mm[number - 1, 2] for number in shown]
    assert len(shown) > 3
    assert heights == sorted(heights)


def test_thin_stacks_are_thinned_out(case, words):
    series, result, masks = case
    many = replace(
        series,
        hu=np.repeat(series.hu, 20, axis=0),
        datasets=tuple(header for header in series.datasets for _ in range(20)),
    )
    thick = SourceMasks(np.repeat(masks.lesion, 20, axis=0), np.repeat(masks.regions, 20, axis=0))
    pages.montage_pages(many, result, thick)
    assert sum(word.startswith("image ") for word in words) == pages.MAXIMUM_TILES


def test_refusal_says_reason_and_remedy(words):
    flag = QualityFlag("missing_slice", "refusal", "A slice is missing.", "Send the series again.")
    page = pages.refusal_page(cases.refused(flag))
    assert page.shape == (1024, 1024, 3)
    for expected in (
        "ASPECTS NOT SCORED",
        "A slice is missing.",
        "Send the series again.",
        "Code: missing_slice",
    ):
        assert expected in words
    assert any("RESEARCH USE ONLY" in word for word in words)


def test_refusal_without_a_flag_still_says_something(words):
    pages.refusal_page(replace(cases.refused(), status="failed"))
    assert "ASPECTS NOT SCORED" in words
    assert any("administrator" in word for word in words)


def test_the_page_is_dark_and_legible():
    page = pages.refusal_page(cases.refused(cases.SOFT))
    assert np.median(page) < 40
    assert page.max() > 200
    assert picture.font(12).getbbox("M")[3] >= 8


def test_pages_are_those_of_the_secondary_capture(case):
    drawing = Drawing.of(*case)
    np.testing.assert_array_equal(drawing.summary, pages.summary_page(*case))
    np.testing.assert_array_equal(np.stack(drawing.montage), np.stack(pages.montage_pages(*case)))


def test_the_ganglionic_level_is_on_the_left(case):
    series, result, masks = case
    levels = Drawing.of(*case).levels
    assert levels.shape == (512, 1024, 3)
    shown = [picture.level_slice(masks, level) for level in picture.LEVELS]
    views = picture.head_views(series, shown)
    for left, k in zip((0, 512), shown, strict=True):
        expected = picture.draw_slice(series, masks, result, k, 512, views[k])
        np.testing.assert_array_equal(levels[:, left : left + 512], expected)
