"""All that is drawn of one result: once, for the Secondary Capture and for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.reading.series import Series
from strokecore.reports.pages import montage_pages, summary_page
from strokecore.reports.picture import LEVELS, Rgb8, draw_slice, head_views, level_slice
from strokecore.result import Result, SourceMasks

# Side of a slice in the report, pixels.
_SIDE: Final = 512


@dataclass(frozen=True, eq=False)
class Drawing:
    """The pictures of a scored or withheld result; uint8 [rows, columns, 3] each.

    Attributes
    ----------
    summary, montage: the pages of the Secondary Capture.
    levels: both ASPECTS levels side by side, for the report, which has its own table.
    """

    summary: Rgb8
    montage: tuple[Rgb8, ...]
    levels: Rgb8

    @classmethod
    def of(cls, series: Series, result: Result, masks: SourceMasks) -> Drawing:
        shown = [level_slice(masks, level) for level in LEVELS]
        views = head_views(series, shown)
        levels = [draw_slice(series, masks, result, k, _SIDE, views[k]) for k in shown]
        return cls(
            summary=summary_page(series, result, masks),
            montage=tuple(montage_pages(series, result, masks)),
            levels=np.concatenate(levels, axis=1),
        )
