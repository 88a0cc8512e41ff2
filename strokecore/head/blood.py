"""Suspected haemorrhage: density brighter than this person's brain, in the shape and place that blood takes.

Blood is looked for on a head without its density field, so that one threshold holds under the skull and in
the middle. Kinds are told apart by shape: a lump in the brain or in a ventricle, a layer under the inner
table, strands in the fluid spaces. Falx, tentorium and venous sinuses are as dense as blood in everybody, but
have their places; calcium is denser, or found in the same place of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import SIDES
from strokecore.arrays import BoolArray, Float32Array
from strokecore.head.brain import Brain, bounding_box, brain_level, cropped, halved, smoothed
from strokecore.head.cranium import depth, dilate, erode
from strokecore.head.grid import Grid

Place = Literal["parenchymal", "subdural", "subarachnoid", "ventricular"]

# Clot measures 50-80 HU, 15-45 above brain; a small one in a thick slice keeps half of that.
_CLOT_ABOVE_BRAIN_HU: Final = 13.0
_SMOOTHING_MM: Final = 1.5
_SKULL_MM: Final = 4.0
_CLOT_CORE_MM: Final = 3.0
_CLOT_ML: Final = 0.5
# A small lump is as likely calcium where there is denser calcium at it, or, in the deep nuclei, where its
# mirror image is this bright; grey matter alone is 5 HU above brain.
_CALCIUM_ML: Final = 3.0
_CALCIUM_INSIDE_ML: Final = 0.1
_CALCIUM_REACH_MM: Final = 3.0
_MIRROR_HU: Final = 6.5
_MIRROR_REACH_MM: Final = 4
# Places in head coordinates: where |x|, y and z lie. The head is not registered yet, hence wide.
_NUCLEI_MM: Final = ((8.0, 36.0), (-30.0, 20.0), (-14.0, 16.0))
_NUCLEI_DEPTH_MM: Final = 18.0
# Basilar artery, the carotids' ends, the chiasm, deep veins and the falx's lower edge lie this near to the
# midline; a thick slice or a dense haematocrit makes lumps of them.
_MIDLINE_MM: Final = ((0.0, 10.0), (-120.0, 120.0), (-80.0, 100.0))
_VESSEL_ML: Final = 3.0
# Blood in the ventricles settles behind, this far around what fluid is left of them. It is spread over two
# horns and thinner than a clot; the plexus there is often calcified, and bright around its calcium.
_SETTLED_MM: Final = ((7.0, 45.0), (14.0, 80.0), (-20.0, 30.0))
_SETTLED_DEPTH_MM: Final = 18.0
_VENTRICLE_REACH_MM: Final = 16.0
_SETTLED_ABOVE_BRAIN_HU: Final = 10.0
_PLEXUS_MM: Final = 4.0
_SETTLED_PIECE_ML: Final = 0.2
_SETTLED_ML: Final = 1.0
_POSSIBLE_SETTLED_ML: Final = 0.5
# In front of the pituitary, orbits and their roofs are mistaken for brain.
_ORBITS_MM: Final = ((0.0, 100.0), (-120.0, -25.0), (-80.0, -22.0))

# Blood stands out from the brain around it by so much, where a density field that was not found does not.
_CONTRAST_HU: Final = 9.0
_AROUND_MM: Final = (2.0, 6.0)

# Falx and sinuses lie this near to the midline, or to the inner table.
_FALX_MM: Final = 4.0
_SINUS_MM: Final = 11.0
_SAGITTAL_SINUS_MM: Final = 10.0

# A layer is this much brighter than brain, in this shell below the inner table, over this area of the vault:
# all of it, of which the pieces have at least the smaller area. Beside the sagittal sinus veins enter it.
_LAYER_ABOVE_BRAIN_HU: Final = 10.0
_LAYER_SMOOTHING_MM: Final = 3.0
_LAYER_MM: Final = (2.0, 4.0)
_LAYER_CM2: Final = 4.0
_LAYER_PIECE_CM2: Final = 2.0
# Further out than veins reach, less is certain.
_LAYER_ASIDE_CM2: Final = 2.5
_BESIDE_VEINS_MM: Final = ((42.0, 100.0), (-120.0, 120.0), (-80.0, 100.0))
_VAULT_MM: Final = ((12.0, 100.0), (-120.0, 120.0), (-22.0, 100.0))
_TRANSVERSE_SINUS_MM: Final = ((0.0, 100.0), (30.0, 120.0), (-80.0, -8.0))
_VERTEX_MM: Final = ((0.0, 24.0), (-120.0, 120.0), (46.0, 100.0))
# It ends with an edge: within this distance its density falls by so much. Beam hardening falls off slowly.
_EDGE_MM: Final = 4.0
_EDGE_HU: Final = 8.0
_DEEPEST_EDGE_MM: Final = 16.0

# Blood in cisterns and fissures of the base: strands brighter than brain; texture and noise make specks.
_STRAND_ABOVE_BRAIN_HU: Final = 11.0
_STRAND_ML: Final = 0.3
_STRANDS_ML: Final = 2.5
_POSSIBLE_STRANDS_ML: Final = 1.8
_STRAND_SKULL_MM: Final = 5.0
# Vessels and dura make strands at the midline, calcium makes them beside itself. Elsewhere only cupping that
# was not found does, evenly and hardly above the threshold: less is enough of what is brighter on average.
_ASIDE_ABOVE_BRAIN_HU: Final = 10.0
_ASIDE_MEAN_HU: Final = 12.3
_ASIDE_ML: Final = 1.0
_POSSIBLE_ASIDE_ML: Final = 0.6
_NUCLEI_SHARE: Final = 0.25
_BASE_MM: Final = ((0.0, 55.0), (-50.0, 36.0), (-38.0, 14.0))

_ONE_SIDED: Final = 0.8
_TOUCHING: Final = np.ones((3, 3, 3), np.bool_)

Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Haemorrhage:
    """Blood, or what may be blood.

    Attributes
    ----------
    mask: bool [z, y, x] on the canonical grid; ml: its volume.
    place: of its largest part. side: the patient's, "both" where neither has most of it.
    certain: it withholds the score; otherwise it may as well be calcium, dura or an artefact of the scanner.
    """

    mask: BoolArray
    ml: float
    place: Place
    side: Literal["left", "right", "both"]
    certain: bool


@dataclass(frozen=True, eq=False)
class _Scan:
    """The head inside its skull's box, arrays [z, y, x].

    flat: float32, HU; level: of brain; excess: float32, smoothed density above it. depth_mm: below the inner
    table. tissue: bool, what is neither calcium nor where dura, sinuses or orbits lie.
    """

    flat: Float32Array
    level: float
    excess: Float32Array
    depth_mm: Float32Array
    tissue: BoolArray
    brain: Brain
    grid: Grid

    def within(self, box: Box) -> BoolArray:
        """Voxels whose |x|, y and z lie in a box; bool, broadcasts to [z, y, x]."""
        z, y, x = self.grid.axes_mm
        inside = [(a >= low) & (a <= high) for a, (low, high) in zip((np.abs(x), y, z), box, strict=True)]
        return np.asarray(inside[2][:, None, None] & inside[1][None, :, None] & inside[0][None, None, :])


@dataclass(frozen=True, eq=False)
class _Part:
    mask: BoolArray
    place: Place
    certain: bool


def find_haemorrhage(flat: Float32Array, brain: Brain, grid: Grid) -> Haemorrhage | None:
    """The suspected haemorrhage of a head, None where there is none.

    Parameters
    ----------
    flat: float32 [z, y, x] on ``grid``, density without the head's density field.
    brain: tissue masks of the same head.
    """
    box = bounding_box(brain.intracranial, _SKULL_MM, grid.spacing_mm)
    scan = _scan(flat[box], brain.cropped(box), cropped(grid, box))
    parts = [*_lumps(scan), *_settled(scan), *_layers(scan), *_strands(scan)]
    certain = any(part.certain for part in parts)
    parts = [part for part in parts if part.certain == certain]
    if not parts:
        return None
    mask = np.zeros(grid.shape, np.bool_)
    mask[box] = np.any([part.mask for part in parts], axis=0)
    largest = max(parts, key=lambda part: int(part.mask.sum()))
    return Haemorrhage(mask, grid.ml(mask), largest.place, _side(mask, grid), certain)


def _scan(flat: Float32Array, brain: Brain, grid: Grid) -> _Scan:
    depth_mm = depth(brain.intracranial, grid.spacing_mm)
    level = brain_level(flat, depth_mm)
    soft = brain.intracranial & ~brain.calcification
    excess = smoothed(flat, soft, _SMOOTHING_MM, grid.spacing_mm) - np.float32(level)
    scan = _Scan(flat, level, excess, depth_mm, soft, brain, grid)
    return replace(scan, tissue=soft & ~_dura(scan) & ~scan.within(_ORBITS_MM))


def _dura(scan: _Scan) -> BoolArray:
    """Where falx and venous sinuses lie; bool [z, y, x]."""
    z, y, x = scan.grid.axes_mm
    z, y, x = z[:, None, None], y[None, :, None], np.abs(x)[None, None, :]
    # The falx ends in front above the base, and behind where the straight sinus falls with the tentorium.
    falx = (x < _FALX_MM) & ((z > 0) | (y < -30) | ((y > 25) & (z > -25)))
    sinus = (x < _SAGITTAL_SINUS_MM) | ((y > 30) & (z < 0))
    return np.asarray(falx | (sinus & (scan.depth_mm < _SINUS_MM)))


def _lumps(scan: _Scan) -> list[_Part]:
    """Components with a core, away from the skull: clots, or calcium."""
    grid = scan.grid
    bright = scan.tissue & (scan.depth_mm > _SKULL_MM) & (scan.excess > _CLOT_ABOVE_BRAIN_HU)
    labels, count = ndimage.label(bright)
    dz, dy, dx = grid.spacing_mm
    core = erode(halved(bright), _CLOT_CORE_MM, (dz, 2 * dy, 2 * dx))
    has_core = np.bincount(labels[:, ::2, ::2][core], minlength=count + 1) > 0
    ml = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml
    found = has_core & (ml >= _CLOT_ML)
    found[0] = False
    lumps = [labels == label for label in np.flatnonzero(found)]
    return [
        _Part(
            lump,
            "parenchymal",
            _stands_out(scan, lump) and not _may_be_calcium(scan, lump) and not _may_be_a_vessel(scan, lump),
        )
        for lump in lumps
    ]


def _stands_out(scan: _Scan, blood: BoolArray) -> bool:
    """Whether it is brighter than what lies around it, rather than a part of a wide bright zone."""
    box = bounding_box(blood, 2 * _AROUND_MM[1], scan.grid.spacing_mm)
    blood, excess = blood[box], scan.excess[box]
    near, far = (dilate(blood, reach, scan.grid.spacing_mm) for reach in _AROUND_MM)
    around = far & ~near & scan.tissue[box]
    return bool(around.any() and excess[blood].mean() - excess[around].mean() > _CONTRAST_HU)


def _settled(scan: _Scan) -> list[_Part]:
    """Blood that lies in the back of the lateral ventricles."""
    grid = scan.grid
    place = scan.tissue & scan.within(_SETTLED_MM) & (scan.depth_mm > _SETTLED_DEPTH_MM)
    place &= depth(~scan.brain.ventricles, grid.spacing_mm) < _VENTRICLE_REACH_MM
    place &= depth(~scan.brain.calcification, grid.spacing_mm) > _PLEXUS_MM
    blood = _pieces(place & (scan.excess > _SETTLED_ABOVE_BRAIN_HU), _SETTLED_PIECE_ML, grid)
    total = grid.ml(blood)
    return [_Part(blood, "ventricular", total >= _SETTLED_ML)] if total >= _POSSIBLE_SETTLED_ML else []


def _pieces(mask: BoolArray, least_ml: float, grid: Grid) -> BoolArray:
    """The components of at least ``least_ml``."""
    labels, count = ndimage.label(mask, _TOUCHING)
    kept = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml >= least_ml
    kept[0] = False
    return np.asarray(kept[labels])


def _may_be_calcium(scan: _Scan, lump: BoolArray) -> bool:
    if scan.grid.ml(lump) > _CALCIUM_ML:
        return False
    around = dilate(lump, _CALCIUM_REACH_MM, scan.grid.spacing_mm)
    if scan.grid.ml(around & scan.brain.calcification) > _CALCIUM_INSIDE_ML:
        return True
    return _mostly(lump, _nuclei(scan)) and _mirror_hu(scan, lump) > _MIRROR_HU


def _may_be_a_vessel(scan: _Scan, lump: BoolArray) -> bool:
    """Whether a small lump lies where arteries of the base, deep veins and the falx's root are as dense."""
    return scan.grid.ml(lump) <= _VESSEL_ML and _mostly(lump, scan.within(_MIDLINE_MM))


def _mirror_hu(scan: _Scan, mask: BoolArray) -> float:
    """Mean excess of the brightest place near a mask's mirror image, HU."""
    z, y, x = np.nonzero(mask)
    reach = range(-_MIRROR_REACH_MM, _MIRROR_REACH_MM + 1, 2)
    middle = np.interp(0.0, scan.grid.axes_mm[2], np.arange(mask.shape[2]))
    across = np.rint(2 * middle - x).astype(np.int64)
    _, ny, nx = mask.shape
    return max(
        float(scan.excess[z, np.clip(y + dy, 0, ny - 1), np.clip(across + dx, 0, nx - 1)].mean())
        for dy in reach
        for dx in reach
    )


def _nuclei(scan: _Scan) -> BoolArray:
    return scan.within(_NUCLEI_MM) & (scan.depth_mm > _NUCLEI_DEPTH_MM)


def _mostly(mask: BoolArray, place: BoolArray) -> bool:
    return 2 * int((mask & place).sum()) > int(mask.sum())


def _layers(scan: _Scan) -> list[_Part]:
    """Layers under the inner table of the vault."""
    grid = scan.grid
    low, high = _LAYER_MM
    shell = (scan.depth_mm > low) & (scan.depth_mm <= high)
    smooth = smoothed(scan.flat, shell, _LAYER_SMOOTHING_MM, grid.spacing_mm) - np.float32(scan.level)
    vault = scan.within(_VAULT_MM) & ~scan.within(_TRANSVERSE_SINUS_MM) & ~scan.within(_VERTEX_MM)
    labels, count = ndimage.label(shell & vault & (smooth > _LAYER_ABOVE_BRAIN_HU), _TOUCHING)
    cm2 = np.bincount(labels.ravel(), minlength=count + 1) * grid.voxel_ml / (high - low) * 10
    cm2[0] = 0
    pieces = np.flatnonzero(cm2 >= _LAYER_PIECE_CM2)
    followed = {label: _followed(scan, labels == label) for label in pieces}
    sharp = [label for label, (_, edge_hu) in followed.items() if edge_hu >= _EDGE_HU]
    aside = scan.within(_BESIDE_VEINS_MM)
    outer = [label for label in sharp if _mostly(labels == label, aside)]
    certain = float(cm2[sharp].sum()) >= _LAYER_CM2 or float(cm2[outer].sum()) >= _LAYER_ASIDE_CM2
    return [_Part(mask, "subdural", certain) for mask, _ in followed.values()]


def _followed(scan: _Scan, seed: BoolArray) -> tuple[BoolArray, float]:
    """A layer from its seed in the shell inwards, bool [z, y, x]; and the steepest fall of density, HU."""
    spacing_mm, step = scan.grid.spacing_mm, _EDGE_MM / 2
    box = bounding_box(seed, _DEEPEST_EDGE_MM, spacing_mm)
    depth_mm, excess = scan.depth_mm[box], scan.excess[box]
    front = seed[box]
    layer, profile = front, [float(excess[front].mean())]
    for below in np.arange(_LAYER_MM[1], _DEEPEST_EDGE_MM, step):
        front = dilate(front, step + 0.5, spacing_mm) & (depth_mm > below) & (depth_mm <= below + step)
        if not front.any():
            break
        profile.append(float(excess[front].mean()))
        layer = layer | (front & (excess > _LAYER_ABOVE_BRAIN_HU))
    falls = [upper - lower for upper, lower in zip(profile, profile[2:], strict=False)]
    rim = dilate(layer, _LAYER_MM[0] + 0.5, spacing_mm) & (depth_mm > 0) & (depth_mm <= _LAYER_MM[0])
    mask = np.zeros_like(seed)
    mask[box] = layer | rim
    return mask, max(falls, default=0.0)


def _strands(scan: _Scan) -> list[_Part]:
    """Bright cisterns and fissures of the base."""
    grid = scan.grid
    nuclei = _nuclei(scan)
    around = scan.tissue & scan.within(_BASE_MM) & (scan.depth_mm > _STRAND_SKULL_MM)
    bright = around & (scan.excess > _ASIDE_ABOVE_BRAIN_HU)
    base = bright & ~nuclei & ~_reaching_into(bright, nuclei)
    strands = _pieces(base & (scan.excess > _STRAND_ABOVE_BRAIN_HU), _STRAND_ML, grid)
    aside = _aside(scan, _pieces(base, _STRAND_ML, grid))
    found = []
    for blood, possible_ml, certain_ml in (
        (strands, _POSSIBLE_STRANDS_ML, _STRANDS_ML),
        (aside, _POSSIBLE_ASIDE_ML, _ASIDE_ML),
    ):
        ml = grid.ml(blood)
        if ml >= possible_ml:
            found.append(_Part(blood, "subarachnoid", ml >= certain_ml and _stands_out(scan, blood)))
    return found


def _reaching_into(bright: BoolArray, nuclei: BoolArray) -> BoolArray:
    """The components with more than _NUCLEI_SHARE in the nuclei: calcium that hangs out of their box."""
    labels, count = ndimage.label(bright, _TOUCHING)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    inside = np.bincount(labels[nuclei], minlength=count + 1)
    found = inside > _NUCLEI_SHARE * size
    found[0] = False
    return np.asarray(found[labels])


def _aside(scan: _Scan, strands: BoolArray) -> BoolArray:
    """Strands away from midline and calcium; none where they are hardly brighter than cupping makes them."""
    near = dilate(scan.brain.calcification, _CALCIUM_REACH_MM, scan.grid.spacing_mm)
    labels, count = ndimage.label(strands, _TOUCHING)
    size = np.bincount(labels.ravel(), minlength=count + 1)
    middle = np.bincount(labels[scan.within(_MIDLINE_MM) & strands], minlength=count + 1)
    kept = (2 * middle <= size) & (np.bincount(labels[near], minlength=count + 1) == 0)
    kept[0] = False
    aside = np.asarray(kept[labels])
    if not aside.any() or scan.excess[aside].mean() < _ASIDE_MEAN_HU:
        return np.zeros_like(strands)
    return aside


def _side(mask: BoolArray, grid: Grid) -> Literal["left", "right", "both"]:
    left, right = (int(mask[grid.side_columns(side)].sum()) for side in SIDES)
    if max(left, right) < _ONE_SIDED * (left + right):
        return "both"
    return "left" if left > right else "right"
