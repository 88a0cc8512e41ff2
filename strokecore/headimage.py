"""What a head and the atlas's template have in common, as images that can be aligned."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.alignment import Image

if TYPE_CHECKING:
    from strokecore.anatomy.atlas import Atlas

Bools = npt.NDArray[np.bool_]

# Relative to brain. Outside the skull counts as a little darker than CSF (-25), so that both skull and
# ventricles guide; brighter than brain is calcium, blood or contrast, which the template does not have.
OUTSIDE_HU: Final = -45.0
_BRIGHT_HU: Final = 12.0


def brain_image(
    hu: npt.NDArray[np.float32],
    intracranial: Bools,
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
    smoothing_mm: float,
) -> Image:
    """Smoothed density inside the skull relative to this brain's median, and one level outside.

    hu, intracranial: [z, y, x]; spacing_mm: (z, y, x); origin_mm: (x, y, z).
    """
    level = float(np.median(hu[intracranial]))
    values = np.where(intracranial, np.clip(hu - level, OUTSIDE_HU, _BRIGHT_HU), OUTSIDE_HU)
    sigma = [smoothing_mm / step for step in spacing_mm]
    return Image(ndimage.gaussian_filter(values.astype(np.float32), sigma), spacing_mm, origin_mm)


def thinned(image: Image, spacing_mm: float) -> Image:
    """Every n-th voxel, for a spacing of about ``spacing_mm``; smooth the image first."""
    steps = [max(1, round(spacing_mm / step)) for step in image.spacing_mm]
    z, y, x = (step * n for step, n in zip(image.spacing_mm, steps, strict=True))
    values = np.ascontiguousarray(image.values[:: steps[0], :: steps[1], :: steps[2]])
    return Image(values, (z, y, x), image.origin_mm)


@lru_cache(maxsize=4)
def template_image(atlas: Atlas, spacing_mm: float, smoothing_mm: float) -> tuple[Image, Bools]:
    """The atlas's head as ``brain_image`` shows it, and the voxels to compare: inside and rim."""
    hu = atlas.template_hu.astype(np.float32)
    fine = brain_image(hu, atlas.intracranial, atlas.spacing_mm, atlas.origin_mm, smoothing_mm)
    coarse = thinned(fine, spacing_mm)
    step = max(1, round(spacing_mm / atlas.spacing_mm[0]))
    rim = ndimage.binary_dilation(atlas.intracranial, iterations=max(2, step))
    return coarse, np.ascontiguousarray(rim[::step, ::step, ::step])
