"""A prepared folder, a recipe and a network so small that whole trainings fit into unit tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strokecore.anatomy.regions import RegionId
from tests.unit.trainer.evaluation_cases import BRAIN, LEVEL_MM, SPEC, Box, box, make_case, make_dataset
from trainer.config import Recipe, TrainingConfig, WeightsConfig
from trainer.data.cases import Case, Dataset
from trainer.network.vit_dpt import BACKBONES, BackboneConfig, NetworkConfig

BACKBONE = BackboneConfig(32, 4, 2, 64, (1, 2, 3, 4), patch_size=8)
LOW_LESION: Box = ((-20.0, 4.0), (-30.0, 30.0), (5.0, 40.0))
HIGH_LESION: Box = ((16.0, 40.0), (-30.0, 30.0), (5.0, 40.0))


def register_backbone() -> None:
    """Make the backbone "test" known; for child processes (tests use monkeypatch)."""
    BACKBONES["test"] = BACKBONE


def recipe(**training: Any) -> Recipe:
    """Six steps of two pairs; ``training`` replaces settings."""
    settings: dict[str, Any] = {
        "steps": 6,
        "pairs": 2,
        "warmup_steps": 2,
        "validate_every": 3,
        "single_share": 0.3,
        "learning_rate": 1e-2,
    }
    return Recipe(
        name="test",
        seed=5,
        network=NetworkConfig("test", features=8, dropout=0.2),
        weights=WeightsConfig("random"),
        input=SPEC,
        training=TrainingConfig(**settings | training),
    )


def territory_case(case: Case) -> Case:
    """The same with both levels' middle territories filling the brain of both sides."""
    regions = np.zeros_like(case.regions)
    (z_low, z_high), y, (x_low, x_high) = BRAIN
    for name, z in (("M2", (z_low, LEVEL_MM)), ("M5", (LEVEL_MM, z_high))):
        regions[box((z, y, (x_low, 0.0)))] = RegionId(name, "right").label
        regions[box((z, y, (0.0, x_high)))] = RegionId(name, "left").label
    return replace(case, regions=regions, territory=regions)


def dataset(folder: Path) -> Dataset:
    """Three training and two validation cases, one of each without infarct."""
    both = (LOW_LESION, HIGH_LESION)
    cases = [
        make_case("train-1", "train", "coupled", both),
        make_case("train-2", "train", "bg_only", (LOW_LESION,)),
        make_case("train-3", "train", "lesion_free"),
        make_case("validate-1", "validate", "coupled", both),
        make_case("validate-2", "validate", "lesion_free"),
    ]
    return make_dataset(folder, [territory_case(case) for case in cases])
