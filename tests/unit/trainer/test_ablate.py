"""``trainer ablate``: statistics against brute force, the criterion's edges, and two whole ablations."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import trainer.loop.curve
import trainer.loop.run_folder
import trainer.train
from strokecore.errors import UsageError
from strokecore.learned.preprocessing import DEFAULT_CHANNELS, InputSpec
from tests.unit.trainer.evaluation_cases import M2, M5, SPEC, StubNet, make_case, make_dataset
from trainer.ablate import FIGURES, RunOf, ablate, compare, train_all
from trainer.config import Recipe, TrainingConfig, WeightsConfig, load_recipe
from trainer.data.cases import Dataset
from trainer.loop.run_folder import recipe_sha256
from trainer.measure.metrics import LesionMatch, Overlap, PatientFigures
from trainer.measure.variants import kinds_of
from trainer.network import vit_dpt
from trainer.train import train

NAN = math.nan


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cases = [
        make_case("v", "validate", "coupled", (M2, M5)),
        make_case("t-both", "test", "coupled", (M2, M5)),
        make_case("t-low", "test", "bg_only", (M2,)),
        make_case("t-high", "test", "sg_only", (M5,)),
        make_case("t-free", "test", "lesion_free"),
    ]
    return make_dataset(tmp_path_factory.mktemp("data"), cases)


def person(case_id: str, group: str, dice: float) -> PatientFigures:
    """Infarct above the ganglionic level with this Dice, or a lesion-free patient with 2 ml called."""
    found = Overlap(round(dice * 1000), 1000, 1000) if group != "lesion_free" else Overlap(0, 1000, 0)
    return PatientFigures(
        case_id, group, "territory", found, Overlap(), found, LesionMatch(), NAN,
        {"M5": found}, frozenset({"M5"} if found.true else ()), {}, frozenset(),
    )  # fmt: skip


def test_compare_by_hand() -> None:
    """Two seeds; TAGL gains 0.1 on the coupled patient, loses 0.05 on the uncoupled ones."""
    runs, patients = [], []
    for seed in (1, 2):
        for kind, shift in (("control", 0.0), ("TAGL", 1.0)):
            runs.append(RunOf(kind, seed, Path(f"{kind}-{seed}")))
            patients.append(
                (
                    person("a", "coupled", 0.5 + 0.1 * shift),
                    person("b", "sg_only", 0.6 - 0.05 * shift),
                    person("c", "sg_only", 0.4 - 0.05 * shift),
                    person("d", "lesion_free", 0.0),
                )
            )
    found = compare(runs, patients, ["control", "TAGL"], seeds=2)
    assert found["territories_by"] == "class"
    assert {name: one["patients"] for name, one in found["sets"].items()} == {
        "coupled": 1, "uncoupled": 2, "lesion_free": 1, "all": 4,
    }  # fmt: skip
    coupled, uncoupled = found["sets"]["coupled"], found["sets"]["uncoupled"]
    assert coupled["kinds"]["TAGL"]["dice"]["value"] == pytest.approx(0.6)
    assert coupled["kinds"]["TAGL"]["M5"]["value"] == pytest.approx(0.6)
    assert coupled["kinds"]["TAGL"]["territory_mean"]["value"] == pytest.approx(0.6)
    assert coupled["differences"]["TAGL"]["dice"]["value"] == pytest.approx(0.1)
    assert uncoupled["differences"]["TAGL"]["sg_sensitivity"]["value"] == pytest.approx(-0.05)
    assert uncoupled["differences"]["TAGL"]["false_positive_ml"]["value"] is None
    assert found["sets"]["lesion_free"]["kinds"]["control"]["false_positive_ml"]["value"] == pytest.approx(
        2.0
    )
    assert found["sets"]["lesion_free"]["kinds"]["control"]["dice"]["value"] is None
    assert found["verdicts"]["TAGL"]["met"] is False
    assert set(FIGURES) < set(coupled["kinds"]["control"])


def test_without_uncoupled_patients_the_criterion_is_not_judged() -> None:
    runs = [RunOf(kind, 1, Path(kind)) for kind in ("control", "TAGL")]
    patients = [(person("a", "coupled", 0.5),), (person("a", "coupled", 0.6),)]
    found = compare(runs, patients, ["control", "TAGL"], seeds=1)
    assert found["verdicts"]["TAGL"]["met"] is None
    assert "not judged" in found["verdicts"]["TAGL"]["text"]


def fake_training(monkeypatch: pytest.MonkeyPatch, trained: list[tuple[str, Recipe]]) -> None:
    """Runs that appear at once; TAGL's network misses less than the control's."""
    recipes: dict[Path, Recipe] = {}

    def fast(recipe: Recipe, data: Path, run: Path, max_steps: int | None, console: Console | None) -> Path:
        trained.append((run.name, recipe))
        recipes[run] = recipe
        run.mkdir(parents=True)
        (run / "best.safetensors").write_bytes(b"")
        return run

    def record(run: Path) -> dict[str, Any]:
        recipe = recipes[run]
        return {
            "recipe_sha256": recipe_sha256(recipe), "steps": recipe.training.steps, "best": None,
            "data": {"sha256": "?"}, "sessions": [{"device": "none", "software": {}}],
        }  # fmt: skip

    def curve(run: Path) -> list[dict[str, str]]:
        return [{"step": str(s), "gate_lesion": "0.5", "val_dice": "", "coupling": "0.01"} for s in range(3)]

    monkeypatch.setattr(trainer.train, "train", fast)
    monkeypatch.setattr(trainer.loop.run_folder, "read_record", record)
    monkeypatch.setattr(trainer.loop.curve, "read_curve", curve)
    monkeypatch.setattr(
        trainer.loop.run_folder,
        "load_network",
        lambda run: (recipes[run], StubNet(bias=-7.0 if recipes[run].loss.w0 == 1 else 0.0)),
    )


def test_an_ablation_with_stub_networks(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, Recipe]] = []
    fake_training(monkeypatch, trained)
    recipe = Recipe("test", seed=4, input=SPEC, training=TrainingConfig(steps=5, patience=1))
    console = Console(record=True, width=200)
    variants = ["gated:coupling_weight=0"]
    found = ablate(recipe, dataset.folder, 2, out=tmp_path / "out", variants=variants, console=console)

    assert [name for name, _ in trained] == [
        "control-4", "TAGL-4", "gated-4", "control-5", "TAGL-5", "gated-5",
    ]  # fmt: skip
    for name, own in trained:  # only the loss differs within a seed
        expected = dataclasses.replace(recipe, seed=int(name[-1]), loss=own.loss)
        assert dataclasses.replace(own, training=recipe.training) == expected
        assert own.training.patience >= own.training.steps  # no early stop
    assert trained[0][1].loss == recipe.loss.as_control()

    record = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert record == found.record
    assert record["seeds"] == [4, 5]
    assert record["data"]["sha256"] == dataset.sha256
    assert [run["threshold"]["chosen_on"] for run in record["runs"]] == ["validate"] * 6
    coupled = record["sets"]["coupled"]
    assert coupled["differences"]["TAGL"]["dice"]["value"] >= 0
    assert coupled["differences"]["gated"]["dice"] == coupled["differences"]["TAGL"]["dice"]
    assert found.criteria[0].met is True

    with (tmp_path / "out" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 4
    assert {row["kind"] for row in rows} == {"control", "TAGL", "gated"}
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert found.criteria[0].text in text
    assert "| C | L | IC | I | M1 | M2 | M3 | M4 | M5 | M6 | mean | Dice |" in text
    assert "criterion" in console.export_text()
    for name in ("gate", "differences"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_use_is_refused_before_anything_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--seeds is 0"):
        ablate(Recipe("test"), dataset.folder, 0, out=tmp_path)
    no_test = make_dataset(tmp_path / "d", [make_case("v", "validate", "coupled", (M2,))])
    with pytest.raises(UsageError, match="no test case"):
        ablate(Recipe("test"), no_test.folder, 1, out=tmp_path / "out")


def test_a_real_ablation_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds of five steps with a network of a few thousand weights; then nothing is left to train."""
    shape = vit_dpt.BackboneConfig(16, 4, 2, 32, (1, 2, 3, 4), patch_size=8)
    monkeypatch.setitem(vit_dpt.BACKBONES, "tiny", shape)
    dataset = make_dataset(
        tmp_path / "data",
        [
            make_case("train", "train", "coupled", (M2, M5)),
            make_case("v", "validate", "coupled", (M2, M5)),
            make_case("t", "test", "sg_only", (M5,)),
        ],
    )
    recipe = Recipe(
        "test",
        network=vit_dpt.NetworkConfig("tiny", features=4),
        weights=WeightsConfig("random"),
        input=InputSpec(size=(64, 48), pixel_mm=2.0, channels=DEFAULT_CHANNELS),
        training=TrainingConfig(steps=5, pairs=1, warmup_steps=1, validate_every=5),
    )
    out = tmp_path / "out"
    found = ablate(recipe, dataset.folder, 2, out=out)
    assert load_recipe(out / "TAGL-2" / "config.yaml").loss == recipe.loss
    assert [run["steps"] for run in found.record["runs"]] == [5] * 4
    # the first step is plain in both: equal weights, batch and dropout give an equal row but for its duration
    control, tagl = (
        (out / run / "metrics.csv").read_text().splitlines()[1] for run in ("control-1", "TAGL-1")
    )
    assert control.rsplit(",", 1)[0] == tagl.rsplit(",", 1)[0]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was trained again")

    kinds = kinds_of(recipe.loss, [])
    monkeypatch.setattr(trainer.train, "train", never)
    assert len(train_all(recipe, kinds, range(1, 3), dataset.folder, out)) == 4
    monkeypatch.setattr(trainer.train, "train", train)
    other = dataclasses.replace(recipe, training=TrainingConfig(steps=6, pairs=1))
    with pytest.raises(UsageError, match="cannot continue"):
        train_all(other, kinds, range(1, 2), dataset.folder, out)
