"""What tissue the atlas expects at each voxel of a head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.registration import Registration, template_in_head
from strokecore.frame import Grid

Float3D = npt.NDArray[np.float32]

# Below this share of brain tissue the mixture of grey and white is rounding.
MIN_TISSUE = 0.05


def tissue_in_head(
    atlas: Atlas, registration: Registration, grid: Grid, where: npt.NDArray[np.bool_]
) -> tuple[Float3D, Float3D]:
    """Expected share of grey matter in brain tissue, and of brain tissue in everything; float32 [z, y, x].

    Both are 0 outside ``where``. The atlas maps are averages of many people, so the second one falls to
    intermediate values in sulci rather than to zero.
    """
    grey = template_in_head(atlas, atlas.grey, registration, grid, where)
    tissue = np.clip(grey + template_in_head(atlas, atlas.white, registration, grid, where), 0.0, 1.0)
    share = np.where(tissue > MIN_TISSUE, grey / np.maximum(tissue, MIN_TISSUE), 0.0)
    return share.astype(np.float32), tissue
