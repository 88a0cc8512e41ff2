"""A trained network's answer for slices and for a case, as the node computes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import infarct_probability, sg_share
from strokecore.learned.preprocessing import (
    InputSpec,
    hu_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
    to_volume,
)
from trainer.data.cases import Case
from trainer.network.network import StrokeNet

Float4D = npt.NDArray[np.float32]


@torch.inference_mode()
def predict_slices(net: StrokeNet, channels: Float4D, batch: int = 16) -> tuple[Float4D, Float4D]:
    """Class probabilities of both arms for every slice.

    Parameters
    ----------
    net: in eval mode, on any device; computed in its own precision, float32.
    channels: float32 [n, 3, H, W] from ``strokecore.learned.preprocessing.to_channels``.
    batch: slices at once.

    Returns
    -------
    BG probabilities float32 [n, 9, H, W] and SG probabilities [n, 6, H, W], in the order of learned.arms.

    Raises ValueError when ``net`` is in training mode: dropout would answer at random.
    """
    if net.training:
        raise ValueError("the network is in training mode; call eval() first")
    device = next(net.parameters()).device
    bg, sg = [], []
    for start in range(0, len(channels), batch):
        logits = net(torch.from_numpy(channels[start : start + batch]).to(device))
        bg.append(logits[0].float().softmax(1).cpu().numpy())
        sg.append(logits[1].float().softmax(1).cpu().numpy())
    return np.concatenate(bg), np.concatenate(sg)


def predict_case(net: StrokeNet, case: Case, spec: InputSpec, batch: int = 16) -> npt.NDArray[np.float32]:
    """Infarct probability of a case on CANONICAL_GRID, float32 [z, y, x]; 0 outside the intracranial space.

    Only slices that hold brain are shown to the network; the others count as 0.
    """
    brain = np.asarray(mask_slices(case.brain, CANONICAL_GRID, spec).any(axis=(1, 2)))
    infarct = np.zeros((len(brain), *spec.size), np.float32)
    if brain.any():
        hu = hu_slices(case.hu.astype(np.float32), CANONICAL_GRID, spec)[brain]
        share = sg_share(slice_centres_mm(CANONICAL_GRID, spec)[brain], case.record.level_plane_mm)
        infarct[brain] = infarct_probability(*predict_slices(net, to_channels(hu, spec), batch), share)
    return np.where(case.inside, to_volume(infarct, CANONICAL_GRID, spec), np.float32(0))
