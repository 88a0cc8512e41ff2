"""Two worlds to simulate in: the one that models are trained in, made wide, and one outside it.

Domain randomisation (Tobin et al., IROS 2017; for brain images Billot et al., SynthSeg, Med Image Anal
2023;86:102789): a model that has seen contrast, noise, kernels and anatomy vary by more than scanners and
people do should take a real scan for one more variation. Whether it does is tested in a world whose
contrast, noise and texture lie outside everything that training drew: ``unseen_fields``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

# Ranges of the training world: around the simulator's usual value of 1 (noise: 3.0-4.2 HU of a 5 mm slice).
CONTRAST: Final = (0.75, 1.25)
NOISE_HU: Final = (2.0, 5.5)
TEXTURE: Final = (0.5, 1.5)
TEXTURE_MM: Final = (1.8, 4.0)
SHARPNESS: Final = (0.75, 1.35)
ASYMMETRY: Final = (0.5, 1.4)
CUPPING: Final = (0.3, 1.4)
SHAPE_SPREAD: Final = (0.7, 1.3)
BRAIN_SHIFT_HU: Final = (-3.0, 3.0)
_CALCIUM_SHARE: Final = 0.25
_CALCIUM: Final = (0.1, 1.0)

# The unseen world: on either side of the training world, as (low range, high range). Very low contrast is
# left out: no reader would read such a scan.
UNSEEN_CONTRAST: Final = ((0.6, 0.72), (1.3, 1.5))
UNSEEN_NOISE_HU: Final = ((1.2, 1.9), (5.7, 7.0))
UNSEEN_TEXTURE: Final = ((0.0, 0.4), (1.6, 2.2))
UNSEEN_TEXTURE_MM: Final = ((4.5, 7.0),)
UNSEEN_SHARPNESS: Final = ((0.6, 0.72), (1.4, 1.6))

# Streams apart from the simulator's own (1-7) and the trainer's (101).
_TRAINING_STREAM: Final = 102
_UNSEEN_STREAM: Final = 103


def training_fields(seed: int) -> dict[str, Any]:
    """Fields of SampleSpec from the training world: contrast, noise, texture, kernel, shape, calcium."""
    rng = np.random.default_rng([seed, _TRAINING_STREAM])
    drawn = {
        "contrast": rng.uniform(*CONTRAST),
        "noise_hu": rng.uniform(*NOISE_HU),
        "texture": rng.uniform(*TEXTURE),
        "texture_mm": rng.uniform(*TEXTURE_MM),
        "sharpness": rng.uniform(*SHARPNESS),
        "asymmetry": rng.uniform(*ASYMMETRY),
        "cupping": rng.uniform(*CUPPING),
        "shape_spread": rng.uniform(*SHAPE_SPREAD),
        "brain_shift_hu": rng.uniform(*BRAIN_SHIFT_HU),
        "basal_ganglia_calcium": rng.uniform(*_CALCIUM) if rng.random() < _CALCIUM_SHARE else 0.0,
    }
    return {name: round(float(value), 3) for name, value in drawn.items()}


def unseen_fields(seed: int) -> dict[str, Any]:
    """Fields of SampleSpec with contrast, noise, texture and kernel that no training head has."""
    rng = np.random.default_rng([seed, _UNSEEN_STREAM])
    ranges = {
        "contrast": UNSEEN_CONTRAST,
        "noise_hu": UNSEEN_NOISE_HU,
        "texture": UNSEEN_TEXTURE,
        "texture_mm": UNSEEN_TEXTURE_MM,
        "sharpness": UNSEEN_SHARPNESS,
    }
    return {
        name: round(float(rng.uniform(*parts[int(rng.integers(len(parts)))])), 3)
        for name, parts in ranges.items()
    }
