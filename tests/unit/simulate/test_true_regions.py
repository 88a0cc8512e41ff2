"""True regions of a person: own nuclei, sectors cut to own tissue, borders between two definitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import Float32Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.simulate.anatomy import BaseHead, Interior
from strokecore.simulate.true_regions import (
    CORTEX,
    INSULA,
    OWN,
    SECTORS,
    WHITE,
    cut_sectors,
    true_regions,
)

SIZE = (40, 40, 80)  # z, y, x; x counts from the patient's right
NOTHING = np.zeros(SIZE, np.float32)


def tissue() -> UInt8Array:
    """Right half and left half: white matter with a shell of cortex, an insula and a caudate on each side."""
    cut = np.zeros(SIZE, np.uint8)
    for side, place in (("right", slice(4, 36)), ("left", slice(44, 76))):
        cut[4:36, 4:36, place] = CORTEX[side]
        inner = slice(place.start + 4, place.stop - 4)
        cut[8:32, 8:32, inner] = WHITE[side]
        cut[18:22, 18:22, inner] = INSULA[side]
        cut[24:28, 18:22, inner] = OWN + RegionId("C", side).label
    return cut


def sector_distances(border_y: float) -> Float32Array:
    """M1 in front of a border, M2 behind it, the insula around the middle, no other sector; mm."""
    z, y, _ = np.indices([n // 2 + 1 for n in SIZE], dtype=np.float32) * 2
    out = np.full((len(SECTORS), *z.shape), 50.0, np.float32)
    out[SECTORS.index("M1")] = y - border_y
    out[SECTORS.index("M2")] = border_y - y
    out[SECTORS.index("I")] = np.hypot(z - 20, y - 20) - 4
    return out


def base(*borders: float) -> BaseHead:
    distances = [sector_distances(border) for border in borders]
    halves = np.stack([np.rint(d * 2).clip(-120, 120).astype(np.int8) for d in distances])
    return BaseHead(
        origin_mm=(-40.0, -20.0, -20.0),
        gm=NOTHING,
        wm=NOTHING,
        intracranial_mm=NOTHING,
        ventricle_mm=NOTHING,
        deep_grey=NOTHING,
        skin_mm=None,
        calvarium_mm=None,
        outer_hu=NOTHING,
        labels=cut_sectors(tissue(), distances[0]),
        spacing_mm=1.0,
        anatomy="phantom:000000000000",
        second_sha256="0" * 64 if len(borders) > 1 else "",
        interior=Interior(NOTHING, NOTHING, np.zeros(SIZE, np.uint8), tissue(), halves),
    )


def test_sectors_are_cut_to_the_persons_own_tissue_and_side() -> None:
    labels = cut_sectors(tissue(), sector_distances(24.0))
    cut = tissue()
    assert set(np.unique(labels)) == {0, *(r.label for r in ALL_REGIONS if r.name in ("C", "I", "M1", "M2"))}
    assert not labels[cut == 0].any()
    for region in ALL_REGIONS:
        columns = np.nonzero(labels == region.label)[2]
        assert (columns < 40).all() if region.side == "right" else (columns >= 40).all()
        if region.name == "C":  # own nuclei whatever the sectors say
            np.testing.assert_array_equal(labels == region.label, cut == OWN + region.label)
        if region.name == "I":  # only where the person's own cortex lies on the extreme capsule
            assert set(np.unique(cut[labels == region.label])) == {INSULA[region.side]}
        if region.name == "M1":
            assert np.nonzero(labels == region.label)[1].max() < 25


def test_definitions_differ_and_borders_are_drawn_between_them() -> None:
    head = base(16.0, 28.0)
    atlas, second, between, again = (
        true_regions(head, definition, seed)
        for definition, seed in (("atlas", 0), ("second", 0), ("between", 5), ("between", 5))
    )
    np.testing.assert_array_equal(between, again)
    assert (true_regions(head, "between", 6) != between).any()
    m1 = RegionId("M1", "left").label
    sizes = [np.count_nonzero(v == m1) for v in (atlas, between, second)]
    assert sizes[0] < sizes[1] < sizes[2]
    # a border between two borders is never outside both, but for voxels on the border itself
    assert np.count_nonzero((between == m1) & (second != m1)) < 0.01 * sizes[0]
    assert np.count_nonzero((atlas == m1) & (between != m1)) < 0.01 * sizes[0]


def test_a_definition_that_is_not_there_is_refused() -> None:
    head = base(16.0)
    assert head.definitions == ("atlas",)
    for definition in ("second", "between"):
        with pytest.raises(UsageError, match="one definition"):
            true_regions(head, definition, 0)
    with pytest.raises(UsageError, match="one definition"):
        true_regions(dataclasses.replace(head, interior=None), "second", 0)
