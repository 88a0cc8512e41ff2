"""Which engine should be the default: several on the same heads, compared by paired bootstrap.

    python -m tests.studies.candidates OUT --model MODEL [--model MODEL ..] [--set usual|unseen|real]
        [--seeds A..B] [--workers 2]

Sets: (a) ``usual``, the studies' simulated heads; (b) ``unseen``, heads whose contrast, noise and texture no
training head has; (c) ``real``, infarcts inserted into the real head CT of the test data and into its mirror
image. Each head is read, aligned and registered once and shown to the weight-free engine and to every model.
OUT gets SET-ENGINE.json (as ``strokecore evaluate`` writes) and SET.json with the differences.

The rule was written before any figure was seen: a model is *not worse* on a set when the 95 % interval of
its difference (model minus weight-free, the same patients drawn) has its low end above -MARGIN for the
region AUC, and for the mean of sensitivity and specificity at the decision point.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from strokecore._version import __version__
from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.config import ScoringConfig
from strokecore.evaluate import statistics as st
from strokecore.evaluate.cases import NORMAL_SHARE, Case
from strokecore.evaluate.evaluation import compare, study_record, write_study
from strokecore.evaluate.figures import summarise
from strokecore.evaluate.outcomes import Outcome, outcome
from strokecore.evaluate.truth import Truth, split_of
from strokecore.evaluate.workers import Lost, map_in_processes
from strokecore.learned.engine import LearnedEngine
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import load_package
from strokecore.pipeline import Scorer, align_series, score_head
from strokecore.reading.series import Series, read_series
from strokecore.reading.tags import quiet_pydicom
from strokecore.result import Result, SoftwareInfo, blank_result
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import Engine, model_info
from strokecore.simulate import random_affected, random_spec, unseen_fields
from tests.studies.inserted import inserted, mirrored, own_regions

_HERE: Final = Path(__file__).resolve()
DATA: Final = Path(os.environ.get("STROKECORE_TEST_DATA", _HERE.parents[3] / "shared" / "data"))
MARGIN: Final = 0.02
DELTA_HU: Final = 5.0
WEIGHT_FREE: Final = "weight-free"
TIMEOUT_S: Final = 600.0
# Of outputs that are never written.
_DATE: Final = "2026-01-01T00:00:00+00:00"


@dataclass(frozen=True)
class Inserted:
    """One infarct for the real head CT. ``mirror``: into its mirror image."""

    name: str
    truth: Truth
    mirror: bool
    seed: int


def simulated(kind: str, seeds: Sequence[int]) -> list[Case]:
    """A head per seed, the last third without infarct, as ``strokecore evaluate`` draws them."""
    sick = len(seeds) - round(len(seeds) * NORMAL_SHARE)
    cases = []
    for number, seed in enumerate(seeds):
        affected = random_affected(seed) if number < sick else ()
        fields = unseen_fields(seed) if kind == "unseen" else {}
        spec = random_spec(seed, affected=affected, delta_hu=DELTA_HU, **fields)
        truth = Truth(frozenset(affected), split=split_of(seed), seed=seed)
        cases.append(Case(f"{kind}-{seed}", truth, spec=spec))
    return cases


def real(seeds: Sequence[int]) -> list[Inserted]:
    """Patterns of the seeds for the real head and its mirror image by turns, and both without infarct."""
    found = [Inserted(f"real-{mirror:d}", Truth(frozenset()), mirror, 0) for mirror in (False, True)]
    for number, seed in enumerate(seeds):
        truth = Truth(frozenset(random_affected(seed)), split=split_of(seed), seed=seed)
        found.append(Inserted(f"real-{seed}", truth, bool(number % 2), seed))
    return found


def outcomes_of(case: Case | Inserted, models: tuple[Path, ...]) -> list[Outcome]:
    """What the weight-free engine and every model say of one head."""
    truth = case.truth
    if isinstance(case, Case):
        with case.images() as folder, quiet_pydicom():
            series = read_series(folder)
    else:
        series, regions = _real(case.mirror)
        if truth.affected:
            order = tuple(region for region in ALL_REGIONS if region in truth.affected)
            series = inserted(series, regions, order, DELTA_HU, case.seed)
    return [outcome(case.name, truth, result) for result in _results(series, models)]


@cache
def _real(mirror: bool) -> tuple[Series, Any]:
    series = read_series(DATA / "real_head_ct")
    series = mirrored(series) if mirror else series
    return series, own_regions(series)


def _results(series: Series, models: tuple[Path, ...]) -> list[Result]:
    scorers = [Scorer(ScoringConfig(), engine, load_atlas()) for engine in engines_of(models)]
    aligned = align_series(series, load_atlas())
    known = blank_result(_software(), _DATE)
    return [score_head(aligned, scorer, known).result for scorer in scorers]


def _software() -> SoftwareInfo:
    return SoftwareInfo(__version__, load_atlas().sha256, ScoringConfig().sha256)


def engines_of(models: tuple[Path, ...]) -> list[Engine]:
    """The weight-free engine, then one for each package in the reference's fp32."""
    return [AsymmetryEngine(), *(learned_engine(model) for model in models)]


def learned_engine(model: Path) -> LearnedEngine:
    package = load_package(model)
    return LearnedEngine(package, OnnxRuntime(package))


def balanced(outcomes: Sequence[Outcome], counts: st.Counts) -> tuple[float, Any]:
    """Mean of sensitivity and specificity over all regions, and its bootstrap values."""
    truth = np.array([o.truth.regions for o in outcomes])
    called = np.array([o.affected for o in outcomes])
    hits, sick = (truth & called).sum(axis=1), truth.sum(axis=1)
    clear, well = (~truth & ~called).sum(axis=1), (~truth).sum(axis=1)

    def value(weights: Any) -> Any:
        return ((weights @ hits) / (weights @ sick) + (weights @ clear) / (weights @ well)) / 2

    return float(value(np.ones(len(outcomes)))), value(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, action="append", default=[])
    parser.add_argument("--set", choices=("usual", "unseen", "real"), required=True)
    parser.add_argument("--seeds", default="20060..20119")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    first, last = (int(text) for text in options.seeds.split(".."))
    seeds = range(first, last + 1)
    cases: Sequence[Any] = real(seeds) if options.set == "real" else simulated(options.set, seeds)
    models = tuple(path.resolve() for path in options.model)
    found = map_in_processes(partial(outcomes_of, models=models), cases, options.workers, TIMEOUT_S)
    lost = [
        (case.name, answer) for case, answer in zip(cases, found, strict=True) if isinstance(answer, Lost)
    ]
    assert not lost, lost
    engines = list(zip((WEIGHT_FREE, *(path.name for path in models)), engines_of(models), strict=True))
    options.out.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*found, strict=True))
    command = f"tests.studies.candidates --set {options.set} --seeds {options.seeds}"
    report: dict[str, Any] = {"set": options.set, "seeds": options.seeds, "margin": MARGIN, "models": {}}
    paths = []
    for (name, engine), outcomes in zip(engines, columns, strict=True):
        record = study_record(
            outcomes,
            summarise(outcomes),
            command=command,
            date=datetime.now(UTC).date().isoformat(),
            workers=options.workers,
            model=model_info(engine),
            software=_software(),
        )
        folder = options.out / f"{options.set}-{name}"
        folder.mkdir(exist_ok=True)
        paths.append(write_study(record, folder))
    counts = st.draw_patients(len(cases))
    base, base_drawn = balanced(columns[0], counts)
    for (name, _), path, outcomes in zip(engines[1:], paths[1:], columns[1:], strict=True):
        ranked = compare(paths[0], path)
        mine, drawn = balanced(outcomes, counts)
        decided = st.estimate(mine - base, drawn - base_drawn)
        report["models"][name] = {
            "auc": {
                "weight_free": asdict(ranked.first),
                "model": asdict(ranked.second),
                "difference": asdict(ranked.difference),
            },
            "balanced": {"weight_free": base, "model": mine, "difference": asdict(decided)},
            "not_worse": bool((ranked.difference.low or -1) > -MARGIN and (decided.low or -1) > -MARGIN),
        }
    (options.out / f"{options.set}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
