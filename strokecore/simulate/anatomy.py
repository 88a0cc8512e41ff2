"""What patients are bent from: the average head of the atlas, or a real one's label map (people.py).

The average head has its brain from the atlas's tissue maps, its skull and face by rule. Everything here is
computed once per process from the shipped atlas and depends on no seed. Coordinates are
the atlas's: MNI152 millimetres in LPS axes (x to the left, y to posterior, z to superior), arrays [z, y, x].
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import SIDES, RegionId
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.simulate.face import calvarium_thickness, inner_tissue, petrous_mm, skin_distance
from strokecore.simulate.solids import HEAD_SPACING_MM, Axes, Point, ellipsoid_mm, head_axes

# Distance from the brain to the inner table: subarachnoid space, dura and venous sinuses.
_SUBARACHNOID_MM: Final = 1.5

_NUCLEI_GREY: Final = 0.85  # share of the maps' white matter in the nuclei that CT shows as grey


class Structure(IntEnum):
    """Labels of BaseHead.structures: what physics and blood need to know the place of."""

    CORTEX = 1  # of the cerebrum's gyri
    WHITE = 2  # of the cerebrum
    PUTAMEN = 3
    PALLIDUM = 4
    CAUDATE = 5
    THALAMUS = 6
    CHOROID = 7  # plexus in the atria
    PINEAL = 8
    CEREBELLUM = 9
    BRAIN_STEM = 10
    VENTRICLE = 11
    OTHER_GREY = 12  # hippocampus, amygdala, accumbens


@dataclass(frozen=True, eq=False)
class Interior:
    """Where a real head's inner structures lie, on the grid of its BaseHead [z, y, x].

    The average head has none of this: there the same things are placed by rule.

    Attributes
    ----------
    dura: float32 0-1, falx and tentorium.
    sinuses: float32 0-1, venous sinuses and the great vein.
    structures: uint8, Structure values.
    cut: uint8, what each voxel may be in a definition of the regions (true_regions.py).
    sector_halves_mm: int8 [definition, sector, z, y, x] on every second voxel of the grid, half millimetres:
        signed distance to each sector of each definition, atlas first, negative inside.
    """

    dura: Float32Array
    sinuses: Float32Array
    structures: UInt8Array
    cut: UInt8Array
    sector_halves_mm: npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class BaseHead:
    """A head in atlas-like axes that patients are bent from; fields on one grid, float32 [z, y, x].

    Attributes
    ----------
    origin_mm: (x, y, z) of voxel [0, 0, 0]'s centre; spacing_mm: isotropic.
    gm, wm: share of grey and white matter, 0-1; the rest of the intracranial space is fluid.
    intracranial_mm: signed distance to the inner table, negative inside the skull.
    ventricle_mm: signed distance to the ventricles' wall, negative inside.
    deep_grey: 0-1, deep nuclei (a little denser than cortex).
    skin_mm: signed distance to the skin, negative inside the head; None where ``outer_hu`` ends at the skin.
    calvarium_mm: thickness of the skull's vault or base at each point around the brain; None where
        ``outer_hu`` holds the skull.
    outer_hu: tissue outside the inner table: muscle, fat, facial bone, sinuses, eyes; of a real head also the
        skull, the skin and the air around it.
    labels: uint8, RegionId.label of the 20 regions by our atlas's definition.
    anatomy: identity of the label map, "<stem>:<12 hex of sha256>"; "" for the average head.
    interior: places of a real head's inner structures; None for the average head.
    """

    origin_mm: Point
    gm: Float32Array
    wm: Float32Array
    intracranial_mm: Float32Array
    ventricle_mm: Float32Array
    deep_grey: Float32Array
    skin_mm: Float32Array | None
    calvarium_mm: Float32Array | None
    outer_hu: Float32Array
    labels: UInt8Array
    spacing_mm: float = HEAD_SPACING_MM
    anatomy: str = ""
    interior: Interior | None = None

    @property
    def axes_mm(self) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Coordinates along x, y and z."""
        nz, ny, nx = self.gm.shape
        x, y, z = (
            np.float32(o) + np.arange(n, dtype=np.float32) * np.float32(self.spacing_mm)
            for o, n in zip(self.origin_mm, (nx, ny, nz), strict=True)
        )
        return x, y, z


@cache
def average_head() -> BaseHead:
    """The average head, built from the shipped atlas; about 3 s once per process."""
    x, y, z = head_axes()
    axes = Axes(x[None, None, :], y[None, :, None], z[:, None, None])
    gm, wm, labels = _atlas_maps(x, y, z)
    intracranial = _intracranial(gm + wm, axes)
    intracranial_mm = _signed_distance(intracranial)
    ventricle_mm = _signed_distance(_ventricles(gm + wm, intracranial_mm, axes))
    gm, wm = _without_false_grey_rim(gm, wm, ventricle_mm)
    gm, wm = _with_grey_nuclei(gm, wm, labels)
    calvarium_mm = calvarium_thickness(axes)
    skin_mm = skin_distance(intracranial_mm, calvarium_mm, axes)
    return BaseHead(
        origin_mm=(float(x[0]), float(y[0]), float(z[0])),
        gm=gm,
        wm=wm,
        intracranial_mm=intracranial_mm,
        ventricle_mm=ventricle_mm,
        deep_grey=_deep_grey(gm, wm, axes),
        skin_mm=skin_mm,
        calvarium_mm=calvarium_mm,
        outer_hu=inner_tissue(intracranial_mm, skin_mm, axes),
        labels=labels,
    )


def _atlas_maps(
    x: Float32Array, y: Float32Array, z: Float32Array
) -> tuple[Float32Array, Float32Array, UInt8Array]:
    """Grey, white and regions of the shipped atlas on the head box's grid."""
    atlas = load_atlas()

    def resampled(volume: npt.NDArray[np.generic], interpolator: int) -> npt.NDArray[np.generic]:
        image = sitk.GetImageFromArray(volume)
        image.SetOrigin(atlas.origin_mm)
        image.SetSpacing(atlas.spacing_mm[::-1])
        reference = sitk.Image([x.size, y.size, z.size], sitk.sitkUInt8)
        reference.SetOrigin([float(x[0]), float(y[0]), float(z[0])])
        reference.SetSpacing([HEAD_SPACING_MM] * 3)
        return np.asarray(
            sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), interpolator, 0.0))
        )

    grey, white = (resampled(v, sitk.sitkLinear).astype(np.float32) for v in (atlas.grey, atlas.white))
    return grey, white, resampled(atlas.regions, sitk.sitkNearestNeighbor).astype(np.uint8)


def _ball(radius_mm: float) -> BoolArray:
    n = int(np.ceil(radius_mm / HEAD_SPACING_MM))
    d = np.mgrid[-n : n + 1, -n : n + 1, -n : n + 1] * HEAD_SPACING_MM
    return np.asarray((d**2).sum(axis=0) <= radius_mm**2)


def _distance(mask: BoolArray) -> Float32Array:
    """Millimetres to the nearest voxel of ``mask``."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([HEAD_SPACING_MM] * 3)
    squared = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(np.maximum(sitk.GetArrayFromImage(squared), 0), np.float32)


def _signed_distance(mask: BoolArray) -> Float32Array:
    """Millimetres to the mask's border, negative inside; smoothed, or the skull would show a staircase."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([HEAD_SPACING_MM] * 3)
    signed = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(ndimage.gaussian_filter(sitk.GetArrayFromImage(signed), 0.8), np.float32)


def _intracranial(tissue: Float32Array, axes: Axes) -> BoolArray:
    """Everything inside the inner table: brain, its sulci and cisterns, the upper cord."""
    brain = tissue > 0.4
    away = _distance(brain)

    def closed(radius_mm: float) -> BoolArray:
        return np.asarray(_distance(away > radius_mm) > radius_mm)

    # Fissures of the vault are wide; at the base a wide closing would swallow the petrous and sphenoid bones.
    vault = closed(14.0) & ((axes.z > -10) | ((axes.y > 60) & (axes.z > -34)))
    # The vault bridges the interhemispheric fissure without a notch.
    vault |= closed(22.0) & ((np.abs(axes.x) < 26) | (axes.z > 25)) & (axes.z > -4)
    base = closed(4.5)
    # Suprasellar and prepontine cisterns, between the temporal lobes.
    cistern = (
        closed(12.0) & (np.abs(axes.x) < 24) & (axes.y > -24) & (axes.z > -27 - 0.5 * np.clip(axes.y, 0, 20))
    )
    cistern |= ellipsoid_mm(axes, (0, -3, -19), (17, 15, 9)) < 0
    grown = _distance(vault | base | cistern) <= _SUBARACHNOID_MM
    grown &= ~((petrous_mm(axes) < 0) & (tissue < 0.3))
    # The cord continues below the map's end.
    canal = (axes.x / 12) ** 2 + ((axes.y - 40) / 11) ** 2 < 1
    grown |= canal & (axes.z < -60)
    smooth = ndimage.gaussian_filter(grown.astype(np.float32), 1.2) > 0.5
    return np.asarray(smooth)


def _ventricles(tissue: Float32Array, intracranial_mm: Float32Array, axes: Axes) -> BoolArray:
    """Lateral, third and fourth ventricle: fluid deep inside the brain, near the midline."""
    fluid = (tissue < 0.45) & (intracranial_mm < -18)
    lateral = (np.abs(axes.x) < 38) & (axes.z > -16) & (axes.z < 34) & (axes.y > -45) & (axes.y < 62)
    # Interhemispheric fissure above and in front of the corpus callosum is fluid too, but no ventricle.
    fissure = (np.abs(axes.x) < 4) & ((axes.z > 24) | (axes.y < -14) | (axes.y > 34))
    fourth = (np.abs(axes.x) < 9) & (axes.z > -48) & (axes.z < -14) & (axes.y > 34) & (axes.y < 56)
    # The cistern behind the third ventricle is fluid at the midline too.
    fissure = fissure | ((np.abs(axes.x) < 9) & (axes.y > 27) & (axes.z < 22))
    third = (np.abs(axes.x) < 5) & (axes.z > -14) & (axes.z < 12) & (axes.y > -8) & (axes.y < 30)
    found = fluid & ((lateral & ~fissure) | fourth | third)
    parts, count = ndimage.label(found)
    if count:
        sizes = np.bincount(parts.ravel())
        keep = np.flatnonzero(sizes >= 60)
        found &= np.isin(parts, keep[keep > 0])
    return np.asarray(found)


def _without_false_grey_rim(
    gm: Float32Array, wm: Float32Array, ventricle_mm: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Averaged maps call the fluid-white border of the ventricles grey; CT shows no such rim."""
    thick = ndimage.grey_opening(gm, footprint=_ball(3.1))
    near = np.clip((4.5 - ventricle_mm) / 1.5, 0, 1) * (ventricle_mm > -3)
    excess = np.clip(gm - thick, 0, 1) * near
    return (gm - excess).astype(np.float32), (wm + excess * (ventricle_mm > 0)).astype(np.float32)


def _with_grey_nuclei(
    gm: Float32Array, wm: Float32Array, labels: UInt8Array
) -> tuple[Float32Array, Float32Array]:
    """MRI maps call the iron-rich pallidum white; on CT the lentiform nucleus is as grey as the caudate."""
    nuclei = np.isin(labels, [RegionId(name, side).label for name in ("C", "L") for side in SIDES])
    share = _NUCLEI_GREY * ndimage.gaussian_filter(nuclei.astype(np.float32), 0.7)
    return (gm + share * wm).astype(np.float32), (wm * (1 - share)).astype(np.float32)


def _deep_grey(gm: Float32Array, wm: Float32Array, axes: Axes) -> Float32Array:
    """Caudate, lentiform and thalamus: the grey islands of the central box."""
    central = (
        (np.abs(axes.x) < 34)
        & (np.abs(axes.x) > 4)
        & (axes.y > -26)
        & (axes.y < 34)
        & (axes.z > -10)
        & (axes.z < 24)
    )
    lateral_limit = np.abs(axes.x) < 32 - np.abs(axes.y - 2) * 0.35
    inside = (central & lateral_limit).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(inside, 1.5) * np.clip(gm, 0, 1), np.float32)
