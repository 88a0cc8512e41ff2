"""Cases and a scorer for the tests of ``strokecore evaluate``: all is said in advance."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.config import ScoringConfig
from strokecore.evaluate.outcomes import Outcome, outcome
from strokecore.evaluate.truth import Truth
from strokecore.flags import QualityFlag
from strokecore.result import AspectsScore, RegionFinding, Result, Scored, SeriesInfo
from strokecore.scoring.aspects import affected_side, score_hemispheres
from strokecore.simulate import parse_affected
from tests.unit.reports.output_cases import MODEL, SOFTWARE

SAY = "say.json"


def truth_of(text: str, **values: Any) -> Truth:
    """Truth from "right:I,M1"."""
    return Truth(frozenset(parse_affected(text)), **values)


def result_of(
    text: str,
    *,
    unassessed: str = "",
    probability: dict[RegionId, float] | None = None,
    seconds: float = 5.0,
    infarct_ml: float = 0.0,
) -> Result:
    """A scored result that calls the regions of ``text`` affected (probability 0.9, others 0.1)."""
    called, unseen = parse_affected(text), parse_affected(unassessed)
    given = probability or {}
    findings = tuple(
        RegionFinding(
            name=r.name,
            side=r.side,
            affected=r in called,
            probability=None if r in unseen else given.get(r, 0.9 if r in called else 0.1),
            involved_fraction=0.0,
            volume_ml=0.0,
            mean_hu=None,
            contralateral_difference_hu=None,
            assessable=r not in unseen,
            reason="not_covered" if r in unseen else None,
        )
        for r in ALL_REGIONS
    )
    aspects = score_hemispheres(findings)
    return Result(
        status="scored",
        aspects=aspects,
        affected_side=affected_side(aspects),
        regions=findings,
        infarct_volume_ml={"left": 0.0, "right": infarct_ml},
        old_infarct_volume_ml=0.0,
        outside_regions_volume_ml=0.0,
        quality=(),
        series=SeriesInfo("2.25.1", "", 30, (5.0, 0.45, 0.45), 0.0, "d" * 64),
        model=MODEL,
        software=SOFTWARE,
        timings_s={"total": seconds},
    )


def refused_result(code: str = "too_few_slices") -> Result:
    none = AspectsScore(None, 0)
    return Result(
        status="refused",
        aspects=dict.fromkeys(SIDES, none),
        affected_side=None,
        regions=(),
        infarct_volume_ml=dict.fromkeys(SIDES, 0.0),
        old_infarct_volume_ml=0.0,
        outside_regions_volume_ml=0.0,
        quality=(QualityFlag(code, "refusal", "3 slices, expected 10.", "Send the whole head."),),
        series=None,
        model=MODEL,
        software=SOFTWARE,
        timings_s={"total": 0.2},
    )


def said(name: str, true: str, found: str, **values: Any) -> Outcome:
    """The outcome of a case that is ``true`` and was called ``found``."""
    return outcome(name, truth_of(true), result_of(found, **values))


def said_of(name: str, true: str, found: str, **truth: Any) -> Outcome:
    """The outcome of a case of which more is known than its regions."""
    return outcome(name, truth_of(true, **truth), result_of(found))


def random_outcomes(patients: int, seed: int) -> list[Outcome]:
    """Outcomes of a middling reader: probabilities overlap, some regions are missed."""
    rng = np.random.default_rng(seed)
    outcomes = []
    for number in range(patients):
        side = SIDES[int(rng.integers(2))]
        sick = [r for r in ALL_REGIONS if r.side == side and rng.random() < 0.4 and number % 3]
        probability = {
            r: float(np.clip(rng.normal(0.65 if r in sick else 0.25, 0.18), 0, 1)) for r in ALL_REGIONS
        }
        called = ";".join(f"{r.side}:{r.name}" for r in ALL_REGIONS if probability[r] > 0.5)
        true = ";".join(f"{r.side}:{r.name}" for r in sick)
        outcomes.append(said(f"case-{number}", true, called, probability=probability))
    return outcomes


def write_case(folder: Path, truth: dict[str, Any], say: dict[str, Any] | None = None) -> Path:
    """A case folder with truth.json and what fake_score is to say of it."""
    (folder / "truth").mkdir(parents=True)
    (folder / "truth" / "truth.json").write_text(json.dumps({"schema": 1} | truth))
    (folder / SAY).write_text(json.dumps(say or {"affected": ""}))
    return folder


def affected(left: tuple[str, ...] = (), right: tuple[str, ...] = ()) -> dict[str, Any]:
    """The minimal truth."""
    return {"affected": {"left": list(left), "right": list(right)}}


def fake_score(folder: Path, config: ScoringConfig) -> Scored:
    """Do what the case's say.json says: answer, refuse, crash, die or hang."""
    say = json.loads((folder / SAY).read_text())
    if "crash" in say:
        raise ValueError(say["crash"])
    if "die" in say:
        os._exit(int(say["die"]))
    if "sleep" in say:
        time.sleep(say["sleep"])
    if "refuse" in say:
        return Scored(refused_result(say["refuse"]))
    return Scored(result_of(say["affected"]))
