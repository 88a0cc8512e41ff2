"""The parity gate: does an engine give a package's own answers? None serves a patient before it does.

References are the package's golden answers, which the trainer's fp32 network wrote, and ONNX Runtime in
fp32 on random input drawn for this check. DINOv3 in fp16 is known to come out of several TensorRT releases as
NaN or as nearly one class; other faults are quieter: mirrored or reordered answers, swapped channels, a stale
buffer, the last part of a batch not computed, half a pixel of displacement. docs/engines.md says which
criterion catches which.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.learned.arms import infarct_probability
from strokecore.learned.combination import combined
from strokecore.learned.differences import (
    class_agreement,
    dice,
    fit,
    infarct_log_odds,
    large_difference,
    largest_of_slices,
    rearranged,
)
from strokecore.learned.engine import region_log_odds
from strokecore.learned.fresh import Fresh
from strokecore.learned.golden import GOLDEN_STEP, Golden
from strokecore.learned.package import Calibration, ModelPackage
from strokecore.learned.parity_report import LIMITS, Criterion, ParityReport
from strokecore.learned.runtime import Answers, Runtime
from strokecore.scoring.aspects import REGION_THRESHOLD

Float4D = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

log = logging.getLogger(__name__)


# Outputs of one check that are held at the same time; a batch beyond is tested with fewer slices.
_HELD_BYTES: Final = 2**29
# Batches of these sizes are not among the others; 1 and 4 are parts of them.
_SMALLER: Final = (32, 16, 8, 2)


def check_parity(
    engine: Runtime, package: ModelPackage, golden: Golden, fresh: Fresh, answers: Answers
) -> ParityReport:
    """Run an engine on golden and random slices and compare; a failure of any kind is a report, never raised.

    Parameters
    ----------
    fresh, answers: random slices and ONNX Runtime's fp32 answers to them.
    """
    start = time.perf_counter()
    slices = np.concatenate([golden.slices, fresh.slices])
    reference = Answers(*(np.concatenate(arms) for arms in zip(golden.answers, answers, strict=True)))
    batches = _batches(engine, golden, len(fresh.slices), reference)
    found: list[Answers] = []
    failed = 0
    for batch in batches:
        arms = run_or_none(engine, slices[batch])
        if arms is None:
            failed += 1
            break
        found.append(arms)
    failed += sum(
        not fits_in(arms, reference, len(batch)) for arms, batch in zip(found, batches, strict=False)
    )
    values: dict[str, float] = {"runs": failed}
    if not failed:
        # looked at after the last run: an earlier answer in a buffer that was used again is seen to be wrong
        values |= _values(package, golden, fresh, reference, batches, found)
        if engine.precision == "fp32" and not values["not_finite"]:
            # what calls itself fp32 and computes in less is not what the result says that it is
            values["fp32_difference"] = _worst(
                lambda ours, theirs: float(np.abs(ours[: len(theirs)] - theirs).max()), found[0], reference
            )
    return ParityReport(
        engine.name,
        engine.precision,
        fresh.seed,
        sum(map(len, batches)),
        time.perf_counter() - start,
        tuple(Criterion(name, float(value), LIMITS[name]) for name, value in values.items()),
    )


def run_or_none(engine: Runtime, slices: Float4D) -> Answers | None:
    """An engine's answers; None where it fails."""
    try:
        return Answers(*engine.run(slices))
    except Exception as error:  # foreign libraries raise what they like: whatever it is, it does not serve
        log.warning("%s %s fails on slices of the parity gate: %s", engine.name, engine.precision, error)
        return None


def fits_in(found: Answers, reference: Answers, number: int) -> bool:
    """Whether these are answers to ``number`` slices at all."""
    return all(
        isinstance(arm, np.ndarray) and arm.dtype == np.float32 and arm.shape == (number, *expected.shape[1:])
        for arm, expected in zip(found, reference, strict=True)
    )


def not_finite(answers: Sequence[Answers]) -> int:
    """How many values are NaN or infinite."""
    return sum(int((~np.isfinite(arm)).sum()) for arms in answers for arm in arms)


def sum_error(answers: Sequence[Answers]) -> float:
    """How far a pixel's classes are from summing to 1, or below 0, at worst."""
    return max(
        max(float(np.abs(arm.sum(axis=1) - 1).max()), float(-arm.min())) for arms in answers for arm in arms
    )


def region_probabilities(
    log_odds: Mapping[RegionId, float], calibration: Mapping[str, Calibration]
) -> dict[RegionId, float]:
    """What the network alone says of each region, by the package's calibration."""
    return {region: calibration[region.name].probability(x) for region, x in log_odds.items()}


def _batches(engine: Runtime, golden: Golden, fresh: int, reference: Answers) -> list[Indices]:
    """Which slices each run gets, by index into golden slices followed by random ones.

    All at once, and more than the engine's own batch, so that its last part is not full; smaller batches, for
    each of which a GPU has a graph of its own; a few in reversed order; one alone; the few again. No run
    repeats the one before it, so that an answer that comes one run late is seen.
    """
    number = len(golden.slices) + fresh
    own = int(getattr(engine, "most", getattr(engine, "batch", 1)))
    row_bytes = sum(arm[0].nbytes for arm in reference)
    at_once = max(number, min(own + 1, _HELD_BYTES // row_bytes))
    while at_once % 2 == 0 or (own > 1 and at_once % own == 0):
        at_once += 1
    # from the middle: the last part must not resemble the first
    more = (number // 2 + np.arange(at_once - number)) % number
    infarct = 1 - golden.answers.bg[:, 0].mean(axis=(1, 2))
    few = np.arange(number - 1, max(number - 6, len(golden.slices) - 1), -1)
    smaller = [
        (number // 3 + np.arange(size)) % number for size in _SMALLER if size <= min(at_once, own // 2)
    ]
    return [
        np.concatenate([np.arange(number), more]),
        *smaller,
        few,
        np.array([int(infarct.argmax())]),
        few,
    ]


def _values(
    package: ModelPackage,
    golden: Golden,
    fresh: Fresh,
    reference: Answers,
    batches: Sequence[Indices],
    found: Sequence[Answers],
) -> dict[str, float]:
    if wrong := not_finite(found):
        return {"not_finite": wrong}
    first = len(golden.slices)
    number = len(reference.bg)
    whole = Answers(*(arm[:number] for arm in found[0]))
    ours = Answers(*(arm[:first] for arm in whole))
    random = Answers(*(arm[first:] for arm in whole))
    theirs = Answers(*(arm[first:] for arm in reference))
    heads = len(fresh.inside)
    fits = [
        fit(infarct_log_odds(f[:heads]), infarct_log_odds(r[:heads]), fresh.inside)
        for f, r in zip(random, theirs, strict=True)
    ]
    few, _, again = found[-3:]
    return {
        "not_finite": 0,
        "sum": sum_error(found),
        "golden_difference": _worst(large_difference, ours, golden.answers),
        "random_difference": _worst(large_difference, random, theirs),
        "dice": _infarct_dice(package, golden, ours),
        **_regions(package, golden, ours),
        "classes": min(map(class_agreement, ours, golden.answers)),
        "spread": max((f.spread for f in fits), key=lambda s: _distance(s, 1)),
        "bias": max((f.bias for f in fits), key=lambda b: _distance(b, 0)),
        "scale": max((f.scale for f in fits), key=lambda s: _distance(s, 1)),
        "shift": max((f.shift for f in fits), key=lambda s: _distance(s, 0)),
        "rearranged": max(rearranged(f, r, fresh.inside) for f, r in zip(random, theirs, strict=True)),
        "batch": max(
            largest_of_slices(arm, both[batch])
            for arms, batch in zip(found, batches, strict=True)
            for arm, both in zip(arms, whole, strict=True)
        ),
        "repeat": max(float(np.abs(a - b).max()) for a, b in zip(few, again, strict=True)),
    }


def _worst(measure: Callable[[Float4D, Float4D], float], found: Answers, reference: Answers) -> float:
    """The worse arm's, so that a right arm does not hide a wrong one."""
    return max(map(measure, found, reference))


def _distance(value: float, right: float) -> float:
    """NaN is farthest."""
    return math.inf if math.isnan(value) else abs(value - right)


def _infarct(golden: Golden, answers: Answers) -> npt.NDArray[np.float32]:
    return infarct_probability(answers.bg, answers.sg, golden.share.astype(np.float64))


def _infarct_dice(package: ModelPackage, golden: Golden, found: Answers) -> float:
    """Of the outlines in the brain of the golden cases.

    Golden answers are rounded: of a pixel within a step of the threshold they do not know the side.
    """
    known = _infarct(golden, golden.answers)
    used = golden.brain & (golden.case >= 0)[:, None, None]
    lowest, highest = (_outlined(package, golden, known + d) for d in (-GOLDEN_STEP, GOLDEN_STEP))
    used &= lowest == highest
    return dice(_outlined(package, golden, _infarct(golden, found))[used], highest[used])


def _outlined(
    package: ModelPackage, golden: Golden, infarct: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Where the network alone draws a lesion; a joined weight-free engine is taken to have no opinion."""
    if package.combination is not None:
        infarct = combined(infarct, np.zeros_like(infarct), golden.regions, {}, package.combination)
    return infarct >= package.lesion_threshold


def _regions(package: ModelPackage, golden: Golden, found: Answers) -> dict[str, float]:
    """Region decisions and ASPECTS that differ on the golden cases, and the farthest region probability."""
    maps = _infarct(golden, found), _infarct(golden, golden.answers)
    regions = aspects = 0
    farthest = 0.0
    for case in range(int(golden.case.max()) + 1):
        mine = golden.case == case
        if not mine.any():
            continue
        ours, known = (
            region_probabilities(
                region_log_odds(values[mine], golden.regions[mine], golden.brain[mine]), package.calibration
            )
            for values in maps
        )
        different = [r for r in ALL_REGIONS if r in known and _affected(ours[r]) != _affected(known[r])]
        regions += len(different)
        for side in SIDES:
            counts = [
                sum(_affected(p) for r, p in decided.items() if r.side == side) for decided in (ours, known)
            ]
            aspects += counts[0] != counts[1]
        farthest = max([farthest, *(abs(ours[r] - known[r]) for r in known)])
    return {"regions": regions, "aspects": aspects, "region_probability": farthest}


def _affected(probability: float) -> bool:
    return probability >= REGION_THRESHOLD
