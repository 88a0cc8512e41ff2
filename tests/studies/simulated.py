"""Accuracy on simulated head CT: region AUC, affected side, and the score of heads without infarct.

    python tests/studies/simulated.py --split test --cases 40 --normals 20 --delta-hu 5 --out docs/studies

Seeds come from the simulator's disjoint ranges (tune, validate, test): only "tune" may be looked at while
a constant of the engine, brain masks or registration is being chosen. A region that cannot be assessed
counts as probability 0.5.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from strokecore import __version__
from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.pipeline import score_folder
from strokecore.simulate import (
    SIMULATOR_VERSION,
    TEST_SEEDS,
    TUNE_SEEDS,
    VALIDATE_SEEDS,
    random_affected,
    random_spec,
    simulator_sha256,
    write_sample,
)

UNASSESSED_PROBABILITY = 0.5
SEED_RANGES = {"tune": TUNE_SEEDS, "validate": VALIDATE_SEEDS, "test": TEST_SEEDS}


@dataclass(frozen=True)
class Case:
    """One simulated head and what the node said about it.

    ``probability`` and ``truth`` follow ALL_REGIONS; ``score`` is (left, right), None when not scored.
    """

    seed: int
    delta_hu: float
    tilt_deg: float
    thickness_mm: float
    status: str
    code: str | None
    truth: tuple[bool, ...]
    probability: tuple[float, ...]
    affected: tuple[bool, ...]
    score: tuple[int | None, int | None]
    side: str | None
    seconds: float


def run_case(seed: int, delta_hu: float, engine: str) -> Case:
    """Simulate, write, read back and score one head; ``delta_hu`` 0 is a head without infarct."""
    affected: tuple[RegionId, ...] = random_affected(seed) if delta_hu else ()
    spec = random_spec(seed, affected=affected, delta_hu=delta_hu)
    with tempfile.TemporaryDirectory() as folder:
        scored = score_folder(write_sample(Path(folder) / "ct", spec), ScoringConfig(engine=engine))
    result = scored.result
    found = {RegionId(f.name, f.side): f for f in result.regions}
    return Case(
        seed=seed,
        delta_hu=delta_hu,
        tilt_deg=spec.tilt_deg,
        thickness_mm=spec.thickness_mm,
        status=result.status,
        code=result.quality[0].code if result.status in ("refused", "ineligible") else None,
        truth=tuple(region in affected for region in ALL_REGIONS),
        probability=tuple(
            UNASSESSED_PROBABILITY
            if region not in found or found[region].probability is None
            else float(found[region].probability or 0.0)
            for region in ALL_REGIONS
        ),
        affected=tuple(region in found and found[region].affected for region in ALL_REGIONS),
        score=(result.aspects["left"].score, result.aspects["right"].score),
        side=result.affected_side,
        seconds=result.timings_s.get("total", 0.0),
    )


def auc(truth: np.ndarray, probability: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; ties count half."""
    positive, negative = probability[truth], probability[~truth]
    greater = (positive[:, None] > negative[None, :]).mean()
    equal = (positive[:, None] == negative[None, :]).mean()
    return float(greater + 0.5 * equal)


def auc_interval(cases: list[Case], draws: int = 1000, seed: int = 1) -> tuple[float, float]:
    """95 % interval of the region AUC, bootstrapped over patients: regions of a head hang together."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        picked = [cases[i] for i in rng.integers(0, len(cases), len(cases))]
        truth = np.array([c.truth for c in picked]).ravel()
        if truth.any() and not truth.all():
            values.append(auc(truth, np.array([c.probability for c in picked]).ravel()))
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def true_side(case: Case) -> str | None:
    left = sum(t for t, r in zip(case.truth, ALL_REGIONS, strict=True) if r.side == "left")
    right = sum(case.truth) - left
    if left == right:
        return "bilateral" if left else None
    return "left" if left > right else "right"


def summarise(cases: list[Case]) -> dict[str, object]:
    """The figures that the study reports."""
    infarcts = [c for c in cases if any(c.truth)]
    normals = [c for c in cases if not any(c.truth)]
    summary: dict[str, object] = {"cases": len(infarcts), "normals": len(normals)}
    if infarcts:
        truth = np.array([c.truth for c in infarcts])
        called = np.array([c.affected for c in infarcts])
        probability = np.array([c.probability for c in infarcts])
        summary |= {
            "region_auc": auc(truth.ravel(), probability.ravel()),
            "region_auc_95ci": auc_interval(infarcts),
            "region_sensitivity": float(called[truth].mean()),
            "region_specificity": float((~called[~truth]).mean()),
            "side_right": float(np.mean([c.side == true_side(c) for c in infarcts])),
            "scored": float(np.mean([c.status == "scored" for c in infarcts])),
            "region_sensitivity_by_name": _by_name(truth, called, positive=True),
            "region_specificity_by_name": _by_name(truth, called, positive=False),
        }
    if normals:
        scores = [s for c in normals for s in c.score]
        summary |= {
            "hemispheres_exactly_10": float(np.mean([s == 10 for s in scores])),
            "hemispheres_at_most_7": sum(s is not None and s <= 7 for s in scores),
            "hemispheres_not_scored": sum(s is None for s in scores),
        }
    summary["median_seconds"] = float(np.median([c.seconds for c in cases]))
    return summary


def _by_name(truth: np.ndarray, called: np.ndarray, *, positive: bool) -> dict[str, float | None]:
    rates = {}
    for name in dict.fromkeys(r.name for r in ALL_REGIONS):
        columns = [i for i, r in enumerate(ALL_REGIONS) if r.name == name]
        t, c = truth[:, columns], called[:, columns]
        chosen = c[t] if positive else ~c[~t]
        rates[name] = round(float(chosen.mean()), 3) if chosen.size else None
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--split", choices=sorted(SEED_RANGES), default="tune")
    parser.add_argument("--first", type=int, default=0, help="offset into the split's seeds")
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--normals", type=int, default=20)
    parser.add_argument("--delta-hu", type=float, default=5.0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the dated JSON; printed only when absent")
    options = parser.parse_args()
    seeds = SEED_RANGES[options.split][options.first :][: options.cases + options.normals]
    if len(seeds) < options.cases + options.normals:
        raise UsageError("more cases than the split has seeds")
    depths = [options.delta_hu] * options.cases + [0.0] * options.normals
    with ProcessPoolExecutor(options.workers) as pool:
        cases = list(pool.map(run_case, seeds, depths, [options.engine] * len(seeds)))
    summary = summarise(cases)
    print(json.dumps(summary, indent=2))
    for case in cases:
        missed = [
            f"{r.side[0]}{r.name}"
            for r, t, a in zip(ALL_REGIONS, case.truth, case.affected, strict=True)
            if t and not a
        ]
        extra = [
            f"{r.side[0]}{r.name}"
            for r, t, a in zip(ALL_REGIONS, case.truth, case.affected, strict=True)
            if a and not t
        ]
        print(
            case.seed,
            case.status,
            case.code,
            f"tilt {case.tilt_deg:.0f} {case.thickness_mm:.1f} mm",
            case.side,
            true_side(case),
            "missed",
            missed,
            "extra",
            extra,
        )
    if options.out:
        record = {
            "date": datetime.now(UTC).date().isoformat(),
            "command": f"python tests/studies/simulated.py --split {options.split} --first {options.first} "
            f"--cases {options.cases} --normals {options.normals} "
            f"--delta-hu {options.delta_hu} --engine {options.engine}",
            "machine": f"{platform.machine()}, {options.workers} worker processes",
            "strokecore": __version__,
            "simulator": {"version": SIMULATOR_VERSION, "sha256": simulator_sha256()},
            "seeds": [min(seeds), max(seeds)],
            "summary": summary,
            "per_case": [asdict(c) for c in cases],
        }
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"simulated-{options.split}-{record['date']}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
