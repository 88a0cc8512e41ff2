"""What an engine gets and gives. Trained models and the weight-free engine share this protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import RegionId
from strokecore.head.brain import Brain
from strokecore.head.frame import Grid


@dataclass(frozen=True, eq=False)
class Head:
    """One head in the canonical frame: everything an engine may look at.

    Attributes
    ----------
    hu: float32 [z, y, x] on ``grid``; -1024 outside the scan.
    grid: canonical grid, symmetric about the mid-sagittal plane.
    brain: tissue masks on the same grid.
    regions: uint8 [z, y, x], RegionId.label values, 0 elsewhere: the person's atlas regions.
    grey: float32 [z, y, x], expected share of grey matter in brain tissue (0 white, 1 grey), from the
        registered atlas.
    tissue: float32 [z, y, x], expected share of brain tissue (0 CSF or outside, 1 grey or white
        matter), from the registered atlas.
    covered: bool [z, y, x], inside the scanned volume.
    slice_thickness_mm: of the source.
    """

    hu: npt.NDArray[np.float32]
    grid: Grid
    brain: Brain
    regions: npt.NDArray[np.uint8]
    grey: npt.NDArray[np.float32]
    tissue: npt.NDArray[np.float32]
    covered: npt.NDArray[np.bool_]
    slice_thickness_mm: float


@dataclass(frozen=True)
class RegionEvidence:
    """An engine's evidence for one region; None where it could not be measured."""

    probability: float | None
    mean_hu: float | None
    contralateral_difference_hu: float | None


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
    """

    probability: npt.NDArray[np.float32]
    acute: npt.NDArray[np.bool_]
    old: npt.NDArray[np.bool_]
    evidence: Mapping[RegionId, RegionEvidence] = field(default_factory=dict)


class Engine(Protocol):
    """Segments early ischaemic change in one head.

    Attributes
    ----------
    name, version, sha256: of the model; for the weight-free engine of its rules and constants.
    engine: what runs it, as in ``--engine``.
    precision: of the numbers that it computes with, such as "fp32".
    fallbacks: what would have been preferred and why it does not serve, such as "openvino bf16: refused by
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
