"""Settings of the Territory-Aware Gated Loss; free of torch, so that recipes are read without it.

The symbols are those of docs/tagl.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from strokecore.errors import UsageError


@dataclasses.dataclass(frozen=True)
class TaglConfig:
    """Every number of the loss. Raises UsageError for values that have no meaning.

    The numbers are this project's: the paper's were not available (docs/tagl.md).

    Parameters
    ----------
    w0: weight, before normalisation, of an SG slice whose gate is shut, in (0, 1]; 1 switches gating off.
    temperature: T of the gate, in units of confidence; smaller is nearer to a step.
    coupling_weight: lambda of the coupling; 0 switches it off.
    top_percent: q: the evidence of a territory is the mean over the q % highest infarct probabilities in it.
    positive_share: share of a territory's pixels in a slice, in (0, 1], from which it is positive.
    plain_share: share of the training, from its start, in which the loss is plain.
    median_window: number of latest confidences per stratum of which tau is the median.
    dice_weight: weight of soft Dice in the plain loss.
    ce_weight: weight of cross-entropy in the plain loss.
    region_weight: weight of the regions' cross-entropy in the plain loss; 0 leaves it out.
    gate: what gates the coupling: the confidence of the whole BG slice ("pair") or that inside the one
        BG territory ("territory"). SG slices are weighted by the pair's gate either way.
    """

    w0: float = 0.3
    temperature: float = 0.1
    coupling_weight: float = 0.1
    top_percent: float = 10.0
    positive_share: float = 0.10
    plain_share: float = 0.10
    median_window: int = 256
    dice_weight: float = 1.0
    ce_weight: float = 1.0
    region_weight: float = 0.0
    gate: Literal["pair", "territory"] = "pair"

    def __post_init__(self) -> None:
        self._check("w0", self.w0, 0 < self.w0 <= 1, "above 0 and at most 1")
        self._check("temperature", self.temperature, self.temperature > 0, "above 0")
        self._check("coupling_weight", self.coupling_weight, self.coupling_weight >= 0, "0 or more")
        self._check("top_percent", self.top_percent, 0 < self.top_percent <= 100, "above 0 and at most 100")
        self._check(
            "positive_share", self.positive_share, 0 < self.positive_share <= 1, "above 0 and at most 1"
        )
        self._check("plain_share", self.plain_share, 0 <= self.plain_share <= 1, "from 0 to 1")
        self._check("median_window", self.median_window, self.median_window >= 1, "1 or more")
        self._check("dice_weight", self.dice_weight, self.dice_weight >= 0, "0 or more")
        self._check("ce_weight", self.ce_weight, self.ce_weight >= 0, "0 or more")
        self._check("region_weight", self.region_weight, self.region_weight >= 0, "0 or more")
        if self.dice_weight == 0 and self.ce_weight == 0:
            raise UsageError(
                "loss.dice_weight and loss.ce_weight are both 0; nothing is learned. Set one above 0."
            )
        if self.gate not in ("pair", "territory"):
            raise UsageError(
                f'loss.gate is {self.gate!r}; expected "pair" or "territory". Correct the recipe.'
            )

    @classmethod
    def control(cls) -> TaglConfig:
        """The ablation's control with default settings: plain cross-entropy and Dice."""
        return cls().as_control()

    def as_control(self) -> TaglConfig:
        """The same settings without gating and coupling (w0 = 1, lambda = 0)."""
        return dataclasses.replace(self, w0=1.0, coupling_weight=0.0)

    def _check(self, name: str, value: float, holds: bool, expected: str) -> None:
        if not holds or not math.isfinite(value):
            raise UsageError(f"loss.{name} is {value}; expected {expected}. Correct the recipe.")
