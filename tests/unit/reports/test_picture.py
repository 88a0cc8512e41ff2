from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.reports import palette, picture
from strokecore.reports.palette import MARKS
from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, SourceMasks
from tests.unit.reports import output_cases as cases

ORIENTATIONS = [
    {"rows_flipped": rows, "columns_flipped": columns, "transposed": transposed}
    for rows in (False, True)
    for columns in (False, True)
    for transposed in (False, True)
]


def drawn(series, masks, result, k, size=200, **options):
    return picture.draw_slice(
        series, masks, result, k, size, picture.head_views(series, [k])[k], **options
    ).astype(int)


def same_height(series, z: float) -> int:
    middle = series.positions_mm[:, 2] - series.positions_mm[:, 2].mean()
    return int(np.abs(middle - z).argmin())


@pytest.fixture(scope="module")
def upright():
    series = cases.small_series()
    masks = cases.made_up_masks(series)
    return series, masks, cases.made_up_result(series, masks)


@pytest.mark.parametrize("stored", ORIENTATIONS, ids=str)
def test_patients_right_is_on_the_left_however_the_slice_is_stored(stored, upright):
    """All eight ways to store a slice give the same picture."""
    series = cases.small_series(**stored)
    masks = cases.made_up_masks(series)
    result = cases.made_up_result(series, masks)
    k = same_height(series, 0.0)
    shown = drawn(series, masks, result, k)
    # the dark mark of the right front, in grey values
    grey = drawn(series, nothing(masks), result, k, labels=False).sum(axis=2)
    rows, columns = np.nonzero((grey > 0) & (grey < 200))
    assert columns.mean() < 90
    assert rows.mean() < 100
    # the infarct of the right side, in colour
    red = (shown[..., 0] - shown[..., 2]) > 80
    assert red[:, :100].sum() > 10 * max(1, red[:, 100:].sum())
    reference = drawn(*upright, same_height(upright[0], 0.0))
    assert np.abs(shown - reference).mean() < 4.0


def nothing(masks: SourceMasks) -> SourceMasks:
    return SourceMasks(np.zeros_like(masks.lesion), np.zeros_like(masks.regions))


def test_lesion_and_regions_lie_on_their_voxels(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    plain = drawn(series, nothing(masks), result, k, labels=False)
    only_lesion = drawn(
        series, SourceMasks(masks.lesion, np.zeros_like(masks.regions)), result, k, labels=False
    )
    changed = np.abs(only_lesion - plain).sum(axis=2) > 30
    view = picture.head_views(series, [k])[k]
    mm_per_pixel = view.extent_mm / 200
    area = changed.sum() * mm_per_pixel**2
    true_area = (masks.lesion[k] > 0).sum() * np.prod(series.pixel_spacing_mm)
    assert area == pytest.approx(true_area, rel=0.25)
    # centre of the change against the lesion's, in millimetres from the view's centre
    rows, columns = np.nonzero(changed)
    j, i = np.nonzero(masks.lesion[k] > 0)
    assert (columns.mean() + 0.5 - 100) * mm_per_pixel == pytest.approx(
        (i.mean() + 0.5 - view.centre[1]) * view.spacing_mm[1], abs=2.0
    )
    assert (rows.mean() + 0.5 - 100) * mm_per_pixel == pytest.approx(
        (j.mean() + 0.5 - view.centre[0]) * view.spacing_mm[0], abs=2.0
    )


def test_pixels_that_are_not_square_are_shown_in_proportion():
    series = cases.small_series()
    stretched = replace(
        series, hu=np.repeat(series.hu, 2, axis=1), pixel_spacing_mm=(1.7, 3.4), digest="1" * 64
    )
    masks = cases.made_up_masks(series)
    doubled = SourceMasks(np.repeat(masks.lesion, 2, axis=1), np.repeat(masks.regions, 2, axis=1))
    result = cases.made_up_result(series, masks)
    k = same_height(series, 0.0)
    difference = np.abs(drawn(stretched, doubled, result, k) - drawn(series, masks, result, k))
    assert difference.mean() < 6.0


def test_level_slices_show_their_level(upright):
    _, masks, _ = upright
    ganglionic = picture.level_slice(masks, "ganglionic")
    above = picture.level_slice(masks, "supraganglionic")
    assert (masks.regions[ganglionic] == RegionId("L", "left").label).any()
    assert (masks.regions[above] == RegionId("M5", "right").label).any()
    assert above > ganglionic


def test_level_slice_without_regions_is_the_middle(upright):
    assert picture.level_slice(nothing(upright[1]), "ganglionic") == 4


def test_views_share_one_scale_and_leave_the_headrest_out(upright):
    series = upright[0]
    hu = series.hu.copy()
    # a headrest below the head, apart from it
    hu[:, -2:, 10:50] = 400.0
    views = picture.head_views(replace(series, hu=hu), range(len(hu)))
    assert len({view.extent_mm for view in views.values()}) == 1
    assert views == picture.head_views(series, range(len(hu)))


def test_empty_slice_and_empty_series_can_be_drawn(upright):
    series, masks, result = upright
    hu = series.hu.copy()
    hu[0] = -1024.0
    assert drawn(replace(series, hu=hu), nothing(masks), result, 0).shape == (200, 200, 3)
    views = picture.head_views(replace(series, hu=np.full_like(hu, -1024.0)), [0, 1])
    assert views[0].extent_mm > 100


def test_withheld_score_marks_no_region(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    without_lesion = SourceMasks(np.zeros_like(masks.lesion), masks.regions)

    def orange(status_result):
        shown = drawn(series, without_lesion, status_result, k, labels=False)
        return int(((shown[..., 0] > 150) & (shown[..., 0] - shown[..., 2] > 80)).sum())

    assert orange(result) > 50
    assert orange(cases.withheld(result)) == 0


def test_a_borderline_region_has_a_dashed_outline(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    without_lesion = SourceMasks(np.zeros_like(masks.lesion), masks.regions)

    def painted(colour, regions):
        shown = drawn(series, without_lesion, replace(result, regions=regions), k, size=400, labels=False)
        return int((np.abs(shown - colour).sum(axis=2) < 90).sum())

    def drawn_as(**values):
        return tuple(
            replace(f, **values) if (f.name, f.side) == ("M3", "left") else replace(f, affected=False)
            for f in (replace(f, borderline=False) for f in result.regions)
        )

    solid = painted(palette.AFFECTED, drawn_as(affected=True))
    assert solid > 100
    dashed = painted(palette.AFFECTED, drawn_as(affected=True, borderline=True))
    assert 0.35 * solid < dashed < 0.65 * solid
    assert painted(palette.BORDERLINE, drawn_as(borderline=True)) > 0.3 * solid
    assert painted(palette.BORDERLINE, drawn_as()) < 0.05 * solid


def test_haemorrhage_and_other_hypodensity_have_colours_of_their_own(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    pictures = [
        drawn(
            series,
            SourceMasks(
                np.where(masks.lesion == INFARCT["right"], value, 0).astype(np.uint8),
                np.zeros_like(masks.regions),
            ),
            result,
            k,
            labels=False,
        )
        for value in (0, INFARCT["right"], OLD_INFARCT, OTHER_HYPODENSITY, HAEMORRHAGE)
    ]
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert (np.abs(one - other).sum(axis=2) > 60).sum() > 20


def test_marks_are_told_apart_without_hues():
    """In grey print, and by readers who do not see hues: every mark has a pattern of its own."""
    patterns = {m.label.removesuffix(" left").removesuffix(" right"): m.pattern for m in MARKS.values()}
    assert len(set(patterns.values())) == len(patterns)
    patches = [picture.sample(mark, 40, 40, (0, 0, 0)) for mark in MARKS.values()]
    painted = [(patch.max(axis=2) > 100).mean() for patch in patches]
    outlined, filled, _, hatched, crossed = painted
    assert outlined < 0.35
    assert filled < hatched < crossed  # a faint wash is not counted, lines are


def test_the_inside_of_a_clot_stays_bare(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    lesion = np.where(masks.lesion == INFARCT["right"], HAEMORRHAGE, 0).astype(np.uint8)
    bare = np.zeros_like(masks.regions)
    clot = drawn(series, SourceMasks(lesion, bare), result, k, labels=False)
    plain = drawn(series, SourceMasks(np.zeros_like(lesion), bare), result, k, labels=False)
    share = (np.abs(clot - plain).sum(axis=2) > 0).sum() / picture_pixels(series, lesion[k] > 0, k)
    assert 0.1 < share < 0.8  # of a small clot the rim is most


def picture_pixels(series, mask, k, size=200) -> float:
    view = picture.head_views(series, [k])[k]
    return float(mask.sum() * np.prod(series.pixel_spacing_mm) / (view.extent_mm / size) ** 2)


def test_no_mark_has_the_colour_of_a_region_or_of_another_mark():
    marks = {mark.colour for mark in MARKS.values()}
    others = [*palette.REGION_COLOURS.values(), palette.AFFECTED, palette.UNAFFECTED, palette.BORDERLINE]
    for colour in marks:
        for other in (*others, *(marks - {colour})):
            assert np.linalg.norm(np.subtract(colour, other)) > 60, (colour, other)
    for outline in (palette.AFFECTED, palette.BORDERLINE):
        for other in palette.REGION_COLOURS.values():
            assert np.linalg.norm(np.subtract(outline, other)) > 60, (outline, other)


def test_the_bare_picture_has_no_mark_and_the_windows_differ(upright):
    series, masks, result = upright
    k = same_height(series, 0.0)
    empty = SourceMasks(np.zeros_like(masks.lesion), np.zeros_like(masks.regions))
    bare = drawn(series, masks, result, k, marks=False)
    assert np.array_equal(bare, drawn(series, empty, result, k))
    assert not np.array_equal(bare, drawn(series, masks, result, k, marks=False, window=picture.BLOOD_WINDOW))
    assert str(picture.STROKE_WINDOW) == "W 40 L 40"


def test_pictures_repeat(upright):
    series, masks, result = upright
    assert np.array_equal(drawn(series, masks, result, 3), drawn(series, masks, result, 3))


def test_words_keep_to_the_fonts_characters():
    assert picture.printable("≥ 8 mm – Müller Δ") == ">= 8 mm - Muller d"
