"""The recipe: everything that decides a training run, as a small tree of checked values.

Recipes are YAML files in trainer/recipes; jsonargparse reads them into these dataclasses, so that a misspelt
or mistyped key is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from strokecore.errors import UsageError
from strokecore.learned.preprocessing import InputSpec
from trainer.loss.config import TaglConfig
from trainer.network.vit_dpt import NO_BACKBONE, NetworkConfig

Precision = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training slice pair; both slices of a pair get the same.

    Attributes
    ----------
    probability: share of the pairs that are changed at all.
    flip: mirror left and right, labels included.
    rotate_deg, scale, shift_mm: largest in-plane rotation, relative change of size, and shift. Small: the
        node's head frame is right to 1-2 mm, and a head that is moved by d lies 2 d beside its mirror image.
    shift_hu, scale_hu: largest offset and relative change of density.
    noise_hu: largest standard deviation of added noise.
    blur_mm: largest standard deviation of a Gaussian blur, as a softer kernel would do.
    texture_hu: largest standard deviation of added texture of a few millimetres' grain.
    shading_hu: largest density added from the middle to an edge of the slice, across and along.
    fresh_infarct: share of the pairs with infarct that show one that was just drawn into a head without
        (trainer.data.fresh_infarct); the rest shows those of the data.
    fresh_hu: least and largest depth of such an infarct in grey matter.
    """

    probability: float = 0.9
    flip: bool = True
    rotate_deg: float = 2.0
    scale: float = 0.08
    shift_mm: float = 2.0
    shift_hu: float = 2.0
    scale_hu: float = 0.04
    noise_hu: float = 1.5
    blur_mm: float = 1.0
    texture_hu: float = 0.0
    shading_hu: float = 0.0
    fresh_infarct: float = 0.0
    fresh_hu: tuple[float, float] = (1.5, 9.0)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UsageError(f"augment.probability is {self.probability}, expected 0 to 1.")
        if not 0 <= self.fresh_infarct <= 1 or not 0 < self.fresh_hu[0] <= self.fresh_hu[1]:
            raise UsageError(
                f"augment.fresh_infarct is {self.fresh_infarct}, expected 0 to 1; fresh_hu {self.fresh_hu}, "
                "expected (least, largest) above 0."
            )
        for name, value in asdict(self).items():
            if name not in ("flip", "fresh_hu") and value < 0:
                raise UsageError(f"augment.{name} is {value}, expected 0 or more.")


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Attributes
    ----------
    steps: optimiser steps of the whole run.
    pairs: BG-SG pairs per step and process; a single-slice step has twice as many slices.
    single_share: share of the steps that draw single slices from anywhere (own arm, plain loss).
    learning_rate, weight_decay: of AdamW; the rate rises over ``warmup_steps`` and falls as a cosine to 1 %.
    clip_norm: largest norm of the gradient.
    ema_decay: of the running mean of the weights that is validated and exported.
    validate_every: steps between validations; patience: validations without a better Dice before stopping.
    precision: "32-true" or "bf16-mixed".
    cached_features: how many augmented versions of each training slice's frozen features are kept; 0: none,
        features are computed anew in every step. With ``augment.probability`` 0 and one version, training is
        the same as without the cache; else augmentations are drawn from this many instead of always new.
    workers: processes that prepare batches; 0 in the training process.
    """

    steps: int = 1000
    pairs: int = 8
    single_share: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    clip_norm: float = 1.0
    ema_decay: float = 0.99
    validate_every: int = 100
    patience: int = 10
    precision: Precision = "32-true"
    cached_features: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "validate_every", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"training.{name} is {getattr(self, name)}, expected 1 or more.")
        for name in ("warmup_steps", "cached_features", "workers", "weight_decay"):
            if getattr(self, name) < 0:
                raise UsageError(f"training.{name} is {getattr(self, name)}, expected 0 or more.")
        if not 0 <= self.single_share <= 1 or not 0 <= self.ema_decay < 1:
            raise UsageError(
                f"training.single_share is {self.single_share}, ema_decay {self.ema_decay}; expected 0 to 1."
            )
        if self.learning_rate <= 0 or self.clip_norm <= 0:
            raise UsageError("training.learning_rate and clip_norm must be above 0.")


@dataclass(frozen=True)
class WeightsConfig:
    """Where the frozen backbone's weights come from.

    Attributes
    ----------
    source: "shipped" (the tiny backbone in this package), "none" (a network without one), "random" (tests
        only: a model that has learned nothing before), or a path: a folder as trainer pretrain or
        transformers saves it, or Meta's original .pth file. Never a download.
    sha256: hash that the weights' file must have; empty: not checked, and the run's record says so.
    """

    source: str = "shipped"
    sha256: str = ""

    def __post_init__(self) -> None:
        if not self.source:
            raise UsageError("weights.source is empty, expected 'shipped' or the path of the weights.")
        if self.sha256 and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise UsageError(
                f"weights.sha256 is {self.sha256!r}, expected 64 hexadecimal digits as sha256sum prints them."
            )


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes
    ----------
    name: of the model; becomes the package's name.
    seed: of every random draw.
    """

    name: str
    seed: int = 1
    network: NetworkConfig = field(default_factory=NetworkConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    input: InputSpec = field(default_factory=InputSpec)
    loss: TaglConfig = field(default_factory=TaglConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if not self.name or not all(c.isalnum() or c in "-_." for c in self.name):
            raise UsageError(f"name is {self.name!r}, expected letters, digits, '-', '_' and '.'.")
        if self.input.channel_count != self.network.channels:
            raise UsageError(
                f"input has {self.input.channel_count} channels and network.channels is "
                f"{self.network.channels}; write down the same number."
            )
        unit = self.network.multiple
        if any(side % unit for side in self.input.size):
            raise UsageError(f"input.size is {self.input.size}, expected multiples of {unit}.")
        if (self.network.backbone == NO_BACKBONE) != (self.weights.source == NO_BACKBONE):
            raise UsageError(
                f"network.backbone is {self.network.backbone!r} and weights.source {self.weights.source!r}; "
                "a network without a backbone has both 'none'."
            )
        if self.augment.fresh_infarct and self.training.cached_features:
            raise UsageError(
                "training.cached_features keeps features of slices that come again, and "
                "augment.fresh_infarct draws new ones in every step; set one of them to 0."
            )
        if self.network.decoder != "dpt" and self.training.cached_features:
            raise UsageError(
                "training.cached_features keeps frozen features alone, and decoder 'mirror_unet' looks at "
                "the slices too; set it to 0."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON- and YAML-ready values."""
        augment = {**asdict(self.augment), "fresh_hu": list(self.augment.fresh_hu)}
        own = {"network": self.network.to_dict(), "input": self.input.to_dict(), "augment": augment}
        return {**asdict(self), **own}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises UsageError that names the file and what is wrong in it."""
    if not path.is_file():
        raise UsageError(f"recipe {path} is not there; recipes that ship are in trainer/recipes.")
    return _read(f"recipe {path}", lambda parser: parser.parse_path(str(path)))


def recipe_of(values: Mapping[str, Any]) -> Recipe:
    """The recipe of ``Recipe.to_dict``, of this version or an earlier one that had fewer settings.

    Raises UsageError that says what is wrong in it.
    """
    return _read("the recorded recipe", lambda parser: parser.parse_object(dict(values)))


def _read(name: str, parse: Callable[[Any], Any]) -> Recipe:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        return Recipe(**vars(parser.instantiate(parse(parser))))
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except Exception as error:  # jsonargparse, yaml and dataclasses each raise their own
        raise UsageError(f"{name} cannot be read: {error}") from error
