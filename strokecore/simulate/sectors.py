"""Region definitions carried from the atlas to a person: label images are registered, not densities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage
from scipy.linalg import polar

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.simulate.label_map import CHOROID, CORD, GREY_SHARE, VENTRICLES, LabelMap
from strokecore.simulate.solids import Point
from strokecore.simulate.true_regions import SECTORS

# What a tissue is worth in the images that are registered: fluid is dark, nuclei stand out.
_GREY: Final = 0.6
_WHITE: Final = 1.0
_NUCLEI: Final = 1.5
_FLUID: Final = 0.15
_GRID_MM: Final = 2.0
_SMOOTHING_MM: Final = 2.0  # the atlas's maps are that soft, averaged over 152 people
_AFFINE_STEPS: Final = 150
_DEMONS_MM: Final = (4.0, 2.0)  # grids of the elastic part, coarse to fine
_DEMONS_STEPS: Final = (60, 40)
_DEMONS_SMOOTHING: Final = 2.0  # of its field, in voxels
_CONTINUED_MM: Final = 5.0  # definitions are continued this far into the atlas's own sulci
_MOST_HALF_MM: Final = 120
# The brain of any adult, in the head's axes (x, y, z).
_BOX_MM: Final = ((-86.0, 86.0), (-92.0, 122.0), (-60.0, 96.0))


@dataclass(frozen=True, eq=False)
class HeadAxes:
    """Where a label map's head lies in atlas-like axes.

    Attributes
    ----------
    native_from_head: rigid; the anterior commissure's place in the atlas is the origin, nothing is scaled.
    atlas_from_head: affine, with the atlas's size.
    """

    native_from_head: sitk.Transform
    atlas_from_head: sitk.Transform


def head_axes_of(labels: LabelMap, atlas: Atlas) -> HeadAxes:
    """Turn and shift a person's head to the atlas's axes, by an affine fit of tissue images."""
    native = sitk.GetArrayFromImage(labels.image)
    person = sitk.GetImageFromArray(_worth(native))
    person.CopyInformation(labels.image)
    fixed = _thinned(person, 4.0)
    moving = _thinned(_atlas_worth(atlas), 4.0)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    affine = sitk.AffineTransform(start)
    for image_mm in (4.0, 2.0):
        fixed, moving = _thinned(person, image_mm), _thinned(_atlas_worth(atlas), image_mm)
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)  # sums in one order: the same bytes on any machine
        method.SetMetricAsMeanSquares()
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, _AFFINE_STEPS, 0.6, 1e-5)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(affine, inPlace=True)
        method.Execute(fixed, moving)
    matrix = np.reshape(affine.GetMatrix(), (3, 3))
    centre = np.asarray(affine.GetCenter())
    shift = np.asarray(affine.GetTranslation()) + centre - matrix @ centre
    turn, _ = polar(matrix)
    origin = -np.linalg.solve(matrix, shift)  # the label map's point that meets the atlas's origin
    # Rounded, so that the last bits of an optimiser do not reach the voxels.
    turn, origin = np.round(turn, 6), np.round(origin, 3)
    turn, _ = polar(turn)
    native_from_head = sitk.AffineTransform(3)
    native_from_head.SetMatrix(turn.T.ravel().tolist())
    native_from_head.SetTranslation(origin.tolist())
    atlas_from_head = sitk.AffineTransform(3)
    atlas_from_head.SetMatrix(np.round(matrix @ turn.T, 6).ravel().tolist())
    atlas_from_head.SetTranslation(np.round(matrix @ origin + shift, 3).tolist())
    return HeadAxes(native_from_head, atlas_from_head)


def warp_to(
    labels: npt.NDArray[np.int16], origin_mm: Point, atlas_from_head: sitk.Transform, atlas: Atlas
) -> sitk.Transform:
    """Maps a point of the head to the atlas: the affine map after a smooth elastic one (demons)."""
    person = sitk.GetImageFromArray(_worth(labels))
    person.SetOrigin(origin_mm)
    person = sitk.SmoothingRecursiveGaussian(person, _SMOOTHING_MM)
    moved = _atlas_worth(atlas)
    field: sitk.Image | None = None
    for spacing, steps in zip(_DEMONS_MM, _DEMONS_STEPS, strict=True):
        grid = _grid(spacing)
        fixed = sitk.Resample(person, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
        moving = sitk.Resample(moved, grid, atlas_from_head, sitk.sitkLinear, 0.0)
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfThreads(1)
        demons.SetNumberOfIterations(steps)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(_DEMONS_SMOOTHING)
        if field is None:
            field = demons.Execute(fixed, moving)
        else:
            start = sitk.Resample(field, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
            field = demons.Execute(fixed, moving, start)
    assert field is not None, "there is at least one level"
    elastic = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    # The last transform of a composite is the first to move a point.
    return sitk.CompositeTransform([atlas_from_head, elastic])


def _grid(spacing: float) -> sitk.Image:
    grid = sitk.Image([int((high - low) / spacing) + 1 for low, high in _BOX_MM], sitk.sitkUInt8)
    grid.SetOrigin([low for low, _ in _BOX_MM])
    grid.SetSpacing([spacing] * 3)
    return grid


def _worth(labels: npt.NDArray[np.int16]) -> Float32Array:
    table = np.zeros(1024, np.float32)
    for label, share in GREY_SHARE.items():
        table[label] = share * _GREY + (1 - share) * _WHITE
    table[[11, 50, 12, 51, 13, 52]] = _NUCLEI
    table[[24, *VENTRICLES, *CHOROID]] = _FLUID
    table[CORD] = 0  # the atlas ends above it
    return table[labels]


def _atlas_worth(atlas: Atlas) -> sitk.Image:
    worth = atlas.grey * _GREY + atlas.white * _WHITE + atlas.csf * _FLUID
    nuclei = np.isin(atlas.regions, [r.label for r in ALL_REGIONS if r.name in ("C", "L")])
    worth = np.where(nuclei, _NUCLEI, worth).astype(np.float32)
    return _on_atlas(worth, atlas)


def _on_atlas(values: npt.NDArray[Any], atlas: Atlas) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetOrigin(atlas.origin_mm)
    image.SetSpacing(atlas.spacing_mm[::-1])
    return image


def _thinned(image: sitk.Image, spacing: float) -> sitk.Image:
    smooth = sitk.SmoothingRecursiveGaussian(image, spacing * 0.75)
    size = [max(1, int(n * s / spacing)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    return sitk.Resample(
        smooth,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        image.GetOrigin(),
        [spacing] * 3,
        image.GetDirection(),
        0.0,
    )


def atlas_sectors(atlas: Atlas) -> UInt8Array:
    """Our definition as sectors: index in SECTORS + 1 on the atlas's grid, continued into its sulci."""
    table = np.zeros(len(ALL_REGIONS) + 1, np.uint8)
    for region in ALL_REGIONS:
        if region.name in SECTORS:
            table[region.label] = SECTORS.index(region.name) + 1
    return _continued(table[atlas.regions], atlas)


def second_sectors(atlas: Atlas, source: UInt8Array | Mapping[tuple[str, str], sitk.Image]) -> UInt8Array:
    """The second definition as sectors: from labels on the atlas's grid, or from masks in its space.

    Parameters
    ----------
    source: RegionId.label on the atlas's grid, or a mask for each (sector, "L" or "R").
    """
    if isinstance(source, np.ndarray):
        table = np.zeros(len(ALL_REGIONS) + 1, np.uint8)
        for region in ALL_REGIONS:
            if region.name in SECTORS:
                table[region.label] = SECTORS.index(region.name) + 1
        return _continued(table[source], atlas)
    grid = _on_atlas(atlas.regions, atlas)
    sectors = np.zeros(atlas.regions.shape, np.uint8)
    for (name, _), mask in source.items():
        here = sitk.Resample(mask > 0, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
        sectors[(sitk.GetArrayFromImage(here) > 0) & (sectors == 0)] = SECTORS.index(name) + 1
    return _continued(sectors, atlas)


def _continued(sectors: UInt8Array, atlas: Atlas) -> UInt8Array:
    """Sectors continued into fluid: where the atlas has a sulcus the person may have a gyrus."""
    fluid: BoolArray = (sectors == 0) & ((atlas.csf > 0.5) | ~atlas.intracranial)
    far, nearest = ndimage.distance_transform_edt(
        sectors == 0, sampling=atlas.spacing_mm, return_indices=True
    )
    return np.where(fluid & (far < _CONTINUED_MM), sectors[tuple(nearest)], sectors).astype(np.uint8)


def sector_distances(
    sectors: UInt8Array,
    atlas: Atlas,
    atlas_from_head: sitk.Transform,
    origin_mm: Point,
    shape: tuple[int, ...],
) -> npt.NDArray[np.int8]:
    """Signed distance to each sector on every second voxel of the head's grid, half millimetres, int8."""
    nz, ny, nx = (n // 2 + 1 for n in shape)
    reference = sitk.Image([nx, ny, nz], sitk.sitkUInt8)
    reference.SetOrigin(origin_mm)
    reference.SetSpacing([2.0] * 3)
    moved = sitk.Resample(
        _on_atlas(sectors, atlas), reference, atlas_from_head, sitk.sitkNearestNeighbor, 0.0
    )
    there = sitk.GetArrayFromImage(moved)
    out = np.zeros((len(SECTORS), nz, ny, nx), np.int8)
    for k in range(len(SECTORS)):
        image = sitk.GetImageFromArray((there == k + 1).astype(np.uint8))
        image.SetSpacing([2.0] * 3)
        signed = sitk.SignedMaurerDistanceMap(
            image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
        halves = np.rint(sitk.GetArrayFromImage(signed) * 2)
        out[k] = np.clip(halves, -_MOST_HALF_MM, _MOST_HALF_MM).astype(np.int8)
    return out
