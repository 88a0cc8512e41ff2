"""The atlas in one head: accuracy on known heads, and refusal of what is not one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, DEEP, SIDES, RegionId
from strokecore.arrays import dice
from strokecore.errors import Refusal
from strokecore.head.alignment import Image, sample
from strokecore.head.brain import Brain, segment_brain
from strokecore.head.canonical import align_series
from strokecore.head.frame import fit_head_frame
from strokecore.head.grid import Grid, HeadFrame
from strokecore.head.registration import (
    Registration,
    register_atlas,
)
from strokecore.head.resampling import coverage, to_canonical
from strokecore.head.warped_atlas import warp_atlas
from strokecore.reading.series import Series, read_series
from strokecore.simulate import random_person_spec, simulate
from strokecore.simulate.people import load_person
from strokecore.simulate.write import write_dicom
from tests.synthetic_head import ball, head_series, pose

Known = tuple[np.ndarray, np.ndarray, HeadFrame, Brain]


def known_head(series: Series) -> Known:
    frame = fit_head_frame(series, load_atlas())
    hu, covered = to_canonical(series, frame), coverage(series, frame)
    return hu, covered, frame, segment_brain(hu, frame.grid, covered)


def true_pose() -> np.ndarray:
    """A head of other proportions than the template's: wider, shorter, sheared by 2 degrees."""
    stretch = np.diag([1.04, 0.95, 0.98, 1.0])
    stretch[1, 2] = 0.035
    return pose(7, -3, 9) @ stretch


@pytest.fixture(scope="module")
def head() -> Known:
    # an infarct of the left lentiform region must not move the atlas
    lesion = ball((26, 2, 2), 14, -8, add=True)
    return known_head(head_series(load_atlas(), true_pose(), tilt_deg=-12.0, paint=lesion))


@pytest.fixture(scope="module")
def registration(head: Known) -> Registration:
    hu, covered, frame, brain = head
    return register_atlas(hu, brain, frame.grid, covered, load_atlas())


def test_affine_is_recovered(head: Known, registration: Registration) -> None:
    atlas = load_atlas()
    truth = np.linalg.inv(head[2].patient_from_head) @ true_pose()
    marks = np.argwhere(atlas.regions > 0)[::50, ::-1] * np.array(atlas.spacing_mm[::-1]) + atlas.origin_mm
    marks = np.c_[marks, np.ones(len(marks))]
    error = np.linalg.norm((marks @ (registration.head_from_template - truth).T)[:, :3], axis=1)
    assert error.mean() < 1.5
    assert error.max() < 4.0
    assert registration.dice > 0.95


def test_refinement_stays_small_where_the_affine_map_is_right(
    head: Known, registration: Registration
) -> None:
    atlas = load_atlas()
    truth = np.linalg.inv(head[2].patient_from_head) @ true_pose()
    found = np.argwhere(atlas.regions > 0)[::50]
    marks = found[:, ::-1] * np.array(atlas.spacing_mm[::-1]) + atlas.origin_mm
    in_head = (np.c_[marks, np.ones(len(marks))] @ truth.T)[:, :3]
    error = np.linalg.norm(registration.template_points(in_head) - marks, axis=1)
    assert error.mean() < 1.0
    assert np.percentile(error, 99) < 3.0
    infarct = atlas.regions[tuple(found.T)] == RegionId("L", "left").label
    assert error[infarct].mean() < 2.0


def scanned(frame: HeadFrame) -> np.ndarray:
    """A scan that covers the whole canonical grid."""
    return np.ones(frame.grid.shape, bool)


def test_regions_follow_the_head(head: Known, registration: Registration) -> None:
    atlas = load_atlas()
    _, _, frame, brain = head
    labels = warp_atlas(atlas, registration, frame.grid, brain, scanned(frame)).regions
    exact = replace(
        registration, head_from_template=np.linalg.inv(frame.patient_from_head) @ true_pose(), warp=None
    )
    truth = warp_atlas(atlas, exact, frame.grid, brain, scanned(frame)).regions
    assert labels.dtype == np.uint8
    assert labels.shape == frame.grid.shape
    for region in ALL_REGIONS:
        ours, theirs = labels == region.label, truth == region.label
        assert dice(ours, theirs) > (0.75 if region.name in DEEP else 0.85), region
    assert not labels[~brain.intracranial].any()


def test_no_label_crosses_to_the_other_side(head: Known, registration: Registration) -> None:
    _, _, frame, brain = head
    labels = warp_atlas(load_atlas(), registration, frame.grid, brain, scanned(frame)).regions
    x = np.broadcast_to(frame.grid.axes_mm[2], labels.shape)
    assert (x[(labels > 0) & (labels <= 10)] > 0).all()
    assert (x[labels > 10] < 0).all()


def test_the_second_definition_lies_on_the_same_head(head: Known, registration: Registration) -> None:
    atlas = load_atlas()
    _, _, frame, brain = head
    warped = warp_atlas(atlas, registration, frame.grid, brain, scanned(frame))
    second = warped.second_regions
    x = np.broadcast_to(frame.grid.axes_mm[2], second.shape)
    assert (x[(second > 0) & (second <= 10)] > 0).all()
    assert (x[second > 10] < 0).all()
    assert (second != warped.regions).any()
    for region in ALL_REGIONS:
        assert dice(second == region.label, warped.regions == region.label, empty=0.0) > 0.6, region
    alone = warp_atlas(replace(atlas, second_regions=None), registration, frame.grid, brain, scanned(frame))
    assert not alone.second_regions.any()
    np.testing.assert_array_equal(alone.regions, warped.regions)


def test_neighbouring_regions_touch(head: Known, registration: Registration) -> None:
    """Interpolated borders leave no gap between regions that are neighbours in the atlas."""
    _, _, frame, brain = head
    labels = warp_atlas(load_atlas(), registration, frame.grid, brain, scanned(frame)).regions
    front, middle = RegionId("M4", "left").label, RegionId("M5", "left").label
    touching = (labels[:, :-1] == front) & (labels[:, 1:] == middle)
    assert touching.sum() > 300


def test_expected_tissue_lies_on_the_head(head: Known, registration: Registration) -> None:
    atlas = load_atlas()
    hu, _, frame, brain = head
    warped = warp_atlas(atlas, registration, frame.grid, brain, scanned(frame))
    assert not warped.tissue[~brain.intracranial].any()
    # grey matter is brighter than white by several HU: the maps must lie on it
    tissue = brain.parenchyma & (warped.tissue > 0.95)
    place = Image(hu, frame.grid.spacing_mm, frame.grid.origin_mm)
    template = Image(atlas.grey, atlas.spacing_mm, atlas.origin_mm)
    grey = sample(atlas.grey, template.indices(registration.template_points(place.points(tissue))))
    difference = hu[tissue][grey > 0.8].mean() - hu[tissue][grey < 0.2].mean()
    assert difference > 3.0


def test_same_input_same_bytes(head: Known, registration: Registration) -> None:
    hu, covered, frame, brain = head
    again = register_atlas(hu, brain, frame.grid, covered, load_atlas())
    np.testing.assert_array_equal(again.head_from_template, registration.head_from_template)
    assert again.warp is not None
    assert registration.warp is not None
    np.testing.assert_array_equal(again.warp.displacement_mm, registration.warp.displacement_mm)


def test_all_regions_are_covered(registration: Registration) -> None:
    assert min(registration.region_coverage.values()) > 0.95


def refused(hu: np.ndarray, brain: Brain, grid: Grid, covered: np.ndarray) -> str:
    with pytest.raises(Refusal) as refusal:
        register_atlas(hu, brain, grid, covered, load_atlas())
    assert not refusal.value.ineligible
    return refusal.value.code


def with_volumes(brain: Brain, change: object) -> Brain:
    assert callable(change)
    masks = {name: change(value) for name, value in vars(brain).items() if isinstance(value, np.ndarray)}
    return replace(brain, **masks)


def test_head_upside_down_is_refused(head: Known) -> None:
    hu, covered, frame, brain = head

    def turned(volume: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(volume[::-1, ::-1])

    assert (
        refused(turned(hu), with_volumes(brain, turned), frame.grid, turned(covered)) == "registration_failed"
    )


def test_quarter_turn_is_refused(head: Known) -> None:
    hu, covered, frame, brain = head

    def turned(volume: np.ndarray) -> np.ndarray:
        square = volume[:, 20:210]
        out = np.zeros_like(volume)
        out[:, 20:210] = np.rot90(square, axes=(1, 2))
        return out

    assert (
        refused(turned(hu), with_volumes(brain, turned), frame.grid, turned(covered)) == "registration_failed"
    )


def test_garbage_is_refused(head: Known) -> None:
    hu, covered, frame, brain = head
    rng = np.random.default_rng(3)
    noise = rng.normal(30, 20, hu.shape).astype(np.float32)
    box = np.zeros(hu.shape, bool)
    box[10:70, 90:140, 20:170] = True
    assert refused(noise, replace(brain, intracranial=box), frame.grid, covered) == "registration_failed"


@pytest.mark.parametrize(("low_mm", "high_mm", "level"), [(-80, 18, "supra"), (30, 80, "ganglionic")])
def test_missing_level_is_incomplete_coverage(low_mm: float, high_mm: float, level: str) -> None:
    """Scans that end below the supraganglionic or begin above the ganglionic level."""
    whole = head_series(load_atlas(), pose())
    z = whole.positions_mm[:, 2] - 35.0  # where pose() puts the template's origin
    kept = (z > low_mm) & (z < high_mm)
    series = replace(whole, hu=whole.hu[kept], positions_mm=whole.positions_mm[kept])
    hu, covered, frame, brain = known_head(series)
    with pytest.raises(Refusal, match=level) as refusal:
        register_atlas(hu, brain, frame.grid, covered, load_atlas())
    assert refusal.value.code == "incomplete_coverage"


def test_real_head_is_accepted(shared_data: Path) -> None:
    hu, covered, frame, brain = known_head(read_series(shared_data / "real_head_ct"))
    registration = register_atlas(hu, brain, frame.grid, covered, load_atlas())
    labels = warp_atlas(load_atlas(), registration, frame.grid, brain, scanned(frame)).regions
    assert registration.dice > 0.93
    assert min(registration.region_coverage.values()) == 1.0
    share = {r: brain.parenchyma[labels == r.label].mean() for r in ALL_REGIONS}
    # nuclei lie in brain, not in the wide ventricles beside them
    for side in ("left", "right"):
        assert share[RegionId("C", side)] > 0.45
        assert share[RegionId("L", side)] > 0.95
        assert share[RegionId("IC", side)] > 0.9


@pytest.mark.timeout(900)  # the person is made once: half a minute, more on a busy machine
def test_wide_ventricles_are_followed_on_both_sides(shared_data: Path, tmp_path: Path) -> None:
    """A head in which one side alone found its way, and the other caudate lay in the frontal horn."""
    anatomy = shared_data / "anatomies" / "person_05.nii.gz"
    if not anatomy.exists():
        pytest.skip("the test data has no label maps of whole heads (anatomies)")
    person = load_person(anatomy, shared_data / "aspects_masks_mni152")
    coarse = {"matrix": 256, "pixel_mm": 0.9}
    spec = random_person_spec(5701, person.anatomy, affected=(), definition="atlas", **coarse)
    scan = simulate(spec, person)
    write_dicom(tmp_path, spec, scan.hu, scan.geometry)
    aligned = align_series(read_series(tmp_path), load_atlas())
    order = [
        int(np.argmin(((scan.geometry.positions_mm - place) ** 2).sum(axis=1)))
        for place in aligned.series.positions_mm
    ]
    for side in SIDES:
        caudate = RegionId("C", side).label
        own = np.where(scan.regions[order] == caudate, 1000.0, 0.0).astype(np.float32)
        true = to_canonical(replace(aligned.series, hu=own), aligned.frame) > 500.0
        assert dice(aligned.head.regions == caudate, true) > 0.45
