"""Cavities and lacunes on a plain block of white matter."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.simulate import SampleSpec
from strokecore.simulate.scars import add_lacunes, cavity_profile, dig
from strokecore.simulate.shape import FINE_MM, FineGrid
from strokecore.simulate.tissue import OLD_CAVITY_HU, Person

SHAPE = (60, 70, 60)


def block() -> Person:
    """White matter of 30 HU, deep under the skull and far from ventricles."""
    grid = FineGrid((-35.0, -40.0, -20.0), SHAPE)
    everything = (slice(None), slice(None), slice(None))
    return Person(
        grid,
        np.full(SHAPE, 30.0, np.float32),
        grid,
        everything,
        grey=np.zeros(SHAPE, np.float32),
        white=np.ones(SHAPE, np.float32),
        intracranial_mm=np.full(SHAPE, -40.0, np.float32),
        ventricle_mm=np.full(SHAPE, 20.0, np.float32),
        grey_hu=37.0,
        csf_hu=7.0,
    )


def test_lacunes_are_small_and_like_fluid_with_a_thin_rim() -> None:
    person = block()
    spec = SampleSpec(seed=3, lacunes=4, rim_hu=10.0)
    found = add_lacunes(spec, person)
    assert 0.02 < found.sum() * FINE_MM**3 / 1000 < 4 * 4 / 3 * np.pi * 0.5**3 * 1.6
    assert person.hu[found > 0.95].max(initial=-99) < OLD_CAVITY_HU + 3
    darker = (person.hu < 29) & (found == 0)
    assert darker.any()
    assert person.hu[darker].min() > 18
    assert (person.white[found > 0.99] < 0.05).all()


def test_a_cavity_takes_part_of_its_territory_and_has_a_rim_of_the_asked_width() -> None:
    person = block()
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:50, 10:60, 35:58] = 7
    spec = SampleSpec(seed=3, rim_hu=12.0, rim_mm=6.0)
    old = cavity_profile(spec, labels, {"left": [7], "right": []}, person)
    share = (old[labels == 7] >= 0.5).mean()
    assert 0.2 < share < 0.9
    dig(person, old, spec.rim_hu, spec.rim_mm)
    assert np.median(person.hu[old > 0.9]) == pytest.approx(OLD_CAVITY_HU, abs=2)
    from scipy import ndimage

    away = ndimage.distance_transform_edt(old < 0.5, sampling=FINE_MM)
    rim = person.hu[(away > 3) & (away < 4)].mean()
    assert 22 < rim < 27
    assert (person.hu[away > 7.5] > 29.9).all()
