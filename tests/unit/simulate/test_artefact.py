"""Streaks and motion: only in the slices that they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.simulate import SampleSpec
from strokecore.simulate.artefact import moved, moving_slices, streaks

AXIS = np.arange(0.0, 200.0, 1.0)


def sources(distance_mm: float) -> np.ndarray:
    """Petrous bones and teeth in the plane's coordinates, all as far from the slice."""
    return np.array([(u, v, distance_mm) for u, v in ((136, 110), (64, 110), (124, 40), (76, 40))], float)


def test_streaks_are_bright_and_dark_near_their_source_and_gone_far_from_it() -> None:
    spec = SampleSpec(seed=2, streaks=1.0)
    near, far = (streaks(spec, 3, AXIS, AXIS, sources(d)) for d in (0.0, 40.0))
    assert near.shape == (200, 200)
    assert near.max() > 8
    assert near.min() < -8
    assert near[110, 100] < 0  # the bar between the petrous bones
    assert not far.any()
    np.testing.assert_array_equal(near, streaks(spec, 3, AXIS, AXIS, sources(0.0)))


@pytest.mark.parametrize(("thickness", "expected"), [(5.0, 1), (1.25, 4), (0.625, 8)])
def test_motion_takes_five_millimetres_of_the_stack(thickness: float, expected: int) -> None:
    count = int(160 / thickness)
    found = moving_slices(SampleSpec(seed=2, motion_mm=3.0, thickness_mm=thickness), count)
    assert len(found) == expected
    assert found.start > 0.3 * count
    assert found.stop < 0.9 * count
    assert len(moving_slices(SampleSpec(seed=2), count)) == 0


def test_a_moving_edge_is_seen_twice() -> None:
    step = np.zeros((60, 60), np.float32)
    step[:, 20:40] = step[20:40] = 100.0
    seen = moved(SampleSpec(seed=2, motion_mm=5.0, pixel_mm=1.0), step)
    assert np.abs(seen - step).max() > 30
    assert seen.sum() == pytest.approx(step.sum(), rel=0.15)
