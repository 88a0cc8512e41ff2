"""Where the brain is: the soft tissue that bone encloses, on a coarse grid, whatever the head's pose."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.arrays import BoolArray, Float32Array, Int64Array
from strokecore.errors import Refusal
from strokecore.head.grid import voxel_volume_ml

# Partial volume leaves the thin vault above this even in 5 mm slices; brain, blood and falx stay below.
BONE_HU: Final = 180.0
SOFT_HU: Final = (0.0, 100.0)
# The openings of the skull base (optic canal, fissures, foramina) are narrower than twice this; the
# foramen magnum is not, but what lies below it is no longer enclosed.
_CORE_EROSION_MM: Final = 5.0
_REGROWTH_MM: Final = 6.0
_SMOOTHING_MM: Final = 8.0
# Of left, right, front, back and above, bone must be seen in this many directions: a frontal sinus, an orbit
# or a craniectomy opens one.
_DIRECTIONS_ENCLOSED: Final = 4
# Intracranial volume of adults is 1000-1900 ml; less is scanned when the scan is incomplete.
_BRAIN_ML: Final = (150.0, 2500.0)
# Median density of what fills an adult's skull; plastic and water phantoms are outside.
_BRAIN_MEDIAN_HU: Final = (15.0, 60.0)


def find_cranium(hu: Float32Array, spacing_mm: tuple[float, float, float], covered: BoolArray) -> BoolArray:
    """The intracranial space, to about one voxel; bool [z, y, x].

    Parameters
    ----------
    hu: float32 [z, y, x] in LPS axes, the head turned by no more than about 45 degrees.
    spacing_mm: (z, y, x), about 2-4 mm.
    covered: bool [z, y, x], inside the scan.

    Raises
    ------
    Refusal: "no_brain" when no soft tissue of a brain's size and density lies inside bone.
    """
    bone = hu > BONE_HU
    candidate = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1]) & (enclosure(bone, covered) >= _DIRECTIONS_ENCLOSED)
    core = largest_component(erode(candidate, _CORE_EROSION_MM, spacing_mm))
    grown = dilate(core, _REGROWTH_MM, spacing_mm) & candidate
    closed = erode(dilate(grown, _SMOOTHING_MM, spacing_mm), _SMOOTHING_MM, spacing_mm)
    cranium = np.asarray(ndimage.binary_fill_holes(closed | grown) & ~bone & covered)
    _check_brain(hu, cranium, voxel_volume_ml(spacing_mm))
    return cranium


def _check_brain(hu: Float32Array, cranium: BoolArray, voxel_ml: float) -> None:
    volume_ml = float(cranium.sum()) * voxel_ml
    median = float(np.median(hu[cranium])) if cranium.any() else float("nan")
    if not (
        _BRAIN_ML[0] <= volume_ml <= _BRAIN_ML[1] and _BRAIN_MEDIAN_HU[0] <= median <= _BRAIN_MEDIAN_HU[1]
    ):
        raise Refusal(
            "no_brain",
            f"No brain was found: soft tissue enclosed by bone measures {volume_ml:.0f} ml; expected "
            f"{_BRAIN_ML[0]:.0f}-{_BRAIN_ML[1]:.0f} ml at "
            f"{_BRAIN_MEDIAN_HU[0]:.0f}-{_BRAIN_MEDIAN_HU[1]:.0f} HU.",
            "Send a non-contrast CT of a patient's head.",
            ineligible=True,
        )


def enclosure(bone: BoolArray, covered: BoolArray) -> npt.NDArray[np.int8]:
    """In how many of five directions (both x, both y, upwards) bone is met; int8 [z, y, x].

    Upwards, the end of the scan counts as bone: the vertex may be missing.
    """
    count = np.zeros(bone.shape, np.int8)
    for axis in (1, 2):
        count += np.maximum.accumulate(bone, axis)
        count += np.flip(np.maximum.accumulate(np.flip(bone, axis), axis), axis)
    roof = bone | ~covered
    return np.asarray(count + np.flip(np.maximum.accumulate(np.flip(roof, 0), 0), 0), dtype=np.int8)


def largest_component(mask: BoolArray) -> BoolArray:
    """The largest face-connected component; empty when the mask is."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.zeros_like(mask)
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def erode(mask: BoolArray, radius_mm: float, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Erosion by a ball; the border of the volume does not erode."""
    return ~dilate(~mask, radius_mm, spacing_mm)


def dilate(mask: BoolArray, radius_mm: float, spacing_mm: tuple[float, float, float]) -> BoolArray:
    """Dilation by a ball of a few voxels: the mask, shifted to each of them.

    A distance transform gives the same voxels and takes ten times as long.
    """
    reach = [int(radius_mm / step) for step in spacing_mm]
    padded = np.pad(mask, [(n, n) for n in reach])
    # in the flat padded volume a shift is one offset; the padding keeps rows from running into each other
    flat, (plane, row, _) = padded.ravel(), padded.strides
    first = reach[0] * plane + reach[1] * row + reach[2]
    grown = flat.copy()
    for offset in _ball(radius_mm, spacing_mm, reach) @ np.array([plane, row, 1]):
        grown[first : flat.size - first] |= flat[first + offset : flat.size - first + offset]
    z, y, x = (slice(n, n + size) for n, size in zip(reach, mask.shape, strict=True))
    return grown.reshape(padded.shape)[z, y, x]


def _ball(radius_mm: float, spacing_mm: tuple[float, float, float], reach: list[int]) -> Int64Array:
    """The voxels (z, y, x) within ``radius_mm`` of the origin; int64 [n, 3]."""
    steps = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    return np.asarray(steps[np.sqrt(((steps * spacing_mm) ** 2).sum(axis=-1)) <= radius_mm])


def depth(mask: BoolArray, spacing_mm: tuple[float, float, float]) -> Float32Array:
    """Distance of each voxel of ``mask`` to the nearest one outside it, mm; 0 outside."""
    outside = sitk.GetImageFromArray((~mask).view(np.uint8))
    outside.SetSpacing([float(step) for step in spacing_mm[::-1]])
    squared = sitk.SignedMaurerDistanceMap(outside, squaredDistance=True, useImageSpacing=True)
    return np.asarray(np.sqrt(np.maximum(sitk.GetArrayViewFromImage(squared), 0.0)), dtype=np.float32)
