"""A head cut to its brain, so that engines do not work on air."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.head.brain import Brain
from strokecore.head.grid import Grid
from strokecore.scoring.engine import Head

Bool3D = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


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
