"""One head in the canonical frame, with its tissues and its atlas: what engines are shown."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.head.brain import Brain
from strokecore.head.grid import Grid

Bool3D = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Head:
    """One head in the canonical frame: everything an engine may look at.

    Attributes
    ----------
    hu: float32 [z, y, x] on ``grid``; -1024 outside the scan.
    grid: canonical grid, symmetric about the mid-sagittal plane.
    brain: tissue masks on the same grid.
    regions: uint8 [z, y, x], RegionId.label values, 0 elsewhere: the person's atlas regions.
    grey: float32 [z, y, x], expected share of grey matter in brain tissue (0 white, 1 grey), from the
        registered atlas.
    tissue: float32 [z, y, x], expected share of brain tissue (0 CSF or outside, 1 grey or white
        matter), from the registered atlas.
    covered: bool [z, y, x], inside the scanned volume.
    slice_thickness_mm: of the source.
    """

    hu: npt.NDArray[np.float32]
    grid: Grid
    brain: Brain
    regions: npt.NDArray[np.uint8]
    grey: npt.NDArray[np.float32]
    tissue: npt.NDArray[np.float32]
    covered: npt.NDArray[np.bool_]
    slice_thickness_mm: float


def crop(head: Head, box: Box) -> Head:
    """The part of a head inside ``box``, which must be symmetric about the mid-sagittal plane."""
    z0, y0, x0 = (s.start for s in box)
    dz, dy, dx = head.grid.spacing_mm
    x, y, z = head.grid.origin_mm
    shape = tuple(s.stop - s.start for s in box)
    brain: dict[str, Any] = {
        f.name: value[box] if isinstance(value := getattr(head.brain, f.name), np.ndarray) else value
        for f in fields(head.brain)
    }
    return Head(
        hu=head.hu[box],
        grid=Grid(
            (shape[0], shape[1], shape[2]), head.grid.spacing_mm, (x + x0 * dx, y + y0 * dy, z + z0 * dz)
        ),
        brain=Brain(**brain),
        regions=head.regions[box],
        grey=head.grey[box],
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
