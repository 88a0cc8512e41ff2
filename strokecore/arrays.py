"""Array types under one name each, and the overlap of two masks.

Names with a number of axes are float32 or bool, what heads and networks are made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]

Float2D = npt.NDArray[np.float32]
Float3D = npt.NDArray[np.float32]
Float4D = npt.NDArray[np.float32]
Bool2D = npt.NDArray[np.bool_]
Bool3D = npt.NDArray[np.bool_]


def dice(first: BoolArray, second: BoolArray, *, empty: float = float("nan")) -> float:
    """Dice coefficient of two masks of one shape (Dice, Ecology 1945;26:297); ``empty`` when both are."""
    both, size = np.count_nonzero(first & second), np.count_nonzero(first) + np.count_nonzero(second)
    return float(dice_of_counts(both, size)) if size else empty


def dice_of_counts(both: npt.ArrayLike, size: npt.ArrayLike) -> Any:
    """Dice coefficient from the voxels in both masks and the sum of the two masks' sizes.

    Numbers, or arrays that broadcast; NaN where ``size`` is 0.
    """
    return ratio(2 * np.asarray(both), size)


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Any:
    """part / whole in float64, numbers or arrays that broadcast; NaN where ``whole`` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole != 0)
