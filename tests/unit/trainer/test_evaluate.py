"""``trainer evaluate`` end to end on four small cases with a stub network, and its parts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import nn

import trainer.loop.run_folder
from strokecore.errors import UsageError
from tests.unit.trainer.evaluation_cases import (
    HEALTHY_HU,
    LESION_HU,
    M2,
    M5,
    SPEC,
    StubNet,
    make_case,
    make_dataset,
)
from trainer import evaluate as evaluation
from trainer.config import Recipe
from trainer.data.cases import Dataset
from trainer.measure.metrics import Overlap
from trainer.measure.prediction import Panel
from trainer.network.vit_dpt import StrokeNet
from trainer.prepare.aisd_layout import TEST_IDS

ARTEFACT = ((-20.0, -8.0), (-40.0, -30.0), (-30.0, -10.0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cases = [
        make_case("v", "validate", "coupled", (M2, M5)),
        make_case("t-both", "test", "coupled", (M2, M5)),
        make_case("t-missed", "test", "sg_only", (M5,), dark=()),
        make_case("t-free", "test", "lesion_free", dark=(ARTEFACT,)),
    ]
    return make_dataset(tmp_path_factory.mktemp("data"), cases)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = Recipe("test", input=SPEC)
    about = {"recipe_sha256": "r", "best": {"step": 3}, "data": {"sha256": "d"}}
    monkeypatch.setattr(trainer.loop.run_folder, "load_network", lambda folder: (recipe, StubNet()))
    monkeypatch.setattr(trainer.loop.run_folder, "read_record", lambda folder: about)
    return tmp_path / "run"


def test_evaluate_writes_everything(dataset: Dataset, run: Path) -> None:
    console = Console(record=True, width=160)
    found = evaluation.evaluate(run, dataset.folder, console=console)

    record = json.loads((run / "evaluation-test" / "evaluation.json").read_text())
    assert record == found.record
    assert record["threshold"]["chosen_on"] == "validate"
    assert record["data"]["sha256"] == dataset.sha256
    assert record["data"]["simulator"] == {"version": "test", "sha256": "0"}
    assert len(record["data"]["simulator_here"]["sha256"]) == 64
    assert set(record["figures"]) == {"all", "coupled", "uncoupled", "sg_only", "lesion_free"}

    everyone = record["figures"]["all"]
    assert everyone["patients"] == {"all": 3, "with_infarct": 2, "without": 1}
    both = record["figures"]["coupled"]["dice"]["mean"]["value"]
    assert both > 0.9  # the stub sees it; the rim is lost between 2 mm pixels and 6 mm slabs
    assert everyone["dice"]["mean"]["value"] == pytest.approx(both / 2) == found.dice
    assert everyone["hd95_mm"]["undefined"] == 1
    assert everyone["lesions"]["missed"] == 1
    assert everyone["false_positive_ml"]["mean"]["value"] > 1
    assert record["figures"]["uncoupled"]["sg_sensitivity"]["value"] == 0.0
    assert record["figures"]["coupled"]["territories"]["M5"]["dice"]["value"] > 0.9

    with (run / "evaluation-test" / "patients.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows["t-free"]["dice"] == ""  # a lesion-free patient has none
    assert float(rows["t-missed"]["dice"]) == 0.0
    for name in ("best", "median", "worst"):
        assert (run / "evaluation-test" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "coupled" in console.export_text()


def test_a_given_threshold_is_used(
    dataset: Dataset, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "draw_examples", lambda *_: None)
    found = evaluation.evaluate(run, dataset.folder, out=tmp_path / "high", threshold=0.99999999)
    assert found.record["threshold"] == {"value": 0.99999999, "chosen_on": "given", "validation_dice": {}}
    assert found.dice == 0.0


def test_the_threshold_is_the_best_on_validation_by_brute_force(dataset: Dataset) -> None:
    # a net that is unsure: probability is between the thresholds, different at the blurred rim
    panel = Panel([StubNet(), StubNet(bias=-7.0)], SPEC)
    chosen = evaluation.find_thresholds(panel, dataset)
    (record,) = dataset.split("validate")
    case = dataset.load(record)
    for threshold, found in zip(chosen, panel.predictions(case), strict=True):
        brute = [Overlap.of(found.infarct >= t, case.lesion).dice for t in evaluation.THRESHOLDS]
        assert list(threshold.dice) == pytest.approx(brute)
        assert threshold.value == max(
            evaluation.THRESHOLDS, key=lambda t, b=brute: (b[evaluation.THRESHOLDS.index(t)], -abs(t - 0.5))
        )


def test_without_validation_infarct_a_threshold_is_asked_for(tmp_path: Path, run: Path) -> None:
    data = make_dataset(tmp_path / "data", [make_case("t", "test", "coupled", (M2, M5))])
    with pytest.raises(UsageError, match="--threshold"):
        evaluation.evaluate(run, data.folder)
    with pytest.raises(UsageError, match="no case in the split 'train'"):
        evaluation.evaluate(run, data.folder, split="train")


class TestAisd:
    @staticmethod
    def data(folder: Path, ids: list[str], **about: Any) -> Dataset:
        """A dataset's indices; nothing is read from the one case file."""
        dataset = make_dataset(folder, [make_case(i, "test", "mixed", binary=True) for i in ids[:1]], "aisd")
        records = tuple(
            type(dataset.records[0])(**{**vars(dataset.records[0]), "id": case_id}) for case_id in ids
        )
        dataset.records = records
        dataset.about.update({"label_choice": "lesion", "label_values": [1, 2, 3, 5], **about})
        return dataset

    def test_the_52_scans_are_the_protocol(self, tmp_path: Path) -> None:
        dataset = self.data(tmp_path / "d", sorted(TEST_IDS))
        records, followed = evaluation.check_aisd(dataset, "test", allow_incomplete=False)
        assert len(records) == 52
        assert followed["complete"]
        assert followed["missing"] == []

    def test_a_missing_scan_is_refused_or_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = sorted(TEST_IDS)
        dataset = self.data(tmp_path / "d", ids[1:])
        with pytest.raises(UsageError, match=rf"1 of the 52 .*{ids[0]}.*--allow-incomplete"):
            evaluation.check_aisd(dataset, "test", allow_incomplete=False)
        _, followed = evaluation.check_aisd(dataset, "test", allow_incomplete=True)
        assert not followed["complete"]
        assert followed["missing"] == ids[:1]

    def test_other_data_is_refused(self, dataset: Dataset, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="'simulated'"):
            evaluation.check_aisd(dataset, "test", allow_incomplete=True)
        aisd = self.data(tmp_path / "d", sorted(TEST_IDS))
        with pytest.raises(UsageError, match="'validate'"):
            evaluation.check_aisd(aisd, "validate", allow_incomplete=True)

    def test_another_choice_of_labels_is_refused(self, tmp_path: Path) -> None:
        acute = self.data(tmp_path / "d", sorted(TEST_IDS), label_choice="acute")
        with pytest.raises(UsageError, match="--labels acute"):
            evaluation.check_aisd(acute, "test", allow_incomplete=True)


def test_stub_is_what_the_code_expects_of_a_network() -> None:
    assert issubclass(StubNet, nn.Module)
    for name in ("taps", "decode"):
        assert hasattr(StrokeNet, name)
        assert hasattr(StubNet, name)
    assert HEALTHY_HU > LESION_HU
