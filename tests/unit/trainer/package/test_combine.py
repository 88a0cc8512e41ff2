"""Weights that join two opinions, and calibration with both."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES
from strokecore.scoring.asymmetry import AsymmetryEngine
from trainer.package.calibrate import fit_calibration
from trainer.package.combine import VoxelSample, fit_combination

RNG = np.random.default_rng(5)


def sample(weights: tuple[float, float, float], offset: float, inside: bool) -> VoxelSample:
    """Voxels whose infarct follows the given weights of independent opinions."""
    a, b, c = RNG.normal(0, 2, (3, 40_000)).astype(np.float32)
    z = weights[0] * a + weights[1] * b + weights[2] * c + offset
    infarct = RNG.random(z.shape) < 1 / (1 + np.exp(-z))
    return VoxelSample(a, b, c, infarct, np.full(z.shape, inside))


def test_the_weights_that_made_the_voxels_are_found_in_and_outside_the_regions() -> None:
    found = fit_combination([sample((1.2, 0.4, 0.7), -2.0, True), sample((0.3, 0.9, 0.0), -3.0, False)])
    assert found.asymmetry_sha256 == AsymmetryEngine().sha256
    inside, outside = found.inside, found.outside
    weights = (inside.learned, inside.asymmetry, inside.region, inside.offset)
    assert weights == pytest.approx((1.2, 0.4, 0.7, -2.0), abs=0.15)
    assert (outside.learned, outside.asymmetry, outside.offset) == pytest.approx((0.3, 0.9, -3.0), abs=0.15)
    assert outside.region == 0.0


def test_an_opinion_that_misleads_gets_no_weight() -> None:
    found = fit_combination([sample((1.0, -0.5, 0.0), 0.0, True), sample((1.0, 0.0, 0.0), 0.0, False)])
    assert found.inside.asymmetry == 0.0
    assert found.inside.learned > 0.5


def two_opinions(first: float, second: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (400, len(ALL_REGIONS))
    a, b = RNG.normal(0, 2, (2, *shape))
    affected = RNG.random(shape) < 1 / (1 + np.exp(-(first * a + second * b - 1.0)))
    return a, b, affected


def test_calibration_gives_each_opinion_its_weight() -> None:
    a, b, affected = two_opinions(1.0, 0.5)
    found = fit_calibration(a, affected, b)
    assert set(found) == set(REGION_NAMES)
    for curve in found.values():
        assert curve.slope == pytest.approx(1.0, abs=0.3)
        assert curve.asymmetry == pytest.approx(0.5, abs=0.2)
        assert curve.offset == pytest.approx(-1.0, abs=0.5)


def test_a_region_unknown_to_one_opinion_is_left_out_of_the_fit() -> None:
    a, b, affected = two_opinions(1.0, 0.5)
    b[:, :3] = np.nan
    affected[:, :3] = True
    curve = fit_calibration(a, affected, b)[REGION_NAMES[0]]
    assert curve.offset < 0


def test_with_one_opinion_there_is_no_weight_for_another() -> None:
    a, _, affected = two_opinions(1.0, 0.0)
    assert {curve.asymmetry for curve in fit_calibration(a, affected).values()} == {0.0}
