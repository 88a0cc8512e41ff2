"""Trained networks beside the weight-free engine, on validation persons: which recipe is worth shipping.

    python -m tests.studies.candidates OUT --data DATA RUN [RUN ..]

Every network is shown the cases of the split "validate" through the node's own functions. Its regions are
called from its map alone and joined with the weight-free engine's opinion; the curves are fitted on all
persons but one and read on that one, so that no person's calls come from a fit that has seen them. Regions
are cut so that nine in ten healthy hemispheres stay at 10, by the same rule for all.

OUT holds what was computed for each case, so that another run adds only what is new, and the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES, SIDES
from strokecore.arrays import BoolArray, Float64Array, dice_of_counts
from strokecore.evaluate.statistics import auc
from strokecore.files import write_atomically
from strokecore.learned.combination import region_opinions
from strokecore.learned.engine import region_log_odds
from trainer.data.cases import CaseRecord, Dataset
from trainer.loop.run_folder import load_network
from trainer.measure.metrics import CLASS_NAMES
from trainer.measure.prediction import Panel
from trainer.measure.thresholds import THRESHOLDS, levels, reaching
from trainer.package.calibrate import fit_regions, mirrored, probabilities
from trainer.package.combine import weight_free

DEPTHS_HU: Final = (2.0, 3.0, 5.0, 8.0)
DEEP: Final = ("C", "L", "IC", "I")
CLEAN_SHARE: Final = 0.90
SPECIFICITY: Final = 0.95
FROM_HU: Final = 4.0

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Cases:
    """The validation cases; regions in ALL_REGIONS order.

    affected, judged: bool [cases, 20]. depth_hu: [cases], 0 without infarct. person: of each case.
    """

    affected: BoolArray
    judged: BoolArray
    depth_hu: Float64Array
    person: tuple[str, ...]

    @classmethod
    def of(cls, records: Sequence[CaseRecord]) -> Cases:
        names = [f"{region.side}:{region.name}" for region in ALL_REGIONS]
        return cls(
            np.array([[name in record.affected for name in names] for record in records]),
            np.array([[name not in record.not_judged for name in names] for record in records]),
            np.array([float(r.provenance["delta_hu"]) if r.affected else 0.0 for r in records]),
            tuple(record.provenance["anatomy"].split(":")[0] for record in records),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", choices=("best", "last"), default="best")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dataset = Dataset(options.data)
    records = dataset.split("validate")
    cases = Cases.of(records)
    atlas = load_atlas()
    free = _kept(
        options.out / "weight-free",
        records,
        lambda record: _weight_free(dataset, record, atlas),
        "weight-free",
    )
    table = {"weight-free": _row(free["log_odds"], cases, free["dice"][:, None], (0.5,))}
    for run in options.runs:
        recipe, net = load_network(run, options.weights)
        best = json.loads((run / "run.json").read_text("utf-8"))["best"]
        step = best["step"] if options.weights == "best" and best else "last"
        panel = Panel([net], recipe.input)

        def learned(record: CaseRecord, panel: Panel = panel) -> Arrays:
            return _learned(dataset, record, panel)

        found = _kept(options.out / f"{run.name}-{step}", records, learned, run.name)
        name = f"{run.name} ({step})"
        alone = _by_other_persons(cases, found["log_odds"], None)
        joined = _by_other_persons(cases, found["log_odds"], free["log_odds"])
        table[name] = _row(alone, cases, found["dice"], THRESHOLDS) | {"class_dice": _class_dice(found)}
        table[f"{name} + weight-free"] = _row(joined, cases, found["dice"], THRESHOLDS)
    write_atomically(options.out / "candidates.json", (json.dumps(table, indent=1) + "\n").encode())
    _print(table, len(records))
    return 0


def _kept(
    folder: Path, records: Sequence[CaseRecord], make: Callable[[CaseRecord], Arrays], name: str
) -> Arrays:
    """What ``make`` gives of every case, stacked; kept in ``folder`` under the case's digest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for done, record in enumerate(records, start=1):
        path = folder / f"{record.id}-{record.digest[:12]}.npz"
        if not path.exists():
            made = make(record)
            part = path.with_suffix(".part.npz")
            np.savez(part, allow_pickle=False, **made)
            part.rename(path)
            print(f"\r{name}: {done} of {len(records)}", end="", file=sys.stderr, flush=True)
        with np.load(path) as file:
            rows.append({key: file[key] for key in file.files})
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _weight_free(dataset: Dataset, record: CaseRecord, atlas: object) -> Arrays:
    case = dataset.load(record)
    lesion = weight_free(case, atlas)  # type: ignore[arg-type]
    opinions = region_opinions(lesion)
    both, sizes = int((lesion.acute & case.lesion).sum()), int(lesion.acute.sum() + case.lesion.sum())
    dice = float(dice_of_counts(both, sizes)) if case.lesion.any() else np.nan
    return {"log_odds": np.array([opinions.get(r, np.nan) for r in ALL_REGIONS]), "dice": np.array(dice)}


def _learned(dataset: Dataset, record: CaseRecord, panel: Panel) -> Arrays:
    case = dataset.load(record)
    (prediction,) = panel.predictions(case)
    odds = region_log_odds(prediction.infarct, case.regions, case.brain)
    level = levels(prediction.infarct)
    reached, both = reaching(level), reaching(level[case.lesion])
    size = int(case.lesion.sum())
    dice = dice_of_counts(both, reached + size) if size else np.full(len(THRESHOLDS), np.nan)
    # overlap, predicted and true voxels of each class where the infarct is called from one half on
    called = np.where(prediction.infarct >= 0.5, prediction.names, 0)
    true = np.zeros(called.shape, np.uint8)
    for region in ALL_REGIONS:
        true[case.lesion & (case.territory == region.label)] = CLASS_NAMES.index(region.name)
    counts = np.array(
        [
            [((called == k) & (true == k)).sum(), (called == k).sum(), (true == k).sum()]
            for k in range(1, len(CLASS_NAMES))
        ]
    )
    return {
        "log_odds": np.array([odds.get(region, np.nan) for region in ALL_REGIONS]),
        "dice": np.asarray(dice, float),
        "classes": counts,
    }


def _by_other_persons(cases: Cases, mine: Float64Array, other: Float64Array | None) -> Float64Array:
    """Each region's log-odds by curves that were fitted on the other persons; [cases, 20]."""
    out = np.full(mine.shape, np.nan)
    second = np.zeros_like(mine) if other is None else other
    for person in sorted(set(cases.person)):
        here = np.array([name == person for name in cases.person])
        theirs = None if other is None else other[~here]
        fitted = fit_regions(mine[~here], cases.affected[~here], cases.judged[~here], theirs)
        compared = mirrored(mine[here], fitted.mirror_weight)
        p = np.clip(probabilities(fitted.calibration, compared, second[here]), 1e-9, 1 - 1e-9)
        out[here] = np.log(p / (1 - p))
    return out


def _row(
    odds: Float64Array, cases: Cases, dice: Float64Array, thresholds: Sequence[float]
) -> dict[str, object]:
    known = cases.judged & ~np.isnan(odds)
    healthy = cases.depth_hu == 0
    aucs = {}
    for depth in DEPTHS_HU:
        here = known & (healthy | (cases.depth_hu == depth))[:, None]
        aucs[f"{depth:g}"] = auc(cases.affected[here], odds[here])
    deep = np.array([region.name in DEEP for region in ALL_REGIONS])
    plain = known & (healthy | (cases.depth_hu >= FROM_HU))[:, None]
    sick = known & cases.affected & (cases.depth_hu >= FROM_HU)[:, None]
    cut = _clean_cut(odds, cases)
    specific = float(np.quantile(odds[known & ~cases.affected], SPECIFICITY))
    y, p = cases.affected[known], 1 / (1 + np.exp(-odds[known]))
    prevalence = y.mean()
    with_infarct = cases.depth_hu >= FROM_HU
    by_threshold = np.nanmean(dice[with_infarct], axis=0)
    best = int(np.argmax(np.nanmean(dice, axis=0)))
    by_name = {}
    for name in REGION_NAMES:
        column = np.array([region.name == name for region in ALL_REGIONS])
        here = plain & column
        by_name[name] = [auc(cases.affected[here], odds[here]), float((odds[sick & column] >= cut).mean())]
    return {
        "auc": aucs,
        "auc_deep": auc(cases.affected[plain & deep], odds[plain & deep]),
        "by_name": by_name,
        "sensitivity": float((odds[sick] >= cut).mean()),
        "specificity": float((odds[known & ~cases.affected] < cut).mean()),
        "sensitivity_at_specificity": float((odds[sick] >= specific).mean()),
        "brier_skill": float(1 - np.mean((p - y) ** 2) / (prevalence * (1 - prevalence))),
        "side_right": _side_right(odds, cases, cut),
        "dice": float(by_threshold[best]),
        "dice_threshold": thresholds[best],
    }


def _clean_cut(odds: Float64Array, cases: Cases) -> float:
    highest: list[float] = []
    for side in SIDES:
        mine = np.array([region.side == side for region in ALL_REGIONS])
        clean = ~cases.affected[:, mine].any(axis=1) & cases.judged[:, mine].all(axis=1)
        highest += np.nanmax(odds[np.ix_(clean, mine)], axis=1).tolist()
    return float(np.quantile(highest, CLEAN_SHARE, method="higher")) + 1e-9


def _side_right(odds: Float64Array, cases: Cases, cut: float) -> float:
    """How often a side that is called is right, in heads with infarct of FROM_HU or more."""
    left = np.array([region.side == "left" for region in ALL_REGIONS])
    called = odds >= cut
    difference = called[:, left].sum(1) - called[:, ~left].sum(1)
    true = cases.affected[:, left].sum(1) - cases.affected[:, ~left].sum(1)
    here = (cases.depth_hu >= FROM_HU) & (difference != 0)
    return float((np.sign(difference) == np.sign(true))[here].mean())


def _class_dice(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of each class over all cases together: overlap of where it is and where it is called."""
    both, predicted, true = found["classes"].sum(axis=0).T
    return dict(
        zip(CLASS_NAMES[1:], (2 * both / np.maximum(predicted + true, 1)).round(3).tolist(), strict=True)
    )


def _print(table: Mapping[str, Mapping[str, object]], cases: int) -> None:
    print(f"\n{cases} validation cases; C, L, IC and I, sensitivity and Dice from {FROM_HU:g} HU on\n")
    print(
        "| | AUC 2 / 3 / 5 / 8 HU | AUC C, L, IC, I | sensitivity at the clean cut | at specificity 0.95 "
        "| side right | Brier skill | Dice (threshold) |\n|---|---|---|---|---|---|---|---|"
    )
    for name, row in table.items():
        aucs = " / ".join(f"{value:.3f}" for value in row["auc"].values())  # type: ignore[attr-defined]
        print(
            f"| {name} | {aucs} | {row['auc_deep']:.3f} | {row['sensitivity']:.3f} "
            f"(specificity {row['specificity']:.3f}) | {row['sensitivity_at_specificity']:.3f} "
            f"| {row['side_right']:.3f} | {row['brier_skill']:.3f} "
            f"| {row['dice']:.3f} ({row['dice_threshold']:g}) |"
        )
    for name, row in table.items():
        pairs = row["by_name"].items()  # type: ignore[attr-defined]
        print(f"\n{name}: " + ", ".join(f"{n} {a:.2f} / {s:.2f}" for n, (a, s) in pairs))
        if "class_dice" in row:
            print(f"  class Dice {row['class_dice']}")


if __name__ == "__main__":
    sys.exit(main())
