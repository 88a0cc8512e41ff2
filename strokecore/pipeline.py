"""One head CT from DICOM files to a result: the story of the package on one page."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.config import ScoringConfig
from strokecore.errors import EngineError, Refusal
from strokecore.head.canonical import AlignedSeries, align_series
from strokecore.head.resampling import to_source
from strokecore.identifiers import result_key
from strokecore.learned.selection import select_engine
from strokecore.reading.patient import check_patient
from strokecore.reading.series import read_series
from strokecore.reading.tags import quiet_pydicom
from strokecore.result import (
    HAEMORRHAGE,
    AspectsScore,
    Result,
    Scored,
    SeriesInfo,
    SoftwareInfo,
    SourceMasks,
    blank_result,
    failed,
    internal_error,
    refused,
)
from strokecore.scoring.aspects import affected_side, find_regions, score_hemispheres
from strokecore.scoring.engine import Engine, model_info
from strokecore.scoring.quality import (
    blood_flags,
    engine_flags,
    haemorrhage_info,
    scan_flags,
    unconfirmed_flags,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """What scores, the same for every series, and the seconds that each named step took."""

    config: ScoringConfig
    engine: Engine
    atlas: Atlas
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def timings_s(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


def score_folder(
    folder: Path,
    config: ScoringConfig | None = None,
    *,
    series_uid: str | None = None,
    content_datetime: str | None = None,
    supersedes: str | None = None,
) -> Scored:
    """Score the head NCCT in ``folder``; a refusal and the loss of the engine are results, a defect raises.

    Parameters
    ----------
    folder: DICOM files of one study, in any layout.
    config: the effective configuration.
    series_uid: score this SeriesInstanceUID instead of choosing.
    content_datetime: ISO 8601 date and time that the outputs carry; now when None.
    supersedes: key of the result that this one replaces.

    Raises
    ------
    UsageError: an engine or series that is not available, a region cut that is none.
    ModelPackageError: a damaged atlas or model package.
    """
    config = config or ScoringConfig()
    atlas = load_atlas(config.atlas)
    software = SoftwareInfo.of(config, atlas.sha256)
    scorer = Scorer(config, select_engine(config), atlas)
    known = blank_result(
        software,
        content_datetime,
        supersedes,
        model_info(scorer.engine),
    )
    try:
        with scorer.step("total"), quiet_pydicom():
            with scorer.step("read"):
                series = read_series(folder, series_uid)
                # The series is known from here on, also when a later step refuses.
                known = replace(
                    known,
                    series=SeriesInfo.of(series),
                    not_selected=series.not_selected,
                    quality=series.flags,
                )
                series = replace(series, flags=(*series.flags, *check_patient(series.datasets[0], config)))
            aligned = align_series(series, scorer.atlas, scorer.step)
            scored = score_head(aligned, scorer, known)
    except Refusal as refusal:
        log.info("not scored: %s", refusal.code)
        scored = Scored(refused(known, refusal))
    except (EngineError, FloatingPointError) as error:
        # The last engine was lost on this scan; which ones had been tried is worth saying.
        log.error("the engine failed: %s", type(error).__name__)
        known = replace(known, model=model_info(scorer.engine))
        scored = Scored(failed(known, internal_error(error)))
    return replace(scored, result=replace(scored.result, timings_s=scorer.timings_s))


def score_head(aligned: AlignedSeries, scorer: Scorer, known: Result) -> Scored:
    """What one engine makes of an aligned series; several engines may be shown the same."""
    series, head = aligned.series, aligned.head
    with scorer.step("segment"):
        lesion = scorer.engine.segment(head)
    with scorer.step("score"):
        cut = known.software.region_cut
        findings = find_regions(head, lesion, cut.threshold if cut else None)
        aspects = score_hemispheres(findings)
        blood = blood_flags(head)
        haemorrhage = haemorrhage_info(head)
        withheld = haemorrhage is not None and scorer.config.withhold_on_blood
        if withheld:
            # Oedema around blood looks like infarct: no call, no score and no infarct stands beside it.
            findings = tuple(finding.without_call() for finding in findings)
            aspects = {side: AspectsScore(None, score.assessed) for side, score in aspects.items()}
            lesion = replace(lesion, acute=np.zeros_like(lesion.acute))
        infarct_ml = lesion.infarct_ml(head.grid)
        # Only now it is known what segmented: an engine that fails on the way is replaced by the next.
        model = model_info(scorer.engine)
        result = replace(
            known,
            model=model,
            status="withheld" if withheld else "scored",
            aspects=aspects,
            affected_side=affected_side(aspects),
            regions=findings,
            infarct_volume_ml=infarct_ml,
            old_infarct_volume_ml=lesion.old_ml(head.grid),
            outside_regions_volume_ml=round(head.grid.ml(lesion.acute & (head.regions == 0)), 3),
            other_hypodensity_volume_ml=lesion.other_ml(head.grid),
            quality=(
                *blood,
                *unconfirmed_flags(aspects, infarct_ml),
                *series.flags,
                *scan_flags(head, findings),
                *engine_flags(model),
            ),
            result_key=result_key(series, known.software, model),
            haemorrhage=haemorrhage,
        )
        labels = lesion.labels(head.grid)
        if haemorrhage is not None and head.haemorrhage is not None:
            labels[head.haemorrhage.mask] = HAEMORRHAGE
        masks = SourceMasks(
            lesion=to_source(series, aligned.frame, labels),
            regions=to_source(series, aligned.frame, head.regions),
        )
    return Scored(result, series, masks)
