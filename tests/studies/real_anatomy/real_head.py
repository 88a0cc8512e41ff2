"""Infarcts in a real head CT and in its mirror image, of shapes and with a region truth that are not ours.

The truth: another group's region masks in MNI152 space, laid onto the head by a registration of this study
(SimpleITK: affine, then demons), which shares nothing with the node's. The shapes: blurred blobs with rough
borders in one side's middle cerebral territory. Grey matter loses the whole depth, white matter a share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId, Side
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.evaluate.outcomes import Outcome, lost_outcome, outcome_of_json
from strokecore.evaluate.truth import Truth, read_truth, split_of
from strokecore.evaluate.workers import Lost
from strokecore.files import write_atomically
from strokecore.reading.series import Series, read_series
from tests.studies.real_anatomy.run import RESULT, is_done, score_and_keep

DEPTHS_HU: Final = (2.0, 3.0, 5.0, 8.0)
PER_DEPTH: Final = 12
# The rule of the whole study: a region is affected from 30 % involvement, and not judged from 5 % on.
AFFECTED_FROM: Final = 0.30
NOT_JUDGED_FROM: Final = 0.05
# Names of the masks' files that are not ours: their IC is the insula, InCa the internal capsule.
_MASK_NAMES: Final = {"I": "IC", "IC": "InCa", "L": "LN"}

_GRID_MM: Final = 2.0
_CANAL_VOXELS: Final = 2
# Fluid, white and grey matter; what surrounds the brain is 0.
_WINDOW_HU: Final = (0.0, 50.0)
# The template's brain stem ends higher than the scan: the lowest part of the head has no partner.
_FLOOR_MM: Final = 40.0
_TISSUE_HU: Final = (15.0, 60.0)
# Densities between which this person's white and grey matter lie.
_WHITE_HU, _GREY_HU = 28.0, 36.0
_STREAM: Final = 106
_REGIONS_FILE: Final = "real_head_regions.npz"


@dataclass(frozen=True)
class RealCase:
    """One infarct (or none) for the real head or, with ``mirror``, its mirror image."""

    name: str
    seed: int
    mirror: bool
    delta_hu: float | None
    person: str = "real head"
    part: str = "real"

    @property
    def truth(self) -> Truth:
        return Truth(frozenset(), seed=self.seed, split=split_of(self.seed), person=self.person)


@dataclass(frozen=True, eq=False)
class RealHead:
    """The head as it was scanned, with the region truth; arrays [k, j, i]."""

    series: Series
    regions: UInt8Array
    tissue: BoolArray
    grey: Float32Array


def real_cases(first_seed: int, limit: int | None) -> list[RealCase]:
    """PER_DEPTH infarcts of each depth, original and mirror image by turns, and both without infarct."""
    per_depth = PER_DEPTH if limit is None else min(limit, PER_DEPTH)
    found = [
        RealCase(f"real-{first_seed + mirror}", first_seed + mirror, bool(mirror), None) for mirror in (0, 1)
    ]
    for number in range(per_depth * len(DEPTHS_HU)):
        seed = first_seed + 2 + number
        mirror = bool(number // len(DEPTHS_HU) % 2)
        found.append(RealCase(f"real-{seed}", seed, mirror, DEPTHS_HU[number % len(DEPTHS_HU)]))
    return found


def run_real(case: RealCase, out: Path, data: Path, engine: Sequence[str] = ()) -> None:
    """Insert the infarct, score the head by the command, keep what was said."""
    head = real_head(data / "real_head_ct", data / "aspects_masks_mni152", out, mirror=case.mirror)
    series, shape = head.series, np.zeros(head.series.hu.shape, np.float32)
    hu = series.hu
    if case.delta_hu is not None:
        shape, depth = _infarct(head, case)
        hu = hu - depth
    folder = out / case.name
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    truth = json.dumps(_truth(head, case, hu, shape), indent=1).encode()
    write_atomically(folder / "truth" / "truth.json", truth)
    score_and_keep(lambda to: _write_images(data / "real_head_ct", series, hu, to), folder, engine)


def read_real(case: RealCase, out: Path, lost: Lost | None) -> Outcome:
    folder = out / case.name
    if lost is not None or not is_done(folder):
        return lost_outcome(case.name, case.truth, lost or Lost("died"))
    truth = json.loads((folder / "truth" / "truth.json").read_text("utf-8"))
    known = replace(read_truth(folder), person=case.person, delta_hu=truth["depth_hu"])
    return outcome_of_json(case.name, known, json.loads((folder / RESULT).read_text("utf-8")))


@cache
def real_head(folder: Path, masks: Path, kept: Path, *, mirror: bool) -> RealHead:
    """The head with its region truth; the registration is made once and kept in ``kept``."""
    series = read_series(folder)
    path = kept / _REGIONS_FILE
    if path.exists():
        regions = np.load(path)["regions"]
    else:
        regions = registered_regions(series, masks)
        kept.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, regions=regions)
    if mirror:
        # columns reversed, geometry kept: what was left is right
        series = replace(series, hu=np.ascontiguousarray(series.hu[:, :, ::-1]))
        other = np.zeros(len(ALL_REGIONS) + 1, np.uint8)
        for region in ALL_REGIONS:
            other[region.label] = RegionId(region.name, "left" if region.side == "right" else "right").label
        regions = other[regions[:, :, ::-1]]
    smooth = ndimage.gaussian_filter(series.hu, [0.0, *(2.0 / mm for mm in series.pixel_spacing_mm)])
    tissue = (smooth > _TISSUE_HU[0]) & (smooth < _TISSUE_HU[1])
    grey = np.clip((smooth - _WHITE_HU) / (_GREY_HU - _WHITE_HU), 0, 1).astype(np.float32)
    return RealHead(series, regions, tissue, grey)


def registered_regions(series: Series, masks: Path) -> UInt8Array:
    """The masks' regions on the series' voxels, by affine registration and demons of template and head."""
    fixed = _isotropic(series)
    atlas = load_atlas()
    moving = sitk.GetImageFromArray(atlas.template_hu.astype(np.float32))
    moving.SetSpacing(atlas.spacing_mm[::-1])
    moving.SetOrigin(atlas.origin_mm)
    fixed_brain = _brain_alone(fixed, _brain(fixed))
    moving_brain = _brain_alone(moving, sitk.GetImageFromArray(atlas.intracranial.astype(np.uint8)))
    affine = _affine(fixed_brain, moving_brain)
    near = sitk.Resample(moving_brain, fixed_brain, affine, sitk.sitkLinear, 0.0)
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetNumberOfIterations(60)
    demons.SetStandardDeviations(3.0)
    demons.SetSmoothDisplacementField(True)
    field = demons.Execute(*(sitk.SmoothingRecursiveGaussian(image, 2.0) for image in (fixed_brain, near)))
    field = sitk.Cast(field, sitk.sitkVectorFloat64)
    whole = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    labels = np.zeros(fixed.GetSize()[::-1], np.uint8)
    share = np.full(labels.shape, 0.5, np.float32)
    for region in ALL_REGIONS:
        name = _MASK_NAMES.get(region.name, region.name)
        mask = sitk.ReadImage(str(masks / f"MNI152_{name}_{region.side[0].upper()}.nii.gz"), sitk.sitkFloat32)
        inside = sitk.GetArrayFromImage(
            sitk.Resample(sitk.DICOMOrient(mask, "LPS"), fixed, whole, sitk.sitkLinear, 0.0)
        )
        inside = inside / max(float(inside.max()), 1e-6)
        labels[inside > share] = region.label
        share = np.maximum(share, inside)
    return _on_voxels(labels, fixed, series)


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """Turn and shift first, then scale and shear: an affine map that begins far away shrinks to nothing."""
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    rigid = sitk.Euler3DTransform(_fitted(fixed, moving, start).GetNthTransform(0))
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return _fitted(fixed, moving, affine)


def _fitted(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform) -> sitk.CompositeTransform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricFixedMask(_above_floor(fixed))
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    return sitk.CompositeTransform(method.Execute(fixed, moving))


def _above_floor(image: sitk.Image) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    lowest = int(np.flatnonzero(array.any(axis=(1, 2)))[0])
    mask = np.zeros(array.shape, np.uint8)
    mask[lowest + round(_FLOOR_MM / _GRID_MM) :] = 1
    mask = sitk.GetImageFromArray(mask)
    mask.CopyInformation(image)
    return mask


def _brain_alone(image: sitk.Image, brain: sitk.Image) -> sitk.Image:
    """Brain and fluid between _WINDOW_HU, 0 around them: both images are in HU, the skull is in neither."""
    brain.CopyInformation(image)
    window = sitk.Clamp(image, lowerBound=_WINDOW_HU[0], upperBound=_WINDOW_HU[1])
    return sitk.Cast(sitk.Mask(window, brain), sitk.sitkFloat32)


def _brain(image: sitk.Image) -> sitk.Image:
    """What lies inside the skull: the largest soft part after every canal through the bone was closed."""
    soft = sitk.BinaryThreshold(image, -5.0, 90.0)
    eroded = sitk.BinaryErode(soft, [_CANAL_VOXELS] * 3)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(eroded))
    grown = sitk.BinaryDilate(parts == 1, [_CANAL_VOXELS + 1] * 3)
    return sitk.BinaryMorphologicalClosing(grown & soft, [4] * 3)


def _isotropic(series: Series) -> sitk.Image:
    """The sheared, unevenly spaced stack on an upright grid of _GRID_MM."""
    nk, nj, ni = series.hu.shape
    corners = [
        series.positions_mm[k]
        + j * series.pixel_spacing_mm[0] * series.column_direction
        + i * series.pixel_spacing_mm[1] * series.row_direction
        for k in (0, nk - 1)
        for j in (0, nj - 1)
        for i in (0, ni - 1)
    ]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size = np.ceil((high - low) / _GRID_MM).astype(int) + 1
    axes = [low[a] + np.arange(size[a]) * _GRID_MM for a in range(3)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = np.stack([x, y, z], axis=-1)
    offsets = series.slice_offsets_mm
    depth = points @ series.normal
    k = np.interp(depth, offsets, np.arange(nk), left=-1, right=nk)
    place = {
        name: np.interp(depth, offsets, series.positions_mm @ direction)
        for name, direction in (("j", series.column_direction), ("i", series.row_direction))
    }
    j = (points @ series.column_direction - place["j"]) / series.pixel_spacing_mm[0]
    i = (points @ series.row_direction - place["i"]) / series.pixel_spacing_mm[1]
    values = ndimage.map_coordinates(series.hu, [k, j, i], order=1, cval=-1000.0).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing([_GRID_MM] * 3)
    image.SetOrigin([float(v) for v in low])
    return image


def _on_voxels(labels: UInt8Array, grid: sitk.Image, series: Series) -> UInt8Array:
    """Labels of an upright grid at the series' voxels, nearest neighbour."""
    out: UInt8Array = np.zeros(series.hu.shape, np.uint8)
    origin = np.array(grid.GetOrigin())
    down = np.arange(out.shape[1])[:, None, None] * series.pixel_spacing_mm[0] * series.column_direction
    across = np.arange(out.shape[2])[None, :, None] * series.pixel_spacing_mm[1] * series.row_direction
    for k, corner in enumerate(series.positions_mm):
        index = np.rint((corner + down + across - origin) / _GRID_MM).astype(int)
        inside = ((index >= 0) & (index < labels.shape[::-1])).all(axis=-1)
        x, y, z = index[inside].T
        out[k][inside] = labels[z, y, x]
    return out


def _points_mm(series: Series) -> npt.NDArray[np.float32]:
    """LPS of every voxel, float32 [k, j, i, 3]."""
    down = np.arange(series.hu.shape[1])[:, None, None] * series.pixel_spacing_mm[0] * series.column_direction
    across = np.arange(series.hu.shape[2])[None, :, None] * series.pixel_spacing_mm[1] * series.row_direction
    return np.asarray(series.positions_mm[:, None, None, :] + down + across, np.float32)


def _infarct(head: RealHead, case: RealCase) -> tuple[Float32Array, Float32Array]:
    """A rough blob in one side's territory: its share of each voxel, border blurred, and the HU lost."""
    assert case.delta_hu is not None
    rng = np.random.default_rng([case.seed, _STREAM])
    side = SIDES[int(rng.integers(2))]
    own = [region.label for region in ALL_REGIONS if region.side == side]
    points = _points_mm(head.series)
    territory = np.isin(head.regions, own)
    within = points[territory]
    centre = within[int(rng.integers(len(within)))]
    stretch = np.exp(rng.uniform(-0.35, 0.35, 3))
    distance = np.sqrt((((points - centre) * stretch) ** 2).sum(axis=-1))
    spacing = (float(np.median(np.diff(head.series.slice_offsets_mm))), *head.series.pixel_spacing_mm)
    rough = 6.0 * _smooth_noise(rng, territory.shape, spacing, 14.0)
    reach = rng.uniform(14.0, 38.0)
    own_half = _half(points, head.regions, side)
    blob = ((distance + rough < reach) & own_half & head.tissue).astype(np.float32)
    edge_mm = rng.uniform(1.5, 4.0)
    soft = ndimage.gaussian_filter(blob, [edge_mm / mm for mm in spacing])
    white = rng.uniform(0.5, 0.7)
    depth = case.delta_hu * soft * (white + (1 - white) * head.grey) * head.tissue
    return soft, np.asarray(depth, np.float32)


def _half(points: npt.NDArray[np.float32], regions: UInt8Array, side: Side) -> BoolArray:
    """Voxels of one hemisphere: nearer to its regions' mean than to the other's, along x."""
    means = {
        s: float(points[np.isin(regions, [r.label for r in ALL_REGIONS if r.side == s])][:, 0].mean())
        for s in SIDES
    }
    middle = (means["left"] + means["right"]) / 2
    x = points[..., 0]
    return np.asarray(x > middle + 2.0 if means[side] > middle else x < middle - 2.0)


def _truth(head: RealHead, case: RealCase, hu: Float32Array, shape: Float32Array) -> dict[str, Any]:
    """truth.json: involvement by the independent regions, and what an observer who knows them measures."""
    rows = []
    means = {}
    for region in ALL_REGIONS:
        own = (head.regions == region.label) & head.tissue
        means[region] = float(hu[own].mean()) if own.any() else float("nan")
        share = float((shape[own] >= 0.5).mean()) if own.any() else 0.0
        rows.append((region, share))
    return {
        "schema": 1,
        "depth_hu": case.delta_hu,
        "spec": {"seed": case.seed},
        "regions": [
            {
                "name": region.name,
                "side": region.side,
                "affected": share >= AFFECTED_FROM,
                "judged": not NOT_JUDGED_FROM <= share < AFFECTED_FROM,
                "involved_fraction": round(share, 3),
                "observer_difference_hu": round(means[region] - means[_mirror(region)], 3),
            }
            for region, share in rows
        ],
    }


def _mirror(region: RegionId) -> RegionId:
    return RegionId(region.name, "left" if region.side == "right" else "right")


def _write_images(folder: Path, series: Series, hu: Float32Array, to: Path) -> None:
    """The scan's own files with other pixels."""
    of_uid = {str(header.SOPInstanceUID): k for k, header in enumerate(series.datasets)}
    for path in sorted(folder.glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        k = of_uid.get(str(dataset.SOPInstanceUID))
        if k is None:
            continue
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        stored = np.rint((hu[k] - intercept) / slope)
        dtype = dataset.pixel_array.dtype
        dataset.PixelData = stored.clip(np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype).tobytes()
        dataset.save_as(to / path.name)


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...], length_mm: float
) -> Float32Array:
    """Gaussian random field of unit variance, made on a grid of half its correlation length."""
    step = [max(1, round(length_mm / 2 / mm)) for mm in spacing]
    small = [int(np.ceil(n / s)) + 2 for n, s in zip(shape, step, strict=True)]
    sigma = [length_mm / mm / s for mm, s in zip(spacing, step, strict=True)]
    field = ndimage.gaussian_filter(rng.standard_normal(small).astype(np.float32), sigma, mode="wrap")
    field /= field.std()
    fine = np.meshgrid(*(np.arange(n) / s for n, s in zip(shape, step, strict=True)), indexing="ij")
    return np.asarray(ndimage.map_coordinates(field, fine, order=1, mode="nearest"), np.float32)
