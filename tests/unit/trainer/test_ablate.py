"""``trainer ablate``: statistics against brute force, the verdict's edges, and two whole ablations."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import trainer.loop.curve
import trainer.loop.run_folder
import trainer.train
from strokecore.errors import UsageError
from strokecore.evaluate.statistics import BOOTSTRAP_SEED, Estimate, draw_patients
from strokecore.learned.preprocessing import DEFAULT_CHANNELS, InputSpec
from tests.unit.trainer.evaluation_cases import M2, M5, SPEC, StubNet, make_case, make_dataset
from trainer.ablate import FIGURES, RunOf, ablate, compare, train_all
from trainer.config import Recipe, TrainingConfig, WeightsConfig, load_recipe
from trainer.data.cases import Dataset
from trainer.loop.run_folder import recipe_sha256
from trainer.loss.config import TaglConfig
from trainer.measure.metrics import LesionMatch, Overlap, PatientFigures
from trainer.measure.paired import LARGEST_LOSS, average, difference, figure, judge
from trainer.measure.plots import _smooth
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


class TestStatistics:
    def test_average_by_hand(self) -> None:
        values = np.array([[0.2, NAN, 0.4], [0.4, NAN, 0.6]])
        assert average(values).value == pytest.approx(0.4)
        assert figure(values)["patients"] == 2
        territories = np.stack([values, np.array([[1.0, NAN, NAN], [1.0, NAN, NAN]])], axis=2)
        assert average(territories).value == pytest.approx((0.4 + 1.0) / 2)

    def test_interval_equals_brute_force_over_crossed_draws(self) -> None:
        rng = np.random.default_rng(3)
        values = rng.normal(size=(3, 7, 2))
        values[:, 2, 0] = values[:, 4, 1] = NAN
        by_seed = draw_patients(3, seed=BOOTSTRAP_SEED + 1)
        by_patient = draw_patients(7, seed=BOOTSTRAP_SEED)
        drawn = []
        for s, p in zip(by_seed, by_patient, strict=True):
            picked = np.repeat(np.repeat(values, s, axis=0), p, axis=1)
            drawn.append(np.nanmean([np.nanmean(picked[..., t]) for t in range(2)]))
        found = average(values)
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))
        assert average(values) == found  # fixed draws

    def test_pairing_removes_what_seeds_and_patients_share(self) -> None:
        rng = np.random.default_rng(1)
        control = rng.uniform(0.2, 0.9, (3, 30)) + rng.normal(0, 0.1, (3, 1))
        found = difference(control + 0.02, control)
        assert found["value"] == pytest.approx(0.02)
        assert (found["low"], found["high"]) == (pytest.approx(0.02), pytest.approx(0.02))
        assert found["per_seed"] == [pytest.approx(0.02)] * 3
        assert (found["seeds_higher"], found["seeds_lower"]) == (3, 0)

    def test_seeds_widen_the_interval(self) -> None:
        patients = np.random.default_rng(2).normal(0, 0.01, (1, 40))
        together = average(np.repeat(patients, 3, axis=0))
        apart = average(patients + np.array([[-0.1], [0.0], [0.1]]))
        assert apart.high - apart.low > 3 * (together.high - together.low)

    def test_nothing_known_and_one_patient(self) -> None:
        assert average(np.full((2, 3), NAN)) == Estimate(None)
        assert average(np.zeros((2, 0))) == Estimate(None)
        assert average(np.array([[0.5], [0.7]])) == Estimate(pytest.approx(0.6))

    def test_a_control_zero_and_a_missing_patient_are_different_things(self) -> None:
        found = difference(np.array([[0.0, NAN, 0.2]]), np.array([[0.1, NAN, 0.1]]))
        assert found["value"] == pytest.approx(0.0)
        assert found["patients"] == 2


class TestVerdict:
    @pytest.mark.parametrize(
        ("dice", "sensitivity", "met", "shown"),
        [
            (Estimate(0.02, 0.01, 0.03), Estimate(0.0, -0.005, 0.01), True, True),
            (Estimate(-0.01, -0.01, 0.0), Estimate(-0.01, -0.01, 0.0), True, True),  # "no more than"
            (Estimate(-0.0101, -0.02, 0.0), Estimate(0.1, 0.0, 0.2), False, False),
            (Estimate(0.1, 0.0, 0.2), Estimate(-0.0101, -0.02, 0.0), False, False),
            (Estimate(0.0, -0.03, 0.03), Estimate(0.0, -0.001, 0.03), True, False),
            (Estimate(0.0), Estimate(0.0), True, False),  # one patient shows nothing
            (Estimate(None), Estimate(0.0, 0.0, 0.0), None, None),
            (Estimate(0.0, 0.0, 0.0), Estimate(None), None, None),
        ],
    )
    def test_edges(self, dice: Estimate, sensitivity: Estimate, met: bool | None, shown: bool | None) -> None:
        verdict = judge("TAGL", dice, sensitivity, (12, 2))
        assert (verdict.met, verdict.shown) == (met, shown)
        assert ("NOT MET" in verdict.text) == (met is False)
        assert verdict.text.startswith("TAGL")
        assert "in 12 patients" in verdict.text

    def test_a_loss_of_one_hundredth_survives_rounding(self) -> None:
        control = np.array([[0.7, 0.3, 0.6]])
        found = difference(control - LARGEST_LOSS, control)
        assert judge("TAGL", Estimate(found["value"], 0, 0), Estimate(0, 0, 0), (3, 3)).met


class TestKinds:
    def test_control_and_variants_differ_from_tagl_as_said(self) -> None:
        loss = TaglConfig(temperature=0.2)
        kinds = kinds_of(
            loss, ["coupling:w0=1", "territory:gate=territory,coupling_weight=0.5", "short:median_window=8"]
        )
        assert list(kinds) == ["control", "TAGL", "coupling", "territory", "short"]
        assert kinds["control"] == loss.as_control()
        assert kinds["TAGL"] is loss
        assert kinds["coupling"] == dataclasses.replace(loss, w0=1.0)
        assert kinds["territory"] == dataclasses.replace(loss, gate="territory", coupling_weight=0.5)
        assert kinds["short"].median_window == 8

    @pytest.mark.parametrize(
        ("variant", "told"),
        [
            ("w0=1", "NAME:key=value"),
            (":w0=1", "NAME:key=value"),
            ("a/b:w0=1", "NAME:key=value"),
            ("Control:w0=1", "taken"),
            ("x:w=1", "no setting of the loss"),
            ("x:w0", "no setting of the loss"),
            ("x:w0=much", "expected a number"),
            ("x:w0=2", "loss.w0"),
            ("x:gate=open", "loss.gate"),
        ],
    )
    def test_wrong_variants_are_refused(self, variant: str, told: str) -> None:
        with pytest.raises(UsageError, match=told):
            kinds_of(TaglConfig(), [variant])

    def test_a_recipe_that_is_the_control_has_nothing_to_compare(self) -> None:
        with pytest.raises(UsageError, match="nothing to compare"):
            kinds_of(TaglConfig.control(), [])


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


def test_without_uncoupled_patients_there_is_no_verdict() -> None:
    runs = [RunOf(kind, 1, Path(kind)) for kind in ("control", "TAGL")]
    patients = [(person("a", "coupled", 0.5),), (person("a", "coupled", 0.6),)]
    found = compare(runs, patients, ["control", "TAGL"], seeds=1)
    assert found["verdicts"]["TAGL"]["met"] is None
    assert "not judged" in found["verdicts"]["TAGL"]["text"]


def test_running_mean_is_shorter_at_the_ends() -> None:
    values = np.arange(40.0)
    smooth = _smooth(values)
    assert smooth[0] == pytest.approx(values[:13].mean())
    assert smooth[20] == pytest.approx(20.0)
    assert smooth[-1] == pytest.approx(values[-13:].mean())
    assert _smooth(values[:0]).size == 0


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
    found = ablate(recipe, dataset.folder, 2, tmp_path / "out", ["gated:coupling_weight=0"], console=console)

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
    assert found.verdicts[0].met is True

    with (tmp_path / "out" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 4
    assert {row["kind"] for row in rows} == {"control", "TAGL", "gated"}
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert found.verdicts[0].text in text
    assert "| C | L | IC | I | M1 | M2 | M3 | M4 | M5 | M6 | mean | Dice |" in text
    assert "criterion" in console.export_text()
    for name in ("gate", "differences"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_use_is_refused_before_anything_is_trained(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--seeds is 0"):
        ablate(Recipe("test"), dataset.folder, 0, tmp_path)
    no_test = make_dataset(tmp_path / "d", [make_case("v", "validate", "coupled", (M2,))])
    with pytest.raises(UsageError, match="no test case"):
        ablate(Recipe("test"), no_test.folder, 1, tmp_path / "out")


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
    found = ablate(recipe, dataset.folder, 2, out)
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
    assert len(train_all(recipe, kinds, range(1, 3), dataset.folder, out, None, None)) == 4
    monkeypatch.setattr(trainer.train, "train", train)
    other = dataclasses.replace(recipe, training=TrainingConfig(steps=6, pairs=1))
    with pytest.raises(UsageError, match="cannot continue"):
        train_all(other, kinds, range(1, 2), dataset.folder, out, None, None)
