"""The package that ships: whole, small, honest, and made by the recipe that stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from strokecore.anatomy.regions import SIDES, Side
from strokecore.cli import main
from strokecore.learned import shipped
from strokecore.learned.gate import Gate
from strokecore.learned.golden import read_golden
from strokecore.learned.onnx import OnnxRuntime
from strokecore.learned.package import load_package
from strokecore.learned.parity import _golden_infarct, outline_is_steady
from strokecore.learned.preprocessing import InputSpec
from strokecore.learned.shipped import IS_DEFAULT, SHIPPED, package_folder
from strokecore.simulate import SampleSpec, parse_affected, write_sample
from trainer.config import load_recipe

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "trainer" / "recipes" / "strokecore_unet_vit.yaml"
MOST_BYTES = 15_000_000


def test_the_package_is_whole_and_small() -> None:
    package = load_package(SHIPPED)
    assert package.name == "strokecore-unet-vit"
    assert package.licence == "Apache-2.0"
    assert package.combination is not None
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < MOST_BYTES


def test_it_was_trained_by_the_recipe_that_ships() -> None:
    trained = load_package(SHIPPED).manifest["training"]
    made, recipe = trained["recipe"], load_recipe(RECIPE).to_dict()
    assert (made["name"], made["seed"]) == (recipe["name"], recipe["seed"])
    assert InputSpec.from_dict(made["input"]) == load_recipe(RECIPE).input
    for part in ("network", "loss", "augment", "training"):
        # settings that came later have their defaults
        assert _plain({**recipe[part], **made[part]}) == _plain(recipe[part]), part
    assert trained["data"]["kind"] == "simulated"


def test_its_card_says_what_it_is_and_whether_it_is_the_default() -> None:
    card = (SHIPPED / "MODEL_CARD.md").read_text("utf-8")
    for words in ("Research use only", "No scan of a patient was seen in training", "docs/shipped-model.md"):
        assert words in card
    assert ("It is the default" in card) == IS_DEFAULT
    assert ("It is not the default" in card) != IS_DEFAULT
    assert "/tmp" not in card


@pytest.mark.parametrize("side", [None, *SIDES])
def test_an_infarct_is_found_on_its_own_side(tmp_path: Path, side: Side | None) -> None:
    affected = parse_affected(f"{side}:I,M1,M2") if side else ()
    write_sample(tmp_path / "ct", SampleSpec(seed=3, affected=affected, delta_hu=8.0, thickness_mm=5.0))
    words = ["--model", shipped.NAME, "--engine", "onnx", "--outputs", "sc"]
    assert main(["score", str(tmp_path / "ct"), "--out", str(tmp_path / "out"), *words]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))
    assert result["affected_side"] == side
    for other in SIDES:
        assert (result["aspects"][other]["score"] == 10) == (other != side), other


def test_the_reference_passes_the_packages_own_gate() -> None:
    """Whatever was fitted around the network, at least fp32 must be allowed to run it."""
    package = load_package(SHIPPED)
    report = Gate(package, 2).examine_fully(OnnxRuntime(package))
    assert report.passed, report.reason


def test_a_lesion_threshold_that_decides_over_most_of_the_outline_is_not_steady() -> None:
    package = load_package(SHIPPED)
    golden = read_golden(package)
    assert outline_is_steady(package, golden)
    highest = float(_golden_infarct(golden.answers, golden, package).max())
    assert not outline_is_steady(replace(package, lesion_threshold=highest), golden)


def test_shipped_is_a_name_for_it() -> None:
    assert package_folder(Path(shipped.NAME)) == SHIPPED
    for other in ("mine", "Shipped", "shipped/x"):
        assert package_folder(Path(other)) == Path(other)
    assert package_folder(None) is None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
