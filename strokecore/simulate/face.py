"""Skull thickness, skin and everything between them: bones of base and face, sinuses, eyes, muscle and fat.

Our own description by simple solids; places are read off the MNI152 head and common anatomical knowledge.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.arrays import Float32Array
from strokecore.simulate.solids import (
    HEAD_SPACING_MM,
    Axes,
    capsule_mm,
    ellipsoid_mm,
    mirrored,
    smooth_min,
)

AIR: Final = -1000.0
FAT: Final = -95.0
MUSCLE: Final = 55.0
BONE: Final = 900.0
SPONGY: Final = 350.0
MUCOSA: Final = 25.0
VITREOUS: Final = 12.0
LENS: Final = 75.0


def petrous_mm(axes: Axes) -> Float32Array:
    return capsule_mm(axes, (54, 30, -45), (15, 8, -40), 11, 6)


def calvarium_thickness(axes: Axes) -> Float32Array:
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


def skin_distance(intracranial_mm: Float32Array, calvarium_mm: Float32Array, axes: Axes) -> Float32Array:
    """Signed distance to the skin: scalp over the vault, face, neck, nose and ears."""
    one_side = mirrored(axes)
    temple = np.exp(
        -(((np.abs(axes.x) - 72) / 16) ** 2) - ((axes.y + 18) / 30) ** 2 - ((axes.z + 10) / 28) ** 2
    )
    nape = np.exp(-((axes.x / 50) ** 2) - ((axes.y - 100) / 30) ** 2 - ((axes.z + 55) / 25) ** 2)
    vault = intracranial_mm - calvarium_mm - 5.0 - 6.0 * temple - 8.0 * nape
    face = ellipsoid_mm(axes, (0, -28, -62), (64, 60, 78))
    cheeks = ellipsoid_mm(one_side, (30, -50, -72), (34, 34, 38))
    neck = ellipsoid_mm(axes, (0, 36, -105), (64, 70, 80))
    nose = capsule_mm(axes, (0, -84, -38), (0, -98, -68), 8, 13)
    ear = ellipsoid_mm(one_side, (73, 25, -44), (5.5, 15, 27))
    head = smooth_min(vault.astype(np.float32), face, 12)
    head = smooth_min(head, cheeks, 10)
    head = smooth_min(head, neck, 16)
    head = smooth_min(head, nose, 8)
    return smooth_min(head, ear, 6)


def inner_tissue(intracranial_mm: Float32Array, skin_mm: Float32Array, axes: Axes) -> Float32Array:
    """Hounsfield units of everything between skull and skin, later parts overruling earlier ones."""
    side = mirrored(axes)
    ax, y, z = side.x, axes.y, axes.z
    coarse = _texture(axes, 11, 3.2)
    fine = _texture(axes, 12, 1.5)
    # Temporal, nuchal and deep facial muscles, split by fat planes; the scalp is fat.
    temporal = ellipsoid_mm(side, (66, -16, -18), (22, 34, 44))
    nuchal = ellipsoid_mm(axes, (0, 80, -74), (74, 52, 52))
    deep = ellipsoid_mm(side, (38, -4, -74), (36, 44, 40))
    muscle_mm = np.minimum(np.minimum(temporal, nuchal), deep) + 3 * coarse
    planes = np.abs(_texture(axes, 13, 4.5) + 0.25 * fine) < 0.13
    hu = np.where((muscle_mm < 0) & ~planes & (skin_mm < -4.5), MUSCLE + 5 * fine, FAT + 12 * fine).astype(
        np.float32
    )

    def paint(distance: npt.NDArray[np.floating], value: float | Float32Array) -> None:
        nonlocal hu
        cover = np.clip(0.5 - distance / HEAD_SPACING_MM, 0, 1)
        hu = (hu * (1 - cover) + value * cover).astype(np.float32)

    # Skull base: petrous bone with air cells, sphenoid and clivus, occipital condyles.
    bone_texture = (BONE + 200 * fine).astype(np.float32)
    paint(petrous_mm(axes), bone_texture)
    mastoid = ellipsoid_mm(side, (57, 34, -50), (13, 17, 22))
    paint(mastoid, bone_texture)
    cells = np.maximum(mastoid + 3, np.where(fine > 0.25, -2.0, 2.0)).astype(np.float32)
    paint(cells, AIR + 250)
    canal = capsule_mm(axes, (80, 20, -46), (46, 18, -44), 3.2, 3.0)
    paint(canal, AIR + 100)
    tympanum = ellipsoid_mm(side, (43, 17, -43), (4, 6, 7))
    paint(tympanum, AIR + 200)
    sphenoid = ellipsoid_mm(axes, (0, -10, -42), (22, 20, 17))
    paint(sphenoid, (SPONGY + 200 + 150 * fine).astype(np.float32))
    clivus = capsule_mm(axes, (0, 8, -44), (0, 22, -72), 9, 7)
    paint(clivus, (SPONGY + 100 * fine).astype(np.float32))
    wing = capsule_mm(axes, (20, -16, -30), (58, -34, -14), 3.5, 4.0)
    paint(wing, bone_texture)
    for x0, r in ((8.0, 7.5),):
        paint(ellipsoid_mm(side, (x0, -16, -42), (r - 1, 12, 10)), AIR + 30)
    condyle = ellipsoid_mm(side, (19, 30, -80), (7, 14, 8))
    paint(condyle, (SPONGY + 300 + 120 * fine).astype(np.float32))

    # Orbit: bony cone, fat, muscles, optic nerve, globe and lens.
    orbit = _orbit_mm(side)
    paint(np.where(y < -72, 5.0, orbit - 2.4), bone_texture)
    paint(orbit, FAT)
    for start in ((24.0, -40.0, -36.0), (40.0, -44.0, -37.0)):
        paint(
            capsule_mm(axes, (18, -18, -35), (start[0] + (3 if start[0] > 30 else -5), -58, -37), 1.6, 2.2),
            MUSCLE,
        )
    paint(capsule_mm(axes, (16, -16, -34), (31, -50, -37), 1.8, 1.9), 35.0)
    globe = ellipsoid_mm(side, (32, -62, -38), (12, 12, 12))
    paint(globe, 45.0)
    paint(globe + 1.6, VITREOUS)
    paint(ellipsoid_mm(side, (32, -71, -38), (4.5, 2.2, 4.5)), LENS)
    # Cheek bone and lateral orbital rim.
    paint(capsule_mm(axes, (46, -52, -22), (46, -54, -50), 4, 4.5), bone_texture)
    paint(capsule_mm(axes, (46, -54, -54), (66, 0, -52), 4, 2.5), bone_texture)
    paint(ellipsoid_mm(side, (52, 2, -56), (9, 4.5, 6)), bone_texture)
    paint(capsule_mm(axes, (52, 0, -62), (50, -8, -97), 4.0, 5), bone_texture)

    # Nose, ethmoid and maxillary sinuses.
    septa = np.minimum(np.abs((y + 3.0 + 1.8 * coarse) % 9.0 - 4.5) - 0.7, ax + 0.9 * coarse - 0.8)
    ethmoid = np.maximum(np.maximum(ax - 12.0, np.abs(y + 47) - 24), np.abs(z + 42) - 11)
    paint(ethmoid - 1.5, (SPONGY + 150 * fine).astype(np.float32))
    paint(np.maximum(ethmoid, -septa), AIR + 60)
    nasal = ellipsoid_mm(axes, (0, -50, -72), (16, 38, 22))
    paint(nasal, MUCOSA)
    turbinate = np.minimum(np.abs(ax - 7.5) - 2.2, ax - 1.2)
    paint(np.maximum(nasal + 1.5, -turbinate), AIR)
    paint(capsule_mm(axes, (0, -84, -34), (0, -94, -48), 4, 3), bone_texture)
    maxilla = ellipsoid_mm(side, (30, -52, -72), (15, 18, 17))
    paint(maxilla - 1.8, bone_texture)
    paint(maxilla, AIR + 20)
    pharynx = ellipsoid_mm(axes, (0, -6, -78), (13, 12, 18))
    paint(pharynx, AIR)
    # C1 and the dens close the picture below.
    paint(
        np.maximum(np.abs(ellipsoid_mm(axes, (0, 38, -92), (26, 24, 40))) - 4, np.abs(z + 92) - 6),
        bone_texture,
    )
    # Cartilage of the ear.
    paint(np.where(ax > 70, ellipsoid_mm(side, (73, 25, -44), (2.5, 12, 24)), 9.0), 60.0)
    hu[(intracranial_mm < -3) | (skin_mm > 6)] = FAT
    return hu


def _orbit_mm(side: Axes) -> Float32Array:
    """Signed distance to the orbital cone: apex behind the globe, opening to the front."""
    return capsule_mm(side, (17, -20, -35), (32, -72, -38), 4, 18)


def _texture(axes: Axes, seed: int, scale_mm: float) -> Float32Array:
    """Smooth unit-variance pattern of the average head (fat septa, air cells); the same for every patient."""
    shape = (axes.z.size, axes.y.size, axes.x.size)
    white = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(white, scale_mm / HEAD_SPACING_MM)
    return np.asarray(field / field.std(), np.float32)
