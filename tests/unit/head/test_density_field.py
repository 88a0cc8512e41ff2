"""The slow density field: known fields come back, nothing is invented, infarcts and blood are not followed.

The head is the atlas's template on a coarse grid, which has the anatomy of nobody and no field of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import ndimage

import strokecore.head.density_field as df
from strokecore.anatomy.atlas import load_atlas
from strokecore.head.alignment import Image
from strokecore.head.brain import Brain, segment_brain
from strokecore.head.cranium import depth
from strokecore.head.density_field import density_field
from strokecore.head.frame import HEAD_ORIGIN_IN_TEMPLATE_MM, TYPICAL_SCALE
from strokecore.head.grid import Grid

GRID = Grid((41, 115, 96), (4.0, 2.0, 2.0), (-95.0, -114.0, -78.0))
Z, Y, X = np.meshgrid(*GRID.axes_mm, indexing="ij")
EVERYWHERE = np.ones(GRID.shape, bool)


@dataclass(frozen=True, eq=False)
class Plain:
    """A head without a field: densities, masks, depth under the inner table and the field that is found."""

    hu: np.ndarray
    brain: Brain
    depth_mm: np.ndarray
    field: np.ndarray

    def with_field(self, added: np.ndarray) -> np.ndarray:
        """The field that is found when ``added`` HU are added to the head."""
        return density_field((self.hu + added).astype(np.float32), self.brain, GRID, EVERYWHERE)

    @property
    def tissue(self) -> np.ndarray:
        return self.brain.parenchyma & (Z > -45)

    def cupping(self, hu: float, length_mm: float) -> np.ndarray:
        return hu * np.exp(-self.depth_mm / length_mm)


@pytest.fixture(scope="module")
def plain() -> Plain:
    atlas = load_atlas()
    template = Image(atlas.template_hu.astype(np.float32), atlas.spacing_mm, atlas.origin_mm)
    points = np.stack([X, Y, Z], axis=-1).reshape(-1, 3) / TYPICAL_SCALE + HEAD_ORIGIN_IN_TEMPLATE_MM
    hu = ndimage.map_coordinates(template.values, template.indices(points), order=1, cval=-1000.0)
    noise = np.random.default_rng(0).normal(0, 2, GRID.shape)
    hu = (hu.reshape(GRID.shape) + noise).astype(np.float32)
    brain = segment_brain(hu, GRID, EVERYWHERE)
    found = density_field(hu, brain, GRID, EVERYWHERE)
    return Plain(hu, brain, depth(brain.intracranial, GRID.spacing_mm), found)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def error(plain: Plain, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Found minus true in tissue, apart from the level, which belongs to the person."""
    left = found - true
    return np.asarray((left - np.median(left[plain.depth_mm > 25]))[plain.tissue])


def mca(sides: str) -> np.ndarray:
    """The territory of the middle cerebral artery: about 300 ml on each side."""
    box = (np.abs(X) > 16) & (Y > -48) & (Y < 50) & (Z > -25) & (Z < 62)
    return box if sides == "both" else box & (X > 0 if sides == "left" else X < 0)


def test_no_field_is_invented(plain: Plain) -> None:
    assert plain.field.dtype == np.float32
    assert rms(plain.field[plain.tissue]) < 0.5


@pytest.mark.parametrize(
    ("hu", "length_mm", "most_rms"), [(3.0, 15.0, 0.8), (10.0, 8.0, 0.8), (10.0, 15.0, 1.2), (27.0, 8.0, 1.6)]
)
def test_cupping_comes_back(plain: Plain, hu: float, length_mm: float, most_rms: float) -> None:
    true = plain.cupping(hu, length_mm)
    left = error(plain, plain.with_field(true), true)
    assert rms(left) < most_rms
    assert rms(left) < rms(true[plain.tissue]) / 2


def test_strong_cupping_is_no_edge_where_the_deep_cells_are_empty() -> None:
    """Under the vertex no deep tissue says how a field has grown: the field found so far does."""
    shape = df._CELLS
    depths = (df._DEPTHS_MM[1:] + df._DEPTHS_MM[:-1]) / 2
    cupping = np.broadcast_to((26 * np.exp(-depths / 13))[:, None, None, None], shape)
    sound = np.ones(shape, bool)
    sound[4:, 8:] = False
    assert df._beyond_an_edge(cupping, np.zeros(shape), sound)[:, 8:].any()
    assert not df._beyond_an_edge(cupping, cupping, sound).any()
    blood = cupping.copy()
    blood[:2, 8:, 3] += 20
    assert df._beyond_an_edge(blood, cupping, sound)[:2, 8:, 3].all()


def test_a_cleft_in_the_inside_is_no_skull() -> None:
    inside = np.zeros((30, 80, 80), bool)
    inside[4:26, 10:70, 10:70] = True
    whole = inside.copy()
    inside[10:18, 36:42, 10:40] = False  # from the skull to the middle
    found = df._without_clefts(inside, (2.0, 1.0, 1.0))
    assert (found & ~inside).sum() > 0.9 * (whole & ~inside).sum()
    assert not (found & ~whole).any()


@pytest.mark.parametrize("left_right", [-1.5, 1.5])
def test_shading_comes_back_on_the_side_where_it_is(plain: Plain, left_right: float) -> None:
    true = left_right * X / 65 - 1.0 * Y / 85 + plain.cupping(5.0, 10.0)
    found = plain.with_field(true)
    left = found - true
    side = plain.tissue & (np.abs(X) > 25)
    assert abs(left[side & (X > 0)].mean() - left[side & (X < 0)].mean()) < 0.3
    assert abs(left[plain.tissue & (Y > 30)].mean() - left[plain.tissue & (Y < -30)].mean()) < 0.8


@pytest.mark.parametrize("cupping_hu", [0.0, 6.0])
@pytest.mark.parametrize("sides", ["left", "right", "both"])
def test_an_infarct_of_a_whole_territory_is_not_followed(plain: Plain, sides: str, cupping_hu: float) -> None:
    true = plain.cupping(cupping_hu, 10.0)
    infarct = mca(sides)
    change = plain.with_field(true - 7.0 * infarct) - plain.with_field(true)
    inside = change[infarct & plain.tissue].mean()
    # where both are infarcted only the other sectors tell the field, and it may follow a little more
    low, high = (-0.75, 1.0) if sides == "both" else (-0.5, 0.5)
    assert low < inside < high


@pytest.mark.parametrize("thickness_mm", [5.0, 9.0])
@pytest.mark.parametrize("cupping_hu", [0.0, 6.0])
def test_a_layer_of_blood_on_both_sides_stays(plain: Plain, cupping_hu: float, thickness_mm: float) -> None:
    layer = plain.brain.intracranial & (plain.depth_mm < thickness_mm) & (np.abs(X) > 25)
    layer &= (Z > 0) & (np.abs(Y) < 58)
    true = plain.cupping(cupping_hu, 10.0)
    blood = np.where(layer, 60 - plain.hu, 0)
    found = plain.with_field(true + blood)
    assert abs((found - plain.with_field(true))[layer].mean()) < 1.5
    flat = plain.hu + true + blood - found
    beside = plain.tissue & (plain.depth_mm > thickness_mm + 2) & (plain.depth_mm < thickness_mm + 8)
    assert flat[layer].mean() - flat[beside].mean() > 20


def test_the_level_is_the_persons(plain: Plain) -> None:
    found = plain.with_field(plain.cupping(10.0, 20.0) + 5.0)
    assert np.median(found[plain.depth_mm >= 25]) == pytest.approx(0, abs=0.1)


def test_the_field_is_smooth(plain: Plain) -> None:
    """On the grid's 2 mm, 10 HU of cupping change by 10 * (1 - exp(-2 / 10)) = 1.8 HU at most."""
    found = plain.with_field(plain.cupping(10.0, 10.0) - 8.0 * mca("left"))
    inside = plain.brain.intracranial
    both = inside[:, :, 1:] & inside[:, :, :-1]
    assert np.abs(np.diff(found, axis=2))[both].max() < 3.0


def test_mirrored_heads_have_mirrored_fields(plain: Plain) -> None:
    true = plain.cupping(5.0, 10.0) + 1.2 * X / 65
    hu = (plain.hu + true).astype(np.float32)
    masks = ("intracranial", "csf", "ventricles", "parenchyma", "calcification")
    mirrored = {name: np.ascontiguousarray(getattr(plain.brain, name)[:, :, ::-1]) for name in masks}
    brain = replace(plain.brain, **mirrored)
    here = density_field(hu, plain.brain, GRID, EVERYWHERE)
    there = density_field(np.ascontiguousarray(hu[:, :, ::-1]), brain, GRID, EVERYWHERE)
    # every second column is used, which are others in the mirror image
    assert rms((there[:, :, ::-1] - here)[plain.tissue]) < 0.15


def test_nothing_is_said_outside_the_scan_or_without_tissue(plain: Plain) -> None:
    covered = Z > -30
    hu = np.where(covered, plain.hu + plain.cupping(10.0, 10.0), -1024).astype(np.float32)
    brain = replace(plain.brain, intracranial=plain.brain.intracranial & covered)
    found = density_field(hu, brain, GRID, covered)
    assert not found[~covered].any()
    assert found[covered].any()
    nothing = replace(plain.brain, intracranial=np.zeros(GRID.shape, bool))
    assert not density_field(hu, nothing, GRID, covered).any()
