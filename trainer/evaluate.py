"""``trainer evaluate``: how good a trained network's infarct is on cases whose truth is known.

    OUT/evaluation.json   every figure, per group of patients, with the digests of recipe, data and run
    OUT/patients.csv      one row per patient
    OUT/best.png, median.png, worst.png

The threshold is found on the validation split, never on the cases that are measured. What is measured, and
by which rule, stands in trainer.measure.metrics; which patients a figure is over in trainer.measure.figures.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from strokecore.arrays import dice_of_counts
from strokecore.errors import UsageError
from strokecore.files import csv_bytes
from strokecore.simulate import SIMULATOR_VERSION, simulator_sha256
from trainer.data.cases import CaseRecord, Dataset, Split
from trainer.measure.figures import GROUPS, of_group, patient_row, print_summary, summarise
from trainer.measure.metrics import PatientFigures, measure
from trainer.measure.pictures import require_matplotlib, save_overlay
from trainer.measure.thresholds import THRESHOLDS, best, levels, reaching

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.measure.prediction import Panel
    from trainer.network.vit_dpt import StrokeNet

log = logging.getLogger(__name__)


Protocol = Literal["aisd"]

EVALUATION_SCHEMA: Final = 1
DEFAULT_THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class Threshold:
    """From which probability a voxel counts as infarct.

    Attributes
    ----------
    chosen_on: how it was found: "validate", or "given" by the user.
    dice: mean Dice on the validation patients at each of THRESHOLDS; empty when given.
    """

    value: float
    chosen_on: Literal["validate", "given"]
    dice: tuple[float, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes
    ----------
    record: the content of evaluation.json; record["figures"][group] as measure.figures.summarise gives it.
    """

    record: dict[str, Any]
    patients: tuple[PatientFigures, ...]
    out: Path

    @property
    def dice(self) -> float | None:
        """Mean Dice over patients with infarct; None when there is none."""
        value: float | None = self.record["figures"]["all"]["dice"]["mean"]["value"]
        return value


def evaluate(
    run: Path,
    data: Path,
    *,
    split: Split = "test",
    out: Path | None = None,
    threshold: float | None = None,
    protocol: Protocol | None = None,
    allow_incomplete: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Measure a run on one split of a prepared dataset.

    Parameters
    ----------
    out: folder for the results; RUN/evaluation-SPLIT if not given.
    threshold: used instead of the one found on the validation split.
    protocol: "aisd": the official protocol of that dataset (``check_aisd``).
    allow_incomplete: let ``protocol`` go on with scans missing; the result is then named incomplete.
    console: where the table goes.

    Raises
    ------
    UsageError: run or data cannot be used, the split is empty, no validation patient has an infarct and no
        threshold is given, or the protocol's test set is not complete.
    """
    from trainer.loop.run_folder import load_network, read_record
    from trainer.measure.prediction import Panel

    started = time.monotonic()
    require_matplotlib()
    dataset = Dataset(data)
    records = dataset.split(split)
    if not records:
        raise UsageError(f"{data} has no case in the split {split!r}; prepare data that has.")
    followed = None
    if protocol is not None:
        records, followed = check_aisd(dataset, split, allow_incomplete)
    recipe, net = load_network(run)
    panel = Panel([on_best_device(net)], recipe.input)

    chosen = Threshold(threshold, "given") if threshold is not None else find_thresholds(panel, dataset)[0]
    if split == chosen.chosen_on:
        log.warning("the threshold was found on the cases that are measured: the figures flatter the model")
    patients = tuple(p for (p,) in measured(panel, [chosen], dataset, records))

    about = read_record(run)
    record: dict[str, Any] = {
        "schema": EVALUATION_SCHEMA,
        "split": split,
        "protocol": followed,
        "threshold": threshold_record(chosen),
        "recipe": {"name": recipe.name, "sha256": about["recipe_sha256"]},
        "run": {"weights": "best", "best": about.get("best"), "trained_on_sha256": about["data"]["sha256"]},
        "data": data_record(dataset),
        "figures": by_group(patients),
        "patients": [patient_row(patient) for patient in patients],
        "seconds": round(time.monotonic() - started, 1),
    }
    folder = out if out is not None else run / f"evaluation-{split}"
    write(folder, record, patients)
    draw_examples(folder, panel, chosen, dataset, patients)
    if console is not None:
        print_summary(record["figures"], f"{recipe.name}, {split}, threshold {chosen.value:g}", console)
    return Evaluation(record, patients, folder)


def find_thresholds(panel: Panel, dataset: Dataset) -> list[Threshold]:
    """For each network the threshold with the best mean Dice over the validation patients with infarct.

    Among equals the one nearest to one half counts. Patients without infarct have no Dice and no say.
    Raises UsageError when no validation patient has an infarct.
    """
    records = [record for record in dataset.split("validate") if record.lesion_ml > 0]
    if not records:
        raise UsageError(
            f"{dataset.folder} has no validation case with infarct to find the threshold on; "
            f"give --threshold, for example {DEFAULT_THRESHOLD}."
        )
    dice = np.empty((len(panel.nets), len(records), len(THRESHOLDS)))
    for row, record in enumerate(records):
        case = dataset.load(record)
        for index, infarct in enumerate(panel.infarcts(case)):
            level = levels(infarct)
            both, size = reaching(level[case.lesion]), reaching(level) + np.count_nonzero(case.lesion)
            dice[index, row] = dice_of_counts(both, size)
    chosen = [Threshold(best(means), "validate", tuple(means.tolist())) for means in dice.mean(axis=1)]
    for threshold in chosen:
        if threshold.value in (THRESHOLDS[0], THRESHOLDS[-1]):
            log.warning(
                "the best threshold, %g, is the last one tried: the probabilities are badly calibrated, and "
                "false infarct in patients without one deserves a look",
                threshold.value,
            )
    return chosen


def measured(
    panel: Panel,
    thresholds: Sequence[Threshold],
    dataset: Dataset,
    records: Sequence[CaseRecord],
    done: Callable[[], object] = lambda: None,
) -> Iterator[tuple[PatientFigures, ...]]:
    """Case after case, the measurements of every network of the panel."""
    for record in records:
        case = dataset.load(record)
        yield tuple(
            measure(case, found.infarct >= threshold.value, found.names)
            for found, threshold in zip(panel.predictions(case), thresholds, strict=True)
        )
        done()


def check_aisd(
    dataset: Dataset, split: Split, allow_incomplete: bool
) -> tuple[tuple[CaseRecord, ...], dict[str, Any]]:
    """The official test scans of AISD, and what of the protocol is followed.

    What is known of it: 52 of the 397 scans, by id, are the test set (Liang et al., MICCAI 2021, and the
    dataset's page); the lesion is the authors' {1, 2, 3, 5} of the mask values; Dice is taken per scan and
    averaged over the 52. Not known: on which grid, and what a scan without lesion counts. Here the grid is
    the canonical one (2 x 1 x 1 mm), and a scan without lesion has no Dice (trainer.measure.metrics).

    Raises UsageError when the data is not AISD, was prepared with another choice of labels, the split is not
    "test", or a scan is missing and ``allow_incomplete`` is not given.
    """
    from trainer.prepare.aisd_layout import TEST_IDS

    if dataset.about.get("kind") != "aisd" or split != "test":
        raise UsageError(
            f"the protocol aisd is for the test split of AISD; this is the split {split!r} of data of kind "
            f"{dataset.about.get('kind')!r}. Make the data with trainer prepare aisd."
        )
    if dataset.about.get("label_choice") != "lesion":
        raise UsageError(
            f"the data was prepared with --labels {dataset.about.get('label_choice')}; the protocol aisd is "
            "of the authors' lesion: prepare it with --labels lesion."
        )
    records = tuple(r for r in dataset.split("test") if r.id in TEST_IDS)
    missing = sorted(TEST_IDS - {record.id for record in records})
    if missing and not allow_incomplete:
        raise UsageError(
            f"{len(missing)} of the {len(TEST_IDS)} official test scans are missing ({', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}); prepare them, or give --allow-incomplete: the result is "
            "then named incomplete and is not comparable with published ones."
        )
    return records, {
        "name": "aisd",
        "complete": not missing,
        "scans": len(records),
        "of": len(TEST_IDS),
        "missing": missing,
        "label_values": dataset.about.get("label_values"),
        "from_8_bit_slices": sum(r.provenance.get("pixels") == "png" for r in records),
        "dice": "per scan in three dimensions, averaged over scans with lesion",
        "grid": "canonical, 2 x 1 x 1 mm; not the scan's own",
    }


def on_best_device(net: StrokeNet) -> StrokeNet:
    """The network on the GPU where there is one."""
    import torch

    return net.to("cuda" if torch.cuda.is_available() else "cpu")


def threshold_record(threshold: Threshold) -> dict[str, Any]:
    """JSON-ready; says what was tried."""
    tried = {f"{t:g}": round(d, 5) for t, d in zip(THRESHOLDS, threshold.dice, strict=False)}
    return {"value": threshold.value, "chosen_on": threshold.chosen_on, "validation_dice": tried}


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What data a result is of; simulated data names the simulator that made it and the one at hand."""
    about: dict[str, Any] = {"sha256": dataset.sha256}
    about |= {name: dataset.about.get(name) for name in ("kind", "labels", "atlas_sha256", "preprocess")}
    if dataset.about.get("kind") == "simulated":
        about["simulator"] = dataset.about.get("simulator")
        about["simulator_here"] = {"version": SIMULATOR_VERSION, "sha256": simulator_sha256()}
    return about


def by_group(patients: Sequence[PatientFigures]) -> dict[str, dict[str, Any]]:
    """Figures of all patients and of every group that has some."""
    found = {group: of_group(patients, group) for group in GROUPS}
    return {group: summarise(members) for group, members in found.items() if members}


def write(folder: Path, record: dict[str, Any], patients: Sequence[PatientFigures]) -> None:
    """evaluation.json and patients.csv."""
    from trainer.loop.checkpoint import write_file, write_json

    write_file(folder / "patients.csv", csv_bytes([patient_row(patient) for patient in patients]))
    write_json(folder / "evaluation.json", record)


def draw_examples(
    folder: Path, panel: Panel, threshold: Threshold, dataset: Dataset, patients: Sequence[PatientFigures]
) -> None:
    """best.png, median.png and worst.png by Dice of the first network; nothing without infarct."""
    ranked = sorted((p for p in patients if not p.lesion_free), key=lambda p: (p.infarct.dice, p.id))
    if not ranked:
        return
    records = {record.id: record for record in dataset.records}
    for name, index in (("worst", 0), ("median", (len(ranked) - 1) // 2), ("best", len(ranked) - 1)):
        patient = ranked[index]
        case = dataset.load(records[patient.id])
        predicted = panel.infarcts(case)[0] >= threshold.value
        title = f"{name}: {patient.id}, Dice {patient.infarct.dice:.3f}"
        save_overlay(folder / f"{name}.png", case, predicted, title)
