"""Images of what a head and the template have in common."""

from __future__ import annotations

import numpy as np

from strokecore.head.image import OUTSIDE_HU, brain_image, clearly_seen

SPACING_MM, ORIGIN_MM = (2.0, 1.0, 1.0), (-5.0, 3.0, 8.0)


def head() -> tuple[np.ndarray, np.ndarray]:
    """HU and the intracranial space of an odd box of brain in air."""
    inside = np.zeros((15, 31, 26), bool)
    inside[3:12, 6:25, 4:20] = True
    noise = np.random.default_rng(5).normal(33.0, 9.0, inside.shape)
    return np.where(inside, noise, -1000.0).astype(np.float32), inside


def test_outside_is_one_level_and_brain_is_relative_to_its_median() -> None:
    hu, inside = head()
    image = brain_image(hu, inside, SPACING_MM, ORIGIN_MM, smoothing_mm=0.5)
    assert image.values[0, 0, 0] == OUTSIDE_HU
    assert abs(float(image.values[5:10, 10:20, 8:16].mean())) < 2.0


def test_a_thinned_image_has_the_values_of_the_full_one() -> None:
    hu, inside = head()
    full = brain_image(hu, inside, SPACING_MM, ORIGIN_MM, smoothing_mm=2.5)
    image = brain_image(hu, inside, SPACING_MM, ORIGIN_MM, smoothing_mm=2.5, thinned_mm=3.0)
    assert image.values.shape == (8, 11, 9)
    assert (image.spacing_mm, image.origin_mm) == ((4.0, 3.0, 3.0), ORIGIN_MM)
    np.testing.assert_array_equal(image.values, full.values[::2, ::3, ::3])


def test_near_the_end_of_the_scan_a_smoothed_image_is_not_trusted() -> None:
    """What lies beyond the end is dark and would look like the brain's surface."""
    covered = np.ones((40, 30, 30), bool)
    assert clearly_seen(covered, SPACING_MM, 2.5, 3.0).all()
    covered[30:] = False  # from 60 mm on
    seen = clearly_seen(covered, SPACING_MM, 2.5, 4.0)
    planes = 4.0 * np.flatnonzero(seen.all(axis=(1, 2)))
    assert 48.0 <= planes.max() <= 56.0
    assert not seen[planes.size :].any()
