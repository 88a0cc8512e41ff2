"""Haemorrhage in a small head made by rule: volume, place, side, densities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from strokecore.simulate.blood import draw_blood
from strokecore.simulate.shape import FineGrid
from strokecore.simulate.spec import SampleSpec
from strokecore.simulate.tissue import Person

# An ellipsoid of brain, half grey and half white everywhere, under 3 mm of fluid.
SHAPE = (130, 150, 124)
GRID = FineGrid((-74.4, -85.0, -78.0), SHAPE)
GREY, FLUID, BONE = 34.0, 8.0, 1000.0


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    x, y, z = GRID.axes_mm
    parts = ((x - centre[0]) / radii[0])[None, None, :], ((y - centre[1]) / radii[1])[None, :, None]
    return np.sqrt(parts[0] ** 2 + parts[1] ** 2 + (((z - centre[2]) / radii[2]) ** 2)[:, None, None])


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Millimetres to the mask's border, negative inside."""
    inner, outer = (ndimage.distance_transform_edt(m, sampling=GRID.spacing_mm) for m in (mask, ~mask))
    return (outer - inner).astype(np.float32)


@pytest.fixture(scope="module")
def person() -> Person:
    inside = ellipsoid((0, 0, 0), (68, 82, 70)) < 1
    brain = ellipsoid((0, 0, 0), (65, 79, 67)) < 1
    ventricle_mm = np.full(SHAPE, 99.0)
    for sign in (-1, 1):
        ventricle_mm = np.minimum(ventricle_mm, (ellipsoid((sign * 18, 5, 8), (9, 40, 12)) - 1) * 9)
    brain &= ventricle_mm > 0
    brain &= ellipsoid((0, -6, -17), (16, 14, 10)) > 1  # the cistern around the circle of Willis
    grey = brain.astype(np.float32) * 0.5
    hu = np.where(brain, GREY, np.where(inside, FLUID, BONE)).astype(np.float32)
    intracranial_mm = signed_distance(inside)
    return Person(
        GRID, hu, GRID, (slice(None),) * 3, grey, grey.copy(), intracranial_mm, ventricle_mm, GREY, FLUID
    )


def drawn(person: Person, **fields: object) -> tuple[np.ndarray, np.ndarray, dict]:
    """The mask, the densities and the numbers of one bleeding."""
    copy = Person(**{**vars(person), "hu": person.hu.copy()})
    blood = draw_blood(SampleSpec(seed=fields.pop("seed", 5), **fields), copy)
    return blood.mask, copy.hu, blood.numbers


CASES = [
    ("parenchymal", 1.0),
    ("parenchymal", 40.0),
    ("subdural", 10.0),
    ("subdural", 80.0),
    ("bilateral_subdural", 40.0),
    ("subarachnoid", 20.0),
    ("ventricular", 8.0),
]


@pytest.mark.parametrize(("place", "ml"), CASES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_volume_side_and_density(person: Person, place: str, ml: float, side: str) -> None:
    mask, hu, numbers = drawn(person, blood_ml=ml, blood_place=place, blood_side=side)
    assert numbers["blood"]["ml"] == pytest.approx(ml, rel=0.12)
    x = GRID.axes_mm[0]
    right, left = mask[:, :, x < 0].sum(), mask[:, :, x > 0].sum()
    if place in ("parenchymal", "subdural"):
        assert numbers["blood"]["side"] == side
        assert (right if side == "left" else left) == 0
    else:
        assert numbers["blood"]["side"] == "both"
        assert min(left, right) > 0.2 * mask.sum()
    assert numbers["blood"]["place"] == place.removeprefix("bilateral_")
    assert 45 < np.median(hu[mask]) < 80
    far = ~mask & (np.abs(hu - person.hu) < 1e-3)
    assert far.mean() > 0.9  # the rest of the head is as it was


def test_no_blood_leaves_the_head_alone(person: Person) -> None:
    mask, hu, numbers = drawn(person)
    assert not mask.any()
    assert numbers == {"blood_ml": {"left": 0.0, "right": 0.0}, "blood": None}
    np.testing.assert_array_equal(hu, person.hu)


def test_subdural_blood_lines_the_inner_table(person: Person) -> None:
    mask, _, _ = drawn(person, blood_ml=20.0, blood_place="subdural")
    depth = -person.intracranial_mm
    assert np.percentile(depth[mask], 95) < 15
    spread = [np.ptp(np.flatnonzero(mask.any(axis=axes))) * GRID.spacing_mm for axes in ((0, 2), (1, 2))]
    assert min(spread) > 4 * np.percentile(depth[mask], 95)  # a crescent, not a lump


def test_subarachnoid_and_ventricular_blood_take_fluid_alone(person: Person) -> None:
    fluid = person.inside & (person.grey == 0)
    for place in ("subarachnoid", "ventricular"):
        mask, hu, _ = drawn(person, blood_ml=8.0, blood_place=place)
        assert not (mask & ~fluid).any()
        np.testing.assert_array_equal(hu[person.grey > 0], person.hu[person.grey > 0])


def test_ventricular_blood_has_settled_behind(person: Person) -> None:
    mask, _, _ = drawn(person, blood_ml=8.0, blood_place="ventricular")
    y = GRID.axes_mm[1]
    assert y[np.flatnonzero(mask.any(axis=(0, 2)))].min() > 5.0


def test_oedema_surrounds_a_clot_in_the_brain(person: Person) -> None:
    mask, hu, _ = drawn(person, blood_ml=20.0)
    assert (hu[~mask & (person.white > 0)] < GREY - 1.5).sum() * GRID.spacing_mm**3 > 1000


def test_sites_follow_from_the_seed(person: Person) -> None:
    sites = [drawn(person, seed=seed, blood_ml=3.0)[2]["blood"]["site"] for seed in range(12)]
    assert sites[5] == drawn(person, seed=5, blood_ml=3.0)[2]["blood"]["site"]
    assert len(set(sites)) >= 3
