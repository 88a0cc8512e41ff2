"""Input for the parity gate that no file holds: random heads, noise and an empty slice.

An engine that is right on a package's golden slices only would pass a comparison on these alone. Random heads
are drawn anew each time, from a seed that the report names. They are no anatomy; they carry what a head CT
carries into the network: skull, CSF, grey and white densities, and dark patches of lesion size at places that
differ from side to side and from slice to slice.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import Bool2D, Float2D, Float32Array, UInt8Array
from strokecore.learned.preprocessing import InputSpec, to_channels, with_neighbours

HEADS: Final = 6
_AIR_HU: Final = -1000.0
# Densities in HU and lengths in mm of an adult head, roughly.
_SKULL_HU: Final = 900.0
_CSF_HU: Final = 8.0
_BRAIN_HU: Final = 34.0
_SKULL_MM: Final = 7.0


def random_slices(spec: InputSpec, seed: int) -> Float32Array:
    """Slices in a model's own input, float32 [HEADS + 2, channels, H, W]; the same for the same seed.

    HEADS heads; white noise, with the largest activations, where fp16 overflows first; and air with air
    around it.
    """
    rng = np.random.default_rng(seed)
    heads = np.stack([_head(spec, rng) for _ in range(HEADS)])
    noise = rng.normal(size=(1, spec.channel_count, *spec.size)).astype(np.float32)
    air = np.full((1, *spec.size), _AIR_HU, np.float32)
    nowhere = np.zeros(spec.size, np.uint8)
    # neighbours of one another, as the slices of a head are
    shown = np.concatenate([heads, air])
    stacks = with_neighbours(shown, np.arange(len(shown)), spec)
    # Air beside a head is no input, for only slices that hold brain are run: where a norm divides next to
    # nothing by next to nothing, no two right engines agree.
    stacks[-1] = _AIR_HU
    channels = to_channels(stacks, np.stack([*(_regions(spec, rng) for _ in heads), nowhere]), spec)
    return np.concatenate([channels[:-1], noise, channels[-1:]])


def _head(spec: InputSpec, rng: np.random.Generator) -> Float2D:
    """One slice in HU."""
    rows, columns = (
        (np.arange(count, dtype=np.float32) - (count - 1) / 2) * np.float32(spec.pixel_mm)
        for count in spec.size
    )
    y, x = rows[:, None], columns[None, :]
    field_mm = (rows[-1] - rows[0], columns[-1] - columns[0])
    # filling the field, so that a model for a smaller one sees a whole head too
    long = min(float(rng.uniform(78, 92)), 0.46 * float(field_mm[0]))
    wide = min(float(rng.uniform(62, 74)), 0.46 * float(field_mm[1]))
    at = (float(rng.normal(0, 2)), float(rng.normal(0, 2)))
    turn = float(rng.normal(0, 0.06))
    skull = _ellipse(y, x, at, (long, wide), turn)
    brain = _ellipse(y, x, at, (long - _SKULL_MM, wide - _SKULL_MM), turn)
    hu = np.where(skull, np.float32(_SKULL_HU), np.float32(_AIR_HU))
    texture = _smooth(spec, rng, 14.0, 3.0) + _smooth(spec, rng, 4.0, 2.5)
    hu = np.where(brain, _BRAIN_HU + texture, hu)
    for side in (-1, 1):  # ventricles of unlike size
        ventricle = ((at[0] - 5, at[1] + side * float(rng.uniform(7, 13))), (22.0, float(rng.uniform(3, 8))))
        hu = np.where(_ellipse(y, x, *ventricle, turn), np.float32(_CSF_HU), hu)
    for _ in range(int(rng.integers(2, 5))):
        place = (float(rng.uniform(-0.6, 0.6)) * long, float(rng.uniform(-0.7, 0.7)) * wide)
        axes = (float(rng.uniform(8, 24)), float(rng.uniform(8, 24)))
        patch = _ellipse(y, x, place, axes, float(rng.uniform(0, np.pi)))
        softened = ndimage.gaussian_filter(patch.astype(np.float32), 3.0 / spec.pixel_mm)
        hu = hu - np.where(brain, np.float32(rng.uniform(5, 14)) * softened, np.float32(0))
    hu = hu + rng.normal(0, 2.0, spec.size).astype(np.float32)
    return np.asarray(hu, np.float32)


def _regions(spec: InputSpec, rng: np.random.Generator) -> UInt8Array:
    """Labels in patches, for models that see an atlas; a third of the slice has none."""
    if not spec.atlas:
        return np.zeros(spec.size, np.uint8)
    grain = _smooth(spec, rng, 8.0, 1.0)
    labels = np.digitize(grain, np.linspace(-1.0, 1.0, len(ALL_REGIONS)))
    return np.where(_smooth(spec, rng, 20.0, 1.0) > -0.4, labels, 0).astype(np.uint8)


def _ellipse(
    y: Float2D, x: Float2D, centre_mm: tuple[float, float], axes_mm: tuple[float, float], turn: float
) -> Bool2D:
    """Inside an ellipse with half-axes (anterior-posterior, left-right) turned by ``turn`` radians."""
    dy, dx = y - centre_mm[0], x - centre_mm[1]
    along, across = dy * np.cos(turn) + dx * np.sin(turn), dx * np.cos(turn) - dy * np.sin(turn)
    return np.asarray((along / axes_mm[0]) ** 2 + (across / axes_mm[1]) ** 2 <= 1.0)


def _smooth(spec: InputSpec, rng: np.random.Generator, sigma_mm: float, amplitude_hu: float) -> Float2D:
    """Random texture with a given grain."""
    grain = ndimage.gaussian_filter(rng.normal(size=spec.size), sigma_mm / spec.pixel_mm)
    return np.asarray(grain * (amplitude_hu / max(float(grain.std()), 1e-9)), np.float32)
