"""Statistics of measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strokecore.evaluate.statistics import Estimate, draw_patients, resampled


@dataclass(frozen=True)
class Spread:
    """Median, least and quartiles of ``number`` measurements; in their unit."""

    median: float
    least: float
    lower_quartile: float
    upper_quartile: float
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError when there is none."""
        if not values:
            raise ValueError("nothing was measured")
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(min(values)), float(low), float(high), len(values))

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(
            self.median * factor,
            self.least * factor,
            self.lower_quartile * factor,
            self.upper_quartile * factor,
            self.number,
        )


def speed_up(baseline_s: Sequence[float], own_s: Sequence[float]) -> Estimate:
    """How many times faster than the baseline: median of the rounds' ratios, with its 95 % interval.

    Both are seconds of the same rounds; so what slowed a whole round cancels. The interval is a percentile
    bootstrap over rounds; it takes them as independent, which a slow drift within a round's ratio is not.
    """
    ratios = np.asarray(baseline_s, np.float64) / np.asarray(own_s, np.float64)
    return resampled(lambda drawn: float(np.median(drawn)), ratios, draw_patients(len(ratios)))
