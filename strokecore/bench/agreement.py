"""How far an engine's answer is from the reference's: a fast wrong answer is worth nothing.

Two of the parity gate's measures, on the slices that are timed. Whether an engine may serve is for the gate
to say (strokecore.learned.parity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strokecore.bench.inputs import BenchSlices
from strokecore.learned.arms import infarct_probability
from strokecore.learned.parity import large_difference
from strokecore.learned.runtime import Float4D

Answer = tuple[Float4D, Float4D]
"""Class probabilities of both arms, see strokecore.learned.engine.Run."""


@dataclass(frozen=True)
class Agreement:
    """One engine against the reference.

    Attributes
    ----------
    p999_difference: 99.9th percentile of the difference of a class probability, in the worse arm; None when
        the answer is not finite.
    dice: overlap of the infarct outlined in brain at the package's threshold; 1 when neither outlines any.
    """

    p999_difference: float | None
    dice: float


def agreement(reference: Answer, found: Answer, slices: BenchSlices, threshold: float) -> Agreement:
    """Compare two answers to ``slices``.

    Parameters
    ----------
    threshold: infarct probability from which a pixel is outlined.
    """
    if not all(np.isfinite(arm).all() for arm in found):
        return Agreement(None, 0.0)
    ours, theirs = (
        infarct_probability(*answer, slices.share)[slices.brain] >= threshold for answer in (found, reference)
    )
    total = int(ours.sum()) + int(theirs.sum())
    dice = 1 - int((ours != theirs).sum()) / total if total else 1.0
    return Agreement(max(map(large_difference, found, reference)), dice)
