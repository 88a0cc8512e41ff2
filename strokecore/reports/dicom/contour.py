"""The outline of a mask as a polygon in DICOM's image coordinates."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float64Array


def region_contour(mask: BoolArray) -> Float64Array:
    """Outer boundary of the largest part of ``mask`` [j, i], float64 [n, 2] as (column, row), closed.

    The polygon runs along the pixels' edges in DICOM's image coordinates (PS3.3 C.18.6: the top left
    corner of the top left pixel is 0, 0), so filling it gives back the mask without its holes.

    Raises ValueError when the mask is empty.
    """
    parts, count = ndimage.label(mask)
    if count == 0:
        raise ValueError("an empty mask has no contour")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = ndimage.binary_fill_holes(parts == int(sizes.argmax()))
    return _trace(np.pad(part, 1)) - 1.0


def _trace(part: BoolArray) -> Float64Array:
    """Walk the pixel edges around one filled part, keeping it on the right; corners only."""
    # edges from corner to corner, in walking direction, for the four sides of every pixel
    follow: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(mask: BoolArray, start: tuple[int, int], end: tuple[int, int]) -> None:
        for row, column in np.argwhere(mask).tolist():
            follow.setdefault((row + start[0], column + start[1]), []).append((row + end[0], column + end[1]))

    inside = part
    add(inside & ~np.roll(inside, 1, 0), (0, 0), (0, 1))
    add(inside & ~np.roll(inside, -1, 1), (0, 1), (1, 1))
    add(inside & ~np.roll(inside, -1, 0), (1, 1), (1, 0))
    add(inside & ~np.roll(inside, 1, 1), (1, 0), (0, 0))
    start = min(follow)
    corners = [start]
    here, direction = start, (0, 1)
    while True:
        choices = follow[here]
        # where two pixels touch at a corner, turn right: 4-connected parts stay on their own boundary
        right = (here[0] + direction[1], here[1] - direction[0])
        there = right if right in choices else choices[0]
        choices.remove(there)
        step = (there[0] - here[0], there[1] - here[1])
        if step != direction:
            corners.append(here)
            direction = step
        here = there
        if here == start and not follow[here]:
            break
    corners.append(start)
    return np.asarray(corners, np.float64)[:, ::-1]
