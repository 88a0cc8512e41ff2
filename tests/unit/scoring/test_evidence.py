from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.head.canonical import Head
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


def textured(head: Head, sd_hu: float, fwhm_mm: float) -> Head:
    """The head with correlated texture, different on each side."""
    noise = np.random.default_rng(3).normal(size=head.hu.shape)
    smooth = ndimage.gaussian_filter(noise, [fwhm_mm / 2.355 / step for step in head.grid.spacing_mm])
    return replace(head, hu=(head.hu + sd_hu * smooth / smooth.std()).astype(np.float32))


def test_texture_tells_by_the_scatter_of_blocks_and_an_infarct_hardly_does() -> None:
    plain = flat_head()
    quiet, loud = (Tissue.of(textured(plain, sd, 8.0)).scatter_hu for sd in (0.3, 2.0))
    ill = Tissue.of(darken(textured(plain, 0.3, 8.0), LEFT_M2, 8.0)).scatter_hu
    assert quiet is not None
    assert loud is not None
    assert ill is not None
    assert loud > 2.5 * quiet
    assert ill < 1.3 * quiet


def test_a_head_of_which_one_side_cannot_be_measured_has_no_scatter() -> None:
    head = flat_head()
    one_side = np.ones(head.grid.shape, bool)
    one_side[head.grid.side_columns("left")] = False
    brain = replace(head.brain, parenchyma=one_side)
    assert Tissue.of(replace(head, brain=brain)).scatter_hu is None
