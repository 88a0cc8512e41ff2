"""Two ways of training compared on the same patients over the same seeds.

Values are float64 [seeds, patients] or [seeds, patients, territories]; NaN where the truth leaves a figure
undefined, which is the same patients in every row and seed. The average is taken over seeds and the patients
who have the figure, then over territories.

Interval: patients and seeds are both a sample, and every patient is measured under every seed (crossed, not
nested). So both are drawn with replacement, independently of each other, 2000 times, from fixed seeds; the
difference stays paired by patient and seed. This is the pigeonhole bootstrap (Owen, Ann Appl Stat
2007;1:386), which is known to err on the wide side. With one seed only patients are drawn, and with a few
seeds the part of the interval that comes from them is itself uncertain.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np

from strokecore.arrays import Float64Array, ratio
from strokecore.evaluate.statistics import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    Estimate,
    draw_patients,
    estimate,
    in_words,
)

# What TAGL may lose at most where infarct of one level stands alone (the project's own criterion).
LARGEST_LOSS: Final = 0.01
# Differences are sums of some hundred float64: a loss of 0.01 exactly must not fail by rounding.
_ROUNDING: Final = 1e-9


def average(values: Float64Array) -> Estimate:
    """Mean with its 95 % interval; a lone figure has none."""
    values = _with_territories(values)
    seeds, patients = values.shape[:2]
    if not np.isfinite(values).any():
        return Estimate(None)
    value = _plain_mean(values)
    if np.isfinite(values).any(axis=(0, 2)).sum() < 2:
        return Estimate(value)
    return estimate(value, _mean(values, _draws(seeds, 1), _draws(patients, 0)))


def per_seed(values: Float64Array) -> list[float | None]:
    """The average within each seed."""
    means = [_plain_mean(_with_territories(one[None])) for one in values]
    return [mean if np.isfinite(mean) else None for mean in means]


def figure(values: Float64Array) -> dict[str, Any]:
    """``average`` JSON-ready, with the number of patients who have the figure."""
    patients = np.isfinite(_with_territories(values)).any(axis=(0, 2))
    return {**asdict(average(values)), "patients": int(patients.sum())}


def difference(treated: Float64Array, control: Float64Array) -> dict[str, Any]:
    """``treated`` minus ``control``: mean, interval, the mean in each seed and how many of them rose."""
    found = figure(treated - control)
    seeds = per_seed(treated - control)
    rose = sum(value is not None and value > 0 for value in seeds)
    fell = sum(value is not None and value < 0 for value in seeds)
    return {**found, "per_seed": seeds, "seeds_higher": rose, "seeds_lower": fell}


@dataclass(frozen=True)
class Criterion:
    """Whether it is met: no more than LARGEST_LOSS of Dice or SG sensitivity is lost on the uncoupled set.

    Attributes
    ----------
    met: by the mean differences; None when one of them is not known.
    shown: by the intervals' lower ends too, that is, also for other patients and seeds.
    text: one line.
    """

    met: bool | None
    shown: bool | None
    text: str


def judge(name: str, dice: Estimate, sensitivity: Estimate, patients: tuple[int, int]) -> Criterion:
    """Judge ``name`` minus control on the uncoupled set; ``patients``: how many have either figure."""
    told = (
        f"on the uncoupled set Dice {_signed(dice)} in {patients[0]} patients, "
        f"SG sensitivity {_signed(sensitivity)} in {patients[1]}"
    )
    if dice.value is None or sensitivity.value is None:
        return Criterion(None, None, f"{name}: not judged, the uncoupled set lacks a figure ({told}).")
    met = all(_kept(e.value) for e in (dice, sensitivity))
    shown = met and all(_kept(e.low) for e in (dice, sensitivity))
    if not met:
        outcome = "NOT MET"
    elif shown:
        outcome = "MET, and the intervals exclude a larger loss"
    else:
        outcome = "MET by the means, but the intervals do not exclude a larger loss"
    return Criterion(
        met, shown, f"{name}: criterion (loses no more than {LARGEST_LOSS:g} of either) {outcome}: {told}."
    )


def _kept(value: float | None) -> bool:
    return value is not None and value >= -LARGEST_LOSS - _ROUNDING


def _signed(found: Estimate) -> str:
    if found.value is None:
        return "unknown"
    return in_words(asdict(found), "{:+.4f}")


@lru_cache(maxsize=16)  # every figure of a set is drawn alike
def _draws(number: int, stream: int) -> Float64Array:
    return draw_patients(number, BOOTSTRAP_DRAWS, BOOTSTRAP_SEED + stream).astype(np.float64)


def _plain_mean(values: Float64Array) -> float:
    seeds, patients = values.shape[:2]
    return float(_mean(values, np.ones((1, seeds)), np.ones((1, patients)))[0])


def _with_territories(values: Float64Array) -> Float64Array:
    return values[..., None] if values.ndim == 2 else values


def _mean(values: Float64Array, by_seed: Float64Array, by_patient: Float64Array) -> Float64Array:
    """[draws]: mean of the defined ``values`` [s, p, t] with weights [draws, s] and [draws, p].

    Territories that a draw leaves without a patient are left out of its mean.
    """
    defined = np.isfinite(values)
    # [draws, t]: patients first, because there are more of them than seeds
    sums, numbers = (
        np.einsum("bs,bst->bt", by_seed, np.einsum("bp,spt->bst", by_patient, part, optimize=True))
        for part in (np.where(defined, values, 0.0), defined.astype(np.float64))
    )
    found: Float64Array = ratio(np.nansum(ratio(sums, numbers), axis=1), (numbers > 0).sum(axis=1))
    return found
