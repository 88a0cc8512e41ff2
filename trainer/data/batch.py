"""What one training step sees: slices, their truth, and their names in the feature cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from strokecore.learned.preprocessing import InputSpec, to_channels
from trainer.loss.tagl import ArmSlices

Kind = Literal["pairs", "singles"]

# Version 0 of a slice is the slice itself; augmented versions count from 1. Slices that are augmented anew in
# each step have none.
PLAIN: Final = 0
UNCACHED: Final = -1


class SliceKey(NamedTuple):
    """Names one slice's pixels for the feature cache. version: PLAIN, 1.. or UNCACHED."""

    case_id: str
    row: int
    version: int


@dataclass(frozen=True, eq=False)
class ArmTruth:
    """The truth of one arm's slices of a batch; see ``trainer.loss.tagl.ArmSlices`` for what each means.

    Attributes
    ----------
    rows: which slices of the batch.
    target: int64 [k, H, W]; brain: bool [k, H, W]; territories: uint8 [k, H, W]; binary: bool [k].
    """

    rows: slice
    target: Tensor
    brain: Tensor
    territories: Tensor
    binary: Tensor

    def with_logits(self, logits: Tensor) -> ArmSlices:
        """For the loss. ``logits`` [m, K, H, W] are the arm's for the whole batch."""
        return ArmSlices(logits[self.rows], self.target, self.brain, self.territories, self.binary)

    def to(self, device: torch.device | str) -> ArmTruth:
        """The same on another device."""
        return ArmTruth(
            self.rows,
            *(
                t.to(device, non_blocking=True)
                for t in (self.target, self.brain, self.territories, self.binary)
            ),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's slices: first the BG arm's, then as many of the SG arm's.

    Attributes
    ----------
    kind: "pairs": slice i and slice i + k, k half of the batch, are of one patient; "singles": from anywhere.
    hu: float32 [m, slabs, H, W], augmented, in the order of InputSpec.slabs; stays in main memory, where
        windows and cache are.
    bg, sg: truth of the two halves.
    keys: of each slice, for the feature cache.
    """

    kind: Kind
    hu: Tensor
    bg: ArmTruth
    sg: ArmTruth
    keys: tuple[SliceKey, ...]

    def channels(self, spec: InputSpec) -> Tensor:
        """The network's input, float32 [m, channels, H, W]; mirror channels mirror the augmented slice."""
        return torch.from_numpy(to_channels(self.hu.numpy(), self.territories.numpy(), spec))

    @property
    def territories(self) -> Tensor:
        """Of all slices, as their truths have them; uint8 [m, H, W]."""
        return torch.cat([self.bg.territories, self.sg.territories])

    def arms(self, bg_logits: Tensor, sg_logits: Tensor) -> tuple[ArmSlices, ArmSlices]:
        """The loss's input from both arms' logits [m, K, H, W] for the whole batch."""
        return self.bg.with_logits(bg_logits), self.sg.with_logits(sg_logits)

    def to(self, device: torch.device | str) -> Batch:
        """The truth on another device."""
        return replace(self, bg=self.bg.to(device), sg=self.sg.to(device))
