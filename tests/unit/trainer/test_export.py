"""``trainer export`` end to end with a network of four thin layers, and its parts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import trainer.export
from strokecore.errors import ModelPackageError, UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.engine import infarct_map
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import TYPED_PRECISIONS, ModelPackage, file_sha256, load_package
from strokecore.learned.preprocessing import InputSpec
from tests.unit.trainer.evaluation_cases import M2, M5, make_case, make_dataset
from trainer.config import Recipe, WeightsConfig
from trainer.data.cases import Case, Dataset
from trainer.export import export, refit
from trainer.loop.backbone import build_network
from trainer.loop.checkpoint import write_weights
from trainer.loop.run_folder import _yaml, load_network, recipe_sha256
from trainer.measure.prediction import predict_slices
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, NetworkConfig
from trainer.package.graph import TOLERANCE, ExportError, check_parity, golden
from trainer.package.model_card import licence_name, licence_text

SPEC = InputSpec(size=(64, 48), pixel_mm=3.5, slice_mm=6.0)
NANO = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8)


@pytest.fixture(scope="module", autouse=True)
def nano() -> Any:
    """A backbone that costs nothing, for this module."""
    BACKBONES["nano"] = NANO
    yield
    del BACKBONES["nano"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    sick = make_case("v-sick", "validate", "coupled", (M2, M5))
    sick = replace(sick, record=replace(sick.record, affected=("left:M2", "left:M5")))
    cases = [sick, make_case("v-free", "validate", "lesion_free"), make_case("t", "test", "coupled", (M2,))]
    return make_dataset(tmp_path_factory.mktemp("export") / "data", cases)


def write_run(folder: Path, dataset: Dataset, **changes: Any) -> Path:
    """A finished run as trainer train leaves it, with a decoder that was never trained."""
    recipe = Recipe(
        "nano", network=NetworkConfig("nano", features=8), weights=WeightsConfig("random"), input=SPEC
    )
    net, origin = build_network(recipe)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(_yaml(recipe))
    about = {"recipe_sha256": recipe_sha256(recipe)}
    write_weights(folder / "best.safetensors", net.decoder.state_dict(), about)
    record = {
        "schema": 1,
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe_sha256(recipe),
        "data": {"path": str(dataset.folder), "sha256": dataset.sha256, "about": dataset.about},
        "backbone": origin.to_dict(),
        "steps": 7,
        "stopped": "steps",
        "best": {"step": 5, "dice": 0.1},
        "sessions": [{"device": "test CPU", "software": {"torch": "x"}, "command": "trainer train --run /x"}],
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", dataset)


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("models") / "deep" / "model")


@pytest.fixture(scope="module")
def package(exported: Path) -> ModelPackage:
    return load_package(exported)


@pytest.fixture(scope="module")
def sick(dataset: Dataset) -> Case:
    return dataset.load(next(r for r in dataset.records if r.id == "v-sick"))


def test_the_package_holds_what_is_contracted_and_nothing_else(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "LICENSE", "MODEL_CARD.md", "golden.npz", "model.json", "model.onnx", "weights.safetensors",
    ]  # fmt: skip
    assert sorted(path.name for path in exported.parent.iterdir()) == ["model"]


def test_the_manifest_says_what_was_trained(package: ModelPackage, dataset: Dataset) -> None:
    manifest = package.manifest
    assert package.name == "nano"
    assert package.version.startswith("1.0.0+")
    assert package.spec == SPEC
    assert manifest["training"]["data"]["sha256"] == dataset.sha256
    assert manifest["training"]["best"]["step"] == 5
    assert manifest["metrics"]["validation"]["cases"] == 2
    assert manifest["metrics"]["test"] is None
    assert manifest["backbone"]["name"] == "nano"
    assert not manifest["backbone"]["built_with_dinov3"]
    assert package.licence == "Apache-2.0"


def test_nothing_of_this_machine_is_in_the_package(exported: Path, dataset: Dataset) -> None:
    for path in exported.iterdir():
        content = path.read_bytes()
        for word in (str(dataset.folder.parent), str(Path.cwd()), "site-packages", "--run /x"):
            assert word.encode() not in content, path.name


def test_the_node_computes_what_the_trainer_fitted(package: ModelPackage, run: Path, sick: Case) -> None:
    _, net = load_network(run)
    engine = OnnxRuntime(package, threads=1)
    hu = sick.hu.astype(np.float32)
    maps = [
        infarct_map(answer, hu, sick.regions, sick.brain, CANONICAL_GRID, SPEC)
        for answer in (engine.run, lambda slices: predict_slices(net, slices))
    ]
    assert np.abs(maps[0] - maps[1]).max() < TOLERANCE
    assert np.ptp(maps[0][sick.brain]) > 1e-3  # not a constant


def test_the_graph_is_of_the_contracted_kind(package: ModelPackage) -> None:
    model = onnx.load(package.onnx)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20}
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert {tensor.data_type for tensor in model.graph.initializer} <= {
        onnx.TensorProto.FLOAT, onnx.TensorProto.INT64,
    }  # fmt: skip


def test_golden_holds_real_and_random_slices_and_their_answers(package: ModelPackage) -> None:
    with np.load(package.golden, allow_pickle=False) as file:
        arrays = dict(file)
    n = len(arrays["slices"])
    assert arrays["slices"].shape == (n, 3, *SPEC.size)
    assert arrays["bg_probability"].shape == (n, 9, *SPEC.size)
    assert arrays["sg_probability"].shape == (n, 6, *SPEC.size)
    assert {name: values.dtype.name for name, values in arrays.items()} == {
        "slices": "float32", "bg_probability": "float32", "sg_probability": "float32",
        "case": "int16", "share": "float32", "regions": "uint8", "brain": "bool",
    }  # fmt: skip
    assert sorted(set(arrays["case"])) == [-1, 0, 1]
    assert arrays["regions"][arrays["case"] == 0].any()
    assert 0 in arrays["share"]
    assert 1 in arrays["share"]
    engine = OnnxRuntime(package, threads=1)
    for answer, name in zip(engine.run(arrays["slices"]), ("bg_probability", "sg_probability"), strict=True):
        assert np.abs(answer - arrays[name]).max() < TOLERANCE
        assert arrays[name].sum(axis=1) == pytest.approx(1.0, abs=1e-3)


def test_a_graph_that_computes_something_else_is_not_handed_over(package: ModelPackage, run: Path) -> None:
    _, net = load_network(run)
    with torch.no_grad():
        net.decoder.bg[2].bias[1] += 0.05  # type: ignore[index, operator]
    arrays = dict(np.load(package.golden, allow_pickle=False))
    assert check_parity(package.onnx.read_bytes(), arrays) < 1e-5
    arrays["bg_probability"] = golden_answer(net, arrays["slices"])
    with pytest.raises(ExportError, match="differs from torch"):
        check_parity(package.onnx.read_bytes(), arrays)
    arrays["bg_probability"] = np.full_like(arrays["bg_probability"], np.nan)
    with pytest.raises(ExportError):
        check_parity(package.onnx.read_bytes(), arrays)


def golden_answer(net: Any, slices: Any) -> Any:
    return predict_slices(net, slices)[0]


def test_large_slices_give_a_small_golden_set(sick: Case) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(x), 9, *x.shape[2:]), torch.zeros(len(x), 6, *x.shape[2:])

    large = replace(SPEC, size=(512, 416), pixel_mm=0.45)
    arrays = golden(Constant(), [sick], large)  # type: ignore[arg-type]
    assert len(arrays["slices"]) == 6
    assert (arrays["case"] == 0).sum() == 4


def test_a_package_for_another_atlas_is_refused_for_scoring_and_can_be_fitted_anew(
    exported: Path, dataset: Dataset, tmp_path: Path
) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(exported, stale)
    manifest = json.loads((stale / "model.json").read_text())
    manifest["atlas_sha256"] = "0" * 64
    manifest["lesion"]["threshold"] = 0.95
    (stale / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelPackageError, match="trainer refit"):
        load_package(stale)
    fresh = load_package(refit(stale, tmp_path / "fresh", dataset.folder, note="Refitted."))
    original = load_package(exported)
    assert fresh.lesion_threshold == original.lesion_threshold
    assert fresh.calibration == original.calibration
    assert fresh.version == f"{original.version}.r{dataset.sha256[:8]}"
    assert fresh.onnx.read_bytes() == original.onnx.read_bytes()
    card = (fresh.folder / "MODEL_CARD.md").read_text()
    for words in ("Fitted anew", "Refitted.", dataset.sha256[:16], "are void"):
        assert words in card
    assert fresh.manifest["training"] == original.manifest["training"]
    assert fresh.manifest["metrics"]["validation"]["data"]["sha256"] == dataset.sha256
    assert fresh.manifest["metrics"]["test"] is None  # the old figures are of the old thresholds
    assert load_package(refit(fresh.folder, tmp_path / "again", dataset.folder)).version == fresh.version


def test_a_version_without_a_build_part_gets_one() -> None:
    sha256 = "0123456789abcdef"
    assert trainer.export._refitted_version("1.0.0", sha256) == "1.0.0+r01234567"
    assert trainer.export._refitted_version("1.0.0+ab.rffffffff", sha256) == "1.0.0+ab.r01234567"


def test_a_package_for_another_preprocessing_must_be_trained_again(
    exported: Path, dataset: Dataset, tmp_path: Path
) -> None:
    stale = tmp_path / "stale"
    shutil.copytree(exported, stale)
    manifest = json.loads((stale / "model.json").read_text())
    manifest["preprocess_version"] = "0"
    (stale / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelPackageError, match="train and export it again") as refused:
        refit(stale, tmp_path / "fresh", dataset.folder)
    assert "refit" not in str(refused.value)


def test_a_refit_needs_cases_that_the_network_was_not_trained_on(exported: Path, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", [make_case("only", "train", "coupled", (M2,))])
    with pytest.raises(UsageError, match="validation"):
        refit(exported, tmp_path / "out", data.folder)
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_rounding_decides_is_passed_over(
    exported: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def steady_at_the_third(package: ModelPackage, golden: object) -> bool:
        seen.append(package.lesion_threshold)
        return len(seen) == 3

    monkeypatch.setattr(trainer.export, "outline_is_steady", steady_at_the_third)
    found = load_package(refit(exported, tmp_path / "third", dataset.folder))
    assert found.lesion_threshold == seen[2]
    assert len(set(seen)) == 3
    monkeypatch.setattr(trainer.export, "outline_is_steady", lambda *_: False)
    with pytest.raises(ExportError, match="no lesion threshold"):
        refit(exported, tmp_path / "none", dataset.folder)
    assert not (tmp_path / "none").exists()


def test_an_existing_folder_is_left_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    with pytest.raises(UsageError, match="exists"):
        export(run, out)
    assert not list(out.iterdir())


def test_typed_graphs_are_added_when_asked_for(
    run: Path, package: ModelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = package.onnx.read_bytes()
    monkeypatch.setattr(trainer.export, "to_onnx", lambda *_: network)
    read = load_package(export(run, tmp_path / "model", typed=True))
    assert set(read.manifest["files"]) - set(package.manifest["files"]) == {
        "model.bf16.onnx",
        "model.fp16.onnx",
    }
    for precision in TYPED_PRECISIONS:
        content = (read.folder / f"model.{precision}.onnx").read_bytes()
        assert content == read.typed(precision)
        assert content != network


def test_moved_data_are_given_by_hand_and_checked(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"path": str(tmp_path / "gone"), "sha256": dataset.sha256, "about": {}}
    run = write_run(tmp_path / "run", dataset, data=data)
    with pytest.raises(UsageError, match="--data"):
        export(run, tmp_path / "model")

    class Reached(Exception):
        pass

    def reached(*_: Any, **named: Any) -> None:
        raise Reached

    monkeypatch.setattr(trainer.export, "collect", reached)
    with pytest.raises(Reached):
        export(run, tmp_path / "model", dataset.folder)
    other = write_run(tmp_path / "other", dataset, data={**data, "sha256": "0" * 64})
    with pytest.raises(UsageError, match="trained on 000000000000"):
        export(other, tmp_path / "model", dataset.folder)


@pytest.mark.parametrize("failing", ["model_card", "load_package"])
def test_an_export_that_fails_leaves_nothing(
    failing: str, run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        assert not (tmp_path / "model").exists()
        raise ModelPackageError("no")

    network = (exported / "model.onnx").read_bytes()
    monkeypatch.setattr(trainer.export, "to_onnx", lambda *_: network)
    monkeypatch.setattr(trainer.export, failing, fail)
    with pytest.raises(ModelPackageError, match="no"):
        export(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def write_evaluation(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "run.json").read_text())
    estimate = {"value": 0.61, "low": 0.5, "high": 0.7}
    found = {
        "split": "test",
        "protocol": None,
        "threshold": {"value": 0.4},
        "recipe": {"sha256": record["recipe_sha256"]},
        "run": {"best": record["best"], "trained_on_sha256": record["data"]["sha256"]},
        "data": {"sha256": record["data"]["sha256"]},
        "figures": {
            "all": {
                "patients": {"all": 9, "with_infarct": 6, "without": 3},
                "dice": {"mean": estimate, "median": estimate},
            }
        },
        **changes,
    }
    (folder / "evaluation-test").mkdir(exist_ok=True)
    (folder / "evaluation-test" / "evaluation.json").write_text(json.dumps(found))


def test_figures_on_test_cases_are_those_of_these_weights(
    dataset: Dataset, package: ModelPackage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", dataset)
    record = json.loads((run / "run.json").read_text())
    assert trainer.export.figures_on_test(run, record) is None
    write_evaluation(run)
    found = trainer.export.figures_on_test(run, record)
    assert found is not None
    assert found["dice"]["mean"]["value"] == 0.61
    manifest = {**package.manifest, "metrics": {**package.manifest["metrics"], "test": found}}
    card = trainer.export.model_card(manifest)
    assert "On 9 test cases (6 with infarct)" in card
    assert "Dice per patient 0.610 (95 % interval 0.500 to 0.700), threshold 0.4" in card
    write_evaluation(run, run={"best": {"step": 1}, "trained_on_sha256": dataset.sha256})
    assert trainer.export.figures_on_test(run, record) is None
    assert "other weights" in caplog.text
    (run / "evaluation-test" / "evaluation.json").write_text("{")
    with pytest.raises(UsageError, match="trainer evaluate again"):
        trainer.export.figures_on_test(run, record)


def test_the_card_says_data_figures_and_limits(exported: Path, package: ModelPackage) -> None:
    card = (exported / "MODEL_CARD.md").read_text("utf-8")
    assert card.startswith(f"# Model card: nano {package.version}\n")
    for words in ("Research use only", "No scan of a patient was seen in training", "Not a medical device",
                  "No figures on test cases", "2 validate", "## Limits", "20-50 HU mirrored"):  # fmt: skip
        assert words in card
    assert "None" not in card
    assert "\n\n\n" not in card
    assert card.count("| M5 |") == 1


def test_licences_say_whose_they_are(tmp_path: Path) -> None:
    assert licence_name("simulated", False) == "Apache-2.0"
    assert "owners" in licence_name("aisd", False)
    assert "Apache License, Version 2.0" in licence_text("simulated", False, "shipped")
    text = licence_text("aisd", True, str(tmp_path / "dinov3.pth"))
    assert text.startswith("Built with DINOv3\n")
    assert "ai.meta.com" in text
    assert "was not beside" in text
    (tmp_path / "LICENSE.md").write_text("Meta's own words")
    for source in (tmp_path / "dinov3.pth", tmp_path):
        text = licence_text("aisd", True, str(source))
        assert "Meta's own words" in text
        assert "was not beside" not in text


def test_the_decoder_alone_is_kept_as_weights(exported: Path, run: Path) -> None:
    from safetensors import safe_open

    _, net = load_network(run)
    with safe_open(exported / "weights.safetensors", framework="pt") as file:
        names = set(file.keys())
        about = file.metadata()
    assert names == set(net.decoder.state_dict())
    assert about["backbone_sha256"] == load_package(exported).manifest["backbone"]["sha256"]
    assert (
        file_sha256(exported / "weights.safetensors")
        == json.loads((exported / "model.json").read_text())["files"]["weights.safetensors"]
    )


@pytest.mark.study
def test_a_vitb16_at_512_exports_and_runs() -> None:
    """The paper's size with random weights: 2.1 GB of memory, half a minute of one core, file 339 MiB."""
    from trainer.network.vit_dpt import StrokeNet
    from trainer.package.graph import ProbabilityNet, to_onnx

    net = StrokeNet(NetworkConfig("vitb16", features=128)).eval().requires_grad_(False)
    network = to_onnx(net, (512, 416))
    slices = torch.randn(2, 3, 512, 416)
    with torch.inference_mode():
        bg, sg = ProbabilityNet(net)(slices)
    arrays = {"slices": slices.numpy(), "bg_probability": bg.numpy(), "sg_probability": sg.numpy()}
    assert check_parity(network, arrays) < TOLERANCE
