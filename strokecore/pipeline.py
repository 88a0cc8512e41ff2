"""One head CT from DICOM files to results: the story of the package on one page."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokecore._version import __version__
from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.anatomy.regions import SIDES, Side
from strokecore.config import ScoringConfig
from strokecore.errors import Refusal
from strokecore.flags import QualityFlag
from strokecore.head.brain import segment_brain
from strokecore.head.frame import fit_head_frame
from strokecore.head.grid import HeadFrame
from strokecore.head.registration import register_atlas
from strokecore.head.resampling import coverage, to_canonical, to_source
from strokecore.head.warped_atlas import place_atlas
from strokecore.identifiers import result_key
from strokecore.learned.selection import select_engine
from strokecore.reading.patient import check_patient
from strokecore.reading.quiet import quiet_pydicom
from strokecore.reading.series import Series, read_series
from strokecore.result import (
    AspectsScore,
    ModelInfo,
    Result,
    SeriesInfo,
    SoftwareInfo,
    SourceMasks,
    Status,
)
from strokecore.scoring.aspects import affected_side, find_regions, score_hemispheres
from strokecore.scoring.engine import Engine, Head, Lesion
from strokecore.scoring.quality import blood_flags, engine_flags, scan_flags

log = logging.getLogger(__name__)


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


@dataclass
class Stopwatch:
    """Seconds spent in each named step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def score_folder(
    folder: Path,
    config: ScoringConfig | None = None,
    *,
    series_uid: str | None = None,
    content_datetime: str | None = None,
    supersedes: str | None = None,
) -> Scored:
    """Score the head NCCT in ``folder``; a refusal is a result, a defect raises.

    Parameters
    ----------
    folder: DICOM files of one study, in any layout.
    config: the effective configuration.
    series_uid: score this SeriesInstanceUID instead of choosing.
    content_datetime: ISO 8601 date and time that the outputs carry; now when None.
    supersedes: key of the result that this one replaces.

    Raises
    ------
    UsageError: an engine or series that cannot be had.
    ModelPackageError: a damaged atlas or model package.
    """
    config = config or ScoringConfig()
    engine = select_engine(config)
    atlas = load_atlas(config.atlas)
    watch = Stopwatch()
    blank = blank_result(config, engine, atlas, content_datetime or _now(), supersedes)
    try:
        with watch.step("total"), quiet_pydicom():
            with watch.step("read"):
                series = read_series(folder, series_uid)
                # known from here on, also when a later step refuses
                blank = replace(
                    blank,
                    series=_series_info(series),
                    not_selected=series.not_selected,
                    quality=series.flags,
                )
                flags = check_patient(series.datasets[0], config)
                series = replace(series, flags=(*series.flags, *flags))
            scored = score_series(series, config, engine, atlas, blank, watch)
    except Refusal as refusal:
        log.info("not scored: %s", refusal.code)
        return Scored(_refused(blank, refusal, watch))
    return replace(scored, result=replace(scored.result, timings_s=_rounded(watch)))


def failed_run(
    config: ScoringConfig,
    error: Exception,
    *,
    content_datetime: str | None = None,
    supersedes: str | None = None,
) -> Scored:
    """The result of a run that a defect ended. The message names the defect's kind, never its text.

    An exception's text can hold a header's values, and this one is stored and shown.
    """
    blank = blank_result(
        config, select_engine(config), load_atlas(config.atlas), content_datetime or _now(), supersedes
    )
    flag = QualityFlag(
        "internal_error",
        "refusal",
        f"The software failed on this scan ({type(error).__name__}).",
        "Read the scan without it and send the log to the maintainers.",
    )
    return Scored(replace(blank, quality=(flag,)))


def score_series(
    series: Series, config: ScoringConfig, engine: Engine, atlas: Atlas, blank: Result, watch: Stopwatch
) -> Scored:
    """The steps, in order. Raises Refusal."""
    frame, head = place_head(series, atlas, watch)
    return score_head(series, frame, head, config, engine, blank, watch)


def place_head(series: Series, atlas: Atlas, watch: Stopwatch) -> tuple[HeadFrame, Head]:
    """A series in the canonical frame with its tissues and atlas regions: what engines are shown.

    Raises Refusal.
    """
    with watch.step("frame"):
        frame = fit_head_frame(series, atlas)
        hu = to_canonical(series, frame)
        covered = coverage(series, frame)
    with watch.step("brain"):
        brain = segment_brain(hu, frame.grid, covered)
    with watch.step("register"):
        registration = register_atlas(hu, brain, frame.grid, covered, atlas)
        placed = place_atlas(atlas, registration, frame.grid, brain, covered)
    head = Head(
        hu=hu,
        grid=frame.grid,
        brain=brain,
        regions=placed.regions,
        grey=placed.grey,
        tissue=placed.tissue,
        covered=covered,
        slice_thickness_mm=series.slice_thickness_mm,
    )
    return frame, head


def score_head(
    series: Series,
    frame: HeadFrame,
    head: Head,
    config: ScoringConfig,
    engine: Engine,
    blank: Result,
    watch: Stopwatch,
) -> Scored:
    """What one engine makes of a placed head; several may be shown the same."""
    with watch.step("segment"):
        lesion = engine.segment(head)
    with watch.step("score"):
        findings = find_regions(head, lesion)
        aspects = score_hemispheres(findings)
        blood = blood_flags(head)
        status: Status = "withheld" if blood and config.withhold_on_blood else "scored"
        if status == "withheld":
            aspects = {side: replace(score, score=None) for side, score in aspects.items()}
        masks = _source_masks(series, frame, head, lesion)
        # only now is known what served: an engine that fails on the way is replaced by the next
        model = model_info(engine)
        result = replace(
            blank,
            model=model,
            status=status,
            aspects=aspects,
            affected_side=affected_side(aspects),
            regions=findings,
            infarct_volume_ml=_infarct_ml(head, lesion),
            old_infarct_volume_ml=_ml(head, lesion.old),
            outside_regions_volume_ml=_ml(head, lesion.acute & (head.regions == 0)),
            quality=(*blood, *series.flags, *scan_flags(head, findings), *engine_flags(model)),
            result_key=result_key(series, blank.software, config.sha256, model),
        )
    return Scored(result, series, masks)


def _source_masks(series: Series, frame: HeadFrame, head: Head, lesion: Lesion) -> SourceMasks:
    half = head.grid.shape[2] // 2
    acute = lesion.acute.astype(np.uint8)
    acute[:, :, :half] *= 2  # x < 0 is the patient's right
    acute[lesion.old] = 3
    return SourceMasks(lesion=to_source(series, frame, acute), regions=to_source(series, frame, head.regions))


def _infarct_ml(head: Head, lesion: Lesion) -> dict[Side, float]:
    half = head.grid.shape[2] // 2
    right = np.zeros(head.grid.shape, bool)
    right[:, :, :half] = True
    return {"left": _ml(head, lesion.acute & ~right), "right": _ml(head, lesion.acute & right)}


def _ml(head: Head, mask: npt.NDArray[np.bool_]) -> float:
    return round(float(mask.sum()) * float(np.prod(head.grid.spacing_mm)) / 1000.0, 3)


def _series_info(series: Series) -> SeriesInfo:
    gaps = np.diff(series.slice_offsets_mm)
    return SeriesInfo(
        series_instance_uid=series.series_instance_uid,
        chosen_because=series.chosen_because,
        slices=len(series.datasets),
        spacing_mm=(round(float(np.median(gaps)), 3), *series.pixel_spacing_mm),
        tilt_deg=round(series.tilt_deg, 2),
        digest=series.digest,
    )


def model_info(engine: Engine) -> ModelInfo:
    """What segments, or segmented: see strokecore.scoring.engine.Engine."""
    return ModelInfo(
        engine.name, engine.version, engine.sha256, engine.engine, engine.precision, engine.fallbacks
    )


def blank_result(
    config: ScoringConfig, engine: Engine, atlas: Atlas, content_datetime: str, supersedes: str | None
) -> Result:
    """What a run says before anything is known of its series."""
    none = AspectsScore(None, 0)
    return Result(
        status="failed",
        aspects=dict.fromkeys(SIDES, none),
        affected_side=None,
        regions=(),
        infarct_volume_ml=dict.fromkeys(SIDES, 0.0),
        old_infarct_volume_ml=0.0,
        outside_regions_volume_ml=0.0,
        quality=(),
        series=None,
        model=model_info(engine),
        software=SoftwareInfo(__version__, atlas.sha256, config.sha256),
        content_datetime=content_datetime,
        supersedes=supersedes,
    )


def _refused(blank: Result, refusal: Refusal, watch: Stopwatch) -> Result:
    return replace(
        blank,
        status="ineligible" if refusal.ineligible else "refused",
        quality=(QualityFlag(refusal.code, "refusal", refusal.message, refusal.remedy), *blank.quality),
        timings_s=_rounded(watch),
    )


def _rounded(watch: Stopwatch) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in watch.seconds.items()}


def _now() -> str:
    # local time with its offset: readers compare the outputs' time with the scanner's
    return datetime.now().astimezone().isoformat(timespec="seconds")
