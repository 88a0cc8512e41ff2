"""Random changes of training slices: pose, side, kernel, density and noise; in HU and mm.

The order is that of a scanner: where the head lies (geometry), the kernel (blur), the calibration (density),
the dose (noise). Windows and the mirror channel are made afterwards (strokecore.learned.preprocessing),
so that the mirror channel is the mirror image of the very slice beside it, noise included.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, UInt8Array
from strokecore.learned.preprocessing import OUTSIDE_HU
from trainer.config import AugmentConfig

# Changes whenever the same draw would give other pixels; feature caches of another version are not read.
AUGMENT_VERSION: Final = "1"
# A Gaussian ends at three standard deviations; narrower than a third of a pixel it changes nothing.
_BLUR_REACH: Final = 3.0
_LEAST_BLUR_PX: Final = 0.3
# Grain of added texture, as simulated brains have it (sigma of a Gaussian; strokecore.simulate.domain).
_TEXTURE_MM: Final = (1.3, 3.4)
# Keeps the quotient of the blur finite where the scan is out of reach; such pixels are set to outside anyway.
_LEAST_WEIGHT: Final = 1e-6

_MIRRORED: Final = torch.zeros(256, dtype=torch.uint8)
for _region in ALL_REGIONS:
    _MIRRORED[_region.label] = _region.mirror.label


@dataclass(frozen=True)
class Augmentation:
    """One draw; both slices of a pair share it.

    Attributes
    ----------
    flip: mirrored across the mid-sagittal plane.
    rotate_deg: in-plane turn. scale: size relative to the source.
    shift_mm: (to the patient's posterior, to the patient's left), after flip and turn.
    gain, shift_hu: density becomes gain * HU + shift_hu.
    noise_hu: standard deviation of the noise that is added, independent in each pixel and slice.
    blur_mm: standard deviation of the Gaussian.
    texture_hu, texture_mm: standard deviation and grain (sigma of a Gaussian) of a pattern that is added.
    shading_hu: density added from the middle to the left, and to the back, edge of the slice; linear.
    """

    flip: bool = False
    rotate_deg: float = 0.0
    scale: float = 1.0
    shift_mm: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    shift_hu: float = 0.0
    noise_hu: float = 0.0
    blur_mm: float = 0.0
    texture_hu: float = 0.0
    texture_mm: float = 1.0
    shading_hu: tuple[float, float] = (0.0, 0.0)

    @property
    def moves(self) -> bool:
        """The geometry is changed by more than a flip."""
        return (self.rotate_deg, self.scale, self.shift_mm) != (0.0, 1.0, (0.0, 0.0))


NONE: Final = Augmentation()


def draw(config: AugmentConfig, rng: np.random.Generator) -> Augmentation:
    """A random augmentation; uniform within the recipe's limits."""
    # every value is drawn whether used or not: a limit set to 0 leaves the other draws as they were
    changed, side, turn, size, down, left, gain, offset, noise, blur = rng.random(10)
    texture, grain, across, along = rng.random(4)
    if changed >= config.probability:
        return NONE

    def within(limit: float, value: float) -> float:
        return limit * (2 * float(value) - 1)

    return Augmentation(
        flip=config.flip and bool(side < 0.5),
        rotate_deg=within(config.rotate_deg, turn),
        scale=1 + within(config.scale, size),
        shift_mm=(within(config.shift_mm, down), within(config.shift_mm, left)),
        gain=1 + within(config.scale_hu, gain),
        shift_hu=within(config.shift_hu, offset),
        noise_hu=config.noise_hu * float(noise),
        blur_mm=config.blur_mm * float(blur),
        texture_hu=config.texture_hu * float(texture),
        texture_mm=float(np.interp(grain, (0, 1), _TEXTURE_MM)) if config.texture_hu else NONE.texture_mm,
        shading_hu=(within(config.shading_hu, across), within(config.shading_hu, along)),
    )


def draw_version(config: AugmentConfig, case_id: str, version: int) -> Augmentation:
    """The augmentation of a case's ``version``: the same for its slices, in every run and for every seed."""
    return draw(config, np.random.default_rng(_key(case_id, version)))


def version_noise(case_id: str, version: int, row: int) -> np.random.Generator:
    """Generator of the noise of one slice of a version."""
    return np.random.default_rng([*_key(case_id, version), row])


def augment_hu(
    hu: npt.NDArray[np.floating], augmentation: Augmentation, pixel_mm: float, noise: np.random.Generator
) -> Tensor:
    """The densities of one slice and its neighbours, changed alike but for the noise.

    Parameters
    ----------
    hu: [slabs, rows, columns]; columns from the patient's right to left, symmetric about the mid-sagittal
        plane.
    noise: of this slice.

    Returns
    -------
    float32 [slabs, rows, columns]; OUTSIDE_HU where the scan, moved, does not reach.
    """
    values = torch.from_numpy(np.ascontiguousarray(hu, np.float32))
    if augmentation.flip:
        values = values.flip(-1)
    if augmentation.moves:
        grid = _sampling_grid(augmentation, (hu.shape[1], hu.shape[2]), pixel_mm)
        # padding is 0, so that 0 must mean outside
        values = functional.grid_sample(
            (values - OUTSIDE_HU)[None],
            grid,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )[0]
        values = values + OUTSIDE_HU
    covered = values > OUTSIDE_HU
    if augmentation.blur_mm > _LEAST_BLUR_PX * pixel_mm:
        values = _blurred(values, covered, augmentation.blur_mm / pixel_mm)
    values = values * augmentation.gain + augmentation.shift_hu
    if any(augmentation.shading_hu):
        values = values + _shading(augmentation.shading_hu, (hu.shape[1], hu.shape[2]))
    if augmentation.texture_hu:
        values = values + augmentation.texture_hu * _texture(
            noise, hu.shape, augmentation.texture_mm / pixel_mm
        )
    if augmentation.noise_hu:
        grain = noise.standard_normal(hu.shape, np.float32)
        values = values + augmentation.noise_hu * torch.from_numpy(grain)
    return torch.where(covered, values, OUTSIDE_HU)


def augment_labels(labels: UInt8Array | BoolArray, augmentation: Augmentation, pixel_mm: float) -> Tensor:
    """Label maps [k, rows, columns] of one slice, moved as its densities are; uint8, nearest neighbour.

    0 where the source does not reach. Class indices have no side; labels that do: ``mirror_territories``.
    """
    values = torch.from_numpy(labels.astype(np.uint8))
    if augmentation.flip:
        values = values.flip(-1)
    if augmentation.moves:
        grid = _sampling_grid(augmentation, (labels.shape[1], labels.shape[2]), pixel_mm)
        values = functional.grid_sample(
            values[None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
        )[0].to(torch.uint8)
    return values


def mirror_territories(territories: Tensor) -> Tensor:
    """RegionId labels (uint8) with left and right exchanged, as a flipped head needs."""
    return _MIRRORED[territories.long()]


def _key(case_id: str, version: int) -> list[int]:
    return [int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big"), version]


def _sampling_grid(augmentation: Augmentation, size: tuple[int, int], pixel_mm: float) -> Tensor:
    """Where each pixel of the result is read, for grid_sample: (x, y) in -1..1, [1, rows, columns, 2].

    With align_corners=False, -1 and 1 are the outer edges of the first and last pixel: half the image's
    width and height in mm. source = turn(-angle) / scale (result - shift), about the middle of the image.
    """
    half_mm = [side * pixel_mm / 2 for side in size]
    y, x = (
        (torch.arange(side) - (side - 1) / 2) * pixel_mm - shift
        for side, shift in zip(size, augmentation.shift_mm, strict=True)
    )
    angle = math.radians(augmentation.rotate_deg)
    cos, sin = math.cos(angle) / augmentation.scale, math.sin(angle) / augmentation.scale
    source_y = cos * y[:, None] - sin * x
    source_x = sin * y[:, None] + cos * x
    return torch.stack([source_x / half_mm[1], source_y / half_mm[0]], dim=-1)[None]


def _shading(across_along_hu: tuple[float, float], size: tuple[int, int]) -> Tensor:
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    return across_along_hu[0] * columns + across_along_hu[1] * rows[:, None]


def _texture(rng: np.random.Generator, shape: tuple[int, ...], sigma_px: float) -> Tensor:
    """A smooth pattern of unit variance in each slab, float32 [slabs, rows, columns]."""
    grain = rng.standard_normal(shape, np.float32)
    smooth = ndimage.gaussian_filter(grain, (0, sigma_px, sigma_px), mode="wrap", truncate=_BLUR_REACH)
    return torch.from_numpy(smooth / max(float(smooth.std()), _LEAST_WEIGHT))


def _blurred(values: Tensor, covered: Tensor, sigma_px: float) -> Tensor:
    """Gaussian mean over what the scan covers, so that its edge does not darken; of ``values``' shape."""
    both = torch.stack([values * covered, covered.float()]).numpy()
    weighted, weight = ndimage.gaussian_filter(
        both, (0, 0, sigma_px, sigma_px), mode="constant", truncate=_BLUR_REACH
    )
    return torch.from_numpy(weighted / np.maximum(weight, _LEAST_WEIGHT))
