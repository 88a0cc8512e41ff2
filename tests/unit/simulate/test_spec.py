"""The specification of a simulated head: parser, limits and the studies' random draws."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.errors import UsageError
from strokecore.simulate import (
    TEST_SEEDS,
    TUNE_SEEDS,
    VALIDATE_SEEDS,
    SampleSpec,
    parse_affected,
    random_affected,
    random_spec,
    simulator_sha256,
)
from strokecore.simulate.spec import canonical_json


def test_affected_regions_are_read_with_their_sides() -> None:
    assert parse_affected("right:I,M1,M2;left:M4") == (
        RegionId("I", "right"),
        RegionId("M1", "right"),
        RegionId("M2", "right"),
        RegionId("M4", "left"),
    )


def test_case_spaces_and_repetitions_do_not_matter() -> None:
    assert parse_affected(" Left : ic , C,ic ") == (RegionId("IC", "left"), RegionId("C", "left"))


@pytest.mark.parametrize("text", ["", "  ", "none"])
def test_no_region_is_a_healthy_head(text: str) -> None:
    assert parse_affected(text) == ()


@pytest.mark.parametrize("text", ["I,M1", "right:M7", "right:", "rechts:I", "right:I;;left:M1", "right I"])
def test_nonsense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_affected(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("delta_hu", -2.0),
        ("thickness_mm", 0.1),
        ("tilt_deg", 45.0),
        ("yaw_deg", 90.0),
        ("atrophy", 1.5),
        ("patient_position", "HFDR"),
        ("kernel", "STANDARD"),
        ("blood_ml", -1.0),
        ("pixel_mm", 0.0),
        ("age_years", 3),
    ],
)
def test_values_outside_their_limits_are_usage_errors(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        dataclasses.replace(SampleSpec(seed=1), **{field: value})


def test_a_region_cannot_be_acute_and_old() -> None:
    region = RegionId("M2", "left")
    with pytest.raises(UsageError, match="old_infarct"):
        SampleSpec(seed=1, affected=(region,), old_infarct=(region,))


def test_seed_ranges_are_disjoint() -> None:
    ranges = [TUNE_SEEDS, VALIDATE_SEEDS, TEST_SEEDS]
    assert sum(len(r) for r in ranges) == len({s for r in ranges for s in r})


@given(st.integers(0, 29_999))
def test_random_patterns_are_one_sided_and_hang_together_in_number(seed: int) -> None:
    regions = random_affected(seed)
    assert 1 <= len(regions) <= 8
    assert len({r.side for r in regions}) == 1
    assert len(set(regions)) == len(regions)
    assert regions == random_affected(seed)


def test_random_patterns_use_both_sides_and_every_region() -> None:
    drawn = [r for seed in range(300) for r in random_affected(seed)]
    assert {r.name for r in drawn} == set(REGION_NAMES)
    left = sum(r.side == "left" for r in drawn) / len(drawn)
    assert 0.4 < left < 0.6


def test_random_acquisitions_vary_within_the_stated_ranges() -> None:
    specs = [random_spec(seed) for seed in range(200)]
    tilts = [s.tilt_deg for s in specs]
    assert min(tilts) < -10
    assert max(tilts) > 10
    assert max(abs(t) for t in tilts) <= 20
    thin = sum(s.thickness_mm < 3 for s in specs) / len(specs)
    assert 0.05 < thin < 0.3
    # The slices stay near the orbitomeatal plane although tilt and chin vary.
    angles = [s.tilt_deg - s.pitch_deg for s in specs]
    assert min(angles) > -8
    assert max(angles) < 20


def test_overrides_leave_the_other_draws_alone() -> None:
    free, fixed = random_spec(77), random_spec(77, thickness_mm=1.25)
    assert fixed.thickness_mm == 1.25
    assert dataclasses.replace(fixed, thickness_mm=free.thickness_mm) == free


def test_the_canonical_spelling_tells_specifications_apart() -> None:
    a, b = SampleSpec(seed=1), SampleSpec(seed=1, affected=(RegionId("I", "left"),))
    assert canonical_json(a.to_dict()) == canonical_json(SampleSpec(seed=1).to_dict())
    assert canonical_json(a.to_dict()) != canonical_json(b.to_dict())


def test_the_simulator_has_a_hash() -> None:
    assert len(simulator_sha256()) == 64
