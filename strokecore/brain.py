"""Brain, CSF, ventricles, calcification, blood-like density and noise. (Contract; functions to follow.)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from strokecore.frame import Grid


@dataclass(frozen=True, eq=False)
class Brain:
    """Tissue masks, all bool [z, y, x] on the canonical grid.

    Attributes
    ----------
    intracranial: everything inside the skull (brain and CSF).
    csf: CSF-like density (sulci, cisterns, ventricles, old cavities).
    ventricles: the ventricular part of ``csf`` (connected, central).
    parenchyma: brain tissue that may be measured: intracranial without csf, calcification,
        blood-like density, bone and their partial-volume rims.
    calcification: dense physiological or pathological calcium.
    blood_like: density suspicious of haemorrhage (a component large enough to matter).
    blood_ml: volume of ``blood_like``.
    noise_hu: robust standard deviation of parenchyma noise at the grid's resolution.
    """

    intracranial: npt.NDArray[np.bool_]
    csf: npt.NDArray[np.bool_]
    ventricles: npt.NDArray[np.bool_]
    parenchyma: npt.NDArray[np.bool_]
    calcification: npt.NDArray[np.bool_]
    blood_like: npt.NDArray[np.bool_]
    blood_ml: float
    noise_hu: float


def segment_brain(hu: npt.NDArray[np.float32], grid: Grid, covered: npt.NDArray[np.bool_]) -> Brain:
    """Tissue masks of a canonical head. Raises Refusal("no_brain")."""
    raise NotImplementedError
