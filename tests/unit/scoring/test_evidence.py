from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.scoring.evidence import MirrorMap, labellings, moved_borders, region_evidence
from strokecore.scoring.tissue import Tissue
from tests.unit.scoring.heads import darken, flat_head, region_slices

LEFT_M2 = RegionId("M2", "left")


def test_a_whole_dark_region_shows_in_all_three_measurements() -> None:
    head = darken(flat_head(noise_hu=1.0), LEFT_M2, 5.0)
    tissue = Tissue.of(head)
    found = region_evidence(head, tissue, MirrorMap.of(tissue, head.grid), head.regions)
    mine = found[LEFT_M2]
    assert mine.difference_hu == pytest.approx(-5.0, abs=0.2)
    assert mine.level_hu == pytest.approx(-5.0, abs=0.3)
    assert mine.local_hu is not None
    assert mine.local_hu < -4.5
    other = found[LEFT_M2.mirror]
    assert other.difference_hu == pytest.approx(5.0, abs=0.2)
    assert other.level_hu == pytest.approx(0.0, abs=0.3)


def test_a_third_of_a_region_shows_in_the_darker_part_where_the_median_is_blind() -> None:
    head = flat_head(noise_hu=1.0)
    z, y, x = region_slices(LEFT_M2)
    hu = head.hu.copy()
    hu[z, y, x.start : x.start + 10] -= 6.0
    head = replace(head, hu=hu)
    tissue = Tissue.of(head)
    mine = region_evidence(head, tissue, MirrorMap.of(tissue, head.grid), head.regions)[LEFT_M2]
    assert mine.difference_hu is not None
    assert mine.difference_hu > -1.5
    assert mine.local_hu is not None
    assert mine.local_hu < -3.0


def test_one_dark_hemisphere_does_not_lower_the_persons_level() -> None:
    head = flat_head(noise_hu=1.0)
    level = Tissue.of(head).level_hu
    for region in ALL_REGIONS[:10]:
        head = darken(head, region, 6.0)
    assert Tissue.of(head).level_hu == pytest.approx(level, abs=0.2)


def test_borders_move_alike_on_both_sides() -> None:
    head = flat_head()
    for moved in moved_borders(head.regions, head.grid):
        labels = moved[:, :, ::-1]
        swapped = np.where(labels > 10, labels - 10, np.where(labels > 0, labels + 10, 0))
        assert np.array_equal(swapped, moved)
        assert (moved != head.regions).any()
    assert len(labellings(head)) == 7


def test_the_second_definition_is_one_of_the_labellings_where_there_is_one() -> None:
    head = flat_head()
    second = np.roll(head.regions, 2, axis=1)
    found = labellings(replace(head, second_regions=second))
    assert len(found) == 8
    assert any(regions is second for regions in found)
