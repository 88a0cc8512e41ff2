"""A label map's fields in the head's axes: tissue shares, distances, densities and places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.regions import REGION_NAMES, SIDES, RegionId, Side
from strokecore.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from strokecore.simulate.anatomy import Structure
from strokecore.simulate.face import AIR, FAT, MUCOSA, MUSCLE, VITREOUS
from strokecore.simulate.shape import smooth_noise
from strokecore.simulate.solids import Point
from strokecore.simulate.true_regions import CORTEX as CUT_CORTEX
from strokecore.simulate.true_regions import INSULA as CUT_INSULA
from strokecore.simulate.true_regions import OWN
from strokecore.simulate.true_regions import WHITE as CUT_WHITE

Int16Array = npt.NDArray[np.int16]

# FreeSurfer's numbers, (left, right). Lesions (25, 57) and vessels (30, 62) in white matter count as white.
WHITE: Final[dict[Side, tuple[int, ...]]] = {"left": (2, 25, 30), "right": (41, 57, 62)}
CORTEX: Final[dict[Side, int]] = {"left": 3, "right": 42}
CAUDATE: Final[dict[Side, int]] = {"left": 11, "right": 50}
PUTAMEN: Final[dict[Side, int]] = {"left": 12, "right": 51}
PALLIDUM: Final[dict[Side, int]] = {"left": 13, "right": 52}
THALAMUS: Final[dict[Side, int]] = {"left": 10, "right": 49}
VENTRICLES: Final = (4, 43, 5, 44, 14, 15, 72)
CHOROID: Final = (136, 163, 137, 164)  # plexus, and the septum between the ventricles
CEREBELLUM: Final = (7, 46, 8, 47)
BRAIN_STEM: Final = 16
FLUID: Final = 24  # everything between brain and skull, and in the spinal canal
ARTERY, VEIN, CORD = 502, 514, 512
AIR_LABEL, SKIN, OTHER, BONE = 0, 511, 507, 515

# Share of grey matter that CT shows in each brain label; the rest of it is white. On CT the iron-rich
# pallidum is grey; brain stem, ventral diencephalon and cord are mixtures.
GREY_SHARE: Final = {
    **dict.fromkeys((2, 25, 30, 41, 57, 62, 7, 46, 85), 0.0),
    **dict.fromkeys((3, 42, 8, 47, 17, 53, 18, 54, 26, 58, 11, 50, 12, 51), 1.0),
    **dict.fromkeys((13, 52), 0.85),
    **dict.fromkeys((10, 49), 0.8),
    **dict.fromkeys((28, 60), 0.5),
    **dict.fromkeys(CHOROID, 0.9),
    BRAIN_STEM: 0.35,
    CORD: 0.4,
}
DEEP: Final = (10, 49, 11, 50, 12, 51, 13, 52)

# Densities outside the brain, HU. Scalp and face (507) are fat and muscle, told apart by place.
OUTER_HU: Final = {
    AIR_LABEL: AIR,
    ARTERY: 45.0,
    506: VITREOUS,
    508: MUSCLE,
    509: MUCOSA,
    SKIN: 60.0,
    CORD: 35.0,
    VEIN: 50.0,
    BONE: 1250.0,
    516: 520.0,
    530: 30.0,
    FLUID: 8.0,
}
_SKIN_MM: Final = 2.5  # the label holds the fat below the skin, too
_SCALP_FAT_MM: Final = 8.0  # deeper tissue outside the skull is muscle, with fat between
_FAT_PLANES: Final = 0.13  # half width of fat planes in field units, as in face.py

# Box of the base head's 1 mm grid (x, y, z): a large head with its nose, from below the skull base.
BOX_MM: Final = ((-100.0, 100.0), (-124.0, 128.0), (-98.0, 114.0))
_ONE_HOT_SIGMA: Final = 0.6  # voxels: partial volume of a 1 mm voxel's border
_CLOSING_MM: Final = 3.0
_VESSELS_MM: Final = 12.0  # vessels this near the brain lie within the skull
_SHEATH_MM: Final = 2.0
_FAR_MM: Final = 40.0

# Internal capsule: white matter between nuclei that look at each other from both sides, no wider than this.
_CAPSULE_MM: Final = 11.0
_CAPSULE_WIDTH_MM: Final = 16.0
_FACING: Final = -0.35
_CAPSULE_HEIGHTS_MM: Final = (-2.0, 16.0)  # of the atlas's definition, atlas z
_TAIL_BEHIND_MM: Final = 24.0  # atlas y: what is labelled caudate behind this is its tail
_EXTREME_CAPSULE_MM: Final = 9.0  # white matter this near the putamen underlies the insula, not an operculum

_DURA_MM: Final = 0.8
_SHEET_GAP_MM: Final = 9.0  # sheets of dura stand between surfaces no further apart
_SINUS_MM: Final = 4.2  # thickness of the sagittal sinus below the inner table


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map as it is stored.

    Attributes
    ----------
    identity: "<stem>:<12 hex of sha256>"; sha256: of the labels and their grid.
    image: int16, the labels, LPS axes up to a small rotation.
    """

    identity: str
    sha256: str
    image: sitk.Image


@dataclass(frozen=True, eq=False)
class BaseFields:
    """Fields of one person on the base head's grid [z, y, x], 1 mm; see BaseHead and Interior.

    Attributes
    ----------
    origin_mm: of voxel [0, 0, 0]. labels: int16, the label map on this grid.
    """

    origin_mm: Point
    labels: Int16Array
    gm: Float32Array
    wm: Float32Array
    intracranial_mm: Float32Array
    ventricle_mm: Float32Array
    deep_grey: Float32Array
    outer_hu: Float32Array
    dura: Float32Array
    sinuses: Float32Array
    structures: UInt8Array
    cut: UInt8Array

    def stored(self) -> dict[str, npt.NDArray[Any]]:
        """Small arrays for the cache: shares as two hundredths, distances as float16, densities as int16."""
        shares = {
            name: np.rint(np.clip(getattr(self, name), 0, 1) * 200).astype(np.uint8)
            for name in ("gm", "wm", "deep_grey", "dura", "sinuses")
        }
        distances = {
            name: np.clip(getattr(self, name), -_FAR_MM, _FAR_MM).astype(np.float16)
            for name in ("intracranial_mm", "ventricle_mm")
        }
        return {
            **shares,
            **distances,
            "outer_hu": np.rint(self.outer_hu).astype(np.int16),
            "structures": self.structures,
            "cut": self.cut,
            "origin_mm": np.asarray(self.origin_mm, np.float64),
        }


def base_fields(
    labels: LabelMap, native_from_head: sitk.Transform, atlas_from_head: sitk.Transform
) -> BaseFields:
    """Every field of a person.

    Parameters
    ----------
    native_from_head: rigid, from the head's axes to the label map's.
    atlas_from_head: affine, for the heights and depths that the atlas's definitions name.
    """
    native = sitk.GetArrayFromImage(labels.image)
    origin = (BOX_MM[0][0], BOX_MM[1][0], BOX_MM[2][0])
    nx, ny, nz = (int(high - low) + 1 for low, high in BOX_MM)

    def moved(values: npt.NDArray[Any], interpolator: int, outside: float) -> npt.NDArray[Any]:
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(labels.image)
        direction = np.eye(3).ravel().tolist()
        out = sitk.Resample(
            image, [nx, ny, nz], native_from_head, interpolator, origin, [1.0] * 3, direction, outside
        )
        return np.asarray(sitk.GetArrayFromImage(out))

    own = moved(native, sitk.sitkNearestNeighbor, 0.0).astype(np.int16)
    grey_table, white_table = np.zeros(1024, np.float32), np.zeros(1024, np.float32)
    for label, share in GREY_SHARE.items():
        grey_table[label], white_table[label] = share, 1 - share
    gm, wm = (
        np.asarray(moved(_blurred(table[native]), sitk.sitkLinear, 0.0), np.float32)
        for table in (grey_table, white_table)
    )
    deep = one_of(own, DEEP)
    intracranial = _intracranial(own)
    intracranial_mm = _signed_distance(intracranial)
    ventricle = one_of(own, (*VENTRICLES, *CHOROID))
    ventricle_mm = _signed_distance(ventricle)
    heights, behind = _atlas_coordinates(atlas_from_head, origin, own.shape)
    structures = _structures(own, behind)
    dura, sinuses = _dura_and_sinuses(own, intracranial_mm, intracranial)
    return BaseFields(
        origin_mm=origin,
        labels=own,
        gm=gm,
        wm=wm,
        intracranial_mm=intracranial_mm,
        ventricle_mm=ventricle_mm,
        deep_grey=np.asarray(ndimage.gaussian_filter(deep.astype(np.float32), 0.8), np.float32),
        outer_hu=_outer_density(own, intracranial),
        dura=dura,
        sinuses=sinuses,
        structures=structures,
        cut=_cut(own, heights, behind),
    )


def one_of(labels: Int16Array, numbers: Iterable[int]) -> BoolArray:
    """Where a label is one of ``numbers`` (all below 1024)."""
    table = np.zeros(1024, np.bool_)
    table[list(numbers)] = True
    return table[labels]


def _blurred(share: Float32Array) -> Float32Array:
    return np.asarray(ndimage.gaussian_filter(share, _ONE_HOT_SIGMA), np.float32)


def _distance(mask: BoolArray) -> Float32Array:
    """Millimetres (voxels) to the nearest voxel of ``mask``, negative inside."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False)
    return np.asarray(sitk.GetArrayFromImage(signed), np.float32)


def _signed_distance(mask: BoolArray) -> Float32Array:
    """Millimetres to the border of a mask, negative inside; smoothed, or surfaces would show a staircase."""
    return np.asarray(ndimage.gaussian_filter(_distance(mask), 0.8), np.float32)


def _intracranial(labels: Int16Array) -> BoolArray:
    """Everything inside the dura: brain, fluid, cord, and the vessels between them; closed."""
    brain = one_of(labels, (*GREY_SHARE, *VENTRICLES))
    inside = brain | (labels == FLUID)
    # Veins and arteries that the skull encloses with the brain, not those of face and neck.
    inside |= one_of(labels, (ARTERY, VEIN)) & (_distance(brain) <= _VESSELS_MM)
    closed = _distance(_distance(inside) > _CLOSING_MM) > _CLOSING_MM
    closed = inside | (closed & ~one_of(labels, (BONE, 516, SKIN, AIR_LABEL)))
    # Sheaths of the optic nerves are fluid too, and thin.
    opened = _distance(_distance(closed) > -_SHEATH_MM) > _SHEATH_MM
    parts, _ = ndimage.label(opened)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((parts == int(sizes.argmax())) | brain)


def _outer_density(labels: Int16Array, intracranial: BoolArray) -> Float32Array:
    """HU of everything outside the inner table, continued a little inwards so that the table is sharp."""
    table = np.full(1024, 35.0, np.float32)
    for label, value in OUTER_HU.items():
        table[label] = value
    hu = table[labels]
    parts, _ = ndimage.label(labels == AIR_LABEL)
    depth = _distance(parts == parts[-1, 0, 0])  # from the air around the vertex
    hu[(labels == SKIN) & (depth > _SKIN_MM)] = FAT
    rng = np.random.default_rng(13)
    planes, fine = (smooth_noise(rng, labels.shape, 1.0, length_mm) for length_mm in (4.5, 1.5))
    muscle = (depth > _SCALP_FAT_MM) & (np.abs(planes + 0.25 * fine) > _FAT_PLANES)
    other = labels == OTHER
    hu[other] = np.where(muscle, MUSCLE + 5 * fine, FAT + 12 * fine)[other]
    # Normalised convolution: inside voxels take what lies around them outside.
    weight = (~intracranial).astype(np.float32)
    near = ndimage.gaussian_filter(weight, _ONE_HOT_SIGMA, truncate=6.0)
    mixed = ndimage.gaussian_filter(hu * weight, _ONE_HOT_SIGMA, truncate=6.0) / np.maximum(near, 1e-6)
    return np.where(near > 1e-4, mixed, FAT).astype(np.float32)


def _atlas_coordinates(
    atlas_from_head: sitk.Transform, origin: Point, shape: tuple[int, ...]
) -> tuple[Float32Array, Float32Array]:
    """The atlas's z and y (LPS) of every voxel; float32 [z, y, x]."""
    affine = sitk.AffineTransform(atlas_from_head)
    matrix, shift = np.reshape(affine.GetMatrix(), (3, 3)), np.asarray(affine.GetTranslation())
    shift = shift + np.asarray(affine.GetCenter()) - matrix @ np.asarray(affine.GetCenter())
    z, y, x = (
        (np.arange(n, dtype=np.float32) + np.float32(o)) for n, o in zip(shape, origin[::-1], strict=True)
    )
    heights, behind = (
        (row[0] * x[None, None, :] + row[1] * y[None, :, None] + row[2] * z[:, None, None] + add).astype(
            np.float32
        )
        for row, add in ((matrix[2], shift[2]), (matrix[1], shift[1]))
    )
    return heights, behind


def _structures(labels: Int16Array, behind: Float32Array) -> UInt8Array:
    table = np.zeros(1024, np.uint8)
    for structure, numbers in {
        Structure.CORTEX: (3, 42),
        Structure.WHITE: (2, 25, 30, 41, 57, 62),
        Structure.PUTAMEN: (12, 51),
        Structure.PALLIDUM: (13, 52),
        Structure.CAUDATE: (11, 50),
        Structure.THALAMUS: (10, 49),
        Structure.CEREBELLUM: CEREBELLUM,
        Structure.BRAIN_STEM: (BRAIN_STEM,),
        Structure.VENTRICLE: VENTRICLES,
        Structure.OTHER_GREY: (17, 53, 18, 54, 26, 58, 28, 60),
    }.items():
        table[list(numbers)] = structure
    out = table[labels]
    # The glomus lies in the atrium; the septum has the plexus's number in front.
    out[one_of(labels, CHOROID)] = Structure.VENTRICLE
    thalamus = one_of(labels, (10, 49))
    k, j, i = np.nonzero(thalamus)
    back = float(np.percentile(j, 99))
    rows = np.arange(labels.shape[1])[None, :, None]
    out[one_of(labels, (136, 163)) & (rows > back - 2)] = Structure.CHOROID
    # The pineal gland is not labelled: it lies at the midline behind the third ventricle, between
    # the thalami's back ends, a little below their middle.
    z, y, x = (np.arange(n, dtype=np.float32) for n in labels.shape)
    centre = (k.mean() - 3.0, back + 1.0, i.mean())
    ball = (
        ((z - centre[0]) / 3.0)[:, None, None] ** 2
        + ((y - centre[1]) / 3.5)[None, :, None] ** 2
        + ((x - centre[2]) / 2.5)[None, None, :] ** 2
    )
    out[(ball < 1) & one_of(labels, (FLUID, VEIN, 14, ARTERY))] = Structure.PINEAL
    return out


def _dura_and_sinuses(
    labels: Int16Array, intracranial_mm: Float32Array, intracranial: BoolArray
) -> tuple[Float32Array, Float32Array]:
    """Falx between the hemispheres, tentorium between cerebrum and cerebellum, venous sinuses; 0-1."""
    cerebrum = {
        side: one_of(labels, (*WHITE[side], CORTEX[side], THALAMUS[side], CAUDATE[side])) for side in SIDES
    }
    left, right = (np.clip(_distance(cerebrum[side]), 0, None) for side in SIDES)
    white = np.clip(_distance(one_of(labels, (*WHITE["left"], *WHITE["right"]))), 0, None)
    cerebellum = np.clip(_distance(one_of(labels, (*CEREBELLUM, BRAIN_STEM))), 0, None)
    either = np.minimum(left, right)
    depth = -intracranial_mm
    rows = np.nonzero(cerebrum["left"].any(axis=(0, 2)))[0]
    y = np.clip((np.arange(labels.shape[1]) - rows[0]) / max(1, rows[-1] - rows[0]), 0, 1)[None, :, None]
    # The falx hangs deep behind, down to the tentorium's ridge, shallow in front.
    hanging = 14 + 28 * y
    sheet = np.exp(-(((left - right) / 2 / _DURA_MM) ** 2)) * (either < _SHEET_GAP_MM)
    falx = sheet * np.clip((hanging - depth) / 4, 0, 1) * np.clip((white - 1.2) / 1.0, 0, 1)
    falx *= cerebellum > either
    tent = np.exp(-(((either - cerebellum) / 2 / _DURA_MM) ** 2)) * (either < _SHEET_GAP_MM / 2)
    tent *= one_of(labels, (FLUID, VEIN, ARTERY))
    dura = np.clip(np.maximum(falx, 0.7 * tent), 0, 1) * intracranial
    vein = ndimage.gaussian_filter(((labels == VEIN) & intracranial).astype(np.float32), _ONE_HOT_SIGMA)
    # Where the sagittal sinus is not labelled it runs between falx and skull.
    top = np.clip((_SINUS_MM - depth) / 1.5, 0, 1) * np.clip(1.5 - np.abs(left - right) / 2 / 2.5, 0, 1)
    top *= (white > 4) & (cerebellum > 12) & one_of(labels, (FLUID, VEIN)) & (y > 0.12)
    sinuses = np.clip(np.maximum(1.3 * vein, top), 0, 1) * intracranial
    return dura.astype(np.float32), sinuses.astype(np.float32)


def _cut(labels: Int16Array, heights: Float32Array, behind: Float32Array) -> UInt8Array:
    """What each voxel may be in a definition of the regions; values of true_regions.py."""
    out = np.zeros(labels.shape, np.uint8)
    for side in SIDES:
        white = one_of(labels, WHITE[side])
        cortex = labels == CORTEX[side]
        lentiform = one_of(labels, (PUTAMEN[side], PALLIDUM[side]))
        caudate = labels == CAUDATE[side]
        out[white] = CUT_WHITE[side]
        out[cortex] = CUT_CORTEX[side]
        box = _box(lentiform | caudate, labels.shape, margin=22)
        insular = _insular_cortex(cortex[box], white[box], labels[box] == PUTAMEN[side])
        out[box][insular] = CUT_INSULA[side]
        central = caudate[box] | (labels[box] == THALAMUS[side])
        capsule = white[box] & _between(central, lentiform[box])
        capsule &= (heights[box] >= _CAPSULE_HEIGHTS_MM[0]) & (heights[box] <= _CAPSULE_HEIGHTS_MM[1])
        own = {"C": (caudate & (behind < _TAIL_BEHIND_MM))[box], "L": lentiform[box], "IC": capsule}
        for name in REGION_NAMES[:3]:
            out[box][own[name]] = OWN + RegionId(name, side).label
    return out


def _box(mask: BoolArray, shape: tuple[int, ...], margin: int) -> tuple[slice, slice, slice]:
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    a, b, c = (
        slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(found, shape, strict=True)
    )
    return a, b, c


def _insular_cortex(cortex: BoolArray, white: BoolArray, putamen: BoolArray) -> BoolArray:
    """Cortex whose nearest white matter lies beside the putamen: an operculum's has its own."""
    to_putamen = np.clip(_distance(putamen), 0, None)
    nearest = ndimage.distance_transform_edt(~white, return_distances=False, return_indices=True)
    return np.asarray(cortex & (to_putamen[tuple(nearest)] < _EXTREME_CAPSULE_MM))


def _between(first: BoolArray, second: BoolArray) -> BoolArray:
    """Voxels that have one structure on one side and the other on the opposite one."""
    index = np.indices(first.shape, dtype=np.float32)

    def towards(mask: BoolArray) -> tuple[Float32Array, Float64Array]:
        length, nearest = ndimage.distance_transform_edt(~mask, return_indices=True)
        direction = (nearest - index) / np.maximum(length, 1e-3).astype(np.float32)
        return direction.astype(np.float32), length

    one, far_one = towards(first)
    other, far_other = towards(second)
    facing = (one * other).sum(axis=0) < _FACING
    near = (far_one < _CAPSULE_MM) & (far_other < _CAPSULE_MM) & (far_one + far_other < _CAPSULE_WIDTH_MM)
    return np.asarray(facing & near)
