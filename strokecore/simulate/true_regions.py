"""The 20 true regions of a person from a label map: own nuclei; sectors cut to own cortex and white matter.

Caudate, lentiform nucleus and internal capsule are the person's own whatever the definition. Where insula and
M1-M6 begin and end is a convention: ours, the second definition's, or a random border between the two.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import SimpleITK as sitk

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import Float32Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.simulate.anatomy import BaseHead
from strokecore.simulate.shape import smooth_noise
from strokecore.simulate.spec import STREAM_DEFINITION, Definition

SECTORS: Final = ("I", "M1", "M2", "M3", "M4", "M5", "M6")
"""Order of Interior.sector_halves_mm."""

# Values of Interior.cut: what a voxel is, and on which side. Own nuclei and capsule are OWN + RegionId.label.
CORTEX: Final = {"left": 1, "right": 2}
WHITE: Final = {"left": 3, "right": 4}
INSULA: Final = {"left": 5, "right": 6}  # cortex on the extreme capsule
OWN: Final = 10

# Transferred borders of the insula are a few millimetres off; the person's own cortex decides within that.
_INSULA_MARGIN_MM: Final = 5.0
# Opercular cortex that the transferred insula covers belongs to the sector next to it.
_OPERCULUM_MM: Final = 14.0
# How the mixture of two definitions changes from place to place.
_MIXTURE_MM: Final = 30.0


def true_regions(head: BaseHead, definition: Definition, seed: int) -> UInt8Array:
    """RegionId.label on the head's grid, uint8 [z, y, x].

    Parameters
    ----------
    seed: decides where borders between the definitions run; used by "between" only.

    Raises
    ------
    UsageError: the head has one definition only.
    """
    if definition == "atlas":
        return head.labels
    inner = head.interior
    if inner is None or len(inner.sector_halves_mm) < 2:
        raise UsageError(
            f'definition is "{definition}", and this head has one definition of the regions only; '
            'use definition "atlas", or give a label map and the folder of a second atlas.'
        )
    first, second = (half.astype(np.float32) / 2 for half in inner.sector_halves_mm)
    if definition == "second":
        return cut_sectors(inner.cut, second)
    rng = np.random.default_rng([seed, STREAM_DEFINITION])
    noise = smooth_noise(rng, first.shape[1:], 2 * head.spacing_mm, _MIXTURE_MM)
    weight = np.clip(0.5 + 0.35 * noise, 0, 1)
    return cut_sectors(inner.cut, first + weight * (second - first))


def cut_sectors(cut: UInt8Array, distances_mm: Float32Array) -> UInt8Array:
    """Regions of a head from the signed distances [sector, z, y, x] on every second voxel of ``cut``."""
    insula, nearest, least = _nearest_sector(distances_mm, cut.shape)
    out = np.zeros(cut.shape, np.uint8)
    for side, offset in (("left", 0), ("right", len(REGION_NAMES))):
        names = np.array([REGION_NAMES.index(name) + 1 + offset for name in SECTORS[1:]], np.uint8)
        candidate = cut == INSULA[side]
        insular = candidate & (insula < _INSULA_MARGIN_MM)
        beside = (insula < _INSULA_MARGIN_MM) & (least < _OPERCULUM_MM)
        cortical = ((cut == CORTEX[side]) | candidate) & ~insular & ((least < 0) | beside)
        white = (cut == WHITE[side]) & (least < 0) & (insula > 0)
        sector = cortical | white
        out[sector] = names[nearest[sector]]
        out[insular] = REGION_NAMES.index("I") + 1 + offset
    own = cut > OWN
    out[own] = cut[own] - OWN
    return out


def _nearest_sector(
    distances_mm: Float32Array, shape: tuple[int, ...]
) -> tuple[Float32Array, UInt8Array, Float32Array]:
    """Distance to the insula; index among M1-M6 of the nearest one and the distance to it, on ``shape``."""
    insula = _enlarged(distances_mm[0], shape)
    nearest, least = np.zeros(shape, np.uint8), np.full(shape, np.inf, np.float32)
    for k, distance in enumerate(distances_mm[1:]):
        here = _enlarged(distance, shape)
        nearer = here < least
        nearest[nearer] = k
        np.minimum(least, here, out=least)
    return insula, nearest, least


def _enlarged(field: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """Linear interpolation onto twice as fine a grid that shares voxel [0, 0, 0]."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(field, np.float32))
    image.SetSpacing([2.0] * 3)
    direction = np.eye(3).ravel().tolist()
    large = sitk.Resample(
        image, shape[::-1], sitk.Transform(), sitk.sitkLinear, [0.0] * 3, [1.0] * 3, direction, 60.0
    )
    return np.asarray(sitk.GetArrayFromImage(large))
