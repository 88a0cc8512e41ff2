"""Curves are shown as running means."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.measure.plots import _smooth


def test_running_mean_is_shorter_at_the_ends() -> None:
    values = np.arange(40.0)
    smooth = _smooth(values)
    assert smooth[0] == pytest.approx(values[:13].mean())
    assert smooth[20] == pytest.approx(20.0)
    assert smooth[-1] == pytest.approx(values[-13:].mean())
    assert _smooth(values[:0]).size == 0
