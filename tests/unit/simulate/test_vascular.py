"""The shape of a partial infarct: shares, sides, border and connectedness."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from strokecore.arrays import Float32Array, UInt8Array
from strokecore.simulate.shape import FineGrid
from strokecore.simulate.vascular import infarct_profile

GRID = FineGrid((-60.0, -60.0, -40.0), (66, 100, 100))
TISSUE = np.ones(GRID.shape, np.float32)


def regions() -> UInt8Array:
    """Two neighbours on the left (1 in front of 2) and one on the right (3)."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[15:50, 15:50, 60:90] = 1
    labels[15:50, 50:85, 60:90] = 2
    labels[15:50, 15:50, 10:40] = 3
    return labels


def profile(seed: int, shares: dict[int, float], edge_mm: float = 2.0) -> Float32Array:
    return infarct_profile(
        np.random.default_rng(seed), regions(), TISSUE, GRID, {"left": shares, "right": {}}, edge_mm
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [{1: 0.4}, {1: 0.9, 2: 0.35}, {1: 0.3, 2: 0.3}])
def test_each_region_is_taken_to_its_share_by_one_shape(seed: int, shares: dict[int, float]) -> None:
    found = profile(seed, shares)
    for label, share in shares.items():
        assert (found[regions() == label] >= 0.5).mean() == pytest.approx(share, abs=0.07)
    sizes = np.bincount(ndimage.label(found >= 0.5)[0].ravel())[1:]
    assert sizes.max() > 0.8 * sizes.sum()
    assert not (found[regions() == 3] > 0).any()


def test_the_border_leaves_the_region_and_is_no_copy_of_it() -> None:
    outside = (profile(1, {1: 1.0}) >= 0.5) & (regions() != 1)
    assert 0.02 < outside.sum() / (regions() == 1).sum() < 1.2


def test_a_wider_blur_leaves_the_share_and_softens_the_border() -> None:
    sharp, soft = (profile(2, {1: 0.6}, edge_mm) for edge_mm in (1.0, 4.0))
    assert np.mean((sharp >= 0.5) != (soft >= 0.5)) < 1e-4
    between = [((p > 0.1) & (p < 0.9)).sum() for p in (sharp, soft)]
    assert between[1] > 2 * between[0]


def test_the_same_stream_gives_the_same_shape() -> None:
    np.testing.assert_array_equal(profile(5, {1: 0.5, 2: 0.5}), profile(5, {1: 0.5, 2: 0.5}))
    assert not np.array_equal(profile(5, {1: 0.5}), profile(6, {1: 0.5}))
