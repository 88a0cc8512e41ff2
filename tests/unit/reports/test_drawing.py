"""What is drawn of one result."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.reading.series import Series
from strokecore.reports import pages
from strokecore.reports.drawing import Drawing
from strokecore.reports.picture import LEVELS, draw_slice, head_views, level_slice
from strokecore.result import Result, SourceMasks
from tests.unit.reports import output_cases as cases

Case = tuple[Series, Result, SourceMasks]


@pytest.fixture(scope="module")
def case() -> Case:
    series = cases.small_series()
    masks = cases.made_up_masks(series)
    return series, cases.made_up_result(series, masks), masks


def test_pages_are_those_of_the_secondary_capture(case: Case) -> None:
    drawing = Drawing.of(*case)
    np.testing.assert_array_equal(drawing.summary, pages.summary_page(*case))
    np.testing.assert_array_equal(np.stack(drawing.montage), np.stack(pages.montage_pages(*case)))


def test_the_ganglionic_level_is_on_the_left(case: Case) -> None:
    series, result, masks = case
    levels = Drawing.of(*case).levels
    assert levels.shape == (512, 1024, 3)
    shown = [level_slice(masks, level) for level in LEVELS]
    views = head_views(series, shown)
    for left, k in zip((0, 512), shown, strict=True):
        expected = draw_slice(series, masks, result, k, 512, views[k])
        np.testing.assert_array_equal(levels[:, left : left + 512], expected)
