"""Cupping and shading: where they are, and that they are nothing by default."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokecore.arrays import Float32Array
from strokecore.simulate import SampleSpec
from strokecore.simulate.field import added_density
from strokecore.simulate.shape import FineGrid

GRID = FineGrid((-80.0, -90.0, -50.0), (120, 180, 134))
CENTRE = (54, 90, 66)  # x = 0, y = 18, z = 15 mm


def skull() -> Float32Array:
    """Signed distance to a ball of 75 mm around the middle of the head."""
    x, y, z = GRID.axes_mm
    away = np.sqrt(x[None, None, :] ** 2 + (y[None, :, None] - 18) ** 2 + (z[:, None, None] - 15) ** 2)
    return (away - 75).astype(np.float32)


def field(**changes: float) -> Float32Array:
    return added_density(dataclasses.replace(SampleSpec(seed=1), **changes), skull(), GRID)


def test_by_default_nothing_is_added() -> None:
    assert not field().any()


def test_cupping_falls_from_the_skull_by_its_own_depth() -> None:
    along = field(cupping_hu=20.0, cupping_depth_mm=10.0)[CENTRE[0], CENTRE[1]]
    depth = -skull()[CENTRE[0], CENTRE[1]]
    inside = depth > 0
    np.testing.assert_allclose(along[inside], 20 * np.exp(-depth[inside] / 10), rtol=1e-3)
    assert not along[depth < -5].any()


def test_a_cleft_or_hole_in_the_inside_is_no_skull() -> None:
    """A label map may leave sulci out of the intracranial space, and holes in the middle of the brain."""
    spec = dataclasses.replace(SampleSpec(seed=1), cupping_hu=20.0, cupping_depth_mm=10.0)
    pitted = skull()
    pitted[CENTRE[0] - 4 : CENTRE[0] + 4, 86:94, :40] = 3.0
    pitted[CENTRE[0] - 4 : CENTRE[0] + 4, 86:94, 62:70] = 3.0
    found = added_density(spec, pitted, GRID)
    inside = skull() < -10  # the mouth of the cleft itself is a little hollow
    np.testing.assert_allclose(found[inside], added_density(spec, skull(), GRID)[inside], atol=3.0)


def test_cupping_depends_on_height() -> None:
    flat, rising = (field(cupping_hu=20.0, cupping_height=h) for h in (0.0, 0.5))
    at_30_mm = CENTRE[0] + 25
    assert rising[at_30_mm, 90, 66] / flat[at_30_mm, 90, 66] > 1.2
    assert rising[CENTRE] == pytest.approx(flat[CENTRE], rel=0.01)


def test_shading_is_antisymmetric_about_the_midline() -> None:
    shaded = field(left_right_shading_hu=1.5)
    middle = shaded[CENTRE[0], CENTRE[1]]
    x = GRID.axes_mm[0]
    assert middle[np.argmin(np.abs(x - 60))] > 1.2
    np.testing.assert_allclose(np.interp(-x[20:110], x, middle), -middle[20:110], atol=0.02)
    front = field(front_back_shading_hu=1.5)[CENTRE[0], :, CENTRE[2]]
    assert front[30] > 1.0 > -1.0 > front[150]
