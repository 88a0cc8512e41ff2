"""A U-Net that compares the two sides of the head feature by feature; trained from end to end.

A radiologist compares a place with its partner across the midline. Here one encoder sees the slices and
their mirror images; at every scale the features of a place and of its partner, seen from the same side, are
fused before they are decoded. Both orientations are decoded and their log-odds averaged, so that the mirror
image of a head always gets the mirror image of its answer.

The shape is Ronneberger et al., "U-Net", MICCAI 2015, with the habits of Isensee et al., "nnU-Net", Nature
Methods 2021 (instance norm, leaky ReLU). A frozen vision transformer may look too: its last features join the
encoder's coarsest ones, which are then as wide as its patches.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from strokecore.learned.arms import BG_CLASSES, SG_CLASSES

# Channels of each scale relative to those of the finest.
WIDTHS: Final = (1, 2, 4, 6)
# The coarsest scale's pixels are so many of the input's.
COARSEST: Final = 2 ** (len(WIDTHS) - 1)
# Added to the variance of a channel. With the customary 1e-5 an even slice's rounding errors grow by 300 in
# every layer, and no two libraries answer alike.
_EPSILON: Final = 1e-3


class Block(nn.Module):
    """Two 3 x 3 convolutions, each with instance norm and leaky ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layer(before, after), *_layer(after, after))

    def forward(self, x: Tensor) -> Tensor:
        """[n, before, h, w] to [n, after, h, w]."""
        return torch.as_tensor(self.layers(x))


class MirrorUNet(nn.Module):
    """Class logits of both arms from slices, whatever their side.

    Parameters
    ----------
    channels: of the input. features: channels of the finest scale.
    dropout: share of the coarsest scale's channels dropped in training.
    frozen_width: channels of the frozen features that join the coarsest scale; 0: none join.
    """

    def __init__(self, channels: int, features: int, dropout: float, frozen_width: int = 0) -> None:
        super().__init__()
        widths = [features * width for width in WIDTHS]
        self.encoder = nn.ModuleList(
            Block(before, after) for before, after in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.frozen = nn.Conv2d(frozen_width, widths[-1], 1) if frozen_width else None
        self.fuse = nn.ModuleList(nn.Sequential(*_layer(2 * width, width, 1)) for width in widths)
        self.dropout = nn.Dropout2d(dropout)
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(Block(2 * width, width) for width in widths[:-1])
        self.bg = nn.Conv2d(features, len(BG_CLASSES), 1)
        self.sg = nn.Conv2d(features, len(SG_CLASSES), 1)

    def forward(self, taps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits of both arms for every slice.

        Parameters
        ----------
        taps: the slices [n, channels, H, W] and, where a frozen backbone looks too, its features of them and
            of their mirror images, both [n, frozen_width, H / 8, W / 8].
        size: (H, W).

        Returns
        -------
        BG logits [n, 9, H, W] and SG logits [n, 6, H, W], in the order of strokecore.learned.arms.
        """
        slices, *frozen = taps
        own = self._encoded(slices, frozen[:1])
        mirrored = self._encoded(slices.flip(-1), frozen[1:])
        forward, backward = self._decoded(own, mirrored), self._decoded(mirrored, own)
        bg, sg = ((arm(forward) + arm(backward).flip(-1)) / 2 for arm in (self.bg, self.sg))
        assert (bg.shape[-2], bg.shape[-1]) == tuple(size), "a U-Net answers at its input's size"
        return bg, sg

    def _encoded(self, x: Tensor, frozen: list[Tensor]) -> list[Tensor]:
        """Features of every scale, the finest first; ``frozen``: the backbone's, where it looks too."""
        scales = []
        for index, block in enumerate(self.encoder):
            x = block(functional.avg_pool2d(x, 2) if index else x)
            scales.append(x)
        if self.frozen is not None:
            scales[-1] = scales[-1] + self.frozen(frozen[0])
        return scales

    def _decoded(self, own: list[Tensor], partner: list[Tensor]) -> Tensor:
        """Features [n, features, H, W] of one orientation from those of both, ``partner`` the other one's."""
        fused = [fuse(torch.cat(pair, 1)) for fuse, *pair in zip(self.fuse, own, partner, strict=True)]
        x = self.dropout(fused[-1])
        for index in reversed(range(len(self.decoder))):
            wide = functional.interpolate(
                self.narrow[index](x), size=fused[index].shape[-2:], mode="bilinear", align_corners=False
            )
            x = self.decoder[index](torch.cat([wide, fused[index]], 1))
        return torch.as_tensor(x)


def _layer(before: int, after: int, kernel: int = 3) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
        nn.InstanceNorm2d(after, eps=_EPSILON, affine=True),
        nn.LeakyReLU(0.01),
    ]
