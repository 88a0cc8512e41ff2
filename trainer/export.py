"""``trainer export``: a finished run to the model package that the node runs.

The network becomes an ONNX graph; lesion threshold and regions' calibration are fitted on the validation
cases; golden inputs and outputs prove every copy of the graph; model.json names it all with hashes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.anatomy.atlas import load_atlas
from strokecore.arrays import Float4D
from strokecore.errors import UsageError
from strokecore.learned.arms import BLEND_MM, CLASSES
from strokecore.learned.combination import Combination
from strokecore.learned.engine import Run
from strokecore.learned.golden import read_golden
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import (
    CARD,
    GOLDEN,
    INPUT_NAME,
    LICENCE,
    MANIFEST,
    ONNX,
    OUTPUT_NAMES,
    TYPED_ONNX,
    WEIGHTS,
    file_sha256,
    load_package,
    output_shapes,
)
from strokecore.learned.parity import outline_is_steady
from strokecore.learned.preprocessing import PREPROCESS_VERSION, InputSpec
from trainer.config import Recipe
from trainer.data.cases import Case, CaseRecord, Dataset
from trainer.evaluate import on_best_device
from trainer.loop.checkpoint import write_weights
from trainer.loop.run_folder import load_network, read_record
from trainer.measure.prediction import predict_slices
from trainer.package.calibrate import figures, fit_regions, ranked_thresholds
from trainer.package.evidence import Decisions, Evidence, collect
from trainer.package.graph import ExportError, check_parity, golden, golden_bytes, to_onnx
from trainer.package.model_card import licence_name, licence_text, model_card
from trainer.package.typed import typed_networks

log = logging.getLogger(__name__)

# The interface's version; a retrained model has another build part.
MODEL_VERSION: Final = "1.0.0"
# The first version of strokecore that has engines for packages.
MINIMUM_STROKECORE: Final = "0.1.0"
INTENDED_USE: Final = "Research use only"
# As the weight-free engine, tuned there on the tuning seeds: smaller lesions are mostly noise.
MINIMUM_COMPONENT_ML: Final = 0.7
_REFITTED: Final = re.compile("r[0-9a-f]{8}")
# What a package tells of its data; paths of this machine and lists of patients stay here.
_DATA_FACTS: Final = ("kind", "labels", "cases", "simulator", "seeds", "licence", "strokecore")


def export(
    run: Path,
    out: Path,
    data: Path | None = None,
    *,
    joined: bool = False,
    note: str = "",
    typed: bool = False,
) -> Path:
    """Write the model package of a run.

    Parameters
    ----------
    run: folder of a training run.
    out: the package; must not exist. It appears under its name only when it is complete and proved.
    data: the prepared data that the run was trained on, when it has moved.
    joined: join the weight-free engine's opinion to the network's (strokecore.learned.combination).
    note: Markdown for the end of the model card, such as a site's own validation.
    typed: add the graphs in bf16 and fp16, without which TensorRT runs the package in TF32 or fp32 only.

    Raises
    ------
    UsageError: the run or its data cannot be used, or ``out`` exists.
    ExportError: a graph does not compute what the network does.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists; give another folder for the package, or remove it.")
    record = read_record(run)
    recipe, net = load_network(run)
    dataset = _data(record, data)
    records = dataset.split("validate")
    if not records:
        raise UsageError(f"{dataset.folder} has no validation cases to fit thresholds on; prepare some.")

    log.info("validation: %d cases", len(records))
    on_best_device(net)

    def run_network(slices: Float4D) -> tuple[Float4D, Float4D]:
        return predict_slices(net, slices)

    fitted = fit_decisions(run_network, dataset, records, recipe.input, joined=joined)
    net.cpu()

    log.info("ONNX graph and golden outputs")
    network = to_onnx(net, recipe.input.size)
    arrays = golden(net, _golden_cases(dataset, records), recipe.input)
    worst = check_parity(network, arrays)
    log.info("ONNX Runtime differs from torch by at most %.1e", worst)
    networks = typed_networks(network, arrays) if typed else {}

    with new_package(out) as part:
        (part / ONNX).write_bytes(network)
        for precision, content in networks.items():
            (part / TYPED_ONNX.format(precision)).write_bytes(content)
        (part / GOLDEN).write_bytes(golden_bytes(arrays))
        about = {"recipe_sha256": record["recipe_sha256"], "backbone_sha256": record["backbone"]["sha256"]}
        weights = write_weights(part / WEIGHTS, net.decoder.state_dict(), about)
        about_model = _about(record, recipe, dataset, weights)
        test = figures_on_test(run, record)
        built_with_dinov3 = about_model["backbone"]["built_with_dinov3"]
        (part / LICENCE).write_text(
            licence_text(dataset.about["kind"], built_with_dinov3, recipe.weights.source), "utf-8"
        )
        seal(
            part,
            note,
            fitted,
            lambda found: {**about_model, **found, "metrics": {**found["metrics"], "test": test}},
        )
    return out


def refit(model: Path, out: Path, data: Path, *, note: str = "") -> Path:
    """A package with the same network and everything that was fitted around it fitted anew.

    For a node whose atlas or weight-free engine has changed since the package was exported: the network's
    answer is what it was, its thresholds and weights are not.

    Parameters
    ----------
    model: the package. out: the new one; must not exist. note: as for ``export``.
    data: prepared by this version, with a split "validate" that the network was not trained on.

    Raises
    ------
    UsageError: ``data`` has no validation cases, or ``out`` exists.
    ModelPackageError: ``model`` is no package, or its network was made for another preprocessing.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists; give another folder for the package, or remove it.")
    package = load_package(model, to_refit=True)
    dataset = Dataset(data)
    records = dataset.split("validate")
    if not records:
        raise UsageError(f"{data} has no validation cases to fit thresholds on; prepare some.")
    log.info("validation: %d cases", len(records))
    joined = package.manifest.get("combination") is not None
    runtime = OnnxRuntime(package)
    fitted = fit_decisions(runtime.run, dataset, records, package.spec, joined=joined)

    def manifest(found: dict[str, Any]) -> dict[str, Any]:
        found["metrics"]["validation"]["data"] = data_facts(dataset)
        return {
            **package.manifest,
            **found,
            "version": _refitted_version(package.version, dataset.sha256),
            "atlas_sha256": load_atlas().sha256,
        }

    with new_package(out) as part:
        for name in package.manifest["files"]:
            if name != CARD:
                shutil.copyfile(model / name, part / name)
        seal(part, note, fitted, manifest)
    return out


def _refitted_version(version: str, data_sha256: str) -> str:
    """The same version with the data's hash, instead of an earlier one, at the end of its build part."""
    number, _, build = version.partition("+")
    kept = [part for part in build.split(".") if part and not _REFITTED.fullmatch(part)]
    return f"{number}+{'.'.join([*kept, f'r{data_sha256[:8]}'])}"


@dataclass(frozen=True, eq=False)
class Fitted:
    """What is fitted around a network on validation cases; ``combination``: None where it stands alone."""

    evidence: Evidence
    decisions: Decisions
    combination: Combination | None

    def manifest(self, threshold: float) -> dict[str, Any]:
        """As model.json says it, with this lesion threshold."""
        return {
            "metrics": {
                "validation": figures(self.evidence, threshold, self.decisions),
                "test": None,
            },
            "lesion": {"threshold": threshold, "minimum_component_ml": MINIMUM_COMPONENT_ML},
            "combination": asdict(self.combination) if self.combination else None,
            "regions": {
                "aggregation": "logit_of_mean",
                "threshold": self.decisions.threshold,
                "mirror_weight": self.decisions.mirror_weight,
                "calibration": {name: asdict(curve) for name, curve in self.decisions.calibration.items()},
            },
        }


def fit_decisions(
    run_network: Run, dataset: Dataset, records: Sequence[CaseRecord], spec: InputSpec, *, joined: bool
) -> Fitted:
    """Fit calibration and, where ``joined``, the weights beside the weight-free engine's."""
    return Fitted(*collect(run_network, dataset, records, spec, fit_regions, joined=joined))


@contextmanager
def new_package(out: Path) -> Iterator[Path]:
    """A folder to write a package into; it becomes ``out`` only when everything went well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
        load_package(part)  # by the node's own rules
        os.rename(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def seal(
    part: Path, note: str, fitted: Fitted, manifest_of: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Write the card and, last, the manifest that names every file, with the best steady lesion threshold.

    The folder still has another name: a killed export leaves nothing that a node would take.

    Parameters
    ----------
    manifest_of: model.json of what ``Fitted.manifest`` says.

    Raises
    ------
    ExportError: with every threshold the outline hangs on rounding, and no node's gate would pass an engine.
    """
    for threshold in ranked_thresholds(fitted.evidence.dice, fitted.evidence.called_ml):
        manifest = manifest_of(fitted.manifest(threshold))
        (part / CARD).write_text(model_card(manifest, note), "utf-8")
        named = sorted(path for path in part.iterdir() if path.name != MANIFEST)
        manifest["files"] = {path.name: file_sha256(path) for path in named}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        package = load_package(part)
        if outline_is_steady(package, read_golden(package)):
            return
        log.info("lesion threshold %.2f is passed over: rounding would decide the outline", threshold)
    raise ExportError(
        "with no lesion threshold do right engines outline the golden cases alike; train longer."
    )


def figures_on_test(run: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What trainer evaluate found on test cases with these very weights; None when it was not run.

    Parameters
    ----------
    record: the run's run.json.
    """
    path = run / "evaluation-test" / "evaluation.json"
    if not path.is_file():
        log.warning("%s is not there: the model card will have no figures on test cases", path)
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        same = (
            found["recipe"]["sha256"] == record["recipe_sha256"]
            and found["run"]["best"] == record["best"]
            and found["run"]["trained_on_sha256"] == record["data"]["sha256"]
        )
        figures = {
            "split": found["split"],
            "protocol": found["protocol"],
            "threshold": found["threshold"]["value"],
            "data_sha256": found["data"]["sha256"],
            **found["figures"]["all"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}); run trainer evaluate again, or remove it."
        ) from error
    if not same:
        log.warning("%s is of other weights and is left out; run trainer evaluate again", path)
        return None
    return figures


def _data(record: Mapping[str, Any], given: Path | None) -> Dataset:
    """The data of the run, checked by digest."""
    folder = given or Path(record["data"]["path"])
    if not (folder / "dataset.json").is_file():
        raise UsageError(f"the run's data is not in {folder}; give the folder it was moved to with --data.")
    dataset = Dataset(folder)
    if dataset.sha256 != record["data"]["sha256"]:
        raise UsageError(
            f"{folder} has sha256 {dataset.sha256[:12]}, the run was trained on "
            f"{record['data']['sha256'][:12]}; give the data of the run with --data."
        )
    return dataset


def _golden_cases(dataset: Dataset, records: Sequence[CaseRecord]) -> list[Case]:
    """The validation case with the most affected regions, and one without infarct where there is one."""
    sick = max(records, key=lambda record: (len(record.affected), record.lesion_ml))
    free = next((record for record in records if record.lesion_ml == 0), None)
    return [dataset.load(record) for record in (sick, free) if record is not None]


def data_facts(dataset: Dataset) -> dict[str, Any]:
    """What model.json says of prepared data."""
    return {
        **{name: dataset.about[name] for name in _DATA_FACTS if name in dataset.about},
        "skipped": len(dataset.about["skipped"]),
        "sha256": dataset.sha256,
    }


def _about(record: Mapping[str, Any], recipe: Recipe, dataset: Dataset, weights: str) -> dict[str, Any]:
    """The part of model.json that is known before anything is fitted."""
    backbone = record["backbone"]
    session = (record["sessions"] or [{}])[-1]
    shapes = output_shapes(recipe.input.size)
    built_with_dinov3 = bool(backbone["notice"])
    kind = dataset.about["kind"]
    return {
        "schema": 1,
        "name": recipe.name[:48],
        "version": f"{MODEL_VERSION}+{weights[:8]}",
        "licence": licence_name(kind, built_with_dinov3),
        "intended_use": INTENDED_USE,
        "training": {
            "data": data_facts(dataset),
            "recipe": {
                **recipe.to_dict(),
                "weights": {"source": backbone["name"], "sha256": backbone["sha256"]},
            },
            "recipe_sha256": record["recipe_sha256"],
            "steps": record["steps"],
            "best": record["best"],
            **{name: session.get(name) for name in ("device", "precision", "processes", "software", "git")},
        },
        "input": {
            "name": INPUT_NAME,
            "dtype": "float32",
            "shape": ["n", recipe.input.channel_count, *recipe.input.size],
            **recipe.input.to_dict(),
        },
        "outputs": [
            {"name": OUTPUT_NAMES[arm], "shape": shapes[arm], "classes": list(classes)}
            for arm, classes in CLASSES.items()
        ],
        "arms": {"rule": "plane_midway_between_levels", "blend_mm": BLEND_MM},
        "preprocess_version": PREPROCESS_VERSION,
        "atlas_sha256": load_atlas().sha256,
        "minimum_strokecore": MINIMUM_STROKECORE,
        "backbone": {
            "name": recipe.network.backbone,
            "origin": f"{backbone['kind']}: {backbone['name']}",
            "sha256": backbone["sha256"],
            "licence": backbone["licence"],
            "built_with_dinov3": built_with_dinov3,
        },
    }
