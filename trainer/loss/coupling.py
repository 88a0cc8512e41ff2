"""The coupling of the Territory-Aware Gated Loss: the SG level follows the BG level of the same branch.

The paper's abstract says that the two levels are made to agree. The term here is our definition
(docs/tagl.md): it moves the SG arm only, only within a hemisphere, and never against a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from strokecore.anatomy.regions import SIDES, RegionId
from strokecore.learned.arms import COUPLED

# (BG label, SG label) of the six coupled territory pairs: three branches of each hemisphere, never across.
PAIRS: Final = tuple(
    (RegionId(bg, side).label, RegionId(sg, side).label) for side in SIDES for bg, sg in COUPLED
)


@dataclass(frozen=True)
class Territories:
    """One arm's slices seen through the six territories of its level, in the order of ``PAIRS``.

    masks: bool [n, 6, H, W], the atlas territories of the person.
    present: bool [n, 6], the territory has pixels in the slice.
    positive: bool [n, 6], at least the configured share of its pixels is lesion.
    """

    masks: Tensor
    present: Tensor
    positive: Tensor


def find_territories(regions: Tensor, lesion: Tensor, level: int, positive_share: float) -> Territories:
    """The territories of ``level`` (0 BG: M1-M3, 1 SG: M4-M6) in slices.

    Parameters
    ----------
    regions: uint8 [n, H, W], RegionId.label of the person's atlas, 0 elsewhere.
    lesion: bool [n, H, W].
    """
    labels = torch.tensor([pair[level] for pair in PAIRS], dtype=regions.dtype, device=regions.device)
    masks = regions[:, None] == labels[:, None, None]
    size = masks.sum((2, 3))
    involved = (masks & lesion[:, None]).sum((2, 3))
    present = size > 0
    return Territories(masks, present, present & (involved >= positive_share * size))


def evidence(infarct: Tensor, masks: Tensor, top_percent: float) -> Tensor:
    """e: mean of the ``top_percent`` % highest infarct probabilities inside each territory.

    The highest and not all: an infarct that fills a tenth of a territory makes it affected. At least one
    pixel is taken; the value of an empty territory has no meaning.

    Parameters
    ----------
    infarct: float32 [n, 1 or 6, H, W]; masks: bool [n, 6, H, W].

    Returns
    -------
    float32 [n, 6].
    """
    top = (masks.sum((2, 3)) * top_percent / 100).ceil().long().clamp(min=1)
    ranked = infarct.masked_fill(~masks, -1.0).flatten(2).topk(int(top.max())).values
    taken = torch.arange(ranked.shape[2], device=ranked.device) < top[..., None]
    return (ranked * taken).sum(2) / top


def disagreement(
    bg_infarct: Tensor,
    bg: Territories,
    sg_infarct: Tensor,
    sg: Territories,
    sg_lesion: Tensor,
    top_percent: float,
) -> tuple[Tensor, Tensor]:
    """How far the SG evidence e_s falls short of (or exceeds) the BG evidence e_b, per territory pair.

    Both positive: relu(e_b - e_s)^2, which can only raise e_s. Both negative: relu(e_s - e_b)^2, which can
    only lower it. Labels that disagree, or a territory that is not in its slice: not valid, 0.

    e_b carries no gradient. Nor do the SG pixels whose own label is the contrary of their territory's: the
    few lesion pixels of a negative territory are not lowered, healthy pixels of a positive one not raised.

    Parameters
    ----------
    bg_infarct, sg_infarct: float32 [n, H, W], p(infarct).
    bg, sg: from ``find_territories`` of levels 0 and 1.
    sg_lesion: bool [n, H, W].

    Returns
    -------
    penalty: float32 [n, 6], 0 where not valid; valid: bool [n, 6].
    """
    e_b = evidence(bg_infarct.detach()[:, None], bg.masks, top_percent)
    movable = sg_lesion[:, None] == sg.positive[..., None, None]
    held = torch.where(movable, sg_infarct[:, None], sg_infarct.detach()[:, None])
    e_s = evidence(held, sg.masks, top_percent)
    valid = bg.present & sg.present & (bg.positive == sg.positive)
    short = torch.where(sg.positive, e_b - e_s, e_s - e_b).relu().square()
    return short.masked_fill(~valid, 0.0), valid
