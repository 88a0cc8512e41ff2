from __future__ import annotations

import numpy as np
import pytest

from strokecore.bench import timing
from strokecore.bench.timing import Spread, time_in_rounds


class Clock:
    """A time that only the subjects move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_REST_S", 0.0)


def test_every_round_runs_every_subject_once() -> None:
    clock, order = Clock(), []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds

    subjects = {n: (lambda n=n, s=s: call(n, s)) for n, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    seconds, errors = time_in_rounds(subjects, repeats=4, seconds=1e9, clock=clock)
    assert "".join(order) == "abc" * (1 + 4)  # the first round does not count
    assert seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}
    assert not errors


def test_time_ends_the_rounds_but_not_before_the_third() -> None:
    clock = Clock()

    def call() -> None:
        clock.now += 10.0

    for repeats, limit_s, rounds in ((9, 1.0, 3), (9, 55.0, 5), (2, 1.0, 2)):
        seconds, _ = time_in_rounds({"a": call}, repeats, limit_s, clock)
        assert len(seconds["a"]) == rounds


@pytest.mark.parametrize("first_failure", [0, 2])
def test_one_that_fails_is_named_and_left_out(first_failure: int) -> None:
    clock, calls = Clock(), []

    def good() -> None:
        clock.now += 1.0

    def bad() -> None:
        calls.append(clock.now)
        if len(calls) > first_failure:
            raise RuntimeError("lost the device in /opt/vendor/lib/x.so")
        clock.now += 1.0

    seconds, errors = time_in_rounds({"bad": bad, "good": good}, repeats=3, seconds=1e9, clock=clock)
    assert seconds == {"good": [1.0] * 3}
    assert errors == {"bad": "RuntimeError: lost the device in x.so"}
    assert len(calls) == first_failure + 1


def test_spread_of_known_numbers() -> None:
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 10.0]) == Spread(median=3.0, min=1.0, q1=2.0, q3=4.0, rounds=5)
    assert Spread.of([np.pi]) == Spread(3.1416, 3.1416, 3.1416, 3.1416, 1)
