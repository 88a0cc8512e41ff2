"""From tissue fractions to Hounsfield units: one person's head on the fine grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.simulate.anatomy import Structure
from strokecore.simulate.face import AIR
from strokecore.simulate.shape import FINE_MM, FineGrid, smooth_noise
from strokecore.simulate.spec import STREAM_CALCIUM, STREAM_LEUKOARAIOSIS, STREAM_TISSUE, SampleSpec

# Non-contrast CT at 120 kVp: cortex 35-40, white matter 27-32, cerebrospinal fluid 3-10 HU. Mean and spread
# between people; the contrast of grey to white lies between 6 and 8 HU.
GREY_HU: Final = (37.2, 0.8)
WHITE_HU: Final = (29.4, 0.6)
CSF_HU: Final = (7.0, 1.0)
CALCIUM_HU: Final = 240.0
OLD_CAVITY_HU: Final = 11.0
TABLE_HU: Final = (1250.0, 80.0)  # compact bone of inner and outer table
DIPLOE_HU: Final = 620.0
SKIN_HU: Final = 75.0

_LEUKOARAIOSIS_HU: Final = 10.0  # darkening of the most severe, at the ventricle's wall
_LEUKOARAIOSIS_REACH_MM: Final = 9.0
# Own sulci: distance between folds, reach under the vault, half width in field units (about 1 mm).
_FOLD_LENGTH_MM: Final = 6.5
_FOLD_DEPTH_MM: Final = 24.0
_FOLD_WIDTH: Final = 0.16
_ASYMMETRY_HU: Final = 0.6  # rms of the natural smooth density field
_ASYMMETRY_LENGTH_MM: Final = 28.0
_TEXTURE_HU: Final = 0.7  # rms of small-scale tissue inhomogeneity
# Pallidum in head coordinates (|x|, y, z), half axes of its calcium, and how much less the other side has.
_PALLIDUM_MM: Final = (19.0, 3.0, 0.0)
_PALLIDAL_CALCIUM_MM: Final = (3.5, 6.0, 4.0)
_OTHER_SIDE_SHARE: Final = (0.2, 1.0)
_PALLIDAL_CALCIUM_HU: Final = 60.0  # above the tissue, at the densest: faint mineral to solid calcium

Cut = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class BentInterior:
    """A real head's inner structures (see Interior) after the individual warp, on the brain's grid."""

    dura: Float32Array
    sinuses: Float32Array
    structures: UInt8Array


@dataclass(frozen=True, eq=False)
class BentBrain:
    """A base head's brain (see BaseHead) after the individual warp, on the brain's grid."""

    grid: FineGrid
    gm: Float32Array
    wm: Float32Array
    ventricle_mm: Float32Array
    deep_grey: Float32Array
    intracranial_mm: Float32Array
    interior: BentInterior | None = None


@dataclass(frozen=True, eq=False)
class BentSkull:
    """A base head's skull and face (see BaseHead) after the individual warp, on the whole fine grid."""

    grid: FineGrid
    intracranial_mm: Float32Array
    skin_mm: Float32Array | None
    calvarium_mm: Float32Array | None
    outer_hu: Float32Array


@dataclass(frozen=True, eq=False)
class Person:
    """One head.

    Attributes
    ----------
    grid: the fine grid of the whole head; hu: float32 [z, y, x] on it.
    brain_grid, brain: the part that holds the brain, as a grid and as slices of ``hu``.
    grey, white: tissue fractions 0-1 on the brain's part, after sulci and ventricles have been widened.
    intracranial_mm, ventricle_mm: on the brain's part, signed distances to inner table and ventricles' wall.
    grey_hu, csf_hu: this person's cortex and fluid.
    """

    grid: FineGrid
    hu: Float32Array
    brain_grid: FineGrid
    brain: Cut
    grey: Float32Array
    white: Float32Array
    intracranial_mm: Float32Array
    ventricle_mm: Float32Array
    grey_hu: float
    csf_hu: float

    @property
    def inside(self) -> BoolArray:
        """Inside the inner table; bool on the brain's part."""
        return self.intracranial_mm < 0


def _soft(distance_mm: Float32Array, width_mm: float = FINE_MM) -> Float32Array:
    """1 where distance is negative, 0 where positive, linear over one voxel: partial volume at a surface."""
    return np.asarray(np.clip(0.5 - distance_mm / np.float32(width_mm), 0, 1), np.float32)


def build_person(spec: SampleSpec, brain: BentBrain, place: Cut, skull: BentSkull) -> Person:
    """Compose one person's head from bent fields and the specification's tissue fields."""
    rng = spec.rng(STREAM_TISSUE)
    hu = _skull_and_scalp(skull, rng)
    grey, white, csf = _brain_fractions(spec, brain, rng)
    densities = _densities(spec, rng)
    part = hu[place]
    inner = _brain_hu(spec, brain, grey, white, csf, densities, rng)
    part += _soft(brain.intracranial_mm) * (inner - part)
    return Person(
        skull.grid,
        hu,
        brain.grid,
        place,
        grey,
        white,
        brain.intracranial_mm,
        brain.ventricle_mm,
        grey_hu=densities[0],
        csf_hu=densities[2],
    )


def _densities(spec: SampleSpec, rng: np.random.Generator) -> tuple[float, float, float]:
    """HU of this person's grey matter, white matter and fluid."""
    drawn = [float(rng.normal(*pair)) for pair in (GREY_HU, WHITE_HU, CSF_HU)]
    asked = (spec.grey_hu, spec.white_hu, spec.csf_hu)
    grey, white, csf = (d if a is None else a for d, a in zip(drawn, asked, strict=True))
    more = (spec.contrast - 1) * (grey - white) / 2
    return grey + spec.brain_shift_hu + more, white + spec.brain_shift_hu - more, csf


def _brain_fractions(
    spec: SampleSpec, bent: BentBrain, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Grey, white and fluid fractions: averaged maps sharpened, fluid spaces set to this person's width."""
    if bent.interior is not None:
        return _real_fractions(spec, bent, rng)
    total = bent.gm + bent.wm
    fluid = 1 - total
    # The average of many brains shows a sulcus as a faint valley; a threshold makes it a fluid cleft again.
    variation = smooth_noise(rng, fluid.shape, FINE_MM, 7.0) * 0.05
    threshold = 0.46 - 0.24 * spec.atrophy
    csf = np.clip((fluid + variation - threshold) / 0.30 + 0.5, 0, 1).astype(np.float32)
    # No two people fold alike: narrow clefts of this person's own, along the level sets of a random field.
    fold = np.abs(smooth_noise(rng, fluid.shape, FINE_MM, _FOLD_LENGTH_MM))
    rim = np.clip((_FOLD_DEPTH_MM + bent.intracranial_mm) / 5.0, 0, 1) * np.clip((bent.gm - 0.25) / 0.3, 0, 1)
    csf = np.maximum(csf, np.exp(-((fold / _FOLD_WIDTH) ** 2)) * rim * (0.3 + 0.7 * spec.atrophy))
    x, _, _ = bent.grid.axes_mm
    # Ventricles differ in size between people and, a little, between sides.
    widening = -0.2 + 3.6 * spec.atrophy + rng.normal(0, 0.5)
    lean = rng.normal(0, 0.35)
    reach = (widening + lean * np.tanh(x / 6.0)).astype(np.float32)
    csf = np.maximum(
        csf * np.clip((bent.ventricle_mm - 1.0) / 2.0, 0, 1), _soft(bent.ventricle_mm - reach, 1.6)
    )
    share = np.clip(((bent.gm / np.maximum(total, 1e-3)) - 0.5) * 1.5 + 0.5, 0, 1)
    tissue = 1 - csf
    return (tissue * share).astype(np.float32), (tissue * (1 - share)).astype(np.float32), csf


def _real_fractions(
    spec: SampleSpec, bent: BentBrain, rng: np.random.Generator
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Fractions of a real head: its own folds, sulci widened by atrophy (the warp widens the ventricles)."""
    total = bent.gm + bent.wm
    variation = smooth_noise(rng, total.shape, FINE_MM, 7.0) * 0.05
    threshold = 0.55 - 0.22 * spec.atrophy
    csf = np.clip((1 - total + variation - threshold) / 0.7 + 0.5, 0, 1).astype(np.float32)
    share = bent.gm / np.maximum(total, 1e-3)
    tissue = 1 - csf
    return (tissue * share).astype(np.float32), (tissue * (1 - share)).astype(np.float32), csf


def _brain_hu(
    spec: SampleSpec,
    bent: BentBrain,
    grey: Float32Array,
    white: Float32Array,
    csf: Float32Array,
    densities: tuple[float, float, float],
    rng: np.random.Generator,
) -> Float32Array:
    shape = grey.shape
    grey_hu, white_hu, csf_hu = densities
    hu = grey * grey_hu + white * white_hu + csf * csf_hu
    hu += spec.deep_grey_extra_hu * bent.deep_grey * (1 - csf)
    if spec.leukoaraiosis > 0:
        patchy = 1 + 0.35 * smooth_noise(spec.rng(STREAM_LEUKOARAIOSIS), shape, FINE_MM, 6.0)
        rim = np.exp(-np.clip(bent.ventricle_mm, 0, None) / _LEUKOARAIOSIS_REACH_MM)
        x, _, z = bent.grid.axes_mm
        supratentorial = np.clip((z[:, None, None] + 2) / 8, 0, 1)
        lean = 1 + np.float32(spec.leukoaraiosis_asymmetry) * np.tanh(x / 6.0)
        depth = np.float32(spec.leukoaraiosis * _LEUKOARAIOSIS_HU) * lean
        hu -= depth * white * rim * np.clip(patchy, 0, 2) * supratentorial
    tissue = 1 - csf
    broad = smooth_noise(rng, shape, FINE_MM, _ASYMMETRY_LENGTH_MM)
    hu += tissue * np.float32(_ASYMMETRY_HU * spec.asymmetry) * broad
    hu += tissue * np.float32(_TEXTURE_HU * spec.texture) * smooth_noise(rng, shape, FINE_MM, spec.texture_mm)
    _add_dura_and_sinuses(hu, bent, csf, spec)
    if spec.calcification:
        _add_calcium(hu, bent, rng)
    if spec.basal_ganglia_calcium > 0:
        _add_pallidal_calcium(hu, bent, spec)
    return np.asarray(hu, np.float32)


def _add_pallidal_calcium(hu: Float32Array, bent: BentBrain, spec: SampleSpec) -> None:
    """Mineral in both pallida, patchy and more in one (in place)."""
    rng = spec.rng(STREAM_CALCIUM)
    more, share = (-1.0, 1.0)[int(rng.integers(2))], float(rng.uniform(*_OTHER_SIDE_SHARE))
    patchy = np.clip(1 + 0.5 * smooth_noise(rng, hu.shape, FINE_MM, 2.5), 0, 2)
    x, y, z = bent.grid.axes_mm
    (cx, cy, cz), (rx, ry, rz) = _PALLIDUM_MM, _PALLIDAL_CALCIUM_MM
    plane = np.exp(-(((y - cy) / ry) ** 2))[None, :, None] * np.exp(-(((z - cz) / rz) ** 2))[:, None, None]
    for side in (-1.0, 1.0):
        amount = spec.basal_ganglia_calcium * (1.0 if side == more else share)
        if bent.interior is None:
            spot = np.exp(-(((x - side * cx) / rx) ** 2))[None, None, :] * plane
        else:
            own = (bent.interior.structures == Structure.PALLIDUM) & (x * side > 0)[None, None, :]
            spot = ndimage.gaussian_filter(own.astype(np.float32), 1.0)
        hu += np.float32(amount * _PALLIDAL_CALCIUM_HU) * spot * patchy


def _add_dura_and_sinuses(hu: Float32Array, bent: BentBrain, csf: Float32Array, spec: SampleSpec) -> None:
    """Falx, tentorium and the superior sagittal and transverse sinuses (in place)."""
    if bent.interior is not None:
        hu += bent.interior.dura * (np.float32(spec.dura_hu) - hu)
        hu += bent.interior.sinuses * (np.float32(spec.sinus_hu) - hu)
        return
    x, y, z = (
        a[s]
        for a, s in zip(
            bent.grid.axes_mm, (np.s_[None, None, :], np.s_[None, :, None], np.s_[:, None, None]), strict=True
        )
    )
    depth = -bent.intracranial_mm
    # The falx hangs from the vault: deep behind (to the tentorium's ridge), shallow in front.
    hanging = np.clip((y + 75) / 100, 0.35, 1) * 40
    falx = np.exp(-((x / 1.1) ** 2)) * ((z > 0) | (y < -30)) * np.clip((hanging - depth) / 4, 0, 1)
    # Tent: ridge at the straight sinus, falling to the transverse sinuses.
    roof = 2.0 - 0.55 * np.abs(x) - 0.22 * (y - 40)
    tent = (
        np.exp(-(((z - roof) / 1.1) ** 2)) * ((y > 30) & (np.abs(x) < 60) & (z < 4)) * np.clip(csf * 2, 0, 1)
    )
    cover = np.clip(np.maximum(falx, 0.5 * tent), 0, 1)
    hu += cover * (np.float32(spec.dura_hu) - hu)
    sagittal = (
        np.clip((4.2 - depth) / 1.5, 0, 1)
        * np.clip(1.5 - np.abs(x) / 3.6, 0, 1)
        * ((z > 20) | (y > 70))
        * (z > -28)
    )
    transverse = np.clip((3.6 - depth) / 1.5, 0, 1) * np.clip(1.6 - np.abs(z + 26) / 3.5, 0, 1) * (y > 62)
    straight = np.exp(-((x / 1.8) ** 2) - ((z - 8 + 0.42 * (y - 38)) / 2.0) ** 2) * ((y > 32) & (y < 96))
    sinus = np.clip(np.maximum(np.maximum(sagittal, transverse), straight), 0, 1)
    hu += sinus * (np.float32(spec.sinus_hu) - hu)


def _add_calcium(hu: Float32Array, bent: BentBrain, rng: np.random.Generator) -> None:
    """Pineal gland and the choroid plexus of both atria (in place)."""
    x, y, z = bent.grid.axes_mm
    spots = [((0.0, 27.0, 1.0), rng.uniform(1.4, 2.6))]
    for side in (-1, 1):
        if rng.random() < 0.8:
            spots.append(
                ((side * rng.uniform(21, 24), rng.uniform(38, 43), rng.uniform(6, 11)), rng.uniform(1.5, 3.0))
            )
    if bent.interior is not None:
        spots = _at_own_places(bent, spots)
    for (cx, cy, cz), radius in spots:
        bound = tuple(
            slice(int(np.searchsorted(a, c - 3 * radius)), int(np.searchsorted(a, c + 3 * radius)))
            for a, c in ((z, cz), (y, cy), (x, cx))
        )
        zz, yy, xx = z[bound[0], None, None], y[None, bound[1], None], x[None, None, bound[2]]
        squared = ((xx - cx) ** 2 + ((yy - cy) / 1.3) ** 2 + ((zz - cz) / 1.4) ** 2) / radius**2
        cover = np.exp(-squared).astype(np.float32) * rng.uniform(0.6, 1.0)
        hu[bound] += cover * (CALCIUM_HU - hu[bound])


def _at_own_places(
    bent: BentBrain, spots: list[tuple[tuple[float, float, float], float]]
) -> list[tuple[tuple[float, float, float], float]]:
    """The spots moved to the nearest voxel of a real head's own pineal gland or choroid plexus."""
    assert bent.interior is not None, "the average head has no places of its own"
    x, y, z = bent.grid.axes_mm
    k, j, i = np.nonzero(np.isin(bent.interior.structures, [Structure.PINEAL, Structure.CHOROID]))
    if not len(k):
        return []
    points = np.stack([x[i], y[j], z[k]], axis=1)
    nearest = [points[np.argmin(((points - centre) ** 2).sum(axis=1))] for centre, _ in spots]
    return [((float(p[0]), float(p[1]), float(p[2])), r) for p, (_, r) in zip(nearest, spots, strict=True)]


def _skull_and_scalp(bent: BentSkull, rng: np.random.Generator) -> Float32Array:
    """Air, skin, scalp, face and the vault with its two tables and diploe."""
    if bent.skin_mm is None or bent.calvarium_mm is None:
        return _real_skull(bent.outer_hu, rng)
    shape = bent.grid.shape
    thickness = bent.calvarium_mm * np.float32(np.clip(rng.normal(1, 0.12), 0.75, 1.35))
    thickness = thickness + 0.5 * smooth_noise(rng, shape, FINE_MM, 16.0)
    hu = bent.outer_hu.copy()
    skin_mm = bent.skin_mm
    skin = _soft(-2.6 - skin_mm)
    hu += skin * (SKIN_HU - hu) * (hu > -300)
    depth = bent.intracranial_mm  # distance outwards from the inner table
    across = depth / np.maximum(thickness, 1.0)
    # Tables are about 1.7 mm each; where the skull is thin no diploe is left between them.
    table_mm = np.minimum(depth, thickness - depth)
    spongy = np.clip((table_mm - 1.5) / 1.2, 0, 1)
    marrow = DIPLOE_HU + 130 * smooth_noise(rng, shape, FINE_MM, 2.5)
    bone = rng.normal(*TABLE_HU) * (1 - spongy) + marrow * spongy
    bone = _with_frontal_sinus(bone, bent, across, table_mm, rng)
    vault = _soft(depth - thickness) * _soft(-depth)
    hu += vault * (bone - hu)
    outside = 1 - _soft(skin_mm)
    hu += outside * (AIR - hu)
    return np.asarray(hu, np.float32)


def _real_skull(outer_hu: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A real head's skull, scalp and face with this seed's density of bone and grain of its marrow."""
    bone = np.clip((outer_hu - 150) / 300, 0, 1)
    grain = 90 * smooth_noise(rng, outer_hu.shape, FINE_MM, 2.5)
    return np.asarray(outer_hu * (1 + bone * rng.normal(0, 0.06)) + bone * grain, np.float32)


def _with_frontal_sinus(
    bone: Float32Array,
    bent: BentSkull,
    across: Float32Array,
    table_mm: Float32Array,
    rng: np.random.Generator,
) -> Float32Array:
    x, y, z = bent.grid.axes_mm
    height, width = rng.uniform(8, 20), rng.uniform(10, 24)
    place = (
        np.exp(-((np.abs(np.abs(x) - width * 0.45) / (width * 0.5)) ** 4))[None, None, :]
        * np.exp(-(((z + 26) / height) ** 4))[:, None, None]
    )
    air = (
        place
        * (y < -60)[None, :, None]
        * np.clip((table_mm - 1.8) / 0.8, 0, 1)
        * (np.abs(x) > 0.8)[None, None, :]
    )
    return np.asarray(bone + np.clip(air * 1.6, 0, 1) * (AIR - bone), np.float32)
