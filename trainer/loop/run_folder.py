"""The folder of one training run: what decides it, what it was made with, and how it is read again.

RUN/config.yaml          the effective recipe
RUN/run.json             data, backbone, and for each session software, git state, device, time and memory
RUN/metrics.csv          the curve, one row per step; RUN/tensorboard/ the same
RUN/best.safetensors     averaged decoder weights of the best validation
RUN/validation.json      that validation, patient by patient
RUN/last/                the state that a killed run resumes from
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from strokecore import files
from strokecore.errors import UsageError
from trainer.config import Recipe, load_recipe, recipe_of
from trainer.loop.checkpoint import load_state, read_weights, write_file, write_json

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from trainer.data.cases import Dataset
    from trainer.network.vit_dpt import StrokeNet

RUN_SCHEMA: Final = 1


def recipe_sha256(recipe: Recipe) -> str:
    """sha256 hex of every value of a recipe, written in one way."""
    return hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode()).hexdigest()


@contextmanager
def locked_run(run: Path) -> Iterator[None]:
    """Hold a run folder for this process. Raises UsageError when another one trains there."""
    run.mkdir(parents=True, exist_ok=True)
    lock = run / ".lock"
    with ExitStack() as held:
        try:
            held.enter_context(files.locked(lock, wait=False))
        except BlockingIOError as error:
            raise UsageError(
                f"another process ({lock.read_text().strip() or 'unknown'}) is training in {run}; wait for "
                "it, or give another run folder."
            ) from error
        lock.write_text(f"process {os.getpid()}")
        yield


def claim(
    run: Path,
    recipe: Recipe,
    data: Path,
    dataset: Dataset,
    backbone: Mapping[str, Any],
    fabric: Fabric,
) -> dict[str, Any]:
    """The record (run.json) of a new run, or of the one that recipe, data and backbone continue.

    The first process looks and writes, the others wait for it.

    Raises
    ------
    UsageError: the folder holds another run, and in what it differs, or something else.
    """
    about = {"path": str(data), "sha256": dataset.sha256, "about": dataset.about, "left_out": None}
    if fabric.is_global_zero:
        if (run / "run.json").exists():
            _check_continues(run, read_record(run), recipe, dataset.sha256, str(backbone["sha256"]))
        else:
            _start(run, recipe, about, backbone)
    fabric.barrier()
    return read_record(run)


def note_left_out(record: dict[str, Any], left_out: Mapping[str, str]) -> None:
    """Record the prepared cases that could not be used, and why.

    Raises UsageError when they are others than when the run was started: its batches would change.
    """
    before = record["data"]["left_out"]
    if before is not None and before.keys() != left_out.keys():
        changed = ", ".join(sorted(before.keys() ^ left_out.keys()))
        raise UsageError(
            f"the run was started with {len(before)} unusable cases, now {len(left_out)} are ({changed}); "
            "restore the data as it was, or start another run."
        )
    record["data"]["left_out"] = dict(left_out)


def _start(run: Path, recipe: Recipe, data: Mapping[str, Any], backbone: Mapping[str, Any]) -> None:
    if any(path.name not in (".lock", "config.yaml") for path in run.iterdir()):
        raise UsageError(f"{run} is not empty and holds no training run; give another folder.")
    write_file(run / "config.yaml", _yaml(recipe))
    record = {
        "schema": RUN_SCHEMA,
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe_sha256(recipe),
        "data": dict(data),
        "backbone": dict(backbone),
        "steps": 0,
        "stopped": None,
        "best": None,
        "sessions": [],
    }
    write_record(run, record)


def _check_continues(
    run: Path, record: Mapping[str, Any], recipe: Recipe, data_sha256: str, backbone_sha256: str
) -> None:
    # settings that came after the run was started have their defaults in it
    before, now = (
        _flat(json.loads(json.dumps(one.to_dict()))) for one in (recipe_of(record["recipe"]), recipe)
    )
    different = [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    for what, sha256 in (("data", data_sha256), ("backbone", backbone_sha256)):
        if record[what]["sha256"] != sha256:
            different.append(f"{what} was {record[what]['sha256'][:12]}, is {sha256[:12]} (sha256)")
    if different:
        raise UsageError(
            f"{run} holds a run that this one cannot continue: {'; '.join(different)}. "
            "Give another run folder, or start with what it was started with."
        )


def write_record(run: Path, record: Mapping[str, Any]) -> None:
    """Replace run.json."""
    write_json(run / "run.json", record)


def read_record(run: Path) -> dict[str, Any]:
    """run.json. Raises UsageError when it is missing, damaged or of another version."""
    path = run / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        schema = record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read ({type(error).__name__}); {run} is no training run: make one with "
            "trainer train."
        ) from error
    if schema != RUN_SCHEMA:
        raise UsageError(f"{path} has schema {schema}, this version reads {RUN_SCHEMA}; train again.")
    return record


def load_network(run: Path, weights: Literal["best", "last"] = "best") -> tuple[Recipe, StrokeNet]:
    """A run's recipe and its trained network: eval mode, frozen, float32, on the CPU.

    Parameters
    ----------
    weights: "best", those of the best validation, or "last", those of the latest checkpoint; averaged both.

    Raises
    ------
    UsageError: weights are missing or damaged, or recipe or backbone are not those of the training.
    """
    from trainer.loop.backbone import build_network
    from trainer.loop.training_state import of

    record = read_record(run)
    recipe = load_recipe(run / "config.yaml")
    if recipe != recipe_of(record["recipe"]):
        raise UsageError(f"{run / 'config.yaml'} was changed after the training; restore it or train again.")
    if weights == "best":
        tensors, about = read_weights(run / "best.safetensors")
        if about.get("recipe_sha256") != record["recipe_sha256"]:
            raise UsageError(f"{run / 'best.safetensors'} belongs to another recipe than {run / 'run.json'}.")
    else:
        found = load_state(run / "last")
        if found is None:
            raise UsageError(f"{run} holds no checkpoint yet; wait for the first, or train.")
        tensors = of(found[0], "average")
    net, origin = build_network(recipe)
    if origin.sha256 != record["backbone"]["sha256"]:
        raise UsageError(
            f"the backbone's weights are {origin.sha256[:12]}, the decoder was trained on "
            f"{record['backbone']['sha256'][:12]} (sha256); give those that the recipe was trained with."
        )
    net.decoder.load_state_dict(tensors)
    return recipe, net.requires_grad_(False).eval()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names, as a recipe's reader would call them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _yaml(recipe: Recipe) -> bytes:
    import yaml  # type: ignore[import-untyped]  # comes with jsonargparse

    # through JSON: YAML has no tuples
    values = json.loads(json.dumps(recipe.to_dict()))
    return bytes(yaml.safe_dump(values, sort_keys=False, encoding="utf-8"))
