"""Measuring in rounds: A B C A B C, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.bench.machine import without_folders

MINIMUM_ROUNDS: Final = 3
# Thread pools spin for some milliseconds after a call, and would take the next subject's cores.
_REST_S: Final = 0.02
# More digits than the times of two runs ever share.
_DIGITS: Final = 5


@dataclass(frozen=True)
class Spread:
    """Median, least and quartiles over rounds, to five digits."""

    median: float
    min: float
    q1: float
    q3: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        median, least, q1, q3 = (
            float(f"{value:.{_DIGITS}g}") for value in np.percentile(values, (50, 0, 25, 75))
        )
        return cls(median, least, q1, q3, len(values))


def time_in_rounds(
    subjects: Mapping[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time one call of each subject in turn, ``repeats`` times after a round that does not count.

    In that one kernels are chosen, graphs compiled and memory taken.

    Parameters
    ----------
    subjects: what to call, by name; its work is done when it returns.
    repeats: rounds.
    seconds: no round is begun after this long, once three are done.

    Returns
    -------
    Seconds of a call by name, in the order of the rounds and equally many for all; and the errors by name, in
    words, of subjects that raised and were left out from then on.
    """
    found: dict[str, list[float]] = {name: [] for name in subjects}
    errors: dict[str, str] = {}
    begun = clock()
    for done in range(-1, repeats):
        if done >= MINIMUM_ROUNDS and clock() - begun > seconds:
            break
        for name in list(found):
            time.sleep(_REST_S)
            start = clock()
            try:
                subjects[name]()
            except Exception as error:  # every engine's library raises its own
                errors[name] = without_folders(error)
                del found[name]
                continue
            if done >= 0:
                found[name].append(clock() - start)
    return found, errors
