from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageDraw
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from strokecore.flags import QualityFlag
from strokecore.reading.tags import quiet_pydicom
from strokecore.reports import pages, palette, picture
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
    assert words[words.index("ASPECTS RIGHT") + 1] == "7"
    assert words[words.index("ASPECTS LEFT") + 1] == "9"
    assert "(6-8)" in words
    assert "(8-9)" in words
    assert "9 of 10 assessed" in words
    assert words.count("?") == 3  # three rows
    assert "borderline" in words
    assert "Ganglionic" in said
    assert "Supraganglionic" in said
    assert words.count("W 40 L 40") == 2
    assert "RESEARCH USE ONLY" in said
    assert "For adults with suspected stroke" in said
    assert "does not exclude stroke or haemorrhage" in said
    assert "Brain noise is 9.1 HU" in said
    assert "old infarct" in words
    assert said.count("0.91") == 3
    assert words.count("no mirror") == 0
    assert "Early ischaemic change: right " in said
    assert "Infarct" not in said


def test_top_and_corners_of_every_page_are_left_to_the_viewer(case):
    series, result, masks = case
    blood = SourceMasks(np.where(masks.lesion == 2, 5, 0).astype(np.uint8), masks.regions)
    drawn = [
        pages.summary_page(*case),
        pages.summary_page(series, cases.withheld(result), blood),
        *pages.montage_pages(*case),
        pages.refusal_page(cases.refused(cases.GAP)),
    ]
    width, height = pages.CORNER
    for page in drawn:
        assert (page[:110] == palette.PAPER).all()
        for corner in (page[-height:, :width], page[-height:, -width:]):
            assert (corner == palette.PAPER).all()


def test_a_marked_slice_stands_beside_the_bare_one(case):
    series, result, masks = case
    page = pages.summary_page(*case)
    k = picture.level_slice(masks, "ganglionic")
    views = picture.head_views(series, [picture.level_slice(masks, level) for level in picture.LEVELS])
    bare = picture.draw_slice(series, masks, result, k, pages.PANEL, views[k], marks=False)
    inner = (slice(2, 250), slice(2, 300))  # within the frame, above the caption
    top = next(y for y in range(110, 260) if (page[y, 324:626] == palette.RULE).all())
    right = page[top:, 324:626][inner]
    left = page[top:, 16:318][inner]
    assert np.array_equal(right, bare[inner])
    assert (np.abs(left.astype(int) - right).sum(axis=2) > 60).mean() > 0.02


def test_a_region_without_a_mirror_says_so(case, words):
    series, result, masks = case
    alone = tuple(
        replace(f, contralateral_difference_hu=None) if f.name == "M4" else f for f in result.regions
    )
    pages.summary_page(series, replace(result, regions=alone), masks)
    assert words.count("no mirror") == 1


def test_what_it_replaces_is_said_in_words(case, words):
    series, result, masks = case
    pages.summary_page(series, replace(result, supersedes="0" * 36), masks)
    assert "Replaces an earlier result of this scan." in words


def test_series_number_and_time_find_the_scan(case, words):
    series, result, masks = case
    named = cases.recoded(series, SeriesNumber=4, AcquisitionTime="031207")
    pages.summary_page(named, result, masks)
    assert [word for word in words if "series 4, scanned 03:12" in word]


def test_an_image_number_that_repeats_comes_with_its_position(case, words):
    series, result, masks = case
    pages.summary_page(cases.recoded(series, InstanceNumber=1), result, masks)
    k = picture.level_slice(masks, "ganglionic")
    assert f"Ganglionic, image 1 at {series.positions_mm[k][2]:.1f} mm" in words


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
    assert [word for word in words if "Ganglionic, slice" in word]


def test_withheld_page_has_the_blood_as_headline_and_no_score(case, words):
    series, result, masks = case
    blood = SourceMasks(np.where(masks.lesion == 2, 5, 0).astype(np.uint8), masks.regions)
    pages.summary_page(series, cases.withheld(result), blood)
    said = " ".join(words)
    assert words[0] == "HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS"
    assert "right L" in said
    assert "0.91" not in said
    assert "7" not in words
    # the outlines mean no more than where the regions lie
    assert "region" in words
    assert not {"affected", "not affected", "borderline"} & set(words)
    assert "infarct" not in said.replace("n/a old infarct", "").lower()
    assert "Early ischaemic" not in said
    assert "Suspected haemorrhage" in words
    most = int((blood.lesion == 5).sum(axis=(1, 2)).argmax())
    assert f"Most blood, image {series.datasets[most].InstanceNumber}" in words
    assert "W 100 L 50" in words


def test_every_page_of_a_withheld_result_begins_with_the_blood(case, words):
    series, result, masks = case
    pages.montage_pages(series, cases.withheld(result), masks)
    assert words[0] == "HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS"


def test_a_score_despite_blood_comes_after_it(case, words):
    series, result, masks = case
    despite = replace(result, haemorrhage=cases.withheld(result).haemorrhage)
    pages.summary_page(series, despite, masks)
    assert words[0] == "HAEMORRHAGE SUSPECTED, right, 12 ml - scored all the same"
    assert "7" in words


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
        positions_mm=np.repeat(series.positions_mm, 20, axis=0),
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


def test_the_ganglionic_level_is_on_the_left_and_the_bare_slices_below(case):
    series, result, masks = case
    levels = Drawing.of(*case).levels
    assert levels.shape == (1024, 1024, 3)
    shown = [picture.level_slice(masks, level) for level in picture.LEVELS]
    views = picture.head_views(series, shown)
    for left, k in zip((0, 512), shown, strict=True):
        for top, marks in ((0, True), (512, False)):
            expected = picture.draw_slice(series, masks, result, k, 512, views[k], marks=marks)
            np.testing.assert_array_equal(levels[top : top + 512, left : left + 512], expected)
