from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from strokecore.anatomy.regions import RegionId
from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import InputSpec
from trainer import pretrain as module
from trainer.config import Recipe, WeightsConfig
from trainer.data.cases import Case, CaseRecord, DatasetWriter, Split
from trainer.loop.backbone import build_network
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, NetworkConfig
from trainer.pretrain import PretrainConfig, pretrain

SMALL = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8, image_size=64)
SPEC = InputSpec(size=(64, 48), pixel_mm=3.0, slice_mm=8.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ellipsoids of brain with left M1 and right M4, one to train on and one to validate."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    writer = DatasetWriter(out)
    z, y, x = np.meshgrid(*CANONICAL_GRID.axes_mm, indexing="ij", sparse=True)
    for number, split in enumerate(("train", "validate")):
        inside = (z / 60) ** 2 + (y / 85) ** 2 + (x / 65) ** 2 < 1
        regions = np.zeros(CANONICAL_GRID.shape, np.uint8)
        regions[inside & (x > 20) & (z < 10)] = 5
        regions[inside & (x < -20) & (z >= 10)] = 18
        noise = np.random.default_rng(number).normal(0, 3, CANONICAL_GRID.shape)
        hu = np.where(inside, 33 + noise, -1024).astype(np.float16)
        writer.add(_case(f"case-{number}", split, hu, inside, regions))
    writer.close("simulated", "territory")
    return out


def _case(name: str, split: str, hu: np.ndarray, inside: np.ndarray, regions: np.ndarray) -> Case:
    chosen: Split = "train" if split == "train" else "validate"
    record = CaseRecord(name, chosen, "territory", "lesion_free", 10.0, 5.0, 0.0, (), "")
    nothing = np.zeros(inside.shape, np.bool_)
    return Case(
        record, hu, np.zeros_like(hu), inside, inside, regions, nothing, np.zeros(inside.shape, np.uint8)
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "small", SMALL)
    monkeypatch.setattr(module, "_LEAST_BRAIN_PX", 100)


@pytest.mark.usefixtures("small")
def test_the_tasks_are_learned_and_the_weights_serve_as_backbone(data: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    config = PretrainConfig(steps=30, batch=6, learning_rate=3e-3)
    metrics = pretrain(
        data,
        tmp_path / "backbone",
        config,
        backbone="small",
        spec=SPEC,
        progress=lambda _, terms: seen.append(sum(terms.values())),
    )
    assert np.mean(seen[-5:]) < 0.6 * np.mean(seen[:3])
    assert set(metrics) == {"density", "regions", "brain"}
    about = json.loads((tmp_path / "backbone" / "backbone.json").read_text("utf-8"))
    assert about["pretraining"]["data"]["cases"] == 1
    assert about["pretraining"]["config"]["steps"] == 30
    recipe = Recipe(
        "x",
        network=NetworkConfig("small", 8),
        weights=WeightsConfig(str(tmp_path / "backbone"), about["sha256"]),
        input=SPEC,
    )
    network, origin = build_network(recipe)
    assert origin.sha256 == about["sha256"]
    assert origin.checked
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    config = PretrainConfig(steps=2, batch=2)
    for name in ("a", "b"):
        pretrain(data, tmp_path / name, config, backbone="small", spec=SPEC)
    pretrain(data, tmp_path / "c", replace(config, seed=2), backbone="small", spec=SPEC)
    a, b, c = ((tmp_path / name / "backbone.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.usefixtures("small")
def test_mirrored_slices_swap_the_sides_of_the_regions(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: list[torch.Tensor] = []
    real = torch.nn.functional.cross_entropy

    def spy(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        targets.append(target)
        return real(predicted, target)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", spy)
    pretrain(data, tmp_path / "out", PretrainConfig(steps=4, batch=8), backbone="small", spec=SPEC)
    shown = torch.cat(targets)
    # left M1 and right M4 as they are, and their mirror images; columns run from right to left
    labels = {RegionId("M1", "left"), RegionId("M4", "right")}
    labels |= {region.mirror for region in labels}
    assert set(shown.unique().tolist()) == {0, *(region.label for region in labels)}
    for region in labels:
        columns = (shown == region.label).any(dim=0).any(dim=0).nonzero()
        on_the_left = columns >= shown.shape[-1] / 2
        assert on_the_left.all() if region.side == "left" else not on_the_left.any()


@pytest.mark.usefixtures("small")
def test_no_validation_cases_is_said(data: Path, tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "data")
    inside = np.zeros(CANONICAL_GRID.shape, np.bool_)
    hu = np.zeros(inside.shape, np.float16)
    writer.add(_case("only", "validate", hu, inside, inside.astype(np.uint8)))
    writer.close("simulated", "territory")
    with pytest.raises(UsageError, match="no cases in a split"):
        pretrain(tmp_path / "data", tmp_path / "out", PretrainConfig(steps=1), backbone="small", spec=SPEC)
