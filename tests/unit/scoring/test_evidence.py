from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.scoring.evidence import labellings, moved_borders, region_evidence
from strokecore.scoring.tissue import Tissue
from tests.unit.scoring.heads import darken, flat_head, region_slices

LEFT_M2 = RegionId("M2", "left")


def test_a_whole_dark_region_shows_at_every_quantile_against_both_references() -> None:
    head = darken(flat_head(noise_hu=1.0), LEFT_M2, 5.0)
    found = region_evidence(head, Tissue.of(head), head.regions)
    assert found[LEFT_M2].differences_hu == pytest.approx((-5.0,) * 3, abs=0.2)
    assert found[LEFT_M2].levels_hu == pytest.approx((-5.0,) * 3, abs=0.3)
    assert found[LEFT_M2.mirror].differences_hu == pytest.approx((5.0,) * 3, abs=0.2)
    assert found[LEFT_M2.mirror].levels_hu == pytest.approx((0.0,) * 3, abs=0.3)


def test_fluid_in_a_region_darkens_its_dark_part_and_not_its_bright_part() -> None:
    """A wide sulcus that the masks missed is no infarct: grey matter is as bright as ever."""
    head = flat_head(noise_hu=1.0)
    z, y, x = region_slices(LEFT_M2)
    hu = head.hu.copy()
    hu[z, y, x.start : x.start + 10] -= 12.0
    head = replace(head, hu=hu)
    found = region_evidence(head, Tissue.of(head), head.regions)[LEFT_M2].differences_hu
    assert found is not None
    bright, _, dark = found
    assert abs(bright) < 0.6
    assert dark < -8.0


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
