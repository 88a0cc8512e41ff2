"""The result of one acquisition, and the label volumes that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import Side
from strokecore.flags import QualityFlag

Status = Literal["scored", "withheld", "refused", "ineligible", "failed"]


@dataclass(frozen=True)
class RegionFinding:
    """One of the 20 regions; field meanings as in result.json."""

    name: str
    side: Side
    affected: bool
    probability: float | None
    involved_fraction: float
    volume_ml: float
    mean_hu: float | None
    contralateral_difference_hu: float | None
    assessable: bool
    reason: str | None = None


@dataclass(frozen=True)
class AspectsScore:
    """ASPECTS of one hemisphere; ``score`` is None when withheld or fewer than 8 regions were assessed."""

    score: int | None
    assessed: int

    def __str__(self) -> str:
        if self.score is None:
            return f"not scored ({self.assessed} of 10 assessed)"
        return str(self.score) if self.assessed == 10 else f"{self.score} ({self.assessed} of 10 assessed)"


@dataclass(frozen=True)
class SeriesInfo:
    series_instance_uid: str
    chosen_because: str
    slices: int
    spacing_mm: tuple[float, float, float]
    tilt_deg: float
    digest: str


@dataclass(frozen=True)
class ModelInfo:
    name: str
    version: str
    sha256: str
    engine: str
    precision: str
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class SoftwareInfo:
    version: str
    atlas_sha256: str
    config_sha256: str


@dataclass(frozen=True)
class Result:
    """Everything result.json says (see strokecore/result.schema.json).

    ``aspects`` has "left" and "right"; ``regions`` has 20 rows when scored or withheld, none otherwise.
    ``series``, ``model`` and ``software`` are None only where the run ended before they were known.
    ``result_key`` is the uuid of the inputs (see dicom/uids.py); ``content_datetime`` is ISO 8601,
    fixed once per key, and is what the DICOM outputs carry as content date and time.
    ``not_selected`` is (SeriesInstanceUID, reason) of the series that were passed over.
    """

    status: Status
    aspects: dict[Side, AspectsScore]
    affected_side: Literal["left", "right", "bilateral"] | None
    regions: tuple[RegionFinding, ...]
    infarct_volume_ml: dict[Side, float]
    old_infarct_volume_ml: float
    outside_regions_volume_ml: float
    quality: tuple[QualityFlag, ...]
    series: SeriesInfo | None
    model: ModelInfo | None
    software: SoftwareInfo
    result_key: str | None = None
    content_datetime: str | None = None
    supersedes: str | None = None
    not_selected: tuple[tuple[str, str], ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SourceMasks:
    """Label volumes on the source voxels, [k, j, i] like Series.hu.

    Attributes
    ----------
    lesion: uint8; 0 none, 1 infarct left, 2 infarct right, 3 old infarct (side is the patient's).
    regions: uint8; RegionId.label values 1-20, 0 elsewhere.
    """

    lesion: npt.NDArray[np.uint8]
    regions: npt.NDArray[np.uint8]
