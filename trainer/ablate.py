"""``trainer ablate``: the Territory-Aware Gated Loss against plain cross-entropy and Dice, over seeds.

    OUT/<kind>-<seed>/    one training run each (trainer.loop.run_folder): control, TAGL, and named variants
    OUT/ablation.json     every figure, threshold and setting
    OUT/ablation.md       the tables; OUT/ablation.csv: one row per kind, seed and patient
    OUT/gate.png          what the gate did over training; OUT/differences.png: paired differences

The kinds differ in their loss alone: a seed gives them the same first weights, the same batches and
augmentations and the same number of steps (early stopping is off). What is not chosen by the loss is chosen
alike: the weights by validation Dice, the threshold of each run by ``trainer.evaluate.find_thresholds``.
Runs that were finished are kept, one that was killed is continued.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import Float64Array
from strokecore.errors import UsageError
from strokecore.evaluate.statistics import Estimate
from strokecore.files import csv_bytes
from trainer.config import Recipe
from trainer.data.cases import Dataset
from trainer.evaluate import (
    Threshold,
    data_record,
    find_thresholds,
    measured,
    on_best_device,
    threshold_record,
)
from trainer.loss.config import TaglConfig
from trainer.measure.figures import GROUPS, patient_row, values
from trainer.measure.metrics import PatientFigures
from trainer.measure.paired import Criterion, difference, figure, judge
from trainer.measure.pictures import require_matplotlib
from trainer.measure.variants import CONTROL, kinds_of

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger(__name__)


ABLATION_SCHEMA: Final = 1
SETS: Final = ("coupled", "uncoupled", "lesion_free", "all")
# Figures of a patient that are compared; each is undefined (NaN) in the patients whom it is not about.
FIGURES: Final[dict[str, Callable[[PatientFigures], float]]] = {
    "dice": lambda p: p.infarct.dice,
    "dice_bg": lambda p: p.level_dice("bg"),
    "dice_sg": lambda p: p.level_dice("sg"),
    "sg_sensitivity": lambda p: p.sg_sensitivity,
    "false_positive_ml": lambda p: p.predicted_ml if p.lesion_free else float("nan"),
}


@dataclass(frozen=True)
class Ablation:
    """What ``ablate`` found.

    Attributes
    ----------
    record: the content of ablation.json.
    criteria: whether each kind meets the criterion; TAGL first, then the variants.
    """

    record: dict[str, Any]
    criteria: tuple[Criterion, ...]
    out: Path


@dataclass(frozen=True)
class RunOf:
    """One training run of the ablation."""

    kind: str
    seed: int
    folder: Path


def ablate(
    recipe: Recipe,
    data: Path,
    seeds: int,
    *,
    out: Path | None = None,
    variants: Sequence[str] = (),
    max_steps: int | None = None,
    console: Console | None = None,
) -> Ablation:
    """Train and measure every kind under seeds recipe.seed, recipe.seed + 1, ...

    Parameters
    ----------
    data: a prepared folder with the splits train, validate and test.
    out: DATA-ablation beside the data if not given.
    variants: more kinds, "NAME:key=value,key=value" with settings of the loss.
    max_steps: as in ``trainer.train.train``, for every run.

    Raises
    ------
    UsageError: no test case, no seed, a variant that cannot be read, a recipe whose loss is the control's
        already, or ``out`` holds runs of another recipe or other data.
    """
    kinds = kinds_of(recipe.loss, variants)
    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}, expected 1 or more; an interval needs at least 3.")
    require_matplotlib()
    dataset = Dataset(data)
    if not dataset.split("test"):
        raise UsageError(f"{data} has no test case; prepare data that has.")
    folder = out if out is not None else data.parent / f"{data.name}-ablation"

    started = time.monotonic()
    numbers = range(recipe.seed, recipe.seed + seeds)
    runs = train_all(recipe, kinds, numbers, data, folder, max_steps=max_steps, console=console)
    trained = time.monotonic()
    thresholds, patients = measure_all(runs, dataset, recipe, console)
    record = {
        "schema": ABLATION_SCHEMA,
        "recipe": recipe.to_dict(),
        "max_steps": max_steps,
        "data": data_record(dataset),
        "kinds": {kind: dataclasses.asdict(loss) for kind, loss in kinds.items()},
        "seeds": list(numbers),
        "runs": [run_record(run, threshold) for run, threshold in zip(runs, thresholds, strict=True)],
        **compare(runs, patients, list(kinds), seeds),
        "seconds": {"train": round(trained - started, 1), "measure": round(time.monotonic() - trained, 1)},
    }
    criteria = tuple(Criterion(**values) for values in record["verdicts"].values())
    _write(folder, record, runs, patients)
    if console is not None:
        from trainer.measure.ablation_report import print_report

        print_report(record, console)
    return Ablation(record, criteria, folder)


def train_all(
    recipe: Recipe,
    kinds: Mapping[str, TaglConfig],
    seeds: range,
    data: Path,
    folder: Path,
    *,
    max_steps: int | None = None,
    console: Console | None = None,
) -> list[RunOf]:
    """Train what is not trained yet; seed by seed, so that a first comparison is there early."""
    from trainer.loop.run_folder import read_record, recipe_sha256
    from trainer.train import train

    runs = []
    for seed in seeds:
        for kind, loss in kinds.items():
            # patience must not end one kind's training before another's
            training = replace(recipe.training, patience=recipe.training.steps)
            own = replace(recipe, seed=seed, loss=loss, training=training)
            run = RunOf(kind, seed, folder / f"{kind}-{seed}")
            steps = min(max_steps or own.training.steps, own.training.steps)
            if (run.folder / "best.safetensors").exists():
                before = read_record(run.folder)
                done = before["steps"] == steps and before["recipe_sha256"] == recipe_sha256(own)
                if done and before["data"]["sha256"] == Dataset(data).sha256:
                    runs.append(run)
                    continue
            if console is not None:
                console.print(f"{kind}, seed {seed}", style="bold")
            train(own, data, run.folder, max_steps, console)
            runs.append(run)
    return runs


def measure_all(
    runs: Sequence[RunOf], dataset: Dataset, recipe: Recipe, console: Console | None
) -> tuple[list[Threshold], list[tuple[PatientFigures, ...]]]:
    """The threshold of every run, and its figures of every test patient."""
    from rich.progress import Progress

    from trainer.loop.run_folder import load_network
    from trainer.measure.prediction import Panel

    panel = Panel([on_best_device(load_network(run.folder)[1]) for run in runs], recipe.input)
    if console is not None:
        console.print(f"finding the thresholds of {len(runs)} runs on validation, then measuring them")
    thresholds = find_thresholds(panel, dataset)
    records = dataset.split("test")
    with Progress(console=console, disable=console is None or not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=len(records))
        rows = list(measured(panel, thresholds, dataset, records, done=lambda: progress.advance(task)))
    return thresholds, [tuple(column) for column in zip(*rows, strict=True)]


def compare(
    runs: Sequence[RunOf], patients: Sequence[tuple[PatientFigures, ...]], kinds: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Figures of every set and kind, differences from the control, and the criterion; JSON-ready.

    Parameters
    ----------
    patients: per run, all test patients in the same order.
    """
    # territory columns: by class channel where the territories of the truth are known
    how = "class" if patients[0][0].labels == "territory" else "inside"
    by_kind = {k: [p for run, p in zip(runs, patients, strict=True) if run.kind == k] for k in kinds}
    assert all(len(found) == seeds for found in by_kind.values())
    sets = {}
    for name in SETS:
        members = {
            kind: [[p for p in one if p.group in GROUPS[name]] for one in found]
            for kind, found in by_kind.items()
        }
        if members[CONTROL][0]:
            sets[name] = _compare_set(members, how)
    criteria = {}
    for kind in kinds[1:]:
        found = sets.get("uncoupled", {"differences": {}})["differences"].get(kind, {})
        keys = ("dice", "sg_sensitivity")
        dice, sensitivity = (
            Estimate(*(found.get(key, {}).get(part) for part in ("value", "low", "high"))) for key in keys
        )
        counts = [found.get(key, {}).get("patients", 0) for key in keys]
        criteria[kind] = dataclasses.asdict(judge(kind, dice, sensitivity, (counts[0], counts[1])))
    return {"territories_by": how, "sets": sets, "verdicts": criteria}


def run_record(run: RunOf, threshold: Threshold) -> dict[str, Any]:
    """What is known of one training run."""
    from trainer.loop.run_folder import read_record

    about = read_record(run.folder)
    return {
        "kind": run.kind,
        "seed": run.seed,
        "folder": run.folder.name,
        "recipe_sha256": about["recipe_sha256"],
        "steps": about["steps"],
        "best": about["best"],
        "threshold": threshold_record(threshold),
        "sessions": [
            {name: session[name] for name in ("device", "precision", "software", "git") if name in session}
            for session in about["sessions"]
        ],
    }


def _compare_set(members: Mapping[str, list[list[PatientFigures]]], how: Any) -> dict[str, Any]:
    """One set of patients: ``members[kind][seed]`` are its patients."""

    def of(kind: str, measure: Callable[[PatientFigures], float]) -> Float64Array:
        return np.stack([values(one, measure) for one in members[kind]])

    arrays: dict[str, dict[str, Float64Array]] = {kind: {} for kind in members}
    for kind, found in arrays.items():
        found |= {name: of(kind, measure) for name, measure in FIGURES.items()}
        for name in REGION_NAMES:
            found[name] = of(kind, lambda p, name=name: p.territory_dice(name, how))  # type: ignore[misc]
        found["territory_mean"] = np.stack([found[name] for name in REGION_NAMES], axis=2)
    return {
        "patients": len(members[CONTROL][0]),
        "kinds": {kind: {name: figure(v) for name, v in found.items()} for kind, found in arrays.items()},
        "differences": {
            kind: {name: difference(v, arrays[CONTROL][name]) for name, v in found.items()}
            for kind, found in arrays.items()
            if kind != CONTROL
        },
    }


def _write(
    folder: Path,
    record: dict[str, Any],
    runs: Sequence[RunOf],
    patients: Sequence[tuple[PatientFigures, ...]],
) -> None:
    from trainer.loop.checkpoint import write_file, write_json
    from trainer.loop.curve import read_curve
    from trainer.measure.ablation_report import to_markdown
    from trainer.measure.plots import draw_differences, draw_gate

    rows = [
        {"kind": run.kind, "seed": run.seed, **patient_row(patient)}
        for run, found in zip(runs, patients, strict=True)
        for patient in found
    ]
    write_file(folder / "ablation.csv", csv_bytes(rows))
    write_json(folder / "ablation.json", record)
    write_file(folder / "ablation.md", to_markdown(record).encode())
    draw_differences(folder / "differences.png", record)
    curves = {(run.kind, run.seed): read_curve(run.folder) for run in runs}
    recipe = record["recipe"]
    draw_gate(folder / "gate.png", curves, recipe["training"]["steps"] * recipe["loss"]["plain_share"])
