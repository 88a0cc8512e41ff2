from __future__ import annotations

import numpy as np
import pytest

from strokecore.bench.summary import Spread, speed_up


def test_spread_of_known_numbers() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 10.0]) == Spread(3.0, 1.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]).scaled(1000) == Spread(2000.0, 2000.0, 2000.0, 2000.0, 1)
    with pytest.raises(ValueError, match="nothing"):
        Spread.of([])


def test_a_machine_that_slows_down_does_not_change_a_ratio() -> None:
    drift = np.geomspace(1, 10, 12)
    found = speed_up(list(3.0 * drift), list(1.5 * drift))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_noise_widens_the_interval_around_the_ratio() -> None:
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(0, 0.1, (2, 40)))
    found = speed_up(list(3.0 * noise[0]), list(noise[1]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < 3.0 < found.high
    assert found.high - found.low > 0.02


def test_one_round_has_no_interval() -> None:
    found = speed_up([2.0], [1.0])
    assert (found.value, found.low, found.high) == (2.0, None, None)
