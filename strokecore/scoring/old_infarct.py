"""Old infarcts: cavities that an engine shows and never counts."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import Bool3D
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid

# Old cavities: expected to be tissue by the atlas, CSF-like on the scan, not so on the other side.
OLD_MIN_TISSUE: Final = 0.8
OLD_MIN_ML: Final = 1.0
OLD_MIRROR_MARGIN_MM: Final = 5.0
# Brain this near to a cavity is not judged as early change.
OLD_RIM_MM: Final = 5.0
# Gliosis reaches further, where a new infarct is still to be told from it.
GLIOSIS_MM: Final = 12.0


def find_old_infarct(head: Head) -> Bool3D:
    """Old cavities: CSF-like where the atlas expects tissue and the other side has tissue; bool [z, y, x]."""
    csf = head.brain.csf & ~head.brain.ventricles
    near_fluid = widened(csf | head.brain.ventricles, OLD_MIRROR_MARGIN_MM, head.grid)
    cavity = csf & ~near_fluid[:, :, ::-1] & (head.tissue > OLD_MIN_TISSUE) & head.covered
    cavity = ndimage.binary_opening(cavity, structure=np.ones((1, 3, 3), bool))
    return keep_components(cavity, OLD_MIN_ML, head.grid)


def near_cavity(acute: Bool3D, old: Bool3D, grid: Grid) -> Bool3D:
    """The components of an outlined lesion that are the gliotic rim of an old cavity; all [z, y, x].

    A rim lies around its cavity, so most of it is near; a new infarct beside an old one reaches further.
    """
    if not old.any() or not acute.any():
        return np.zeros_like(acute)
    near = widened(old, GLIOSIS_MM, grid)
    labels, count = ndimage.label(acute)
    whole = np.bincount(labels.ravel(), minlength=count + 1)
    close = np.bincount(labels[near], minlength=count + 1)
    rim = close > 0.5 * whole
    rim[0] = False
    return np.asarray(rim[labels], dtype=np.bool_)


def widened(mask: Bool3D, margin_mm: float, grid: Grid) -> Bool3D:
    """A [z, y, x] mask grown by about ``margin_mm`` along each axis."""
    size = [2 * max(1, round(margin_mm / mm)) + 1 for mm in grid.spacing_mm]
    return np.asarray(ndimage.maximum_filter(mask.astype(np.uint8), size=size) > 0)


def keep_components(mask: Bool3D, min_ml: float, grid: Grid) -> Bool3D:
    """The connected components (6-neighbourhood) of a [z, y, x] mask that hold at least ``min_ml``."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    large = np.bincount(labels.ravel()) * grid.voxel_ml >= min_ml
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_)
