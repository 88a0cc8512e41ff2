"""``trainer pretrain``: the tiny backbone learns simulated CT before it is frozen.

Recipes without DINOv3's weights need features from somewhere. The tiny backbone is trained on two tasks that
need no infarct labels, on the train split of a prepared dataset:

- masked denoising: some patches are replaced by the mask token and all get extra noise; every patch must give
  the densities before that of its 2 x 2-pixel blocks, of the head and of its mirror image, and the smoothed
  difference of the two (what a reader looks for);
- tissue segmentation: the atlas region (20 and none) and brain or not of each block.

Both are read by one linear layer from all four taps, so that the taps that the decoder gets hold what is
asked for. The linear layer is thrown away.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import DINOv3ViTModel

from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.package import file_sha256
from strokecore.learned.preprocessing import InputSpec, hu_slices, label_slices, mask_slices, to_channels
from trainer.data.augment import mirror_territories
from trainer.data.cases import CaseRecord, Dataset
from trainer.network.vit_dpt import BACKBONES, REGISTER_TOKENS, BackboneConfig

log = logging.getLogger(__name__)

_BLOCK_PX: Final = 2  # the tasks' resolution: 3 mm with 1.5 mm pixels
_REGIONS: Final = 21  # 20 regions and none
# Slices with less brain than this teach nothing (about 15 square centimetres with 1.5 mm pixels).
_LEAST_BRAIN_PX: Final = 700
_DIFFERENCE_SIGMA_PX: Final = 3.0
# Densities are predicted in units of 10 HU around brain, so that the terms of the loss have like sizes.
_BRAIN_HU: Final = 33.0
_UNIT_HU: Final = 10.0
_RANGE_HU: Final = (0.0, 70.0)
# The difference is worth its weight: a few HU of 10.
_DIFFERENCE_WEIGHT: Final = 4.0


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the pretraining.

    Attributes
    ----------
    steps, batch: optimiser steps and slices in each.
    learning_rate: of AdamW, after 5 % warm-up, falling as a cosine.
    masked_share: share of the patches replaced by the mask token.
    noise_hu: largest standard deviation of the added noise.
    seed: of every draw.
    """

    steps: int = 600
    batch: int = 16
    learning_rate: float = 1e-3
    masked_share: float = 0.3
    noise_hu: float = 3.0
    seed: int = 1


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of many heads: float16 HU [n, H, W], regions uint8 and brain bool of the same shape."""

    hu: Tensor
    regions: Tensor
    brain: Tensor


@dataclass(frozen=True, eq=False)
class Pretraining:
    """A backbone in training, and what it is made and trained with.

    Attributes
    ----------
    backbone: its name among BACKBONES. config: settings of the run. spec: the slices that it sees.
    model, head: the backbone and the linear layer that reads its taps.
    """

    backbone: str
    config: PretrainConfig
    spec: InputSpec
    model: DINOv3ViTModel
    head: PretextHead

    @property
    def shape(self) -> BackboneConfig:
        """The backbone's shape."""
        return BACKBONES[self.backbone]


class PretextHead(nn.Module):
    """One linear layer from the concatenated taps to every block's targets."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.blocks = config.patch_size // _BLOCK_PX
        self.outputs = 3 + _REGIONS + 1
        self.linear = nn.Conv2d(4 * config.hidden_size, self.outputs * self.blocks**2, 1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Four [n, hidden, h, w] to [n, outputs, h * blocks, w * blocks]."""
        return functional.pixel_shuffle(self.linear(torch.cat(list(taps), dim=1)), self.blocks)


def pretrain(
    data: Path,
    out: Path,
    config: PretrainConfig,
    *,
    backbone: str = "tiny",
    spec: InputSpec | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Train a backbone and write ``out``/backbone.safetensors (float16) and backbone.json.

    ``progress`` is called after every step with its number and the loss's terms. Returns the terms on the
    validation split.

    Raises
    ------
    UsageError: no prepared data, or no training or validation cases in it.
    """
    spec = spec or InputSpec()
    dataset = Dataset(data)
    train, validate = (_load(dataset, dataset.split(split), spec) for split in ("train", "validate"))
    torch.manual_seed(config.seed)
    shape = BACKBONES[backbone]
    training = Pretraining(
        backbone, config, spec, DINOv3ViTModel(shape.to_transformers()), PretextHead(shape)
    )
    parameters = [*training.model.parameters(), *training.head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.05
    )
    rng = np.random.default_rng(config.seed)
    started = time.monotonic()
    training.model.train()
    for step in range(config.steps):
        rows = torch.from_numpy(rng.integers(0, len(train.hu), config.batch))
        terms = _losses(training, train, rows, rng)
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, {name: float(value.detach()) for name, value in terms.items()})
    minutes = (time.monotonic() - started) / 60
    metrics = _validate(training, validate)
    _write(out, training, _data_record(dataset, train), minutes, metrics)
    return metrics


def _load(dataset: Dataset, records: Sequence[CaseRecord], spec: InputSpec) -> Slices:
    if not records:
        raise UsageError(f"{dataset.folder} has no cases in a split that pretraining needs; prepare more.")
    hu, regions, brain = [], [], []
    for record in records:
        case = dataset.load(record)
        inside = mask_slices(case.brain, CANONICAL_GRID, spec)
        rows = inside.sum(axis=(1, 2)) >= _LEAST_BRAIN_PX
        hu.append(hu_slices(case.hu.astype(np.float32), CANONICAL_GRID, spec)[rows].astype(np.float16))
        regions.append(label_slices(case.regions, CANONICAL_GRID, spec)[rows])
        brain.append(inside[rows])
    return Slices(*(torch.from_numpy(np.concatenate(parts)) for parts in (hu, regions, brain)))


def _losses(
    training: Pretraining, slices: Slices, rows: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The terms of the loss on the slices ``rows``, each scalar."""
    clean, regions, brain = slices.hu[rows].float(), slices.regions[rows], slices.brain[rows]
    flip = torch.from_numpy(rng.random(len(rows)) < 0.5)[:, None, None]
    clean = torch.where(flip, clean.flip(-1), clean)
    brain = torch.where(flip, brain.flip(-1), brain)
    regions = torch.where(flip, mirror_territories(regions).flip(-1), regions).long()
    clean = clean + torch.from_numpy(rng.normal(0, 2.0, (len(rows), 1, 1)).astype(np.float32))

    sigma = rng.uniform(0, training.config.noise_hu, (len(rows), 1, 1)).astype(np.float32)
    noise = rng.standard_normal(clean.shape, dtype=np.float32) * sigma
    pixels = torch.from_numpy(to_channels((clean.numpy() + noise)[:, None], regions.numpy(), training.spec))
    rows_px, columns_px = (side // training.shape.patch_size for side in training.spec.size)
    masked = torch.from_numpy(rng.random((len(rows), rows_px * columns_px)) < training.config.masked_share)
    predicted = training.head(_taps(training.model, training.shape, pixels, masked))

    density = (clean.clamp(*_RANGE_HU) - _BRAIN_HU) / _UNIT_HU
    mirror = density.flip(-1)
    difference = _smooth(torch.where(brain & brain.flip(-1), density - mirror, 0.0))
    target = functional.avg_pool2d(torch.stack([density, mirror, difference], dim=1), _BLOCK_PX)
    weight = torch.tensor([1.0, 1.0, _DIFFERENCE_WEIGHT])[None, :, None, None]
    corner = (slice(None), slice(_BLOCK_PX - 1, None, _BLOCK_PX), slice(_BLOCK_PX - 1, None, _BLOCK_PX))
    return {
        "density": (
            weight * functional.smooth_l1_loss(predicted[:, :3], target, reduction="none", beta=0.3)
        ).mean(),
        "regions": functional.cross_entropy(predicted[:, 3 : 3 + _REGIONS], regions[corner]),
        "brain": functional.binary_cross_entropy_with_logits(predicted[:, -1], brain[corner].float()),
    }


def _taps(
    model: DINOv3ViTModel, shape: BackboneConfig, pixels: Tensor, masked: Tensor | None
) -> list[Tensor]:
    """As FrozenBackbone.forward, with gradients and masked patches."""
    rows, columns = (side // shape.patch_size for side in pixels.shape[-2:])
    positions = model.rope_embeddings(pixels)
    tokens = model.embeddings(pixels, bool_masked_pos=masked)
    maps = []
    for depth, layer in enumerate(model.model.layer, start=1):
        tokens = layer(tokens, position_embeddings=positions)
        if depth in shape.taps:
            patches = model.norm(tokens)[:, 1 + REGISTER_TOKENS :]
            maps.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
    return maps


def _smooth(x: Tensor) -> Tensor:
    reach = round(3 * _DIFFERENCE_SIGMA_PX)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / _DIFFERENCE_SIGMA_PX) ** 2)
    taps = taps / taps.sum()
    along = functional.conv2d(x[:, None], taps[None, None, :, None], padding=(reach, 0))
    return functional.conv2d(along, taps[None, None, None, :], padding=(0, reach))[:, 0]


@torch.no_grad()
def _validate(training: Pretraining, slices: Slices) -> dict[str, float]:
    training.model.eval()
    rng = np.random.default_rng(training.config.seed + 1)
    totals: dict[str, list[float]] = {}
    for rows in torch.arange(len(slices.hu)).split(training.config.batch):
        for name, value in _losses(training, slices, rows, rng).items():
            totals.setdefault(name, []).append(float(value))
    return {name: round(float(np.mean(values)), 5) for name, values in totals.items()}


def _data_record(dataset: Dataset, train: Slices) -> dict[str, Any]:
    return {
        "kind": dataset.about["kind"],
        "sha256": dataset.sha256,
        "seeds": dataset.about.get("seeds"),
        "simulator": dataset.about.get("simulator"),
        "cases": len(dataset.split("train")),
        "slices": len(train.hu),
    }


def _write(
    out: Path, training: Pretraining, data: dict[str, Any], minutes: float, metrics: dict[str, float]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "backbone.safetensors"
    save_file({k: v.half().contiguous() for k, v in training.model.state_dict().items()}, weights)
    about = {
        "kind": "strokecore-backbone",
        "name": training.backbone,
        "shape": asdict(training.shape),
        "sha256": file_sha256(weights),
        "licence": "Apache-2.0",
        "pretraining": {
            "task": "masked denoising, mirror difference, tissue segmentation; no infarct labels",
            "data": data,
            "input": training.spec.to_dict(),
            "config": asdict(training.config),
            "minutes": round(minutes, 1),
            "validation": metrics,
        },
    }
    (out / "backbone.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
