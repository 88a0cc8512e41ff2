"""The head frame is fitted to the mid-sagittal plane, and what is no head is refused."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.anatomy.atlas import load_atlas
from strokecore.errors import Refusal
from strokecore.head.frame import fit_head_frame
from strokecore.head.grid import HeadFrame
from strokecore.head.resampling import to_canonical
from tests.synthetic_head import ball, head_series, pose


def plane_error(frame: HeadFrame, patient_from_template: np.ndarray) -> tuple[float, float]:
    """Angle between the true and the fitted mid-sagittal plane, degrees, and their distance, mm."""
    true_normal = patient_from_template[:3, 0] / np.linalg.norm(patient_from_template[:3, 0])
    angle = np.degrees(np.arccos(min(1.0, float(true_normal @ frame.patient_from_head[:3, 0]))))
    return float(angle), float((frame.patient_from_head[:3, 3] - patient_from_template[:3, 3]) @ true_normal)


def pitch_error(frame: HeadFrame, patient_from_template: np.ndarray) -> float:
    up = patient_from_template[:3, 2] / np.linalg.norm(patient_from_template[:3, 2])
    return float(np.degrees(np.arccos(min(1.0, float(up @ frame.patient_from_head[:3, 2])))))


@pytest.mark.parametrize(
    ("turn", "tilt_deg"),
    [((10, 4, -6), 18.5), ((-30, 0, 0), 0.0), ((5, 12, 30), -20.0), ((20, -20, 20), 0.0)],
)
def test_fit_recovers_the_mid_sagittal_plane(turn: tuple[float, float, float], tilt_deg: float) -> None:
    atlas = load_atlas()
    true = pose(*turn)
    # a large, dark, one-sided lesion must not turn the plane
    series = head_series(atlas, true, tilt_deg=tilt_deg, paint=ball((40, 0, 15), 25, -15, add=True))
    frame = fit_head_frame(series, atlas)
    np.testing.assert_allclose(
        frame.patient_from_head[:3, :3].T @ frame.patient_from_head[:3, :3], np.eye(3), atol=1e-9
    )
    assert np.linalg.det(frame.patient_from_head) == pytest.approx(1.0)
    angle, distance = plane_error(frame, true)
    assert angle < 1.0
    assert abs(distance) < 1.0
    assert pitch_error(frame, true) < 3.0


@pytest.mark.parametrize("flip", [(1, 1), (-1, 1), (1, -1)])
def test_fit_keeps_the_patients_left(flip: tuple[int, int]) -> None:
    """The same head stored with rows or columns reversed: the bright ball on the left is at x > 0."""
    atlas = load_atlas()
    series = head_series(atlas, pose(5, 3, -8), flip=flip, step_mm=6.0, paint=ball((35, 0, 20), 9, 90))
    frame = fit_head_frame(series, atlas)
    hu = to_canonical(series, frame)
    z, y, x = np.meshgrid(*frame.grid.axes_mm, indexing="ij")
    deep = (z > -5) & (z < 35) & (np.abs(y) < 50) & (np.abs(x) < 50)  # away from the skull
    bright = float(np.median(x[deep & (hu > 70)]))
    assert bright == pytest.approx(35 * 0.92, abs=3.0)


def test_fit_is_reproducible() -> None:
    atlas = load_atlas()
    series = head_series(atlas, pose(8, 2, 5), step_mm=7.0)
    first, second = fit_head_frame(series, atlas), fit_head_frame(series, atlas)
    np.testing.assert_array_equal(first.patient_from_head, second.patient_from_head)


def test_head_without_a_brain_is_ineligible() -> None:
    atlas = load_atlas()
    empty = head_series(atlas, pose(), paint=lambda points, hu: np.where(hu < 100, -1000.0, hu))
    with pytest.raises(Refusal) as refusal:
        fit_head_frame(empty, atlas)
    assert refusal.value.code == "no_brain"
    assert refusal.value.ineligible


def test_ball_of_brain_density_in_bone_is_not_a_head() -> None:
    atlas = load_atlas()

    def paint(points: np.ndarray, hu: np.ndarray) -> np.ndarray:
        radius = np.linalg.norm((points - (0, 0, 0)) / (1.0, 0.55, 1.9), axis=1)
        return np.select([radius < 50, radius < 60], [35.0, 900.0], -1000.0)

    with pytest.raises(Refusal) as refusal:
        fit_head_frame(head_series(atlas, pose(), z_range_mm=(-110.0, 180.0), paint=paint), atlas)
    assert refusal.value.code == "frame_failed"
    assert not refusal.value.ineligible
