"""What is run: the package's own golden slices, as often as it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from strokecore.errors import ModelPackageError
from strokecore.learned.golden import read_golden
from strokecore.learned.package import ModelPackage
from strokecore.learned.random_slices import random_slices
from strokecore.learned.runtime import Float4D

_SEED: Final = 1


@dataclass(frozen=True, eq=False)
class BenchSlices:
    """Slices to run.

    Attributes
    ----------
    slices: float32 [n, channels, rows, columns].
    share: float64 [n], weight of the SG arm (strokecore.learned.arms.sg_share).
    brain: bool [n, rows, columns], of real or simulated heads; False in slices of noise.
    origin: "golden", the package's own; "random", drawn ones, where it has none that can be read.
    """

    slices: Float4D
    share: npt.NDArray[np.float64]
    brain: npt.NDArray[np.bool_]
    origin: Literal["golden", "random"]


def bench_slices(package: ModelPackage, number: int) -> BenchSlices:
    """``number`` slices: the golden ones, evenly chosen or repeated."""
    try:
        golden = read_golden(package)
    except ModelPackageError:
        slices = random_slices(package.spec, _SEED)
        brain = np.zeros((len(slices), *package.spec.size), np.bool_)
        everything = BenchSlices(slices, np.full(len(slices), 0.5), brain, "random")
    else:
        brain = golden.brain & (golden.case >= 0)[:, None, None]
        everything = BenchSlices(golden.slices, golden.share.astype(np.float64), brain, "golden")
    total = len(everything.slices)
    rows = np.arange(number) * max(total // number, 1) % total
    return BenchSlices(
        everything.slices[rows], everything.share[rows], everything.brain[rows], everything.origin
    )
