"""What is marked, as every output shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.reports import marks
from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, SourceMasks
from tests.unit.reports import output_cases as cases


def test_early_change_is_what_lies_in_affected_regions(series, result, masks):
    lesion = np.where(masks.regions == RegionId("M1", "right").label, INFARCT["right"], 0).astype(np.uint8)
    lesion[masks.regions == RegionId("M5", "right").label] = INFARCT["right"]  # not affected
    lesion[(masks.regions == 0) & (series.hu > 0) & (series.hu < 30)] = INFARCT["right"]
    seen = marks.shown(series, result, SourceMasks(lesion, masks.regions))
    early = seen.lesion == INFARCT["right"]
    assert early.any()
    assert (masks.regions[early] == RegionId("M1", "right").label).all()
    assert (seen.lesion[masks.regions == RegionId("M5", "right").label] == OTHER_HYPODENSITY).any()
    assert np.array_equal(marks.shown(series, result, seen).lesion, seen.lesion)


def test_specks_go_and_blood_stays(series, result, masks):
    voxel_mm2 = float(np.prod(series.pixel_spacing_mm))
    fine = replace(series, pixel_spacing_mm=(3.0, 2.5))
    assert voxel_mm2 > marks.SPECK_MM2 > 7.5 > marks.SPECK_MM2 / 2
    j, i = np.argwhere(masks.regions[4] == RegionId("M1", "right").label)[0]
    for value in (INFARCT["right"], OTHER_HYPODENSITY, OLD_INFARCT, HAEMORRHAGE):
        lesion = np.zeros_like(masks.lesion)
        lesion[4, j, i] = value
        lesion[4, 2:4, 2] = value if value not in INFARCT.values() else OTHER_HYPODENSITY
        seen = marks.shown(fine, result, SourceMasks(lesion, masks.regions)).lesion
        assert bool(seen[4, j, i]) == (value == HAEMORRHAGE)
        assert seen[4, 2:4, 2].all()


def test_a_withheld_result_shows_no_infarct_of_any_age(series, result, masks):
    lesion = np.where(masks.lesion == INFARCT["right"], HAEMORRHAGE, masks.lesion)
    lesion[0, :4, :4] = INFARCT["left"]
    lesion[0, 8:12, :4] = OLD_INFARCT
    seen = marks.shown(series, cases.withheld(result), SourceMasks(lesion, masks.regions))
    assert set(np.unique(seen.lesion)) == {0, HAEMORRHAGE}


def test_a_score_that_cannot_be_given_makes_no_headline_volume(series, result, masks):
    nothing_affected = replace(result, regions=tuple(replace(f, affected=False) for f in result.regions))
    seen = marks.shown(series, nothing_affected, masks)
    volumes = marks.Volumes.of(series, seen)
    assert volumes.early == {"left": 0.0, "right": 0.0}
    assert volumes.other > 1.0
    assert volumes.early_words == "right 0 ml, left 0 ml"


def test_volumes_are_those_of_the_segments_on_uneven_slices(series, masks):
    """A slice stands for half the way to each neighbour."""
    lesion = np.zeros_like(masks.lesion)
    lesion[3, :10, :10] = OTHER_HYPODENSITY  # gaps of 9 and 1.5 mm
    volumes = marks.Volumes.of(series, SourceMasks(lesion, masks.regions))
    gaps = np.diff(series.slice_offsets_mm)
    assert volumes.other == pytest.approx(100 * 3.4**2 * (gaps[2] + gaps[3]) / 2 / 1000, abs=1e-3)
    assert volumes.uncounted_words == ["Other hypodensity, age unknown, not counted: 6 ml"]
