"""Infarcts inserted into a real head CT: the patient's own anatomy and noise, a known lesion.

The borders of the inserted infarct are not the engine's: the regions that it follows are bent by a smooth
random field first, as in the simulator. Grey matter loses ``delta_hu``, white matter 70 % of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import RegionId
from strokecore.head.canonical import align_series
from strokecore.head.resampling import to_source
from strokecore.reading.series import Series
from strokecore.simulate.infarct import EDGE_SIGMA_MM, WHITE_SHARE

# As the simulator: two scales (correlation length, rms of each component), mm; borders move by 2-3 mm.
_BOUNDARY_SCALES_MM: Final = ((16.0, 2.4), (8.0, 1.7))
# Densities between which this person's white and grey matter lie (windows of the real head CT: 24-43 HU).
_WHITE_HU, _GREY_HU = 28.0, 36.0
_TISSUE_HU: Final = (15.0, 60.0)


def mirrored(series: Series) -> Series:
    """The same scan of the patient's mirror image: columns reversed, geometry kept."""
    return replace(series, hu=np.ascontiguousarray(series.hu[:, :, ::-1]))


def own_regions(series: Series) -> npt.NDArray[np.uint8]:
    """The person's ASPECTS regions as the node places them, on the series' voxels; uint8 [k, j, i]."""
    aligned = align_series(series, load_atlas())
    return to_source(series, aligned.frame, aligned.head.regions)


def inserted(
    series: Series,
    regions: npt.NDArray[np.uint8],
    affected: tuple[RegionId, ...],
    delta_hu: float,
    seed: int,
) -> Series:
    """``series`` with an infarct of ``affected``; the same seed gives the same voxels.

    Parameters
    ----------
    regions: from ``own_regions``.
    """
    spacing = (float(np.median(np.diff(series.slice_offsets_mm))), *series.pixel_spacing_mm)
    rng = np.random.default_rng([seed, 104])
    labels = [region.label for region in affected]
    member = np.isin(_bent(rng, regions, spacing), labels).astype(np.float32)
    soft = ndimage.gaussian_filter(member, [EDGE_SIGMA_MM / mm for mm in spacing])
    tissue = (series.hu > _TISSUE_HU[0]) & (series.hu < _TISSUE_HU[1])
    smooth = ndimage.gaussian_filter(series.hu, [0.0, 2.0 / spacing[1], 2.0 / spacing[2]])
    grey = np.clip((smooth - _WHITE_HU) / (_GREY_HU - _WHITE_HU), 0, 1)
    drop = delta_hu * soft * (WHITE_SHARE + (1 - WHITE_SHARE) * grey) * tissue
    return replace(series, hu=(series.hu - drop).astype(np.float32))


def _bent(
    rng: np.random.Generator, labels: npt.NDArray[np.uint8], spacing: tuple[float, float, float]
) -> npt.NDArray[np.uint8]:
    index = np.indices(labels.shape, np.float32)
    for axis, mm in enumerate(spacing):
        for length, amplitude in _BOUNDARY_SCALES_MM:
            index[axis] += amplitude / mm * _smooth_noise(rng, labels.shape, spacing, length)
    return np.asarray(ndimage.map_coordinates(labels, index, order=0, mode="nearest"))


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, float, float], length_mm: float
) -> npt.NDArray[np.float32]:
    """Gaussian random field of unit variance, made on a grid of half its correlation length."""
    step = [max(1, round(length_mm / 2 / mm)) for mm in spacing]
    small = [int(np.ceil(n / s)) + 2 for n, s in zip(shape, step, strict=True)]
    sigma = [length_mm / mm / s for mm, s in zip(spacing, step, strict=True)]
    field = ndimage.gaussian_filter(rng.standard_normal(small).astype(np.float32), sigma, mode="wrap")
    field /= field.std()
    fine = np.meshgrid(*(np.arange(n) / s for n, s in zip(shape, step, strict=True)), indexing="ij")
    return np.asarray(ndimage.map_coordinates(field, fine, order=1, mode="nearest"), np.float32)
