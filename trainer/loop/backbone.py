"""The network of a recipe, with its frozen backbone's weights."""

from __future__ import annotations

import logging

import torch

from strokecore.errors import UsageError
from trainer.config import Recipe
from trainer.network.vit_dpt import NO_BACKBONE, FrozenBackbone, StrokeNet
from trainer.network.weights import BackboneOrigin, load_backbone, no_origin, random_origin

log = logging.getLogger(__name__)


def build_network(recipe: Recipe) -> tuple[StrokeNet, BackboneOrigin]:
    """The network with a fresh decoder, on the CPU, and where its backbone came from.

    The decoder's first values depend on ``recipe.seed`` and ``recipe.network`` only, not on the weights or on
    torch's random state, which is left as it was.

    Raises UsageError when the weights that the recipe names cannot be used.
    """
    weights, name = recipe.weights, recipe.network.backbone
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = StrokeNet(recipe.network)
    if name == NO_BACKBONE:
        return net, no_origin()
    assert isinstance(net.backbone, FrozenBackbone), "every other network has one"
    if weights.source == "random":
        if weights.sha256:
            raise UsageError("weights.sha256 is given but weights.source is 'random'; remove one of them.")
        log.warning("the backbone %s holds random values: it has learned nothing before", name)
        return net, random_origin(net.backbone, name)
    origin = load_backbone(net.backbone, name, weights.source, weights.sha256)
    if not origin.checked:
        log.warning("weights.sha256 is not given: the backbone's file, %s, was not checked", origin.sha256)
    return net, origin
