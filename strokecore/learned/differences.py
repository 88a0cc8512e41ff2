"""How far one engine's answers are from another's: the measures of the parity gate. Pure functions.

Probabilities are compared as they are, and as log-odds: a network that calls nothing on the inputs at hand
answers 0.001 everywhere, where a mirrored or constant answer is as near as the right one in probability
and far from it in log-odds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

PERCENTILE: Final = 0.999
# Kept away from log 0; far below what fp16 still holds.
_FLOOR: Final = 1e-6
# Where the reference's log-odds are beyond this, the floor shapes them.
_SATURATED: Final = 9.0
_FEW_PIXELS: Final = 64
# A rearrangement that moves the reference's own log-odds by less than this (root mean square) is none.
_SAME: Final = 0.2
# Half of the way from one class's probability to the next: no precision errs by that.
_CLEAR_MARGIN: Final = 0.2


class Fit(NamedTuple):
    """An engine's log-odds as a linear function of the reference's and of its slopes.

    Attributes
    ----------
    spread: standard deviation over the reference's.
    bias: mean difference, log-odds.
    scale: slope, 1 where both agree.
    shift: displacement along the rows or the columns, the larger, in pixels.
    """

    spread: float
    bias: float
    scale: float
    shift: float


def large_difference(found: Floats, reference: Floats) -> float:
    """The 99.9th percentile of the absolute difference over all values."""
    difference = np.abs(found - reference).ravel()
    above = difference.size - min(int(PERCENTILE * difference.size), difference.size - 1)
    # most are exactly 0, and a selection is slow among equals
    positive = difference[difference > 0]
    if positive.size < above:
        return 0.0
    index = positive.size - above
    return float(np.partition(positive, index)[index])


def largest_of_slices(found: Floats, reference: Floats) -> float:
    """The largest over slices [n, classes, H, W] of ``large_difference``: one wrong slice among many."""
    return max(large_difference(f, r) for f, r in zip(found, reference, strict=True))


def dice(found: Bools, reference: Bools) -> float:
    """Overlap of two masks; 1 when both are empty."""
    total = int(found.sum()) + int(reference.sum())
    return 2 * int((found & reference).sum()) / total if total else 1.0


def class_agreement(found: Floats, reference: Floats) -> float:
    """Share of pixels with the reference's class, of its worst class; arms [n, classes, H, W].

    Only pixels whose class the reference is clear about count; a class without any is left out.
    """
    first = reference.argmax(axis=1)[:, None]
    others = reference.copy()
    np.put_along_axis(others, first, 0.0, axis=1)
    clear = np.take_along_axis(reference, first, axis=1)[:, 0] - others.max(axis=1) >= _CLEAR_MARGIN
    wanted = first[:, 0][clear]
    same = found.argmax(axis=1)[clear] == wanted
    pixels = np.bincount(wanted, minlength=reference.shape[1])
    right = np.bincount(wanted[same], minlength=reference.shape[1])
    return float(min((r / p for r, p in zip(right, pixels, strict=True) if p), default=1.0))


def infarct_log_odds(arm: Floats) -> Floats:
    """Log-odds of infarct, any class but the first, [n, H, W].

    From the classes' sum: 1 - p(background) keeps no digit of a small probability in a short format.
    """
    return np.asarray(np.log(arm[:, 1:].sum(axis=1) + _FLOOR) - np.log(arm[:, 0] + _FLOOR), np.float32)


def fit(found: Floats, reference: Floats, inside: Bools) -> Fit:
    """Log-odds [n, H, W] of an engine as the reference's, moved, stretched and displaced.

    NaN everywhere where the reference itself does not vary inside.
    """
    rows, columns = (np.gradient(reference, axis=axis) for axis in (1, 2))
    used = inside & (np.abs(reference) < _SATURATED)
    r, f = reference[used].astype(np.float64), found[used].astype(np.float64)
    if r.size < _FEW_PIXELS or r.std() < _SAME:
        return Fit(np.nan, np.nan, np.nan, np.nan)
    # a shift by d pixels adds d times the slope
    design = np.stack([np.ones_like(r), r - r.mean(), rows[used], columns[used]], axis=1)
    _, scale, down, across = np.linalg.lstsq(design, f - r.mean(), rcond=None)[0]
    return Fit(
        float(f.std() / r.std()), float((f - r).mean()), float(scale), float(max(abs(down), abs(across)))
    )


def rearranged(found: Floats, reference: Floats, inside: Bools) -> float:
    """Whether an engine's answers lie better on the reference's when those are rearranged.

    The largest ratio of squared differences, as they stand over rearranged: mirrored, turned, and with two
    slices or two classes exchanged. Far below 1 for a right engine of any precision, above 1 for one that
    rearranges.

    Parameters
    ----------
    found, reference: an arm [n, classes, H, W] of the same inputs.
    inside: bool [m, H, W], the heads' brain of the first m slices.
    """
    heads = len(inside)
    odds_f, odds_r = infarct_log_odds(found), infarct_log_odds(reference)
    here_f, here_r = odds_f[:heads][inside], odds_r[:heads][inside]
    flips: Sequence[Callable[[Floats], Floats]] = (
        lambda maps: maps[..., ::-1],
        lambda maps: maps[..., ::-1, :],
        lambda maps: maps[..., ::-1, ::-1],
    )
    ratios = []
    for flip in flips:
        there = flip(odds_r[:heads])[inside]
        ratios.append(
            _ratio(_mean_square(here_f - here_r), _mean_square(here_f - there), _mean_square(here_r - there))
        )
    classes = (
        np.log(arm[:heads].swapaxes(0, 1)[:, inside] + np.float32(_FLOOR)) for arm in (found, reference)
    )
    slices = (odds.reshape(len(odds), -1) for odds in (odds_f, odds_r))
    return max(*ratios, _exchanged(*classes), _exchanged(*slices))


def _exchanged(found: Floats, reference: Floats) -> float:
    """The same for two of k rows [k, values] exchanged."""
    across, among = _mean_squares(found, reference), _mean_squares(reference, reference)
    return max(
        (
            _ratio(across[a, a] + across[b, b], across[a, b] + across[b, a], 2 * among[a, b])
            for a, b in combinations(range(len(found)), 2)
        ),
        default=0.0,
    )


def _mean_squares(rows: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """Mean squared difference of each row [k, values] and each other one [l, values], [k, l]."""
    a, b = rows.astype(np.float64), others.astype(np.float64)
    products = a @ b.T
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)[None]
    return np.asarray((squares - 2 * products) / a.shape[1])


def _ratio(as_it_stands: float, rearranged_: float, moved: float) -> float:
    """Of mean squared differences; ``moved`` is what the rearrangement does to the reference itself."""
    if moved < _SAME**2:
        return 0.0
    # the floor keeps an engine that is right to the last bit of a rearrangement from dividing by 0
    return as_it_stands / max(rearranged_, 1e-9)


def _mean_square(values: Floats) -> float:
    return float(np.mean(np.square(values), dtype=np.float64))
