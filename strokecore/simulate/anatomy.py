"""The average head that patients are bent from: brain from the atlas's tissue maps, skull and face by rule.

Everything here is computed once per process from the shipped atlas and depends on no seed. Coordinates are
the atlas's: MNI152 millimetres in LPS axes (x to the left, y to posterior, z to superior), arrays [z, y, x].
Places of bones, sinuses and eyes are our own, read off the MNI152 head and common anatomical knowledge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.atlas import load_atlas

Floats = npt.NDArray[np.float32]
Point = tuple[float, float, float]

# The box holds the whole head down to below the skull base; 1.5 mm is the atlas's own resolution.
HEAD_SPACING_MM: Final = 1.5
HEAD_BOX_MM: Final = ((-97.5, 97.5), (-121.5, 130.5), (-97.5, 117.0))  # x, y, z

AIR: Final = -1000.0
FAT: Final = -95.0
MUSCLE: Final = 55.0
BONE: Final = 900.0
SPONGY: Final = 350.0
MUCOSA: Final = 25.0
VITREOUS: Final = 12.0
LENS: Final = 75.0

# Distance from the brain to the inner table: subarachnoid space, dura and venous sinuses.
_SUBARACHNOID_MM: Final = 1.5


@dataclass(frozen=True, eq=False)
class AverageHead:
    """Fields of the average head on one grid, all float32 [z, y, x].

    Attributes
    ----------
    origin_mm: (x, y, z) of voxel [0, 0, 0]'s centre; spacing is HEAD_SPACING_MM.
    gm, wm: probability of grey and white matter, 0-1.
    intracranial_mm: signed distance to the inner table, negative inside the skull.
    ventricle_mm: signed distance to the ventricles' wall, negative inside.
    deep_grey: 0-1, deep nuclei (a little denser than cortex).
    skin_mm: signed distance to the skin, negative inside the head.
    calvarium_mm: thickness of the skull's vault or base at each point around the brain.
    inner_hu: tissue outside the skull and inside the skin: muscle, fat, facial bone, sinuses, eyes.
    labels: uint8, RegionId.label of the 20 regions.
    """

    origin_mm: Point
    gm: Floats
    wm: Floats
    intracranial_mm: Floats
    ventricle_mm: Floats
    deep_grey: Floats
    skin_mm: Floats
    calvarium_mm: Floats
    inner_hu: Floats
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Axes:
    """Broadcastable coordinates of the head box: x [1, 1, nx], y [1, ny, 1], z [nz, 1, 1]."""

    x: Floats
    y: Floats
    z: Floats


def head_axes() -> tuple[Floats, Floats, Floats]:
    """Coordinates along x, y and z of the head box, millimetres."""
    axes = [
        np.arange(low, high + HEAD_SPACING_MM / 2, HEAD_SPACING_MM, dtype=np.float32)
        for low, high in HEAD_BOX_MM
    ]
    return axes[0], axes[1], axes[2]


@cache
def average_head() -> AverageHead:
    """The average head, built from the shipped atlas; about 3 s once per process."""
    x, y, z = head_axes()
    axes = _Axes(x[None, None, :], y[None, :, None], z[:, None, None])
    gm, wm, labels = _atlas_maps(x, y, z)
    intracranial = _intracranial(gm + wm, axes)
    intracranial_mm = _signed_distance(intracranial)
    ventricle_mm = _signed_distance(_ventricles(gm + wm, intracranial_mm, axes))
    gm, wm = _without_false_grey_rim(gm, wm, ventricle_mm)
    calvarium_mm = _calvarium_thickness(axes)
    skin_mm = _skin(intracranial_mm, calvarium_mm, axes)
    return AverageHead(
        origin_mm=(float(x[0]), float(y[0]), float(z[0])),
        gm=gm,
        wm=wm,
        intracranial_mm=intracranial_mm,
        ventricle_mm=ventricle_mm,
        deep_grey=_deep_grey(gm, wm, axes),
        skin_mm=skin_mm,
        calvarium_mm=calvarium_mm,
        inner_hu=_inner_tissue(intracranial_mm, skin_mm, axes),
        labels=labels,
    )


def _atlas_maps(x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, npt.NDArray[np.uint8]]:
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


def _ball(radius_mm: float) -> npt.NDArray[np.bool_]:
    n = int(np.ceil(radius_mm / HEAD_SPACING_MM))
    d = np.mgrid[-n : n + 1, -n : n + 1, -n : n + 1] * HEAD_SPACING_MM
    return np.asarray((d**2).sum(axis=0) <= radius_mm**2)


def _distance(mask: npt.NDArray[np.bool_]) -> Floats:
    """Millimetres to the nearest voxel of ``mask``."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([HEAD_SPACING_MM] * 3)
    squared = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(np.maximum(sitk.GetArrayFromImage(squared), 0), np.float32)


def _signed_distance(mask: npt.NDArray[np.bool_]) -> Floats:
    """Millimetres to the mask's border, negative inside; smoothed, or the skull would show a staircase."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing([HEAD_SPACING_MM] * 3)
    signed = sitk.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    return np.asarray(ndimage.gaussian_filter(sitk.GetArrayFromImage(signed), 0.8), np.float32)


def _intracranial(tissue: Floats, axes: _Axes) -> npt.NDArray[np.bool_]:
    """Everything inside the inner table: brain, its sulci and cisterns, the upper cord."""
    brain = tissue > 0.4
    away = _distance(brain)

    def closed(radius_mm: float) -> npt.NDArray[np.bool_]:
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
    cistern |= _ellipsoid_mm(axes, (0, -3, -19), (17, 15, 9)) < 0
    grown = _distance(vault | base | cistern) <= _SUBARACHNOID_MM
    grown &= ~((_petrous_mm(axes) < 0) & (tissue < 0.3))
    # The cord continues below the map's end.
    canal = (axes.x / 12) ** 2 + ((axes.y - 40) / 11) ** 2 < 1
    grown |= canal & (axes.z < -60)
    smooth = ndimage.gaussian_filter(grown.astype(np.float32), 1.2) > 0.5
    return np.asarray(smooth)


def _ventricles(tissue: Floats, intracranial_mm: Floats, axes: _Axes) -> npt.NDArray[np.bool_]:
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


def _without_false_grey_rim(gm: Floats, wm: Floats, ventricle_mm: Floats) -> tuple[Floats, Floats]:
    """Averaged maps call the fluid-white border of the ventricles grey; CT shows no such rim."""
    thick = ndimage.grey_opening(gm, footprint=_ball(3.1))
    near = np.clip((4.5 - ventricle_mm) / 1.5, 0, 1) * (ventricle_mm > -3)
    excess = np.clip(gm - thick, 0, 1) * near
    return (gm - excess).astype(np.float32), (wm + excess * (ventricle_mm > 0)).astype(np.float32)


def _deep_grey(gm: Floats, wm: Floats, axes: _Axes) -> Floats:
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


def _ellipsoid_mm(axes: _Axes, centre: Point, radii: Point) -> Floats:
    """Approximate signed distance to an ellipsoid."""
    x, y, z = ((a - c) / r for a, c, r in zip((axes.x, axes.y, axes.z), centre, radii, strict=True))
    return np.asarray((np.sqrt(x**2 + y**2 + z**2) - 1) * min(radii), np.float32)


def _capsule_mm(axes: _Axes, start: Point, end: Point, start_radius: float, end_radius: float) -> Floats:
    """Signed distance to a rod whose radius changes from start to end; |x| is used, so both sides get one."""
    p = [np.abs(axes.x) - start[0], axes.y - start[1], axes.z - start[2]]
    d = [e - s for s, e in zip(start, end, strict=True)]
    along = np.clip(sum(a * b for a, b in zip(p, d, strict=True)) / sum(b * b for b in d), 0, 1)
    distance = np.sqrt(sum((a - along * b) ** 2 for a, b in zip(p, d, strict=True)))
    return np.asarray(distance - (start_radius + along * (end_radius - start_radius)), np.float32)


def _petrous_mm(axes: _Axes) -> Floats:
    return _capsule_mm(axes, (54, 30, -45), (15, 8, -40), 11, 6)


def _mirrored(axes: _Axes) -> _Axes:
    return _Axes(np.abs(axes.x), axes.y, axes.z)


def _smooth_min(a: Floats, b: Floats, blend_mm: float) -> Floats:
    h = np.clip(0.5 + 0.5 * (b - a) / blend_mm, 0, 1)
    return np.asarray(b * (1 - h) + a * h - blend_mm * h * (1 - h), np.float32)


def _calvarium_thickness(axes: _Axes) -> Floats:
    """Skull thickness, mm: 6-7 in the vault, thin temporal squama and orbital roof, thick occiput."""
    squama = np.exp(
        -(((np.abs(axes.x) - 72) / 14) ** 2) - ((axes.y + 2) / 30) ** 2 - ((axes.z + 12) / 24) ** 2
    )
    occiput = np.exp(-((axes.x / 16) ** 2) - ((axes.y - 108) / 25) ** 2 - ((axes.z + 22) / 18) ** 2)
    forehead = np.exp(-((axes.x / 26) ** 2) - ((axes.y + 76) / 16) ** 2 - ((axes.z + 14) / 16) ** 2)
    roof = np.exp(
        -(((np.abs(axes.x) - 28) / 16) ** 2) - ((axes.y + 42) / 20) ** 2 - ((axes.z + 24) / 10) ** 2
    )
    return np.asarray(5.2 - 2.2 * squama + 6.0 * occiput + 5.0 * forehead - 3.6 * roof, np.float32)


def _skin(intracranial_mm: Floats, calvarium_mm: Floats, axes: _Axes) -> Floats:
    """Signed distance to the skin: scalp over the vault, face, neck, nose and ears."""
    one_side = _mirrored(axes)
    temple = np.exp(
        -(((np.abs(axes.x) - 72) / 16) ** 2) - ((axes.y + 18) / 30) ** 2 - ((axes.z + 10) / 28) ** 2
    )
    nape = np.exp(-((axes.x / 50) ** 2) - ((axes.y - 100) / 30) ** 2 - ((axes.z + 55) / 25) ** 2)
    vault = intracranial_mm - calvarium_mm - 5.0 - 6.0 * temple - 8.0 * nape
    face = _ellipsoid_mm(axes, (0, -28, -62), (64, 60, 78))
    cheeks = _ellipsoid_mm(one_side, (30, -50, -72), (34, 34, 38))
    neck = _ellipsoid_mm(axes, (0, 36, -105), (64, 70, 80))
    nose = _capsule_mm(axes, (0, -84, -38), (0, -98, -68), 8, 13)
    ear = _ellipsoid_mm(one_side, (73, 25, -44), (5.5, 15, 27))
    head = _smooth_min(vault.astype(np.float32), face, 12)
    head = _smooth_min(head, cheeks, 10)
    head = _smooth_min(head, neck, 16)
    head = _smooth_min(head, nose, 8)
    return _smooth_min(head, ear, 6)


def _texture(axes: _Axes, seed: int, scale_mm: float) -> Floats:
    """Smooth unit-variance pattern of the average head (fat septa, air cells); the same for every patient."""
    shape = (axes.z.size, axes.y.size, axes.x.size)
    white = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(white, scale_mm / HEAD_SPACING_MM)
    return np.asarray(field / field.std(), np.float32)


def _inner_tissue(intracranial_mm: Floats, skin_mm: Floats, axes: _Axes) -> Floats:
    """Hounsfield units of everything between skull and skin, later parts overruling earlier ones."""
    side = _mirrored(axes)
    ax, y, z = side.x, axes.y, axes.z
    coarse = _texture(axes, 11, 3.2)
    fine = _texture(axes, 12, 1.5)
    # Temporal, nuchal and deep facial muscles, split by fat planes; the scalp is fat.
    temporal = _ellipsoid_mm(side, (66, -16, -18), (22, 34, 44))
    nuchal = _ellipsoid_mm(axes, (0, 80, -74), (74, 52, 52))
    deep = _ellipsoid_mm(side, (38, -4, -74), (36, 44, 40))
    muscle_mm = np.minimum(np.minimum(temporal, nuchal), deep) + 3 * coarse
    planes = np.abs(coarse + 0.3 * fine) < 0.16
    hu = np.where((muscle_mm < 0) & ~planes & (skin_mm < -4.5), MUSCLE + 5 * fine, FAT + 12 * fine).astype(
        np.float32
    )

    def paint(distance: npt.NDArray[np.floating], value: float | Floats) -> None:
        nonlocal hu
        cover = np.clip(0.5 - distance / HEAD_SPACING_MM, 0, 1)
        hu = (hu * (1 - cover) + value * cover).astype(np.float32)

    # Skull base: petrous bone with air cells, sphenoid and clivus, occipital condyles.
    bone_texture = (BONE + 200 * fine).astype(np.float32)
    paint(_petrous_mm(axes), bone_texture)
    mastoid = _ellipsoid_mm(side, (57, 34, -50), (13, 17, 22))
    paint(mastoid, bone_texture)
    cells = np.maximum(mastoid + 3, np.where(fine > 0.25, -2.0, 2.0)).astype(np.float32)
    paint(cells, AIR + 250)
    canal = _capsule_mm(axes, (80, 20, -46), (46, 18, -44), 3.2, 3.0)
    paint(canal, AIR + 100)
    tympanum = _ellipsoid_mm(side, (43, 17, -43), (4, 6, 7))
    paint(tympanum, AIR + 200)
    sphenoid = _ellipsoid_mm(axes, (0, -10, -42), (22, 20, 17))
    paint(sphenoid, (SPONGY + 200 + 150 * fine).astype(np.float32))
    clivus = _capsule_mm(axes, (0, 8, -44), (0, 22, -72), 9, 7)
    paint(clivus, (SPONGY + 100 * fine).astype(np.float32))
    wing = _capsule_mm(axes, (20, -16, -30), (58, -34, -14), 3.5, 4.0)
    paint(wing, bone_texture)
    for x0, r in ((8.0, 7.5),):
        paint(_ellipsoid_mm(side, (x0, -16, -42), (r - 1, 12, 10)), AIR + 30)
    condyle = _ellipsoid_mm(side, (19, 30, -80), (7, 14, 8))
    paint(condyle, (SPONGY + 300 + 120 * fine).astype(np.float32))

    # Orbit: bony cone, fat, muscles, optic nerve, globe and lens.
    orbit = _orbit_mm(side)
    paint(np.where(y < -72, 5.0, orbit - 2.4), bone_texture)
    paint(orbit, FAT)
    for start in ((24.0, -40.0, -36.0), (40.0, -44.0, -37.0)):
        paint(
            _capsule_mm(axes, (18, -18, -35), (start[0] + (3 if start[0] > 30 else -5), -58, -37), 1.6, 2.2),
            MUSCLE,
        )
    paint(_capsule_mm(axes, (16, -16, -34), (31, -50, -37), 1.8, 1.9), 35.0)
    globe = _ellipsoid_mm(side, (32, -62, -38), (12, 12, 12))
    paint(globe, 45.0)
    paint(globe + 1.6, VITREOUS)
    paint(_ellipsoid_mm(side, (32, -71, -38), (4.5, 2.2, 4.5)), LENS)
    # Cheek bone and lateral orbital rim.
    paint(_capsule_mm(axes, (46, -52, -22), (46, -54, -50), 4, 4.5), bone_texture)
    paint(_capsule_mm(axes, (46, -54, -54), (66, 0, -52), 4, 2.5), bone_texture)
    paint(_ellipsoid_mm(side, (52, 2, -56), (9, 4.5, 6)), bone_texture)
    paint(_capsule_mm(axes, (52, 0, -62), (50, -8, -97), 4.0, 5), bone_texture)

    # Nose, ethmoid and maxillary sinuses.
    septa = np.minimum(np.abs((y + 3.0) % 9.0 - 4.5) - 0.7, ax - 0.8)
    ethmoid = np.maximum(np.maximum(ax - 12.0, np.abs(y + 47) - 24), np.abs(z + 42) - 11)
    paint(ethmoid - 1.5, (SPONGY + 150 * fine).astype(np.float32))
    paint(np.maximum(ethmoid, -septa), AIR + 60)
    nasal = _ellipsoid_mm(axes, (0, -50, -72), (16, 38, 22))
    paint(nasal, MUCOSA)
    turbinate = np.minimum(np.abs(ax - 7.5) - 2.2, ax - 1.2)
    paint(np.maximum(nasal + 1.5, -turbinate), AIR)
    paint(_capsule_mm(axes, (0, -84, -34), (0, -94, -48), 4, 3), bone_texture)
    maxilla = _ellipsoid_mm(side, (30, -52, -72), (15, 18, 17))
    paint(maxilla - 1.8, bone_texture)
    paint(maxilla, AIR + 20)
    pharynx = _ellipsoid_mm(axes, (0, -6, -78), (13, 12, 18))
    paint(pharynx, AIR)
    # C1 and the dens close the picture below.
    paint(
        np.maximum(np.abs(_ellipsoid_mm(axes, (0, 38, -92), (26, 24, 40))) - 4, np.abs(z + 92) - 6),
        bone_texture,
    )
    # Cartilage of the ear.
    paint(np.where(ax > 70, _ellipsoid_mm(side, (73, 25, -44), (2.5, 12, 24)), 9.0), 60.0)
    hu[(intracranial_mm < -3) | (skin_mm > 6)] = FAT
    return hu


def _orbit_mm(side: _Axes) -> Floats:
    """Signed distance to the orbital cone: apex behind the globe, opening to the front."""
    return _capsule_mm(side, (17, -20, -35), (32, -72, -38), 4, 18)
