"""Tissue masks: against the atlas's own tissues in a synthetic head, and on the real test head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from strokecore.anatomy.atlas import load_atlas
from strokecore.errors import Refusal
from strokecore.head.alignment import Image
from strokecore.head.brain import Brain, segment_brain, without_haemorrhage
from strokecore.head.frame import fit_head_frame
from strokecore.head.grid import CANONICAL_GRID, HeadFrame
from strokecore.head.resampling import coverage, to_canonical
from strokecore.reading.series import Series, read_series
from tests.synthetic_head import Paint, ball, head_series, pose

DEEP_WHITE = (26.0, 18.0, 26.0)
"""Template coordinates of left hemispheric white matter, a centimetre from any bright or dark structure."""

POSE = pose(6, 2, -4)


def segmented(series: Series) -> tuple[np.ndarray, HeadFrame, Brain]:
    frame = fit_head_frame(series, load_atlas())
    hu = to_canonical(series, frame)
    return hu, frame, segment_brain(hu, frame.grid, coverage(series, frame))


def painted(paint: Paint | None = None, noise_hu: float = 4.0) -> tuple[np.ndarray, HeadFrame, Brain]:
    return segmented(head_series(load_atlas(), POSE, tilt_deg=15.0, noise_hu=noise_hu, paint=paint))


def template_points(frame: HeadFrame) -> np.ndarray:
    """Template coordinates of every canonical voxel, [z, y, x, 3]."""
    z, y, x = np.meshgrid(*frame.grid.axes_mm, indexing="ij")
    head = np.stack([x, y, z, np.ones_like(x)], axis=-1)
    return (head @ (np.linalg.inv(POSE) @ frame.patient_from_head).T)[..., :3]


def in_ball(frame: HeadFrame, radius_mm: float) -> np.ndarray:
    return np.linalg.norm(template_points(frame) - np.array(DEEP_WHITE), axis=-1) < radius_mm


@pytest.fixture(scope="module")
def plain() -> tuple[np.ndarray, HeadFrame, Brain]:
    return painted()


def test_intracranial_space_is_found(plain: tuple[np.ndarray, HeadFrame, Brain]) -> None:
    _, frame, brain = plain
    atlas = load_atlas()
    place = Image(atlas.intracranial.astype(np.float32), atlas.spacing_mm, atlas.origin_mm)
    points = template_points(frame)
    truth = ndimage.map_coordinates(place.values, place.indices(points.reshape(-1, 3)), order=1) > 0.5
    truth = truth.reshape(frame.grid.shape)
    above = points[..., 2] > -50  # the stem's lower end is a matter of taste
    both = (truth & brain.intracranial & above).sum()
    assert 2 * both / ((truth & above).sum() + (brain.intracranial & above).sum()) > 0.95


def test_masks_of_a_plain_head(plain: tuple[np.ndarray, HeadFrame, Brain]) -> None:
    _, frame, brain = plain
    for mask in (brain.csf, brain.ventricles, brain.parenchyma, brain.calcification):
        assert not (mask & ~brain.intracranial).any()
    assert not (brain.parenchyma & (brain.csf | brain.calcification)).any()
    assert not (brain.ventricles & ~brain.csf).any()
    ventricles_ml = brain.ventricles.sum() * frame.grid.voxel_ml
    assert 4 < ventricles_ml < 40
    x = np.broadcast_to(frame.grid.axes_mm[2], frame.grid.shape)[brain.ventricles]
    assert abs(float(x.mean())) < 4.0
    # 1.6 mm pixels are not averaged: interpolation alone lowers the noise of 4 HU
    assert 1.0 < brain.noise_hu < 4.0


def test_noise_follows_the_scan() -> None:
    _, _, quiet = painted(noise_hu=1.0)
    _, _, loud = painted(noise_hu=6.0)
    assert 3.0 < loud.noise_hu / quiet.noise_hu < 7.0


def test_early_infarct_stays_parenchyma() -> None:
    """White matter of 29 HU darkened to 20."""
    _, frame, brain = painted(ball(DEEP_WHITE, 15, -9.0, add=True))
    lesion = in_ball(frame, 14)
    assert brain.parenchyma[lesion].mean() > 0.9


def test_old_cavity_is_csf_and_no_ventricle() -> None:
    _, frame, brain = painted(ball(DEEP_WHITE, 12, 7.0))
    cavity = in_ball(frame, 9)
    assert brain.csf[cavity].mean() > 0.95
    assert not brain.parenchyma[cavity].any()


def test_haemorrhage_and_its_rim_are_no_parenchyma(plain: tuple[np.ndarray, HeadFrame, Brain]) -> None:
    _, frame, brain = plain
    blood = in_ball(frame, 9.0)
    left_out = brain.parenchyma & ~without_haemorrhage(brain, blood, frame.grid).parenchyma
    assert (left_out & blood).sum() > 0.9 * blood.sum()
    assert 1.1 * blood.sum() < left_out.sum() < 1.5 * blood.sum()


def test_calcium_is_found() -> None:
    _, frame, brain = painted(ball(DEEP_WHITE, 5.0, 220.0))
    assert brain.calcification[in_ball(frame, 3)].mean() > 0.9


@pytest.mark.parametrize("hu", [-1000.0, 0.0, 40.0])
def test_no_skull_no_brain(hu: float) -> None:
    volume = np.full(CANONICAL_GRID.shape, hu, np.float32)
    with pytest.raises(Refusal) as refusal:
        segment_brain(volume, CANONICAL_GRID, np.ones(CANONICAL_GRID.shape, bool))
    assert refusal.value.code == "no_brain"
    assert refusal.value.ineligible


def test_real_head(shared_data: Path) -> None:
    _, frame, brain = segmented(read_series(shared_data / "real_head_ct"))
    assert 1300 < brain.intracranial.sum() * frame.grid.voxel_ml < 1550
    assert 25 < brain.ventricles.sum() * frame.grid.voxel_ml < 70  # mild atrophy
    assert 0.2 < brain.calcification.sum() * frame.grid.voxel_ml < 3  # pineal gland, choroid plexus


@pytest.mark.parametrize("folder", ["S21570/S2010", "S21610/S2010"])
def test_plastic_heads_are_refused(shared_data: Path, folder: str) -> None:
    with pytest.raises(Refusal) as found:
        fit_head_frame(read_series(shared_data / "head_phantom" / folder), load_atlas())
    assert found.value.ineligible
