"""The refinement's steps: what both sides share, and what one of them lacks."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.head.alignment import Image
from strokecore.head.warp import _filled_in, _mirrored_indices, _symmetric

SHAPE = (20, 24, 30)
# half a voxel beside the middle, as thinned grids lie
PLACE = Image(np.zeros(SHAPE, np.float32), (4.0, 4.0, 4.0), (-57.0, -46.0, -38.0))


def smooth_steps() -> list[np.ndarray]:
    z, y, x = np.meshgrid(
        *(start + 4.0 * np.arange(n) for start, n in zip(PLACE.origin_mm[::-1], SHAPE, strict=True)),
        indexing="ij",
    )
    return [v.astype(np.float32) for v in (np.sin(x / 20), np.cos(x / 25) + y / 50, np.cos(x / 30) * z / 40)]


def test_symmetric_steps_stay_as_they_are_and_one_sided_ones_are_shared() -> None:
    across = _mirrored_indices(PLACE)
    steps = smooth_steps()
    inner = (slice(None), slice(None), slice(2, -2))
    for kept, step in zip(_symmetric(steps, across), steps, strict=True):
        assert kept[inner] == pytest.approx(step[inner], abs=0.02)
    left_only = np.zeros(SHAPE, np.float32)
    left_only[:, :, 20:] = 1.0
    widened, *_ = _symmetric([left_only, left_only, left_only], across)
    assert widened[:, :, 25] == pytest.approx(0.5)
    assert widened[:, :, 4] == pytest.approx(-0.5)


def test_an_infarct_is_filled_in_from_the_other_side_and_a_ventricle_is_not() -> None:
    place = Image(np.zeros((40, 48, 60), np.float32), (2.0, 2.0, 2.0), (-59.0, -47.0, -39.0))
    head = np.zeros((40, 48, 60), np.float32)
    infarct, ventricle = (
        (slice(10, 22), slice(20, 32), slice(42, 54)),
        (slice(10, 22), slice(4, 14), slice(32, 40)),
    )
    head[infarct] -= 8.0
    head[ventricle] = -25.0
    filled = _filled_in(head, np.ones_like(head), place)
    assert filled[16, 26, 48] > -2.0
    assert (filled[ventricle] == -25.0).all()
    assert (filled[:, :, :28] == 0.0).all()
