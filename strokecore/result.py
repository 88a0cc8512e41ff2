"""The result of one acquisition, and the label volumes that go with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from strokecore._version import __version__
from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import UInt8Array
from strokecore.config import RegionCut, ScoringConfig
from strokecore.errors import Refusal
from strokecore.flags import QualityFlag

if TYPE_CHECKING:
    from strokecore.reading.series import Series

Status = Literal["scored", "withheld", "refused", "ineligible", "failed"]

# Values of SourceMasks.lesion.
INFARCT: Final[dict[Side, int]] = {"left": 1, "right": 2}
OLD_INFARCT: Final = 3
OTHER_HYPODENSITY: Final = 4
HAEMORRHAGE: Final = 5


@dataclass(frozen=True)
class RegionFinding:
    """One of the 20 regions; field meanings as in result.json.

    ``borderline``: a call that could as well be the other one; counted as ``affected`` says, and in the
    range of the score.
    """

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
    borderline: bool = False

    def without_call(self) -> RegionFinding:
        """What stands of a region when the score is withheld: what was measured, and no judgement of it."""
        return replace(
            self,
            affected=False,
            borderline=False,
            probability=None,
            involved_fraction=0.0,
            volume_ml=0.0,
            reason=None if self.assessable else self.reason,
        )


@dataclass(frozen=True)
class AspectsScore:
    """ASPECTS of one hemisphere; ``score`` is None when withheld or fewer than 8 regions were assessed.

    ``range``: the lowest and the highest score that the regions leave open (scoring/aspects.py); the score
    lies in it. None where it is not known, and wherever ``score`` is.
    """

    score: int | None
    assessed: int
    range: tuple[int, int] | None = None

    @property
    def doubt(self) -> str:
        """The range in words, "6-8"; "" where it holds nothing but the score."""
        if self.score is None or self.range is None or self.range == (self.score, self.score):
            return ""
        low, high = self.range
        return str(low) if low == high else f"{low}-{high}"

    def __str__(self) -> str:
        """ "7 (6-8)", "7 (6-8; 9 of 10 assessed)", "10", "not scored (6 of 10 assessed)"."""
        partial = "" if self.score is not None and self.assessed == 10 else f"{self.assessed} of 10 assessed"
        notes = "; ".join(note for note in (self.doubt, partial) if note)
        score = "not scored" if self.score is None else str(self.score)
        return f"{score} ({notes})" if notes else score


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
    region_cut: RegionCut | None = None

    @classmethod
    def of(cls, config: ScoringConfig, atlas_sha256: str) -> SoftwareInfo:
        """This software as ``config`` sets it. Raises UsageError for a region cut that is none."""
        return cls(__version__, atlas_sha256, config.sha256, config.load_region_cut())


@dataclass(frozen=True)
class HaemorrhageInfo:
    """A suspected haemorrhage; ``place`` in words: "parenchymal, right, most of it in right L"."""

    side: Literal["left", "right", "both"]
    ml: float
    place: str


@dataclass(frozen=True)
class Result:
    """Everything result.json says (see strokecore/result.schema.json).

    ``aspects`` has "left" and "right"; ``regions`` has 20 rows when scored or withheld, none otherwise.
    ``series``, ``model`` and ``software`` are None only where the run ended before they were known.
    ``result_key`` is the uuid of the inputs (see identifiers.py); ``content_datetime`` is ISO 8601,
    fixed once per key, and is what the DICOM outputs carry as content date and time.
    ``not_selected`` is (SeriesInstanceUID, reason) of the series that were passed over.
    ``haemorrhage`` is what withholds a score, or would if the site let it; ``other_hypodensity_volume_ml``
    is of what is too dark and neither early nor old infarct.
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
    haemorrhage: HaemorrhageInfo | None = None
    other_hypodensity_volume_ml: float = 0.0


@dataclass(frozen=True, eq=False)
class SourceMasks:
    """Label volumes on the source voxels, [k, j, i] like Series.hu.

    Attributes
    ----------
    lesion: uint8; 0 none, INFARCT of the patient's left or right, OLD_INFARCT, OTHER_HYPODENSITY or
        HAEMORRHAGE.
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
