from __future__ import annotations

import pytest

from strokecore.bench import timing as rounds
from strokecore.bench.timing import take_turns


class Clock:
    """A time that only the turns move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_REST_S", 0.0)


def test_everybody_has_a_turn_in_every_round() -> None:
    clock, order = Clock(), []

    def turn(name: str, seconds: float) -> None:
        order.append(name)
        clock.now += seconds

    turns = {name: (lambda name=name, s=s: turn(name, s)) for name, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    found = take_turns(turns, repeats=4, seconds=1e9, clock=clock)
    assert "".join(order) == "abc" + "abc" * 4  # warm-up: each is called until it is warm, once here
    assert found.seconds == {"a": [1.0] * 4, "b": [2.0] * 4, "c": [3.0] * 4}
    assert not found.errors


def test_short_calls_are_repeated_and_their_mean_is_taken() -> None:
    clock, calls = Clock(), []

    def turn() -> None:
        calls.append(clock.now)
        clock.now += 1 / 64

    found = take_turns({"a": turn}, repeats=2, seconds=1e9, clock=clock)
    assert found.seconds["a"] == [1 / 64, 1 / 64]
    assert len(calls) == rounds._WARM_UP_CALLS + 2 * 4  # 4 of 16 ms fill a turn of 50 ms


def test_time_ends_the_rounds_but_not_before_the_third() -> None:
    clock = Clock()

    def turn() -> None:
        clock.now += 10.0

    assert len(take_turns({"a": turn}, 9, seconds=1.0, clock=clock).seconds["a"]) == 3
    assert len(take_turns({"a": turn}, 9, seconds=45.0, clock=clock).seconds["a"]) == 5
    assert len(take_turns({"a": turn}, 2, seconds=1.0, clock=clock).seconds["a"]) == 2


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

    found = take_turns({"bad": bad, "good": good}, repeats=3, seconds=1e9, clock=clock)
    assert found.seconds == {"good": [1.0] * 3}
    assert found.errors == {"bad": "RuntimeError: lost the device in x.so"}
    assert len(calls) == first_failure + 1
