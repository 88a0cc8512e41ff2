"""What trained networks answer, as the node computes it: for slices, and for a case as it is measured.

Networks that share a frozen backbone share its features, which take most of the time: an ablation's runs are
measured case by case, not run by run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from strokecore.arrays import Float4D, Float32Array, Float64Array
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import CLASSES, Arm, infarct_probability, sg_share
from strokecore.learned.preprocessing import (
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
    to_volume,
    with_neighbours,
)
from trainer.data.cases import Case
from trainer.loop.checkpoint import tensors_sha256
from trainer.measure.metrics import Names, class_names
from trainer.network.vit_dpt import StrokeNet

_BATCH: Final = 16  # slices at once


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one network says of one case, on CANONICAL_GRID [z, y, x].

    Attributes
    ----------
    infarct: float32, probability of infarct; 0 outside the intracranial space and in slices without brain.
    names: uint8, index in measure.metrics.CLASS_NAMES of the most probable class other than background,
        by the arm that the plane belongs to and the nearest pixel of the model: a class has no "between".
    """

    infarct: Float32Array
    names: Names


class Panel:
    """Networks that are shown the same cases. Those with equal backbones hold and compute it once."""

    def __init__(self, nets: Sequence[StrokeNet], spec: InputSpec) -> None:
        """``nets`` are in eval mode, on one device; equal backbones are replaced by the first of them."""
        self.nets = tuple(nets)
        self.spec = spec
        first: dict[str, StrokeNet] = {}
        for net in self.nets:
            net.backbone = first.setdefault(tensors_sha256(net.backbone.state_dict()), net).backbone

    def predictions(self, case: Case) -> list[Prediction]:
        """Every network's, in their order. Only slices that hold brain are shown."""
        centres_mm, plane_mm = slice_centres_mm(CANONICAL_GRID, self.spec), case.record.level_plane_mm
        found = []
        for (bg, sg), rows in self._shown(case):
            names = np.zeros(CANONICAL_GRID.shape, np.uint8)
            if len(rows):
                names = _to_grid(_named(bg, "bg"), _named(sg, "sg"), centres_mm[rows], plane_mm, self.spec)
            found.append(Prediction(self._infarct(case, bg, sg, rows), names))
        return found

    def infarcts(self, case: Case) -> list[Float32Array]:
        """The infarct probabilities alone; quicker."""
        return [self._infarct(case, bg, sg, rows) for (bg, sg), rows in self._shown(case)]

    @torch.inference_mode()
    def _shown(self, case: Case) -> Iterator[tuple[tuple[Float32Array, Float32Array], npt.NDArray[np.intp]]]:
        """Each network's class probabilities of the slices that hold brain, and which slices those are."""
        rows = np.flatnonzero(mask_slices(case.brain, CANONICAL_GRID, self.spec).any(axis=(1, 2)))
        slices = hu_slices(case.density(self.spec), CANONICAL_GRID, self.spec)
        regions = label_slices(case.regions, CANONICAL_GRID, self.spec)[rows]
        channels = to_channels(with_neighbours(slices, rows, self.spec), regions, self.spec)
        for probabilities in _class_probabilities(self.nets, channels, _BATCH):
            yield probabilities, rows

    def _infarct(
        self, case: Case, bg: Float32Array, sg: Float32Array, rows: npt.NDArray[np.intp]
    ) -> Float32Array:
        centres_mm = slice_centres_mm(CANONICAL_GRID, self.spec)
        infarct = np.zeros((len(centres_mm), *self.spec.size), np.float32)
        share = sg_share(centres_mm[rows], case.record.level_plane_mm)
        infarct[rows] = infarct_probability(bg, sg, share)
        return np.where(case.inside, to_volume(infarct, CANONICAL_GRID, self.spec), np.float32(0))


@torch.inference_mode()
def predict_slices(net: StrokeNet, channels: Float4D, batch: int = _BATCH) -> tuple[Float4D, Float4D]:
    """Class probabilities of both arms for every slice.

    Parameters
    ----------
    net: in eval mode, on any device; computed in its own precision, float32.
    channels: float32 [n, channels, H, W] from ``strokecore.learned.preprocessing.to_channels``.
    batch: slices at once.

    Returns
    -------
    BG probabilities float32 [n, 9, H, W] and SG probabilities [n, 6, H, W], in the order of learned.arms.

    Raises ValueError when ``net`` is in training mode: dropout would answer at random.
    """
    return _class_probabilities([net], channels, batch)[0]


def _class_probabilities(
    nets: Sequence[StrokeNet], channels: Float4D, batch: int
) -> list[tuple[Float4D, Float4D]]:
    """``predict_slices`` of every network; a backbone that several share is computed once."""
    if any(net.training for net in nets):
        raise ValueError("the network is in training mode; call eval() first")
    size = (channels.shape[-2], channels.shape[-1])
    device = next(nets[0].parameters()).device
    nothing = [np.zeros((0, len(CLASSES[arm]), *size), np.float32) for arm in ("bg", "sg")]
    done: list[tuple[list[Float4D], list[Float4D]]] = [([nothing[0]], [nothing[1]]) for _ in nets]
    for start in range(0, len(channels), batch):
        x = torch.from_numpy(channels[start : start + batch]).to(device)
        taps: dict[int, tuple[torch.Tensor, ...]] = {}
        for net, (bg_parts, sg_parts) in zip(nets, done, strict=True):
            if id(net.backbone) not in taps:
                taps[id(net.backbone)] = net.taps(x)
            bg, sg = net.decode(taps[id(net.backbone)], size)
            bg_parts.append(bg.float().softmax(1).cpu().numpy())
            sg_parts.append(sg.float().softmax(1).cpu().numpy())
    return [(np.concatenate(bg_parts), np.concatenate(sg_parts)) for bg_parts, sg_parts in done]


def _named(probability: Float32Array, arm: Arm) -> Names:
    return class_names(1 + probability[:, 1:].argmax(axis=1), arm)


def _to_grid(bg: Names, sg: Names, centres_mm: Float64Array, plane_mm: float, spec: InputSpec) -> Names:
    """Names of the model's pixels on the grid: nearest pixel, 0 beyond the model's field of view."""
    z_axis, y_axis, x_axis = CANONICAL_GRID.axes_mm
    slices = np.abs(z_axis[:, None] - centres_mm).argmin(axis=1)
    rows, columns = (
        # the model's pixels, like the grid, are symmetric about 0
        np.floor(axis / spec.pixel_mm + count / 2).astype(np.intp)
        for axis, count in zip((y_axis, x_axis), spec.size, strict=True)
    )
    out = np.zeros(CANONICAL_GRID.shape, np.uint8)
    here = np.ix_((rows >= 0) & (rows < spec.size[0]), (columns >= 0) & (columns < spec.size[1]))
    pixels = np.ix_(rows[here[0].ravel()], columns[here[1].ravel()])
    upper = sg_share(z_axis, plane_mm) >= 0.5
    for z, (index, is_upper) in enumerate(zip(slices, upper, strict=True)):
        out[z][here] = (sg if is_upper else bg)[index][pixels]
    return out
