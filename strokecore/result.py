"""The result of one acquisition, and the label volumes that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import UInt8Array
from strokecore.errors import Refusal
from strokecore.flags import QualityFlag

if TYPE_CHECKING:
    from strokecore.reading.series import Series

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

    @classmethod
    def of(cls, series: Series) -> SeriesInfo:
        """What result.json says of a series that was read; ``spacing_mm`` is (gap, along j, along i)."""
        gaps = np.diff(series.slice_offsets_mm)
        return cls(
            series_instance_uid=series.series_instance_uid,
            chosen_because=series.chosen_because,
            slices=len(series.datasets),
            spacing_mm=(round(float(np.median(gaps)), 3), *series.pixel_spacing_mm),
            tilt_deg=round(series.tilt_deg, 2),
            digest=series.digest,
        )


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
    ``result_key`` is the uuid of the inputs (see identifiers.py); ``content_datetime`` is ISO 8601,
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

    lesion: UInt8Array
    regions: UInt8Array


@dataclass(frozen=True, eq=False)
class Scored:
    """A finished run in memory: what the outputs are written from.

    Attributes
    ----------
    series, masks: None unless the status is "scored" or "withheld".
    """

    result: Result
    series: Series | None = None
    masks: SourceMasks | None = None


def blank_result(
    software: SoftwareInfo,
    content_datetime: str | None,
    supersedes: str | None = None,
    model: ModelInfo | None = None,
) -> Result:
    """What a run says before anything is known of its series; its status is "failed".

    ``content_datetime``: now when None, as local time with its offset, because readers compare times of
    outputs with those of the scanner.
    """
    return Result(
        status="failed",
        aspects=dict.fromkeys(SIDES, AspectsScore(None, 0)),
        affected_side=None,
        regions=(),
        infarct_volume_ml=dict.fromkeys(SIDES, 0.0),
        old_infarct_volume_ml=0.0,
        outside_regions_volume_ml=0.0,
        quality=(),
        series=None,
        model=model,
        software=software,
        content_datetime=content_datetime or datetime.now().astimezone().isoformat(timespec="seconds"),
        supersedes=supersedes,
    )


def refused(known: Result, refusal: Refusal) -> Result:
    """``known`` of a series that must not be scored, with the reason first."""
    flag = QualityFlag(refusal.code, "refusal", refusal.message, refusal.remedy)
    return replace(
        known, status="ineligible" if refusal.ineligible else "refused", quality=(flag, *known.quality)
    )


def internal_error(error: Exception) -> QualityFlag:
    """What is said of a run that a defect ended: the kind of the error, never its text.

    An exception's text can hold a header's values, and this one is stored and shown.
    """
    return QualityFlag(
        "internal_error",
        "refusal",
        f"The software failed on this scan ({type(error).__name__}).",
        "Read the scan without it and send the log to the maintainers.",
    )


def failed(known: Result, flag: QualityFlag) -> Result:
    """``known`` of a run that came to nothing, whatever it had found: only ``flag`` is said of it."""
    blank = blank_result(known.software, known.content_datetime, known.supersedes, known.model)
    return replace(
        blank,
        quality=(flag,),
        series=known.series,
        result_key=known.result_key,
        not_selected=known.not_selected,
        timings_s=known.timings_s,
    )
