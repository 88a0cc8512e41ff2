"""The training world and the unseen world of the simulator: their ranges, and what each field does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokecore.errors import UsageError
from strokecore.simulate import (
    CONFOUNDERS,
    SampleSpec,
    parse_affected,
    random_person_spec,
    random_spec,
    training_fields,
    unseen_fields,
)
from strokecore.simulate import domain as world
from strokecore.simulate.anatomy import average_head
from strokecore.simulate.head import bend_person
from strokecore.simulate.scanner import acquire, slice_geometry
from strokecore.simulate.spec import NEIGHBOURS
from strokecore.simulate.tissue import Person

SPEC = SampleSpec(seed=4, matrix=128, pixel_mm=1.8, atrophy=0.1, calcification=False)


def person(**changes: object) -> Person:
    return bend_person(dataclasses.replace(SPEC, **changes), average_head())[0]


@pytest.fixture(scope="module")
def usual() -> Person:
    return person()


def pure(one: Person, share: str) -> np.ndarray:
    """HU of the brain where it is almost only grey or only white matter."""
    return one.hu[one.brain][(getattr(one, share) > 0.95) & one.inside]


def test_draws_stay_in_their_world_and_are_repeatable() -> None:
    for seed in range(200):
        seen, unseen = training_fields(seed), unseen_fields(seed)
        assert world.CONTRAST[0] <= seen["contrast"] <= world.CONTRAST[1]
        assert world.NOISE_HU[0] <= seen["noise_hu"] <= world.NOISE_HU[1]
        for name, (low, high) in {
            "contrast": world.CONTRAST,
            "noise_hu": world.NOISE_HU,
            "texture": world.TEXTURE,
            "texture_mm": world.TEXTURE_MM,
            "sharpness": world.SHARPNESS,
        }.items():
            assert not low <= unseen[name] <= high, f"training could draw {name} {unseen[name]}"
        assert seen == training_fields(seed)
        random_spec(seed, **seen)
        random_spec(seed, **unseen)


def test_unseen_values_lie_on_both_sides_of_the_training_world() -> None:
    drawn = [unseen_fields(seed) for seed in range(60)]
    for name, middle in (("contrast", 1.0), ("noise_hu", 3.5), ("texture", 1.0), ("sharpness", 1.0)):
        above = np.mean([fields[name] > middle for fields in drawn])
        assert 0.2 < above < 0.8, name


def test_a_quarter_of_the_training_heads_have_calcium_in_the_basal_ganglia() -> None:
    with_calcium = np.mean([training_fields(seed)["basal_ganglia_calcium"] > 0 for seed in range(400)])
    assert 0.15 < with_calcium < 0.35


def test_contrast_moves_grey_and_white_apart_and_leaves_their_mean(usual: Person) -> None:
    more = person(contrast=1.5)
    gap = [np.median(pure(one, "grey")) - np.median(pure(one, "white")) for one in (usual, more)]
    middle = [np.median(pure(one, "grey")) + np.median(pure(one, "white")) for one in (usual, more)]
    assert gap[1] / gap[0] == pytest.approx(1.5, abs=0.1)
    assert middle[1] == pytest.approx(middle[0], abs=0.2)


def test_the_shift_moves_brain_and_not_bone(usual: Person) -> None:
    moved = person(brain_shift_hu=3.0)
    assert np.median(pure(moved, "white")) - np.median(pure(usual, "white")) == pytest.approx(3.0, abs=0.05)
    bone = usual.hu > 600
    bone[usual.brain] = False  # the inner table shares its voxels with brain
    assert bone.sum() > 1000
    assert np.array_equal(usual.hu[bone], moved.hu[bone])


def test_texture_and_asymmetry_spread_white_matter(usual: Person) -> None:
    flat = np.std(pure(person(texture=0.0, asymmetry=0.0), "white"))
    rough = np.std(pure(person(texture=3.0), "white"))
    uneven = np.std(pure(person(asymmetry=3.0), "white"))
    assert flat < np.std(pure(usual, "white")) < min(rough, uneven)


def test_basal_ganglia_calcium_is_bright_in_both_pallida_and_uneven(usual: Person) -> None:
    extra = person(basal_ganglia_calcium=1.0).hu - usual.hu
    x, y, z = usual.grid.axes_mm
    box = (np.abs(z) < 6)[:, None, None] & (np.abs(y - 3) < 8)[None, :, None]
    left = extra[box & ((x > 12) & (x < 26))[None, None, :]].max()
    right = extra[box & ((x < -12) & (x > -26))[None, None, :]].max()
    assert min(left, right) > 5
    assert max(left, right) > 30
    assert abs(left - right) > 3
    assert np.abs(extra[(z > 40) | (z < -40)]).max() < 0.01


def test_shape_spread_of_nothing_is_nearly_the_average_head(usual: Person) -> None:
    average, wide = person(shape_spread=0.0), person(shape_spread=2.0)
    size = [float(one.inside.sum()) for one in (average, usual, wide)]
    assert size[0] != size[1] != size[2]
    other = bend_person(dataclasses.replace(SPEC, seed=5, shape_spread=0.0), average_head())[0]
    # without spread two people differ by their petalia only
    assert np.mean(average.inside != other.inside) < np.mean(usual.inside != average.inside)


def test_sharper_kernels_are_noisier_at_high_frequency(usual: Person) -> None:
    def roughness(**changes: float) -> float:
        spec = dataclasses.replace(SPEC, pixel_mm=0.9, matrix=256, **changes)
        hu = acquire(spec, usual.hu, usual.grid, slice_geometry(spec)).astype(float)
        inner = hu[len(hu) // 2, 100:150, 90:120]
        return float(np.abs(np.diff(inner, axis=1)).mean())

    assert roughness(sharpness=1.6) > 1.1 * roughness() > 1.1 * 1.1 * roughness(sharpness=0.6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contrast", -0.1),
        ("brain_shift_hu", 20.0),
        ("texture", 9.0),
        ("texture_mm", 0.0),
        ("sharpness", 0.1),
        ("shape_spread", -1.0),
        ("basal_ganglia_calcium", 1.5),
    ],
)
def test_impossible_fields_are_usage_errors(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field):
        SampleSpec(seed=1, **{field: value})


# What each confounder may change on a plain head.
_FIELDS_OF = {
    "cupping": {"cupping_hu", "cupping_depth_mm", "cupping_height"},
    "sharp_kernel": {"noise_hu", "sharpness", "edge_enhancement"},
    "plastic_noise": {"noise_hu", "sharpness", "plastic"},
    "shading": {"left_right_shading_hu", "front_back_shading_hu"},
    "texture": {"texture", "texture_mm"},
    "leukoaraiosis": {"leukoaraiosis", "leukoaraiosis_asymmetry"},
    "lacunes": {"lacunes", "rim_hu", "rim_mm"},
    "cavity": {"old_infarct", "old_territory", "rim_hu", "rim_mm"},
    "calcified_pallidum": {"basal_ganglia_calcium"},
    "streaks": {"streaks"},
    "motion": {"motion_mm"},
    "thin_slices": {"thickness_mm", "noise_hu"},
    "thick_slices": {"thickness_mm"},
    "tilt_rotation": {"tilt_deg", "pitch_deg", "yaw_deg", "roll_deg"},
    "wide_ventricles": {"atrophy"},
    "midline_shift": {"midline_shift_mm"},
    "dense_sinuses": {"dura_hu", "sinus_hu"},
}


@pytest.mark.parametrize("confounder", CONFOUNDERS)
def test_a_confounder_changes_a_plain_head_by_itself_alone(confounder: str) -> None:
    for seed in range(20):
        plain = random_person_spec(seed, "a:1", affected=(), confounder="plain")
        troubled = random_person_spec(seed, "a:1", affected=(), confounder=confounder)
        fields = [f.name for f in dataclasses.fields(SampleSpec)]
        changed = {name for name in fields if getattr(plain, name) != getattr(troubled, name)}
        assert changed
        assert changed <= _FIELDS_OF[confounder]


def test_an_unknown_confounder_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="confounder"):
        random_person_spec(1, "", confounder="hair")


def test_the_population_has_its_rates() -> None:
    specs = [random_person_spec(seed, "a:1") for seed in range(1500)]

    def share(found: list[bool]) -> float:
        return sum(found) / len(found)

    assert share([s.thickness_mm == 5 for s in specs]) == pytest.approx(0.50, abs=0.04)
    assert share([s.thickness_mm <= 2.5 for s in specs]) == pytest.approx(0.25, abs=0.04)
    assert share([s.edge_enhancement > 0 for s in specs]) == pytest.approx(0.15, abs=0.03)
    assert share([s.plastic > 0 for s in specs]) == pytest.approx(0.10, abs=0.03)
    assert share([s.leukoaraiosis > 0 for s in specs]) == pytest.approx(0.40, abs=0.04)
    assert share([s.lacunes > 0 for s in specs]) == pytest.approx(0.15, abs=0.03)
    assert share([bool(s.old_infarct or s.old_territory) for s in specs]) == pytest.approx(0.075, abs=0.025)
    assert share([s.basal_ganglia_calcium > 0 for s in specs]) == pytest.approx(0.15, abs=0.03)
    assert share([s.cupping_hu >= 10 for s in specs]) == pytest.approx(0.085, abs=0.03)
    assert np.mean([s.cupping_hu for s in specs if s.cupping_hu < 10]) == pytest.approx(2.7, abs=0.4)
    for s in specs:
        assert s.grey_hu is not None
        assert s.white_hu is not None
        assert 6.45 <= s.grey_hu - s.white_hu <= 9.55
        noise = s.noise_hu * np.sqrt(5 / s.thickness_mm) / (1.5 if s.edge_enhancement else 1.0)
        assert noise <= 9.01
        assert abs(s.left_right_shading_hu) <= 1.5
        assert all(0.3 <= share <= 1 for share in s.involvement)
    assert {s.definition for s in specs} == {"atlas", "second", "between"}


def test_infarcts_take_connected_regions_of_one_side() -> None:
    patterns = [random_person_spec(seed, "").affected for seed in range(400)]
    assert {len(p) for p in patterns} == set(range(1, 10))
    for pattern in patterns:
        assert len({r.side for r in pattern}) == 1
        names, reached = {r.name for r in pattern}, {pattern[0].name}
        for _ in names:
            reached |= {n for r in reached for n in NEIGHBOURS[r] if n in names}
            reached |= {r for r in names if reached & set(NEIGHBOURS[r])}
        assert reached == names


def test_what_is_asked_for_leaves_the_rest_of_the_head_as_it_was() -> None:
    free = random_person_spec(9, "a:1")
    regions = parse_affected("left:M1,M4")
    asked = random_person_spec(9, "a:1", affected=regions, delta_hu=4.0, thickness_mm=2.0)
    assert (asked.affected, asked.delta_hu, asked.thickness_mm) == (regions, 4.0, 2.0)
    own = {"affected": free.affected, "involvement": free.involvement, "delta_hu": free.delta_hu}
    assert dataclasses.replace(asked, thickness_mm=free.thickness_mm, **own) == free


def test_the_persons_own_densities_are_taken(usual: Person) -> None:
    asked = person(grey_hu=40.0, white_hu=30.0, csf_hu=9.0, deep_grey_extra_hu=0.0)
    assert np.median(pure(asked, "grey")) == pytest.approx(40.0, abs=0.5)
    assert np.median(pure(asked, "white")) == pytest.approx(30.0, abs=0.5)
    bone = usual.hu > 600
    bone[usual.brain] = False
    assert np.array_equal(usual.hu[bone], asked.hu[bone])


def test_white_matter_disease_leans_to_the_side_that_is_asked_for(usual: Person) -> None:
    left = person(leukoaraiosis=1.0, leukoaraiosis_asymmetry=0.6).hu - usual.hu
    x = usual.grid.axes_mm[0]
    assert left[..., x > 0].sum() < 2 * left[..., x < 0].sum() < 0


def test_a_midline_shift_moves_the_middle_and_not_the_skull(usual: Person) -> None:
    shifted = person(midline_shift_mm=5.0)
    np.testing.assert_array_equal(shifted.inside, usual.inside)
    x, y, z = usual.brain_grid.axes_mm
    box = np.ix_(np.abs(z - 8) < 8, np.abs(y - 5) < 12, np.abs(x) < 20)

    def middle(one: Person) -> float:
        fluid = one.ventricle_mm[box] < 0
        return float((fluid * x[np.abs(x) < 20]).sum() / fluid.sum())

    assert middle(shifted) - middle(usual) == pytest.approx(4.5, abs=1.2)
