"""Measuring in rounds: A B C A B C, so that a machine that slows down slows all of them.

The times of one round belong together (strokecore.bench.summary.speed_up).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from strokecore.bench.words import in_words

log = logging.getLogger(__name__)

MINIMUM_ROUNDS: Final = 3
# Before a measurement, each is called until this long has passed: kernels are chosen, graphs captured, memory
# taken and clocks raised.
_WARM_UP_S: Final = 0.5
_WARM_UP_CALLS: Final = 20
# What takes less is called again and its mean taken: a single call of some milliseconds is mostly the
# scheduler's noise.
_TURN_S: Final = 0.05
_CALLS: Final = 50
# Thread pools spin for some milliseconds after a call, and would take the next one's cores.
_REST_S: Final = 0.02


@dataclass
class Rounds:
    """What was measured.

    Attributes
    ----------
    seconds: of one call, by name, in the order of the rounds; equally many for all.
    errors: why something is not in ``seconds``, by name.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def take_turns(
    turns: Mapping[str, Callable[[], object]],
    repeats: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Warm each of ``turns`` up, then time all of them in turn, ``repeats`` times.

    Parameters
    ----------
    turns: what to call, by name; must be done when it returns. One that raises is left out from then on.
    repeats: rounds.
    seconds: no round is begun after this long, once three are done.
    """
    found = Rounds()
    calls: dict[str, int] = {}
    for name, turn in turns.items():
        try:
            calls[name] = _warm_up(turn, clock)
        except Exception as error:  # every engine's library raises its own
            _fail(found, name, error)
    found.seconds = {name: [] for name in calls}
    begun = clock()
    for done in range(repeats):
        if done >= MINIMUM_ROUNDS and clock() - begun > seconds:
            break
        for name in list(found.seconds):
            time.sleep(_REST_S)
            start = clock()
            try:
                for _ in range(calls[name]):
                    turns[name]()
            except Exception as error:
                _fail(found, name, error)
                continue
            found.seconds[name].append((clock() - start) / calls[name])
    return found


def _warm_up(turn: Callable[[], object], clock: Callable[[], float]) -> int:
    """Call until warm; returns how many calls make one turn."""
    begun = last = clock()
    shortest = math.inf
    for _ in range(_WARM_UP_CALLS):
        turn()
        now = clock()
        shortest, last = min(shortest, now - last), now
        if now - begun >= _WARM_UP_S:
            break
    return int(min(max(math.ceil(_TURN_S / max(shortest, 1e-9)), 1), _CALLS))


def _fail(found: Rounds, name: str, error: Exception) -> None:
    log.debug("%s fails", name, exc_info=True)
    found.errors[name] = in_words(error)
    found.seconds.pop(name, None)
