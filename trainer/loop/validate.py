"""Validation during training: Dice per patient on the model's own slices, both arms joined as on the node.

Quicker than ``trainer evaluate``, which measures on the canonical grid: no volume is interpolated, and the
frozen features of these slices, which no augmentation changes, can be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from strokecore.arrays import BoolArray, dice_of_counts
from strokecore.errors import UsageError
from strokecore.head.grid import voxel_volume_ml
from strokecore.learned.arms import Arm, infarct_probability, sg_share
from strokecore.learned.preprocessing import with_neighbours
from trainer.config import Recipe
from trainer.data.batch import PLAIN, SliceKey
from trainer.data.frozen import Features
from trainer.data.slices import CaseSlices
from trainer.loss.tagl import ArmSlices, slice_losses

# Probability from which a pixel counts as infarct here; the package's own threshold is fitted at export.
THRESHOLD: Final = 0.5
# Slices at once; bounds memory, not results.
_BATCH: Final = 32


@dataclass(frozen=True)
class Validation:
    """One validation.

    Attributes
    ----------
    step: optimiser steps before it.
    dice: mean over the patients with infarct; a lesion-free patient has no Dice.
    loss: plain loss, mean over slices, each of its own arm.
    false_ml: mean volume called infarct in lesion-free patients; None without such patients.
    patients: Dice of each patient with infarct, by id.
    """

    step: int
    dice: float
    loss: float
    false_ml: float | None
    patients: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "threshold": THRESHOLD, "on": "model slices"}


class Validator:
    """Validates decoders on the same cases; each process takes its share of them.

    Parameters
    ----------
    features: gives the frozen features of slices from their keys, HU [m, slabs, H, W] and territories.
    """

    def __init__(
        self,
        slices: Sequence[CaseSlices],
        features: Features,
        recipe: Recipe,
        fabric: Fabric,
    ) -> None:
        """Raises UsageError when no case has an infarct: there is no Dice to choose weights by."""
        if not any(case.lesion_rows.any() for case in slices):
            raise UsageError(
                f"none of the {len(slices)} validation cases has an infarct, so no weights can be chosen; "
                "prepare data with infarcts in the split 'validate'."
            )
        self.slices = slices
        self.features = features
        self.recipe = recipe
        self.fabric = fabric

    @torch.no_grad()
    def __call__(self, decoder: nn.Module, step: int) -> Validation:
        """Validate ``decoder``, which is in eval mode; the same result in every process."""
        # per case: overlap, predicted, true (pixels), sum of losses, slices
        sums = torch.zeros(len(self.slices), 5, dtype=torch.float64)
        for index in range(self.fabric.global_rank, len(self.slices), self.fabric.world_size):
            sums[index] = self._case(decoder, self.slices[index])
        sums = torch.as_tensor(self.fabric.all_reduce(sums.to(self.fabric.device), reduce_op="sum")).cpu()
        both, predicted, true, losses, count = sums.unbind(1)
        dice = dice_of_counts(both, predicted + true)
        patients = {
            case.record.id: float(value)
            for case, value, has in zip(self.slices, dice, true > 0, strict=True)
            if has
        }
        pixel_mm = self.slices[0].pixel_mm
        pixel_ml = voxel_volume_ml((pixel_mm, pixel_mm, self.recipe.input.slice_mm))
        false_ml = predicted[true == 0] * pixel_ml
        return Validation(
            step=step,
            dice=float(np.mean(list(patients.values()))),
            loss=float(losses.sum() / count.sum()),
            false_ml=float(false_ml.mean()) if len(false_ml) else None,
            patients=patients,
        )

    def _case(self, decoder: nn.Module, case: CaseSlices) -> Tensor:
        rows = np.flatnonzero(case.brain.any(axis=(1, 2)))
        share = sg_share(case.z_mm, case.record.level_plane_mm)
        sums = torch.zeros(5, dtype=torch.float64)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            hu = torch.from_numpy(with_neighbours(case.hu, part, self.recipe.input).astype(np.float32))
            territories = torch.from_numpy(case.territories[part])
            taps = self.features([SliceKey(case.record.id, int(row), PLAIN) for row in part], hu, territories)
            logits: tuple[Tensor, Tensor] = decoder(taps, tuple(hu.shape[-2:]))
            bg, sg = (arm.float().softmax(1).cpu().numpy() for arm in logits)
            called = infarct_probability(bg, sg, share[part]) >= THRESHOLD
            lesion = case.bg_target[part] > 0
            sums[:3] += torch.tensor([(called & lesion).sum(), called.sum(), lesion.sum()])
            upper = share[part] >= 0.5
            sums[3] += self._losses(logits[0], case, "bg", part, ~upper).sum().double().cpu()
            sums[3] += self._losses(logits[1], case, "sg", part, upper).sum().double().cpu()
            sums[4] += len(part)
        return sums

    def _losses(
        self,
        logits: Tensor,
        case: CaseSlices,
        arm: Arm,
        rows: npt.NDArray[np.intp],
        mine: BoolArray,
    ) -> Tensor:
        """Plain losses of those of ``rows`` that are the arm's, [mine.sum()]."""
        device = logits.device
        chosen = rows[mine]
        return slice_losses(
            ArmSlices(
                logits[torch.from_numpy(np.flatnonzero(mine)).to(device)],
                torch.from_numpy(case.target(arm)[chosen].astype(np.int64)).to(device),
                torch.from_numpy(case.brain[chosen]).to(device),
                torch.from_numpy(case.territories[chosen]).to(device),
                torch.full((len(chosen),), case.binary, device=device),
            ),
            self.recipe.loss,
        )
