"""orthanc_plugin/arrival.py: what counts as a whole head while it is arriving."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthanc_plugin.arrival import FEWEST_SLICES, WHOLE_HEAD_MM, looks_whole, pause_s, preferred
from strokecore.reading.acquisition import SeriesSummary

START = datetime(2026, 1, 1, tzinfo=UTC)


def stack(gaps_mm: list[float], *, tilt_deg: float = 0.0, numbered: bool = True) -> list[dict[str, str]]:
    """Slices along z with these gaps; a tilted gantry turns the planes and not the table."""
    c, s = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))
    slices, z = [], 0.0
    for number, gap in enumerate([0.0, *gaps_mm], start=1):
        z += gap
        tags = {
            "ImagePositionPatient": f"0\\0\\{z:.1f}",
            "ImageOrientationPatient": f"1\\0\\0\\0\\{c:.6f}\\{s:.6f}",
        }
        slices.append(tags | ({"InstanceNumber": str(number)} if numbered else {}))
    return slices


@given(
    count=st.integers(FEWEST_SLICES, 60),
    tilt=st.floats(-25, 25),
    numbered=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_an_even_stack_as_long_as_a_head_is_whole_in_any_order(count, tilt, numbered, order):
    gap = (WHOLE_HEAD_MM + 15) / (count - 1) / math.cos(math.radians(tilt))
    slices = stack([gap] * (count - 1), tilt_deg=tilt, numbered=numbered)
    order.shuffle(slices)
    assert looks_whole(slices)


@given(count=st.integers(20, 60), missing=st.data())
def test_a_missing_slice_is_seen_wherever_it_is_missing(count, missing):
    slices = stack([3.0 * 60 / count + 2.5] * (count - 1), numbered=False)
    del slices[missing.draw(st.integers(1, count - 2))]
    assert not looks_whole(slices)


def test_two_slabs_of_different_slices_are_whole():
    assert looks_whole(stack([4.0] * 12 + [5.5] + [7.0] * 12))
    assert looks_whole(stack([2.5] * 20 + [5.0] * 18))


@pytest.mark.parametrize(
    ("slices", "why"),
    [
        (stack([5.0] * 20), "100 mm"),
        (stack([15.0] * 9), "ten slices"),
        (stack([5.0] * 10 + [0.0] + [5.0] * 20), "two slices at one place"),
        (stack([5.0, 10.0] * 14), "every third is missing"),
        (
            [
                *stack([5.0] * 30)[:-1],
                {**stack([5.0] * 30)[-1], "ImageOrientationPatient": "0\\1\\0\\0\\0\\-1"},
            ],
            "a scout",
        ),
        ([*stack([5.0] * 30)[:-1], {"InstanceNumber": "31"}], "no position"),
        (
            [*stack([5.0] * 30)[:-1], {**stack([5.0] * 30)[-1], "ImagePositionPatient": "0\\0\\nan"}],
            "not a number",
        ),
        (
            [{**tags, "InstanceNumber": str(2 * i)} for i, tags in enumerate(stack([5.0] * 30))],
            "every other number",
        ),
        ([], "nothing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_whole(slices, why):
    assert not looks_whole(slices), why


def test_a_declared_number_is_waited_for():
    slices = stack([5.0] * 30)
    assert looks_whole(slices, 31)
    assert not looks_whole(slices, 32)


@pytest.mark.parametrize(
    ("kernel", "thickness_mm", "expected"),
    [
        ("SOFT", 5.0, True),
        ("H31s", 3.0, True),
        ("SOFT", 1.0, False),
        ("BONE", 5.0, False),
        ("", 5.0, False),
        ("SOFT", None, False),
    ],
)
def test_a_better_reconstruction_is_waited_for(kernel, thickness_mm, expected):
    assert preferred(SeriesSummary("1", kernel=kernel, slice_thickness_mm=thickness_mm)) is expected


def test_a_slow_sender_is_given_longer():
    assert pause_s(START, START + timedelta(seconds=1), 31, 3.0) == 3.0
    assert pause_s(START, START + timedelta(seconds=60), 31, 3.0) == 10.0
    assert pause_s(None, START, 31, 3.0) == 3.0
    assert pause_s(START + timedelta(seconds=9), START, 31, 3.0) == 3.0  # a clock that was set back
