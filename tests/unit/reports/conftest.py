"""The result that most tests of the reports show, and what it is of."""

from __future__ import annotations

import pytest

from strokecore.reading.series import Series
from strokecore.result import Result, SourceMasks
from tests.unit.reports import output_cases as cases


@pytest.fixture(scope="module")
def series() -> Series:
    """Tilted, with gaps of 1.5 to 8 mm."""
    return cases.small_series()


@pytest.fixture(scope="module")
def masks(series: Series) -> SourceMasks:
    return cases.made_up_masks(series)


@pytest.fixture(scope="module")
def result(series: Series, masks: SourceMasks) -> Result:
    return cases.made_up_result(series, masks)
