"""A series to its canonical head, which engines are shown: its frame, its tissues and its own atlas."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.atlas import Atlas
from strokecore.arrays import Bool3D, BoolArray, Float32Array, UInt8Array
from strokecore.head.blood import Haemorrhage, find_haemorrhage
from strokecore.head.brain import Brain, segment_brain, segment_tissue, without_haemorrhage
from strokecore.head.density_field import density_field
from strokecore.head.frame import fit_head_frame
from strokecore.head.grid import CANONICAL_GRID, Grid, HeadFrame
from strokecore.head.registration import register_atlas
from strokecore.head.resampling import coverage, to_canonical
from strokecore.head.warped_atlas import warp_atlas
from strokecore.reading.series import Series

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Head:
    """One head in the canonical frame: everything an engine may look at.

    Attributes
    ----------
    hu: float32 [z, y, x] on ``grid``; -1024 outside the scan.
    field: float32 [z, y, x], HU, the slow density that is scanner and not tissue (see density_field).
    grid: canonical grid, symmetric about the mid-sagittal plane.
    brain: tissue masks on the same grid.
    haemorrhage: what is, or may be, blood; None where nothing looks like it.
    regions: uint8 [z, y, x], RegionId.label values, 0 elsewhere: the person's atlas regions.
    second_regions: uint8 [z, y, x], the same by the atlas's second definition; all 0 where it has none.
    tissue: float32 [z, y, x], expected share of brain tissue (0 CSF or outside, 1 grey or white
        matter), from the registered atlas.
    covered: bool [z, y, x], inside the scanned volume.
    slice_thickness_mm: of the source.
    """

    hu: Float32Array
    field: Float32Array
    grid: Grid
    brain: Brain
    haemorrhage: Haemorrhage | None
    regions: UInt8Array
    second_regions: UInt8Array
    tissue: Float32Array
    covered: BoolArray
    slice_thickness_mm: float

    @property
    def flat(self) -> Float32Array:
        """``hu`` without ``field``: tissue alike measures alike wherever in the head; float32 [z, y, x]."""
        return self.hu - self.field


@dataclass(frozen=True, eq=False)
class AlignedSeries:
    """A series, where its canonical frame lies in it, and the head that is seen there."""

    series: Series
    frame: HeadFrame
    head: Head


Step = Callable[[str], AbstractContextManager[None]]
"""Entered around each named step, such as a stopwatch."""


def _untimed(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def align_series(series: Series, atlas: Atlas, step: Step = _untimed) -> AlignedSeries:
    """A series in the canonical frame; ``step`` is told "frame", "brain" and "register". Raises Refusal."""
    with step("frame"):
        frame = fit_head_frame(series, atlas)
        hu = to_canonical(series, frame)
        covered = coverage(series, frame)
    return AlignedSeries(series, frame, canonical_head(hu, covered, atlas, series.slice_thickness_mm, step))


def canonical_head(
    hu: Float32Array,
    covered: BoolArray,
    atlas: Atlas,
    slice_thickness_mm: float,
    step: Step = _untimed,
) -> Head:
    """The head behind densities on CANONICAL_GRID; ``hu`` and ``covered`` as in Head. Raises Refusal."""
    with step("brain"):
        brain = segment_brain(hu, CANONICAL_GRID, covered)
        field = density_field(hu, brain, CANONICAL_GRID, covered)
        flat = hu - field
        brain = segment_tissue(flat, brain.intracranial, CANONICAL_GRID)
        haemorrhage = find_haemorrhage(flat, brain, CANONICAL_GRID)
        if haemorrhage is not None and haemorrhage.certain:
            brain = without_haemorrhage(brain, haemorrhage.mask, CANONICAL_GRID)
    with step("register"):
        registration = register_atlas(flat, brain, CANONICAL_GRID, covered, atlas)
        warped = warp_atlas(atlas, registration, CANONICAL_GRID, brain, covered)
    return Head(
        hu=hu,
        field=field,
        grid=CANONICAL_GRID,
        brain=brain,
        haemorrhage=haemorrhage,
        regions=warped.regions,
        second_regions=warped.second_regions,
        tissue=warped.tissue,
        covered=covered,
        slice_thickness_mm=slice_thickness_mm,
    )


def crop(head: Head, box: Box) -> Head:
    """The part of a head inside ``box``, which must be symmetric about the mid-sagittal plane."""
    z0, y0, x0 = (s.start for s in box)
    dz, dy, dx = head.grid.spacing_mm
    x, y, z = head.grid.origin_mm
    shape = tuple(s.stop - s.start for s in box)
    return Head(
        hu=head.hu[box],
        field=head.field[box],
        grid=Grid(
            (shape[0], shape[1], shape[2]), head.grid.spacing_mm, (x + x0 * dx, y + y0 * dy, z + z0 * dz)
        ),
        brain=head.brain.cropped(box),
        haemorrhage=head.haemorrhage and replace(head.haemorrhage, mask=head.haemorrhage.mask[box]),
        regions=head.regions[box],
        second_regions=head.second_regions[box],
        tissue=head.tissue[box],
        covered=head.covered[box],
        slice_thickness_mm=head.slice_thickness_mm,
    )


def symmetric_box(mask: Bool3D) -> Box:
    """Bounding box of a mask, widened to be symmetric about the middle column."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return tuple(slice(0, n) for n in mask.shape)  # type: ignore[return-value]
    z, y, x = found[0]
    margin = min(x.start, mask.shape[2] - x.stop)
    return z, y, slice(margin, mask.shape[2] - margin)


def uncrop(values: npt.NDArray[Any], box: Box, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """``values`` of the box back in a volume of ``shape``, 0 elsewhere."""
    whole = np.zeros(shape, values.dtype)
    whole[box] = values
    return whole
