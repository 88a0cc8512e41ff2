"""``trainer evaluate`` end to end on four small cases with a stub network, and its parts."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import trainer.loop.run_folder
from strokecore.anatomy.regions import REGION_NAMES
from strokecore.errors import UsageError
from strokecore.files import csv_bytes
from strokecore.head.grid import CANONICAL_GRID
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
from trainer.measure.figures import patient_row, print_summary, summarise
from trainer.measure.metrics import CLASS_NAMES, LesionMatch, Overlap, PatientFigures
from trainer.measure.pictures import SLICES, choose_slices
from trainer.measure.prediction import Panel
from trainer.network.vit_dpt import StrokeNet
from trainer.prepare.aisd_layout import TEST_IDS

NOWHERE = dict.fromkeys(REGION_NAMES, Overlap())
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


def patient(dice: float, *, group: str = "coupled", true: int = 1000, case_id: str = "p") -> PatientFigures:
    """A patient whose infarct has this Dice (predicted as large as the truth)."""
    infarct = Overlap(round(dice * true), true, true)
    return PatientFigures(
        case_id, group, "territory", infarct, infarct, Overlap(), LesionMatch(1, 0, 0), 3.0,
        {**NOWHERE, "M2": infarct}, frozenset({"M2"}), {**NOWHERE, "M2": infarct}, frozenset({"M2"}),
    )  # fmt: skip


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


def test_a_panel_answers_as_each_network_alone_and_shares_the_backbone(dataset: Dataset) -> None:
    case = dataset.load(dataset.split("test")[0])
    nets = [StubNet(), StubNet(bias=-2.0), StubNet(bias=1.0)]
    with torch.no_grad():
        nets[2].backbone.weight.fill_(2.0)  # another backbone
    alone = [Panel([net], SPEC).infarcts(case)[0] for net in nets]
    calls = [net.calls for net in nets]
    panel = Panel(nets, SPEC)
    for one, found in zip(alone, panel.predictions(case), strict=True):
        np.testing.assert_array_equal(one, found.infarct)
    assert nets[1].backbone is nets[0].backbone
    assert [net.calls - before for net, before in zip(nets, calls, strict=True)] == [calls[0], 0, calls[0]]


def test_names_follow_the_arm_of_the_plane_and_stay_in_the_field_of_view(dataset: Dataset) -> None:
    case = dataset.load(dataset.split("test")[0])
    (found,) = Panel([StubNet()], SPEC).predictions(case)
    z, y, x = CANONICAL_GRID.axes_mm
    below = found.names[z < case.record.level_plane_mm]
    above = found.names[z >= case.record.level_plane_mm]
    inside = np.ix_(np.abs(y) < SPEC.size[0], np.abs(x) < SPEC.size[1])  # half of size * 2 mm
    assert {CLASS_NAMES[i] for i in np.unique(below[:, *inside])} == {"M2"}
    assert {CLASS_NAMES[i] for i in np.unique(above[:, *inside])} == {"M5"}
    outside = np.abs(y) > SPEC.size[0]
    assert not found.names[:, outside].any()


def test_a_side_error_would_be_seen(dataset: Dataset) -> None:
    """The infarct is on the left: positive head x, the upper half of the columns."""
    case = dataset.load(dataset.split("test")[0])
    (found,) = Panel([StubNet()], SPEC).predictions(case)
    assert (found.infarct[CANONICAL_GRID.side_columns("left")] > 0.5).any()
    assert not (found.infarct[CANONICAL_GRID.side_columns("right")] > 0.5).any()


def test_a_head_without_brain_has_no_infarct() -> None:
    case = make_case("x", "test", "lesion_free")
    empty = type(case)(
        case.record, case.hu, case.brain & False, case.inside, case.regions, case.lesion, case.territory
    )
    (found,) = Panel([StubNet()], SPEC).predictions(empty)
    assert not found.infarct.any()


def test_summary_by_hand() -> None:
    people = [patient(0.2, case_id="a"), patient(0.4, case_id="b"), patient(0.9, case_id="c")]
    free = PatientFigures(
        "d", "lesion_free", "territory", Overlap(0, 500, 0), Overlap(), Overlap(), LesionMatch(0, 0, 2),
        math.nan, {**NOWHERE, "M2": Overlap(0, 500, 0)}, frozenset(), NOWHERE, frozenset(),
    )  # fmt: skip
    found = summarise([*people, free])
    assert found["dice"]["mean"]["value"] == pytest.approx(0.5)
    assert found["dice"]["mean"]["patients"] == 3
    assert found["dice"]["median"]["value"] == pytest.approx(0.4)
    assert found["dice"]["mean"]["low"] == pytest.approx(0.2)  # the worst patient three times
    assert found["dice_pooled"] == pytest.approx(0.5)
    assert found["false_positive_ml"]["mean"]["value"] == pytest.approx(1.0)
    assert found["lesions"]["false"] == 0  # of patients with infarct
    assert found["territories"]["M2"]["dice"]["value"] == pytest.approx(0.5)
    assert found["territories"]["M2"]["dice_pooled"] == pytest.approx(2 * 1500 / (3500 + 3000))
    assert found["territories"]["M2"]["false_positive_ml"] == pytest.approx(1.0)
    assert found["territories"]["C"]["dice"] == {"value": None, "low": None, "high": None, "patients": 0}


def test_intervals_are_the_same_every_time_and_one_patient_has_none() -> None:
    people = [patient(d) for d in (0.1, 0.5, 0.6, 0.7)]
    assert summarise(people) == summarise(people)
    one = summarise(people[:1])["dice"]["mean"]
    assert (one["value"], one["low"], one["high"]) == (pytest.approx(0.1), None, None)
    json.dumps(summarise(people[:1]), allow_nan=False)


def test_rows_are_json_and_csv() -> None:
    rows = [patient_row(patient(0.5)), patient_row(patient(0.5, group="sg_only"))]
    json.dumps(rows, allow_nan=False)
    lines = csv_bytes(rows).decode().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("id,group,lesion_ml")


def test_table_of_nobody_with_infarct() -> None:
    free = make_case("x", "test", "lesion_free")
    nothing = np.zeros(free.lesion.shape, bool)
    from trainer.measure.metrics import measure

    console = Console(record=True, width=160)
    print_summary(evaluation.by_group([measure(free, nothing, nothing.astype(np.uint8))]), "t", console)
    assert "lesion_free" in console.export_text()


def test_pictures_show_planes_from_end_to_end_of_what_is_there() -> None:
    case = make_case("x", "test", "coupled", (M2,))
    planes = choose_slices(case, np.zeros(case.lesion.shape, bool))
    held = np.flatnonzero(case.lesion.any(axis=(1, 2)))
    assert len(planes) == SLICES
    assert (np.diff(planes) > 0).all()
    assert held[0] <= planes[0] < planes[-1] <= held[-1]


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
