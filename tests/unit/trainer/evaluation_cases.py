"""Small prepared cases and a stub network for the tests of evaluation and ablation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from strokecore.anatomy.regions import RegionId
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import STROKE_WINDOW, Channel, InputSpec
from trainer.data.cases import Case, CaseRecord, Dataset, DatasetWriter, Group, Split

LEVEL_MM = 10.0
HEALTHY_HU, LESION_HU = 40.0, 24.0
# the stub reads densities from unnormalised channels
SPEC = InputSpec(
    size=(64, 48), pixel_mm=2.0, slice_mm=6.0, channels=(Channel(STROKE_WINDOW, mean=0.0, std=1.0),) * 3
)
# head mm (z, y, x): blocks of brain in the left hemisphere (x > 0), one below and one above the level plane
M2 = ((-20.0, 4.0), (-20.0, 20.0), (10.0, 40.0))
M5 = ((16.0, 40.0), (-20.0, 20.0), (10.0, 40.0))
BRAIN = ((-30.0, 50.0), (-50.0, 50.0), (-44.0, 44.0))

Span = tuple[float, float]
Box = tuple[Span, Span, Span]


def box(spans: Box) -> tuple[slice, slice, slice]:
    """Index of the voxels whose centres lie in head millimetres (z, y, x)."""
    z, y, x = (
        slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high)))
        for axis, (low, high) in zip(CANONICAL_GRID.axes_mm, spans, strict=True)
    )
    return z, y, x


def make_case(
    case_id: str,
    split: Split,
    group: Group,
    lesions: tuple[Box, ...] = (),
    *,
    dark: tuple[Box, ...] | None = None,
    binary: bool = False,
) -> Case:
    """A block of brain with M2 and M5 on both sides; ``dark``: what looks like infarct, else ``lesions``."""
    shape = CANONICAL_GRID.shape
    brain = np.zeros(shape, bool)
    brain[box(BRAIN)] = True
    hu = np.where(brain, HEALTHY_HU, -1000.0).astype(np.float16)
    regions = np.zeros(shape, np.uint8)
    for name, spans in (("M2", M2), ("M5", M5)):
        regions[box(spans)] = RegionId(name, "left").label
        regions[..., ::-1][box(spans)] = RegionId(name, "right").label  # the grid is symmetric about x = 0
    lesion = np.zeros(shape, bool)
    for spans in lesions:
        lesion[box(spans)] = True
    for spans in lesions if dark is None else dark:
        hu[box(spans)] = LESION_HU
    record = CaseRecord(
        id=case_id,
        split=split,
        labels="binary" if binary else "territory",
        group=group,
        level_plane_mm=LEVEL_MM,
        slice_thickness_mm=5.0,
        lesion_ml=float(lesion.sum() * CANONICAL_GRID.voxel_ml),
        affected=(),
        digest="",
    )
    territory = np.zeros(shape, np.uint8) if binary else regions
    return Case(record, hu, np.zeros_like(hu), brain, brain, regions, lesion, territory)


def make_dataset(folder: Path, cases: list[Case], kind: str = "simulated") -> Dataset:
    writer = DatasetWriter(folder)
    for case in cases:
        writer.add(case)
    return writer.close(kind, cases[0].record.labels, simulator={"version": "test", "sha256": "0"})


class StubNet(nn.Module):
    """Calls infarct what is darker than half-way between healthy and infarcted brain; knows M2 and M5."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.bias = nn.Parameter(torch.tensor(bias))
        self.calls = 0
        with torch.no_grad():
            self.backbone.weight.fill_(1.0)
            self.backbone.bias.fill_(0.0)
        self.eval()

    def taps(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += len(x)
        return (x[:, :1],)

    def decode(self, taps: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        assert taps[0].shape[-2:] == size
        low, high = STROKE_WINDOW
        hu = taps[0][:, 0] * (high - low) + low
        inside = hu > low  # air is not infarct
        odds = torch.where(inside, ((HEALTHY_HU + LESION_HU) / 2 - hu) + self.bias, -50.0)
        return self._logits(odds, 9, 6), self._logits(odds, 6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(self.taps(x), (x.shape[-2], x.shape[-1]))

    @staticmethod
    def _logits(odds: Tensor, classes: int, winner: int) -> Tensor:
        logits = torch.full((len(odds), classes, *odds.shape[1:]), -60.0)
        logits[:, 0] = 0.0
        logits[:, winner] = odds
        return logits
