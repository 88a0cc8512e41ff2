"""What an engine gets and gives. Trained models and the weight-free engine share this protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from strokecore.anatomy.regions import RegionId, Side
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.head.canonical import Head
from strokecore.head.grid import Grid
from strokecore.result import INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, ModelInfo

# Decision point of an engine whose probabilities are calibrated and that names no other.
REGION_THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class RegionEvidence:
    """An engine's evidence for one region; None where it could not be measured.

    ``borderline``: the call depends on how the region's borders are drawn.
    """

    probability: float | None
    mean_hu: float | None
    contralateral_difference_hu: float | None
    borderline: bool = False


UNKNOWN: Final = RegionEvidence(None, None, None)
"""Evidence for a region that could not be judged."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """An engine's answer.

    Attributes
    ----------
    probability: float32 [z, y, x] in 0..1, probability of early ischaemic change.
    acute: bool [z, y, x], early infarct.
    old: bool [z, y, x], old (CSF-like) infarct; disjoint from ``acute``.
    evidence: one RegionEvidence per region (20).
    other: bool [z, y, x], hypodense tissue that is neither; None where the engine does not tell.
    threshold: probability from which this engine calls a region affected.
    """

    probability: Float32Array
    acute: BoolArray
    old: BoolArray
    evidence: Mapping[RegionId, RegionEvidence] = field(default_factory=dict)
    other: BoolArray | None = None
    threshold: float = REGION_THRESHOLD

    def labels(self, grid: Grid) -> UInt8Array:
        """The label map of strokecore.result.SourceMasks, still on ``grid``; uint8 [z, y, x]."""
        labels = self.acute.astype(np.uint8) * np.uint8(INFARCT["left"])
        labels[grid.side_columns("right")] *= INFARCT["right"] // INFARCT["left"]
        if self.other is not None:
            labels[self.other & (labels == 0)] = OTHER_HYPODENSITY
        labels[self.old] = OLD_INFARCT
        return labels

    def other_ml(self, grid: Grid) -> float:
        """Volume of the hypodensity that is neither early nor old infarct, millilitres to three digits."""
        return 0.0 if self.other is None else round(grid.ml(self.other & ~self.acute & ~self.old), 3)

    def infarct_ml(self, grid: Grid) -> dict[Side, float]:
        """Volume of the early infarct of each side, millilitres to three digits."""
        return {side: round(grid.ml(self.acute[grid.side_columns(side)]), 3) for side in ("left", "right")}

    def old_ml(self, grid: Grid) -> float:
        """Volume of the old infarct, millilitres to three digits."""
        return round(grid.ml(self.old), 3)


class Engine(Protocol):
    """Segments early ischaemic change in one head.

    Attributes
    ----------
    name, version, sha256: of the model; for the weight-free engine of its rules and constants.
    engine: what runs it, as in ``--engine``.
    precision: of the numbers that it computes with, such as "fp32".
    fallbacks: what would have been preferred and why it did not score, such as "openvino bf16: refused by
        the parity gate (dice_loss 0.09 > 0.005)"; no paths, nothing of the patient.

    A trained model can change engine, precision and fallbacks in ``segment``: they are read after it.
    """

    name: str
    version: str
    sha256: str

    @property
    def engine(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def fallbacks(self) -> tuple[str, ...]: ...

    def segment(self, head: Head) -> Lesion: ...


def model_info(engine: Engine) -> ModelInfo:
    """What segments or, after ``segment``, what did."""
    return ModelInfo(
        engine.name, engine.version, engine.sha256, engine.engine, engine.precision, engine.fallbacks
    )
