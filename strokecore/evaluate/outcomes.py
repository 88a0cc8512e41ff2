"""The node's own pipeline over cases with truth: what it said of each one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId, Side
from strokecore.arrays import dice
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.evaluate.cases import Case
from strokecore.evaluate.truth import MaskError, Truth, read_mask, read_truth
from strokecore.evaluate.workers import Lost, map_in_processes
from strokecore.flags import QualityFlag
from strokecore.pipeline import score_folder
from strokecore.reports.result_json import to_json
from strokecore.reports.wording import reasons
from strokecore.result import INFARCT, Result, Scored, SoftwareInfo, Status, blank_result

# A region that cannot be assessed is neither called nor cleared.
UNASSESSED_PROBABILITY: Final = 0.5
# Ten times the slowest case seen on 2 cores: longer is a hang, not work.
TIMEOUT_S: Final = 300.0

Scorer = Callable[[Path, ScoringConfig], Scored]


@dataclass(frozen=True)
class Outcome:
    """One case: what is true and what the node said. Tuples of 20 follow ALL_REGIONS.

    Attributes
    ----------
    name, truth: of the case.
    status: the node's terminal state.
    code: why a case has no score, such as "too_few_slices", "internal_error", "died"; None when scored.
    detail: type of the error that ended the run, "" otherwise.
    flags: codes of everything the node said about the scan's quality.
    probability: UNASSESSED_PROBABILITY where a region was not assessed.
    affected: called affected; False where a region was not assessed.
    assessed: whether each region was judged; all False where the case was refused or its score withheld.
    scores: ASPECTS by side, None when there is none.
    side: the affected side, None when there is none.
    infarct_ml: by side, None when the case was not processed.
    dice: overlap of the acute infarct with its outline; None without outline, or when both are empty.
    mask_error: why the case's outline could not be used, "" otherwise.
    seconds: time of the pipeline, from DICOM files to the result in memory.
    digest: sha256 of the images that were scored, None when none were.
    warnings: the codes among ``flags`` that are warnings.
    difference_hu: this side minus the other of each region, HU; None where it was not measured.
    borderline: called so; False where a region was not assessed.
    ranges: lowest and highest ASPECTS that the node allows for, by side; None when it does not say.
    blood: whether the node suspects haemorrhage.
    """

    name: str
    truth: Truth
    status: Status
    code: str | None
    detail: str
    flags: tuple[str, ...]
    probability: tuple[float, ...]
    affected: tuple[bool, ...]
    assessed: tuple[bool, ...]
    scores: dict[Side, int | None]
    side: Literal["left", "right", "bilateral"] | None
    infarct_ml: dict[Side, float] | None
    seconds: float | None
    digest: str | None
    dice: float | None = None
    mask_error: str = ""
    warnings: tuple[str, ...] = ()
    difference_hu: tuple[float | None, ...] = (None,) * len(ALL_REGIONS)
    borderline: tuple[bool, ...] = (False,) * len(ALL_REGIONS)
    ranges: dict[Side, tuple[int, int] | None] = field(default_factory=lambda: dict.fromkeys(SIDES))
    blood: bool = False

    @property
    def processed(self) -> bool:
        """Whether the node read the scan; a withheld score was still read."""
        return self.status in ("scored", "withheld")


def run_study(
    cases: Sequence[Case],
    config: ScoringConfig,
    *,
    workers: int = 1,
    timeout_s: float = TIMEOUT_S,
    score: Scorer = score_folder,
    done: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Score every case in a worker process; a case that crashes or hangs is an outcome too.

    ``score`` is importable by name (it runs in other processes). ``done`` is called after each case.
    """
    if workers < 1 or not timeout_s > 0:
        raise UsageError(
            f"{workers} workers and {timeout_s:g} s per case were asked for; both must be above 0."
        )
    # one folder for all workers, so that nothing of one that was killed is left behind
    with tempfile.TemporaryDirectory(prefix="strokecore-evaluate-") as scratch:
        run = partial(run_case, config=config, score=score, scratch=Path(scratch))
        found = map_in_processes(run, cases, workers, timeout_s, done)
    return [
        lost_outcome(case.name, case.truth, answer) if isinstance(answer, Lost) else answer
        for case, answer in zip(cases, found, strict=True)
    ]


def run_case(
    case: Case, config: ScoringConfig, score: Scorer = score_folder, scratch: Path | None = None
) -> Outcome:
    """Score one case in this process. A defect raises."""
    with case.images(scratch) as folder:
        # what was drawn; why it was drawn only the case knows
        truth = case.truth if case.folder else replace(read_truth(folder), confounder=case.truth.confounder)
        scored = score(folder, config)
        return replace(outcome(case.name, truth, scored.result), **_overlap(folder, scored))


def outcome(name: str, truth: Truth, result: Result) -> Outcome:
    """What ``result`` says, beside the truth."""
    return outcome_of_json(name, truth, to_json(result))


def outcome_of_json(name: str, truth: Truth, record: dict[str, Any]) -> Outcome:
    """What a result.json says, beside the truth."""
    # a withheld score comes with regions that were measured, and not judged
    found = {
        RegionId(row["name"], row["side"]): row
        for row in record["regions"]
        if row["assessable"] and row["probability"] is not None
    }

    def of_each(key: str, unassessed: Any) -> tuple[Any, ...]:
        values = [found[region][key] if region in found else None for region in ALL_REGIONS]
        return tuple(unassessed if value is None else value for value in values)

    aspects, volumes = record["aspects"], record["infarct_volume_ml"]
    return Outcome(
        name=name,
        truth=truth,
        status=record["status"],
        code=None if record["status"] == "scored" else _reason(record),
        detail="",
        flags=tuple(flag["code"] for flag in record["quality"]),
        probability=of_each("probability", UNASSESSED_PROBABILITY),
        affected=of_each("affected", False),
        assessed=tuple(region in found for region in ALL_REGIONS),
        scores={side: aspects[side]["score"] for side in SIDES},
        side=record["affected_side"],
        infarct_ml={side: float(volumes[side]) for side in SIDES} if record["regions"] else None,
        seconds=record["timings_s"].get("total"),
        digest=record["series"]["digest"] if record["series"] else None,
        warnings=tuple(flag["code"] for flag in record["quality"] if flag["severity"] == "warning"),
        difference_hu=of_each("contralateral_difference_hu", None),
        borderline=of_each("borderline", False),
        ranges={side: tuple(limits) if (limits := aspects[side]["range"]) else None for side in SIDES},
        blood=record["status"] == "withheld" or record["haemorrhage"] is not None,
    )


def _reason(record: dict[str, Any]) -> str:
    """The code of the first reason why a result.json has no score."""
    flags = tuple(QualityFlag(**flag) for flag in record["quality"])
    known = blank_result(SoftwareInfo("", "", ""), record["content_datetime"])
    return reasons(replace(known, status=record["status"], quality=flags))[0].code


def _overlap(folder: Path, scored: Scored) -> dict[str, Any]:
    """``dice`` and ``mask_error`` of an Outcome."""
    if scored.series is None or scored.masks is None:
        return {}
    try:
        true = read_mask(folder, scored.series)
    except MaskError as error:
        return {"mask_error": str(error)}
    found = np.isin(scored.masks.lesion, list(INFARCT.values()))
    return {} if true is None or not (found.any() or true.any()) else {"dice": dice(found, true)}


def lost_outcome(name: str, truth: Truth, lost: Lost) -> Outcome:
    """A case whose run ended without a result: every region unassessed."""
    nothing = (False,) * len(ALL_REGIONS)
    return Outcome(
        name=name,
        truth=truth,
        status="failed",
        code=lost.why,
        detail=lost.kind,
        flags=(),
        probability=(UNASSESSED_PROBABILITY,) * len(ALL_REGIONS),
        affected=nothing,
        assessed=nothing,
        scores=dict.fromkeys(SIDES),
        side=None,
        infarct_ml=None,
        seconds=None,
        digest=None,
    )
