"""Small made-up cases for the tests of slices, sampling and features."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from strokecore.anatomy.regions import RegionId
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import arm_target
from strokecore.learned.preprocessing import InputSpec
from trainer.config import AugmentConfig, Recipe, TrainingConfig
from trainer.data.cases import Case, CaseRecord, Labels
from trainer.data.slices import CaseSlices
from trainer.network.vit_dpt import NetworkConfig

# 8 slices of 32 x 32 pixels cover the canonical grid.
SPEC = InputSpec(size=(32, 32), pixel_mm=6.0, slice_mm=20.0)
PLANE_MM = 21.0  # slices 0-4 below, 5-7 above
STILL = AugmentConfig(probability=0.0)


def recipe(
    *, seed: int = 1, augment: AugmentConfig = STILL, pairs: int = 4, singles: float = 0.25, cached: int = 0
) -> Recipe:
    training = TrainingConfig(pairs=pairs, single_share=singles, cached_features=cached)
    return Recipe(
        "test",
        seed=seed,
        network=NetworkConfig("tiny", features=4),
        input=SPEC,
        augment=augment,
        training=training,
    )


def record(case_id: str, labels: Labels = "territory", split: str = "train") -> CaseRecord:
    return CaseRecord(case_id, split, labels, "mixed", PLANE_MM, 5.0, 0.0, (), "")  # type: ignore[arg-type]


def slices(case_id: str, lesion_rows: Collection[int] = (), *, labels: Labels = "territory") -> CaseSlices:
    """Eight slices: 0 without brain, 1-2 cerebellum, 3-4 ganglionic, 5-6 above, 7 vertex.

    The density tells case and slice apart; infarct is a block on the patient's left and 20 HU darker.
    """
    rng = np.random.default_rng(int.from_bytes(case_id.encode(), "big") % 2**32)
    hu = np.full((8, 32, 32), -1024.0, np.float16)
    brain = np.zeros((8, 32, 32), bool)
    territories = np.zeros((8, 32, 32), np.uint8)
    brain[1:, 4:28, 4:28] = True
    hu[1:, 2:30, 2:30] = rng.uniform(25, 45, (7, 28, 28))
    for rows, first in ((slice(3, 5), "M1"), (slice(5, 7), "M4")):
        territories[rows, 4:28, 4:12] = RegionId(first, "right").label
        territories[rows, 4:28, 20:28] = RegionId(first, "left").label
    lesion = np.zeros((8, 32, 32), bool)
    for row in lesion_rows:
        lesion[row, 10:20, 20:27] = True
    hu[lesion] -= 20
    truth = np.where(lesion, territories, 0).astype(np.uint8)
    targets = [arm_target(lesion, truth, arm) for arm in ("bg", "sg")]
    if labels == "binary":
        targets = [lesion, lesion]
    return CaseSlices(
        record=record(case_id, labels),
        pixel_mm=6.0,
        hu=hu,
        bg_target=targets[0].astype(np.uint8),
        sg_target=targets[1].astype(np.uint8),
        brain=brain,
        territories=territories,
        z_mm=np.arange(8) * 20.0 - 69.0,
    )


def canonical(case_id: str, labels: Labels = "territory", split: str = "train") -> Case:
    """A box of brain with M1 below the plane and M4 above it on both sides; infarct in the left M1 and, above
    the brain's regions, outside them."""
    z, y, x = np.meshgrid(*CANONICAL_GRID.axes_mm, indexing="ij", sparse=True)
    brain = (np.abs(x) < 60) & (np.abs(y) < 70) & (z > -40) & (z < 70)
    hu = np.where(brain, 35.0, -1000.0).astype(np.float16)
    hu[:, :40] = -1024
    level = {"M1": (z > -20) & (z < PLANE_MM), "M4": (z > PLANE_MM) & (z < 50)}
    regions = np.zeros(CANONICAL_GRID.shape, np.uint8)
    for name, where in level.items():
        regions[where & (x > 20) & brain] = RegionId(name, "left").label
        regions[where & (x < -20) & brain] = RegionId(name, "right").label
    lesion = ((regions == RegionId("M1", "left").label) & (y > 0)) | ((z > 50) & (x > 0) & brain)
    hu[lesion] -= 6
    territory = np.where(lesion, regions, 0).astype(np.uint8)
    if labels == "binary":
        territory[:] = 0
    return Case(
        record(case_id, labels, split), hu, np.zeros_like(hu), brain, brain, regions, lesion, territory
    )
