"""Is there a brain in the slice?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from strokecore.reading.head_check import shows_brain
from strokecore.reading.series import read_series
from tests.ct_factory import body_hu, head_hu, world_mm

PIXEL_MM = 0.9
SIZE = 256


def slice_of(hu_at: object, z: float) -> np.ndarray:
    half = (SIZE - 1) / 2 * PIXEL_MM
    points = world_mm(np.array([-half, -half, z]), np.eye(3)[0], np.eye(3)[1], PIXEL_MM, SIZE)
    return hu_at(points).astype(np.float32)  # type: ignore[operator]


def test_head_body_and_air() -> None:
    spacing = (PIXEL_MM, PIXEL_MM)
    assert shows_brain(slice_of(head_hu, 0), spacing)
    for open_skull in (False, True):
        assert not shows_brain(slice_of(body_hu, 0), spacing, open_skull=open_skull)
        assert not shows_brain(np.full((64, 64), -1000, np.float32), spacing, open_skull=open_skull)
        assert not shows_brain(np.full((64, 64), 1000, np.float32), spacing, open_skull=open_skull)


def test_small_enclosed_tissue_is_no_brain() -> None:
    """A vertebral canal or a limb: soft tissue in bone, but little."""
    shrunk = slice_of(lambda points: head_hu(points * 4), 0)
    assert not shows_brain(shrunk, (PIXEL_MM, PIXEL_MM), open_skull=True)


@pytest.mark.parametrize("noise", [0, 25])
def test_thin_noisy_slices_and_oblong_pixels(noise: float) -> None:
    hu = slice_of(head_hu, 20) + np.random.default_rng(0).normal(0, noise, (SIZE, SIZE)).astype(np.float32)
    assert shows_brain(hu, (PIXEL_MM, PIXEL_MM))
    assert shows_brain(hu[::2], (2 * PIXEL_MM, PIXEL_MM))


def craniectomy(hu: np.ndarray, spacing_mm: float) -> np.ndarray:
    """The bone of one side removed over 11 cm."""
    opened = hu.copy()
    middle = opened.shape[0] // 2
    reach = int(55 / spacing_mm)
    side = opened[middle - reach : middle + reach, opened.shape[1] // 2 + int(40 / spacing_mm) :]
    side[side > 100] = 40
    return opened


def test_opened_skull_counts_where_a_head_is_declared() -> None:
    opened = craniectomy(slice_of(head_hu, 0), PIXEL_MM)
    assert not shows_brain(opened, (PIXEL_MM, PIXEL_MM))
    assert shows_brain(opened, (PIXEL_MM, PIXEL_MM), open_skull=True)


def test_opened_skull_of_the_real_head(shared_data: Path) -> None:
    series = read_series(shared_data / "real_head_ct")
    spacing = series.pixel_spacing_mm
    seen = [
        (shows_brain(hu, spacing), shows_brain(craniectomy(hu, spacing[0]), spacing, open_skull=True))
        for hu in series.hu
    ]
    whole, opened = (sum(flags) for flags in zip(*seen, strict=True))
    assert whole >= 18
    assert opened >= whole - 3
