"""The gate of the Territory-Aware Gated Loss: how sure, and rightly so, the BG arm is of a slice.

The paper's abstract says that supervision is gated by basal-ganglia (BG) confidence. What confidence is,
how it becomes a gate and that the gate is compared with a running median are our definition (docs/tagl.md).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

# Confidences are compared with their like: those of masks with lesion (1) and without (0).
STRATA: Final = 2


def confidence(infarct: Tensor, lesion: Tensor, mask: Tensor) -> Tensor:
    """c: probability that the BG arm gives to the truth, lesion and healthy tissue counting alike.

    With lesion: c = (mean p(infarct) over lesion + mean 1 - p(infarct) over the mask without lesion) / 2.
    Without: c = mean 1 - p(infarct) over the mask. So a slice called infarct everywhere gets 1/2 with lesion
    and 0 without, as little as any answer that does not look at the slice can get.

    Parameters
    ----------
    infarct: float32 [..., H, W], p(infarct) = 1 - p(background).
    lesion: bool [..., H, W], truth.
    mask: bool [..., H, W], where healthy tissue is looked at: the brain, or one territory.

    Returns
    -------
    float32 [...], 0 to 1, without gradient. A mean over nothing is 0: what was not looked at opens nothing.
    """
    infarct = infarct.detach()
    inside = _masked_mean(infarct, lesion)
    outside = _masked_mean(1 - infarct, mask & ~lesion)
    return torch.where(lesion.any(dim=(-2, -1)), (inside + outside) / 2, outside)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1)


class ConfidenceGate(nn.Module):
    """g = sigmoid((c - tau_s) / T), tau_s the running median of c in stratum s. No gradient passes.

    The median is over the last ``window`` confidences of a stratum, held in a ring that is part of
    ``state_dict()``: a resumed run continues with the same tau. New confidences enter before tau is read, so
    that the first batch is compared with its own median and not with a guess; they enter only in training
    mode. In several processes each keeps its own ring, an estimate of the same median.

    Buffers
    -------
    ring: float32 [2, window], the latest confidences; seen: int64 [2], how many ever entered.
    """

    ring: Tensor
    seen: Tensor

    def __init__(self, temperature: float, window: int) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("ring", torch.zeros(STRATA, window))
        self.register_buffer("seen", torch.zeros(STRATA, dtype=torch.int64))

    @torch.no_grad()
    def forward(self, c: Tensor, lesion: Tensor, counts: Tensor | None = None) -> Tensor:
        """Gates of confidences.

        Parameters
        ----------
        c: float32, any shape, from ``confidence``.
        lesion: bool, same shape: the stratum.
        counts: bool, same shape: False keeps an entry out of the median (a territory the slice lacks).

        Returns
        -------
        float32, same shape, 0 to 1; 1/2 while its stratum has no median.
        """
        if self.training:
            for stratum, members in enumerate((~lesion, lesion)):
                self._remember(stratum, c[members if counts is None else members & counts])
        tau = self.tau()[lesion.long()]
        return torch.sigmoid((c - torch.where(tau.isnan(), c, tau)) / self.temperature)

    def tau(self) -> Tensor:
        """float32 [2]: medians of the strata without and with lesion; NaN before a stratum's first value."""
        filled = torch.arange(self.ring.shape[1], device=self.ring.device) < self.seen[:, None]
        return self.ring.masked_fill(~filled, torch.nan).nanquantile(0.5, dim=1)

    def _remember(self, stratum: int, new: Tensor) -> None:
        window = self.ring.shape[1]
        new = new[-window:]
        places = (self.seen[stratum] + torch.arange(len(new), device=new.device)) % window
        self.ring[stratum, places] = new
        self.seen[stratum] += len(new)


def sg_weights(gate: Tensor, lesion: Tensor, w0: float) -> Tensor:
    """w = w0 + (1 - w0) g, divided by its mean over the pairs of the same stratum in the batch.

    So the SG slices of a stratum weigh together what they weigh in the control, and an ablation compares the
    gate, not a learning rate. A pair alone in its stratum weighs 1: small batches hardly gate. With w0 = 1
    every weight is exactly 1.

    Parameters
    ----------
    gate: float32 [n]; lesion: bool [n], the stratum of each pair.

    Returns
    -------
    float32 [n].
    """
    weight = w0 + (1 - w0) * gate
    same = lesion[:, None] == lesion
    return weight / ((same * weight).sum(1) / same.sum(1))
