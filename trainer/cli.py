"""The ``trainer`` command: thin over the API. Heavy imports happen inside the commands."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from strokecore._version import __version__
from strokecore.errors import ModelPackageError, StrokeCoreError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.config import Recipe
    from trainer.data.cases import Dataset

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
# Packages of the extra "train" whose absence is told with the command that installs them.
_NEEDED = (
    "torch",
    "transformers",
    "monai",
    "lightning_fabric",
    "jsonargparse",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 usage, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for name in ("trainer", "strokecore"):
        logging.getLogger(name).setLevel(logging.INFO if options.verbose else logging.WARNING)
    # nothing is ever downloaded behind the user's back
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return int(options.run(options))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _NEEDED:
            raise
        print(
            f"trainer: {error.name} is not installed; run pip install 'strokecore[train]'.", file=sys.stderr
        )
        return EXIT_USAGE
    except (UsageError, ModelPackageError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (StrokeCoreError, OSError) as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _prepare_simulated(options: argparse.Namespace) -> int:
    from trainer.prepare.simulated import find_anatomies, parse_seeds, prepare_simulated

    seeds = parse_seeds(options.seeds)
    anatomies = None
    if options.anatomies is not None:
        anatomies = find_anatomies(
            options.anatomies, options.persons, options.second_atlas, options.validate_persons
        )
    return _prepared(prepare_simulated(options.out, options.n, seeds, options.workers, anatomies), options.n)


def _prepare_aisd(options: argparse.Namespace) -> int:
    from trainer.prepare.aisd import prepare_aisd

    return _prepared(prepare_aisd(options.source, options.out, options.labels, options.workers))


def _prepare_folder(options: argparse.Namespace) -> int:
    from trainer.prepare.folder import prepare_folder

    return _prepared(prepare_folder(options.source, options.out, options.workers))


def _prepared(steps: Iterator[Dataset | int], total: int | None = None) -> int:
    """Show progress until the dataset is there; then say what it holds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console()
    dataset: Dataset | None = None
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("preparing", total=total)
        for step in steps:
            if isinstance(step, int):
                progress.update(task, completed=step)
            else:
                dataset = step
    assert dataset is not None
    counts = ", ".join(f"{count} {split}" for split, count in dataset.about["cases"].items())
    console.print(f"{len(dataset.records)} cases ({counts}) in {dataset.folder}")
    for left_out in dataset.about["skipped"]:
        console.print(f"left out {left_out['id']}: {left_out['reason']}", markup=False)
    return EXIT_OK


def _pretrain(options: argparse.Namespace) -> int:
    from rich.progress import Progress

    from trainer.pretrain import PretrainConfig, pretrain

    console = _console()
    config = PretrainConfig(steps=options.steps, batch=options.batch, seed=options.seed)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("pretraining", total=config.steps)
        metrics = pretrain(
            options.data, options.out, config, progress=lambda step, _: progress.update(task, completed=step)
        )
    told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    console.print(f"backbone in {options.out}; validation losses: {told}")
    return EXIT_OK


def _train(options: argparse.Namespace) -> int:
    from trainer.train import train

    train(_recipe(options), options.data, options.run_folder, options.max_steps, _console())
    return EXIT_OK


def _evaluate(options: argparse.Namespace) -> int:
    from trainer.evaluate import evaluate

    evaluate(
        options.run_folder,
        options.data,
        split=options.split,
        out=options.out,
        threshold=options.threshold,
        protocol=options.protocol,
        allow_incomplete=options.allow_incomplete,
        console=_console(),
    )
    return EXIT_OK


def _ablate(options: argparse.Namespace) -> int:
    from trainer.ablate import ablate

    ablate(
        _recipe(options),
        options.data,
        options.seeds,
        out=options.out,
        variants=options.variant,
        max_steps=options.max_steps,
        console=_console(),
    )
    return EXIT_OK


def _export(options: argparse.Namespace) -> int:
    from trainer.export import export

    folder = export(
        options.run_folder,
        options.out,
        options.data,
        joined=options.join_weight_free,
        note=_card_note(options),
        typed=options.typed,
    )
    _console().print(f"model package in {folder}; strokecore score DICOM_DIR --out OUT --model {folder}")
    return EXIT_OK


def _refit(options: argparse.Namespace) -> int:
    from trainer.export import refit

    folder = refit(options.model, options.out, options.data, note=_card_note(options))
    _console().print(f"model package in {folder}; strokecore score DICOM_DIR --out OUT --model {folder}")
    return EXIT_OK


def _card_note(options: argparse.Namespace) -> str:
    try:
        return str(options.card_note.read_text("utf-8")) if options.card_note else ""
    except (OSError, ValueError) as error:
        raise UsageError(f"{options.card_note} cannot be read as text ({type(error).__name__}).") from error


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line sets."""
    from trainer.config import load_recipe

    recipe = load_recipe(options.config)
    if options.weights is not None:
        # the run's record must name them from any folder
        source = str(Path(options.weights).resolve()) if Path(options.weights).exists() else options.weights
        recipe = replace(recipe, weights=replace(recipe.weights, source=source, sha256=""))
    if options.weights_sha256 is not None:
        recipe = replace(recipe, weights=replace(recipe.weights, sha256=options.weights_sha256))
    return recipe


def _console() -> Console:
    from rich.console import Console

    return Console(soft_wrap=True)


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainer",
        description="Train StrokeCore's model: prepare, train, evaluate, export. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, on standard error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands.add_parser("prepare", help="bring cases into the form that training reads"))

    pretrain = commands.add_parser("pretrain", help="teach the tiny backbone simulated CT, then it is frozen")
    pretrain.add_argument("--data", type=Path, required=True, metavar="OUT", help="a prepared folder")
    pretrain.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the backbone's weights"
    )
    pretrain.add_argument("--steps", type=int, default=600)
    pretrain.add_argument("--batch", type=int, default=16, help="slices in each step")
    pretrain.add_argument("--seed", type=int, default=1)
    pretrain.set_defaults(run=_pretrain)

    train = commands.add_parser("train", help="train; the same command continues a run that was stopped")
    _add_recipe(train)
    train.add_argument(
        "--run", type=Path, required=True, metavar="RUN", dest="run_folder", help="the run's folder"
    )
    train.set_defaults(run=_train)

    evaluate = commands.add_parser("evaluate", help="Dice, distances, volumes and pictures on one split")
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument("--data", type=Path, required=True, metavar="OUT", help="a prepared folder")
    evaluate.add_argument("--split", choices=("validate", "test", "train"), default="test")
    evaluate.add_argument("--out", type=Path, help="RUN/evaluation-SPLIT when not given")
    evaluate.add_argument("--threshold", type=float, help="of the probability; else chosen on validation")
    evaluate.add_argument("--protocol", choices=("aisd",), help="a published protocol, checked by name")
    evaluate.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="evaluate although the protocol's cases are not all there",
    )
    evaluate.set_defaults(run=_evaluate)

    ablate = commands.add_parser("ablate", help="TAGL against plain cross-entropy and Dice, over seeds")
    _add_recipe(ablate)
    ablate.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each kind")
    ablate.add_argument("--out", type=Path, help="OUT-ablation beside the data when not given")
    ablate.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,..",
        help="one more kind, with these settings of the loss; may be given again",
    )
    ablate.set_defaults(run=_ablate)

    export = commands.add_parser("export", help="write the model package that the node runs")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("out", type=Path, metavar="MODEL")
    export.add_argument("--data", type=Path, metavar="OUT", help="the run's data when it has moved")
    export.add_argument(
        "--join-weight-free",
        action="store_true",
        help="the node joins the weight-free engine's opinion to the network's; weights are fitted here",
    )
    export.add_argument(
        "--card-note", type=Path, metavar="FILE", help="Markdown for the end of the model card"
    )
    export.add_argument(
        "--typed",
        action="store_true",
        help="add the graphs that TensorRT runs in bf16 and fp16",
    )
    export.set_defaults(run=_export)

    refit = commands.add_parser(
        "refit", help="fit a package's thresholds and weights anew after an update of strokecore"
    )
    refit.add_argument("model", type=Path, metavar="MODEL")
    refit.add_argument("out", type=Path, metavar="OUT")
    refit.add_argument("--data", type=Path, required=True, metavar="DATA", help="prepared by this version")
    refit.add_argument(
        "--card-note", type=Path, metavar="FILE", help="Markdown for the end of the model card"
    )
    refit.set_defaults(run=_refit)
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(required=True, metavar="SOURCE")

    simulated = sources.add_parser("simulated", help="simulated head CT")
    simulated.add_argument("out", type=Path, metavar="OUT")
    simulated.add_argument("--n", type=int, required=True, help="number of heads")
    simulated.add_argument(
        "--seeds",
        default="1000..29999",
        metavar="A..B",
        help="0-9999 train, 10000-19999 validate, 20000-29999 test; %(default)s",
    )
    simulated.add_argument(
        "--anatomies",
        type=Path,
        metavar="DIR",
        help="make real people's heads, from this folder's label maps",
    )
    simulated.add_argument(
        "--persons",
        default="*",
        metavar="01,02",
        help="which of them: ends of names, or a pattern; keep those of each split apart; %(default)s",
    )
    simulated.add_argument(
        "--validate-persons",
        default="",
        metavar="09,10",
        help="people who are kept to the split validate; without it --persons are of every split",
    )
    simulated.add_argument(
        "--second-atlas", type=Path, metavar="DIR", help="masks of a second definition of the regions"
    )
    simulated.set_defaults(run=_prepare_simulated)

    aisd = sources.add_parser("aisd", help="the AISD dataset as it is downloaded")
    aisd.add_argument("source", type=Path, metavar="SRC")
    aisd.add_argument("out", type=Path, metavar="OUT")
    aisd.add_argument(
        "--labels",
        choices=("lesion", "acute"),
        default="lesion",
        help="lesion: the authors' choice {1,2,3,5}; acute: without remote infarct",
    )
    aisd.set_defaults(run=_prepare_aisd)

    folder = sources.add_parser("folder", help="a folder of cases: CT and infarct mask, DICOM or NIfTI")
    folder.add_argument("source", type=Path, metavar="SRC")
    folder.add_argument("out", type=Path, metavar="OUT")
    folder.set_defaults(run=_prepare_folder)
    for source in (simulated, aisd, folder):
        source.add_argument("--workers", type=int, default=_workers(), help="processes; %(default)s")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, metavar="RECIPE", help="YAML in trainer/recipes"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="OUT", help="a prepared folder")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after this many steps")
    parser.add_argument("--weights", metavar="PATH", help="the backbone's weights, instead of the recipe's")
    parser.add_argument("--weights-sha256", metavar="HEX", help="what the weights' hash must be")
