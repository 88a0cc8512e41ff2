"""The frozen backbone's features of slices: computed anew, or kept from the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from strokecore.learned.preprocessing import to_channels
from trainer.config import Recipe
from trainer.data.batch import SliceKey
from trainer.data.cases import Dataset
from trainer.data.features import FeatureCache
from trainer.data.slices import CaseSlices
from trainer.network.vit_dpt import StrokeNet

# Keys, HU float32 [m, slabs, H, W] and territories uint8 [m, H, W] of slices, to the four taps
# [m, hidden, h, w] on the training's device.
Features = Callable[[Sequence[SliceKey], Tensor, Tensor], tuple[Tensor, ...]]


def frozen_features(
    net: StrokeNet, recipe: Recipe, dataset: Dataset, slices: Sequence[CaseSlices], fabric: Fabric
) -> Features:
    """Where a training takes its features from, as ``training.cached_features`` says.

    Kept features lie beside the data, in DATA/features, where all runs on the same data find them.

    Raises UsageError when there is no room for those of ``slices``.
    """

    def computed(keys: Sequence[SliceKey], hu: Tensor, territories: Tensor) -> tuple[Tensor, ...]:
        channels = torch.from_numpy(to_channels(hu.numpy(), territories.numpy(), recipe.input))
        with fabric.autocast():
            return net.taps(channels.to(fabric.device))

    if not recipe.training.cached_features:
        return computed
    return FeatureCache(dataset.folder / "features", net, recipe, dataset.sha256, slices).features
