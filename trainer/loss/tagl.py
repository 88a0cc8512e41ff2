"""The Territory-Aware Gated Loss (TAGL), and the plain cross-entropy and Dice under it.

Known of the paper (arXiv 2602.23961, abstract): cross-entropy + Dice on two arms, basal-ganglia (BG) and
supraganglionic (SG), and a loss that gates supervision by BG confidence so that the two levels agree. The
equations were not available; what follows is our definition, explained on one page in docs/tagl.md::

    L = mean(L_b) + mean(w L_s) + lambda mean(g C)

L_b, L_s  plain loss of a BG and of an SG slice of the same patient      ``slice_losses``
g         gate of the pair, from the BG arm's confidence c               ``trainer.loss.confidence_gate``
w         weight of the SG slice, from g, mean 1 in each stratum         ``sg_weights`` there
C         disagreement of coupled territories                            ``trainer.loss.coupling``

In the first ``plain_share`` of the training, and with ``TaglConfig.control()`` always, L is exactly
mean(L_b) + mean(L_s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from strokecore.anatomy.regions import ALL_REGIONS
from trainer.loss.confidence_gate import ConfidenceGate, confidence, sg_weights
from trainer.loss.config import TaglConfig
from trainer.loss.coupling import disagreement, find_territories

__all__ = [
    "ArmSlices",
    "LossTerms",
    "TaglConfig",
    "TerritoryAwareGatedLoss",
    "infarct_log_odds",
    "region_losses",
    "slice_losses",
]

# Pixels added to both sides of the Dice quotient. One pixel instead of MONAI's 1e-5: in a slice without
# lesion the term is then S / (S + 1), S the sum of p(infarct), which falls smoothly to 0 as the false infarct
# shrinks below a pixel; with 1e-5 it stays at 1 and teaches nothing.
DICE_SMOOTH_PX: Final = 1.0
# A region that a slice shows with fewer pixels is the atlas's border error as likely as the region.
FEWEST_PX: Final = 8


@dataclass(frozen=True)
class ArmSlices:
    """What one arm answered for n slices, and the truth. Raises ValueError when shapes disagree.

    logits: float [n, K, H, W], K classes of ``learned.arms.CLASSES``, background first; any precision.
    target: int64 [n, H, W], class index; 0 or 1 where only infarct is known.
    brain: bool [n, H, W], brain parenchyma.
    territories: uint8 [n, H, W], RegionId.label of the person's atlas, 0 elsewhere. Truth never comes from
        it: it says where the gate and the coupling look.
    binary: bool [n], only infarct yes or no is known of the slice, not the class.
    """

    logits: Tensor
    target: Tensor
    brain: Tensor
    territories: Tensor
    binary: Tensor

    def __post_init__(self) -> None:
        n, _, *plane = self.logits.shape
        for name in ("target", "brain", "territories"):
            if getattr(self, name).shape != (n, *plane):
                raise ValueError(
                    f"{name} is {tuple(getattr(self, name).shape)}, logits {tuple(self.logits.shape)}"
                )
        if self.binary.shape != (n,):
            raise ValueError(f"binary is {tuple(self.binary.shape)}, expected ({n},)")

    @property
    def lesion(self) -> Tensor:
        """bool [n, H, W]: infarct, whatever its class."""
        return self.target > 0


@dataclass(frozen=True)
class LossTerms:
    """One batch's loss: ``total = bg + sg + lambda * coupling``. Only ``total`` carries a gradient.

    total: L, scalar.
    bg: mean(L_b), scalar.
    sg: mean(w L_s), scalar.
    sg_plain: mean(L_s), scalar: comparable between TAGL and its control.
    coupling: mean(g C), scalar; computed in the control and in the plain steps too, but not added.
    confidence: c, [n]. gate: g of each pair, [n]. weight: w as it was used, [n].
    lesion: bool [n], the stratum: the BG slice has lesion.
    valid_pairs: number of territory pairs that entered C, scalar int64.
    """

    total: Tensor
    bg: Tensor
    sg: Tensor
    sg_plain: Tensor
    coupling: Tensor
    confidence: Tensor
    gate: Tensor
    weight: Tensor
    lesion: Tensor
    valid_pairs: Tensor


class TerritoryAwareGatedLoss(nn.Module):
    """L of a batch of pairs; its state is the running medians tau of the gates.

    The loss is computed in float32 from logits of any precision, because the sums over a slice have more
    terms than bf16 has digits. Autocast changes nothing: it lowers convolutions and matrix products, and
    there are none here.
    """

    def __init__(self, config: TaglConfig) -> None:
        super().__init__()
        self.config = config
        self.pair_gate = ConfidenceGate(config.temperature, config.median_window)
        if config.gate == "territory":
            self.territory_gate = ConfidenceGate(config.temperature, config.median_window)

    def plain(self, arm: ArmSlices) -> Tensor:
        """Plain loss of single slices of one arm: mean over slices, scalar."""
        return slice_losses(arm, self.config).mean()

    def forward(self, bg: ArmSlices, sg: ArmSlices, progress: float) -> LossTerms:
        """L of n pairs; ``bg[i]`` and ``sg[i]`` are slices of the same patient.

        ``progress`` is the share of the training that is done, 0 to 1. Raises ValueError when the arms have
        different numbers of slices.
        """
        if len(bg.logits) != len(sg.logits):
            raise ValueError(f"{len(bg.logits)} BG slices and {len(sg.logits)} SG slices are not pairs")
        config = self.config
        plain = progress < config.plain_share

        loss_b = slice_losses(bg, config)
        loss_s = slice_losses(sg, config)

        bg_infarct = infarct_log_odds(bg.logits).sigmoid().detach()
        lesion = bg.lesion.any(dim=(1, 2))
        c = confidence(bg_infarct, bg.lesion, bg.brain)
        gate = self.pair_gate(c, lesion)
        weight = sg_weights(gate, lesion, 1.0 if plain else config.w0)

        coupled = not plain and config.coupling_weight > 0
        with torch.set_grad_enabled(coupled and torch.is_grad_enabled()):
            coupling, valid = self._coupling(bg, bg_infarct, sg, gate)

        loss_bg = loss_b.mean()
        loss_sg = (weight * loss_s).mean()
        total = loss_bg + loss_sg
        if coupled:
            total = total + config.coupling_weight * coupling
        return LossTerms(
            total=total,
            bg=loss_bg.detach(),
            sg=loss_sg.detach(),
            sg_plain=loss_s.detach().mean(),
            coupling=coupling.detach(),
            confidence=c,
            gate=gate,
            weight=weight,
            lesion=lesion,
            valid_pairs=valid.sum(),
        )

    def _coupling(
        self, bg: ArmSlices, bg_infarct: Tensor, sg: ArmSlices, pair_gate: Tensor
    ) -> tuple[Tensor, Tensor]:
        """mean(g C), C the mean over the valid territory pairs of two slices (0 if none); and which are."""
        config = self.config
        bg_territories = find_territories(bg.territories, bg.lesion, 0, config.positive_share)
        sg_territories = find_territories(sg.territories, sg.lesion, 1, config.positive_share)
        penalty, valid = disagreement(
            bg_infarct,
            bg_territories,
            infarct_log_odds(sg.logits).sigmoid(),
            sg_territories,
            sg.lesion,
            config.top_percent,
        )
        gate = pair_gate[:, None]
        if config.gate == "territory":
            masks = bg_territories.masks
            lesion = bg.lesion[:, None] & masks
            c = confidence(bg_infarct[:, None], lesion, masks)
            gate = self.territory_gate(c, lesion.any(dim=(2, 3)), bg_territories.present)
        return ((gate * penalty).sum(1) / valid.sum(1).clamp(min=1)).mean(), valid


def infarct_log_odds(logits: Tensor) -> Tensor:
    """log(p(infarct) / p(background)), p(infarct) = 1 - p(background); exact where 1 - softmax would cancel.

    [n, K, H, W], background first, to float32 [n, H, W].
    """
    logits = logits.float()
    return logits[:, 1:].logsumexp(1) - logits[:, 0]


def slice_losses(arm: ArmSlices, config: TaglConfig) -> Tensor:
    """Plain loss of each slice: the weighted sum of cross-entropy, soft Dice and, where it has a weight, the
    regions' cross-entropy (``region_losses``); float32 [n].

    Cross-entropy: mean over the whole slice, not over the brain, because the node reads the whole slice and
    nothing else would teach the arm that skull and air are background. Where only infarct is known: binary
    cross-entropy on p(infarct).

    Dice: mean of 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) over infarct as a whole and each class that
    the slice contains. An absent class has no overlap to measure; counted, it would dilute the present ones.
    Where only infarct is known, or without lesion, infarct as a whole is all there is. Dice is per slice
    (not over the batch) because each SG slice gets its own weight.
    """
    logits = arm.logits.float()
    odds = infarct_log_odds(logits)
    lesion = arm.lesion.float()

    by_class = functional.cross_entropy(logits, arm.target, reduction="none")
    by_infarct = functional.binary_cross_entropy_with_logits(odds, lesion, reduction="none")
    ce = torch.where(arm.binary[:, None, None], by_infarct, by_class).mean((1, 2))

    classes = torch.arange(1, logits.shape[1], device=logits.device)
    truth = arm.target[:, None] == classes[:, None, None]
    measured = truth.any(dim=(2, 3)) & ~arm.binary[:, None]
    measured = functional.pad(measured, (1, 0), value=True)  # infarct as a whole, before the classes
    per_class: Tensor = DiceLoss(reduction="none", smooth_nr=DICE_SMOOTH_PX, smooth_dr=DICE_SMOOTH_PX)(
        torch.cat([odds.sigmoid()[:, None], logits.softmax(1)[:, 1:]], dim=1),
        torch.cat([lesion[:, None], truth.float()], dim=1),
    )  # [n, K, 1, 1]
    dice = (per_class[:, :, 0, 0] * measured).sum(1) / measured.sum(1)
    loss = config.ce_weight * ce + config.dice_weight * dice
    if config.region_weight:
        loss = loss + config.region_weight * region_losses(odds, arm)
    return loss


def region_losses(odds: Tensor, arm: ArmSlices) -> Tensor:
    """How far the regions of each slice are from their truth, every region alike; float32 [n].

    A region's log-odds is the mean of its pixels', its truth the share of them that is lesion; binary
    cross-entropy, mean over the regions in view. Pixel by pixel a caudate counts a twentieth of what M2 does.

    Parameters
    ----------
    odds: float32 [n, H, W], log-odds of infarct.
    """
    labels = arm.territories.long().flatten(1) * arm.brain.flatten(1)
    shape = (len(labels), 1 + max(region.label for region in ALL_REGIONS))

    def total(values: Tensor) -> Tensor:
        """Sum over each region; label 0 is none."""
        return odds.new_zeros(shape).scatter_add_(1, labels, values.flatten(1))[:, 1:]

    size = total(torch.ones_like(odds))
    count = size.clamp(min=1)
    loss = functional.binary_cross_entropy_with_logits(
        total(odds) / count, total(arm.lesion.to(odds.dtype)) / count, reduction="none"
    )
    shown = size >= FEWEST_PX
    return (loss * shown).sum(1) / shown.sum(1).clamp(min=1)
