from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import Lesion
from tests.unit.scoring.heads import darken, flat_head, plain_decision, region_slices

LEFT_L, RIGHT_L = RegionId("L", "left"), RegionId("L", "right")
RIGHT_M5 = RegionId("M5", "right")


def probability(lesion: Lesion, region: RegionId) -> float:
    found = lesion.evidence[region].probability
    assert found is not None
    return found


@pytest.fixture(scope="module")
def engine() -> AsymmetryEngine:
    return AsymmetryEngine(decision=plain_decision())


def test_nothing_is_found_in_a_head_of_noise(engine: AsymmetryEngine) -> None:
    lesion = engine.segment(flat_head(noise_hu=4.0))
    assert max(probability(lesion, r) for r in ALL_REGIONS) < 0.3
    assert not lesion.acute.any()


@pytest.mark.parametrize("region", ALL_REGIONS, ids=lambda r: f"{r.side}-{r.name}")
def test_a_dark_region_is_found_on_its_own_side(engine: AsymmetryEngine, region: RegionId) -> None:
    lesion = engine.segment(darken(flat_head(), region, 5.0))
    called = [r for r in ALL_REGIONS if probability(lesion, r) >= 0.5]
    assert called == [region]
    inside = lesion.acute[region_slices(region)].mean()
    assert inside > 0.5
    assert lesion.acute[region_slices(region.mirror)].sum() == 0
    difference = lesion.evidence[region].contralateral_difference_hu
    assert difference == pytest.approx(-5.0, abs=0.5)


def test_a_bright_region_does_not_darken_its_mirror(engine: AsymmetryEngine) -> None:
    lesion = engine.segment(darken(flat_head(), LEFT_L, -8.0))
    assert probability(lesion, RIGHT_L) < 0.5
    assert not lesion.acute.any()


def test_the_rim_of_a_bleeding_is_no_mirror(engine: AsymmetryEngine) -> None:
    head = darken(flat_head(), LEFT_L, -8.0)  # what partial volume leaves of a clot
    z, y, x = region_slices(LEFT_L)
    parenchyma = head.brain.parenchyma.copy()
    parenchyma[z, y, x.start : x.stop - 8] = False
    lesion = engine.segment(replace(head, brain=replace(head.brain, parenchyma=parenchyma)))
    assert lesion.evidence[RIGHT_L].contralateral_difference_hu is None
    assert probability(lesion, RIGHT_L) < 0.1
    assert not lesion.acute.any()


def test_an_old_lesion_does_not_hide_a_finding_on_the_other_side(engine: AsymmetryEngine) -> None:
    head = darken(darken(flat_head(), RIGHT_L, 6.0), LEFT_L, 25.0)
    csf = head.brain.csf.copy()
    csf[region_slices(LEFT_L)] = True
    brain = replace(head.brain, csf=csf, parenchyma=head.brain.parenchyma & ~csf)
    lesion = engine.segment(replace(head, brain=brain))
    assert lesion.old[region_slices(LEFT_L)].mean() > 0.8
    assert not (lesion.old & lesion.acute).any()
    assert probability(lesion, RIGHT_L) > 0.5
    assert lesion.evidence[LEFT_L].probability is None


def test_a_region_bordering_on_an_old_cavity_is_not_judged(engine: AsymmetryEngine) -> None:
    """Gliosis beside a cavity is darker than brain and not early change."""
    z, y, x = region_slices(LEFT_L)
    head = darken(flat_head(), LEFT_L, 6.0)
    csf = head.brain.csf.copy()
    csf[z, y, x.start : x.start + 10] = True  # a third of the region
    brain = replace(head.brain, csf=csf, parenchyma=head.brain.parenchyma & ~csf)
    lesion = engine.segment(replace(head, brain=brain))
    assert lesion.old.any()
    assert lesion.evidence[LEFT_L].probability is None


def test_equal_infarcts_on_both_sides_are_found_by_the_persons_own_brain_and_missing_contrast_is_none() -> (
    None
):
    """By the constants that ship: a head as grey as white is no infarct of the bright nuclei."""
    engine = AsymmetryEngine()
    assert max(probability(engine.segment(flat_head()), r) for r in ALL_REGIONS) < engine.decision.threshold
    lesion = engine.segment(darken(darken(flat_head(), RIGHT_L, 12.0), LEFT_L, 12.0))
    assert probability(lesion, RIGHT_L) > 0.5
    assert probability(lesion, LEFT_L) > 0.5


def test_the_mirror_image_gives_the_mirror_result(engine: AsymmetryEngine) -> None:
    head = darken(flat_head(seed=4), RIGHT_M5, 4.0)
    labels = head.regions[:, :, ::-1]
    swapped = np.where(labels > 10, labels - 10, np.where(labels > 0, labels + 10, 0)).astype(np.uint8)
    mirrored = replace(head, hu=head.hu[:, :, ::-1].copy(), regions=swapped)
    lesion, other = engine.segment(head), engine.segment(mirrored)
    for region in ALL_REGIONS:
        assert probability(lesion, region) == pytest.approx(probability(other, region.mirror), abs=1e-4)
    assert np.array_equal(lesion.acute, other.acute[:, :, ::-1])


def test_noise_lowers_confidence(engine: AsymmetryEngine) -> None:
    small = RegionId("IC", "left")
    quiet = probability(engine.segment(darken(flat_head(noise_hu=1.0), small, 4.0)), small)
    thick = replace(darken(flat_head(noise_hu=1.0), small, 4.0), slice_thickness_mm=10.0)
    loud = replace(thick, brain=replace(thick.brain, noise_hu=40.0))
    assert probability(engine.segment(loud), small) < quiet


def test_a_region_without_tissue_is_not_judged(engine: AsymmetryEngine) -> None:
    head = flat_head()
    parenchyma = head.brain.parenchyma.copy()
    parenchyma[region_slices(LEFT_L)] = False
    lesion = engine.segment(replace(head, brain=replace(head.brain, parenchyma=parenchyma)))
    assert lesion.evidence[LEFT_L].probability is None
    assert lesion.evidence[RIGHT_L].contralateral_difference_hu is None


def test_the_density_field_is_taken_off_before_anything_is_compared(engine: AsymmetryEngine) -> None:
    head = flat_head()
    ramp = np.linspace(-4, 4, head.hu.shape[2], dtype=np.float32)[None, None, :] * np.ones_like(head.hu)
    shaded = replace(head, hu=head.hu + ramp)
    without = engine.segment(shaded)
    assert max(probability(without, r) for r in ALL_REGIONS) > 0.5
    found = engine.segment(replace(shaded, field=ramp))
    assert max(probability(found, r) for r in ALL_REGIONS) < 0.3
    assert not found.acute.any()


def test_two_thirds_of_a_dark_region_are_found_and_only_they_are_outlined(engine: AsymmetryEngine) -> None:
    region = RegionId("M2", "left")
    z, y, x = region_slices(region)
    half = x.start + (x.stop - x.start) // 3
    head = flat_head(noise_hu=1.0)
    hu = head.hu.copy()
    hu[z, y, half:] -= 8.0
    lesion = engine.segment(replace(head, hu=hu))
    assert probability(lesion, region) > 0.5
    assert lesion.acute[z, y, half + 3 : x.stop].mean() > 0.8
    assert lesion.acute[z, y, x.start : half - 3].mean() < 0.1


def test_a_call_that_depends_on_the_borders_is_borderline(engine: AsymmetryEngine) -> None:
    """A rim along one border of the region: with the border moved in, what was dark is left outside."""
    region = RegionId("M2", "left")
    assert not engine.segment(darken(flat_head(noise_hu=1.0), region, 8.0)).evidence[region].borderline
    assert not engine.segment(flat_head(noise_hu=1.0)).evidence[region].borderline
    head = flat_head(noise_hu=1.0)
    z, y, x = region_slices(region)
    hu = head.hu.copy()
    hu[z, y, x.start : x.start + 16] -= 6.0  # a little more than half
    assert engine.segment(replace(head, hu=hu)).evidence[region].borderline


def test_the_gliotic_rim_of_a_cavity_is_other_hypodensity_and_no_infarct(engine: AsymmetryEngine) -> None:
    head = flat_head(noise_hu=1.0)
    hu, csf = head.hu.copy(), head.brain.csf.copy()
    z, y, x = slice(14, 24), slice(30, 40), slice(85, 100)  # at the border of several regions
    hu[10:28, 24:46, 79:106] -= 10.0
    hu[z, y, x] = 8.0
    csf[z, y, x] = True
    brain = replace(head.brain, csf=csf, parenchyma=head.brain.parenchyma & ~csf)
    lesion = engine.segment(replace(head, hu=hu, brain=brain))
    assert lesion.old.any()
    assert not lesion.acute.any()
    assert lesion.other is not None
    assert lesion.other.any()


def test_the_configuration_is_part_of_the_hash() -> None:
    engine = AsymmetryEngine()
    other = AsymmetryEngine(replace(engine.config, voxel_hu=2.5))
    decided = AsymmetryEngine(decision=plain_decision())
    assert len({engine.sha256, other.sha256, decided.sha256}) == 3
    assert engine.sha256 == AsymmetryEngine().sha256


def test_a_sliver_is_not_outlined_and_outside_the_regions_only_what_is_large(engine: AsymmetryEngine) -> None:
    """The convexity is full of thin dark layers: partial volume, not infarct."""
    head = flat_head()
    sliver, block, small, large = (np.zeros(head.hu.shape, bool) for _ in range(4))
    z, y, x = region_slices(RegionId("M2", "left"))
    sliver[z, y.start, x] = True  # one voxel of 2 mm thick, 1.7 ml
    block[z, y, x.start : x.start + 10] = True
    assert not engine._outlined(head, sliver).any()
    assert np.array_equal(engine._outlined(head, block), block)
    assert not (head.regions[2:5] > 0).any()
    small[2:5, 40:50, 20:40] = True  # 2.4 ml outside the regions
    large[1:5, 30:60, 20:50] = True  # 14 ml
    assert not engine._outlined(head, small).any()
    assert engine._outlined(head, large).any()


def test_tissue_dark_on_both_sides_is_other_hypodensity(engine: AsymmetryEngine) -> None:
    """White-matter disease: no mirror difference, far below the person's level, and neither early nor old."""
    head = flat_head(noise_hu=1.0)
    hu = head.hu.copy()
    middle = hu.shape[2] // 2
    hu[4:20, 90:98, middle - 30 : middle + 31] -= 13.0  # behind the regions
    lesion = engine.segment(replace(head, hu=hu))
    assert not lesion.acute.any()
    assert lesion.other is not None
    assert lesion.other[6:18, 92:96, middle - 25 : middle + 26].mean() > 0.8
    assert lesion.other_ml(head.grid) > 5.0
    assert not engine.segment(head).other.any()
