"""How far a runtime's answers are from the reference's, and the report that says so.

DINOv3 in fp16 is known to come out of several TensorRT releases as NaN or as nearly one class; other faults
are quieter: mirrored or reordered answers, swapped channels, a stale buffer, the last part of a batch not
computed, half a pixel of displacement. Answers are compared as probabilities, as decisions, and in log-odds:
a network that calls nothing on the inputs at hand answers 0.001 everywhere, and a mirrored or constant answer
is then near the right one in probability and far from it in log-odds. docs/engines.md says which criterion
refuses which fault.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import BoolArray, Float3D, Float4D, Float32Array
from strokecore.learned.arms import infarct_probability
from strokecore.learned.combination import combined
from strokecore.learned.engine import against_mirror, region_log_odds
from strokecore.learned.golden import Golden
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Answers, Runtime

Indices = npt.NDArray[np.intp]

log = logging.getLogger(__name__)

LIMITS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "failed_runs": 0,
        "sum_error": 0.01,
        "dice_loss": 0.005,
        "regions": 0,
        "probability_difference": 0.02,
        "log_odds_error": 0.2,
        "systematic_error": 0.025,
        # of what calls itself fp32 only
        "fp32_difference": 0.001,
    }
)
"""The largest value of each criterion; the meanings stand in docs/engines.md."""

_PERCENTILE: Final = 0.999
# Probabilities are kept this far from 0 in log-odds: golden answers are rounded to steps of 1.5e-5.
_FLOOR: Final = 1e-4
# Right engines differ from the golden answers, rounding included, by up to a tenth of this.
_ROUNDING: Final = 1e-4
# Log-odds beyond are the floor's.
_SATURATED: Final = 9.0
# A class that hardly varies in a slice is held to this standard deviation of its log-odds.
_LEAST_SPREAD: Final = 0.5
# A reference whose infarct varies by less is a constant, and proves nothing.
_CONSTANT: Final = 0.2


@dataclass(frozen=True)
class GateReport:
    """What the gate measured of one runtime.

    Attributes
    ----------
    engine, precision: what was examined.
    date: when (UTC).
    seed: of the random slices.
    slices: how many were run.
    seconds: how long it took.
    values: of the criteria of LIMITS that were measured. Where runs failed, or answers were not
        probabilities, nothing else was.
    """

    engine: str
    precision: str
    date: datetime
    seed: int
    slices: int
    seconds: float
    values: Mapping[str, float]

    @property
    def failed(self) -> tuple[str, ...]:
        """Criteria whose value is beyond its limit; NaN, which could not be measured, always is."""
        return tuple(name for name, limit in LIMITS.items() if not self.values.get(name, 0) <= limit)

    @property
    def passed(self) -> bool:
        return bool(self.values) and not self.failed

    @property
    def reason(self) -> str:
        """The failed criteria with their numbers, at most three; empty when all passed."""
        return ", ".join(f"{name} {self.values[name]:.4g} > {LIMITS[name]:g}" for name in self.failed[:3])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a value that is no finite number is None."""
        criteria = {
            name: {
                "value": value if math.isfinite(value) else None,
                "limit": LIMITS[name],
                "passed": name not in self.failed,
            }
            for name, value in self.values.items()
        }
        facts = {
            field: getattr(self, field) for field in ("engine", "precision", "seed", "slices", "seconds")
        }
        return facts | {"date": self.date.isoformat(), "passed": self.passed, "criteria": criteria}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GateReport:
        """The inverse of ``to_dict``.

        Raises KeyError, TypeError, ValueError or AttributeError on other content.
        """
        values = {name: criterion["value"] for name, criterion in content["criteria"].items()}
        report = cls(
            engine=str(content["engine"]),
            precision=str(content["precision"]),
            date=datetime.fromisoformat(content["date"]),
            seed=int(content["seed"]),
            slices=int(content["slices"]),
            seconds=float(content["seconds"]),
            values={name: math.nan if value is None else float(value) for name, value in values.items()},
        )
        if report.passed != content["passed"]:
            raise ValueError("what the report says does not follow from its criteria")
        return report


def run_all(runtime: Runtime, slices: Float4D, batches: Sequence[Indices]) -> list[Answers]:
    """Answers to ``slices[rows]`` for each of ``batches``, in turn; fewer where a run fails."""
    found: list[Answers] = []
    for rows in batches:
        try:
            found.append(Answers(*runtime.run(slices[rows])))
        except Exception as error:  # foreign libraries raise what they like; whatever it is, it is refused
            log.warning("%s %s fails in the parity gate: %s", runtime.name, runtime.precision, error)
            break
    return found


def compare(
    found: Sequence[Answers],
    batches: Sequence[Indices],
    known: Answers,
    *,
    fp32: bool,
    whole: tuple[ModelPackage, Golden] | None = None,
) -> dict[str, float]:
    """Each answer of each run against the right one: values of LIMITS, as far as they can be measured.

    Parameters
    ----------
    found: of ``run_all`` for ``batches``.
    known: right answers to all slices that ``batches`` are rows of.
    fp32: whether the runtime says that it computes in fp32.
    whole: for the whole gate. ``known`` is then of all golden slices followed by others, and the first batch
        begins with all of them in this order. Without, the criteria that need many slices are left out.
    """
    failed = len(batches) - len(found)
    failed += sum(not _fits(arms, known, len(rows)) for arms, rows in zip(found, batches, strict=False))
    if failed:
        return {"failed_runs": failed}
    values = {"failed_runs": 0.0, "sum_error": _sum_error(found)}
    if not values["sum_error"] <= LIMITS["sum_error"]:
        return values
    # (answer, right answer) to one slice, of each arm
    pairs = [
        [
            (answer, right[row])
            for arms, rows in zip(found, batches, strict=True)
            for answer, row in zip(arms[arm], rows, strict=True)
        ]
        for arm, right in enumerate(known)
    ]
    values["log_odds_error"] = _worst(_log_odds_error(*pair) for arm in pairs for pair in arm)
    if fp32:
        values["fp32_difference"] = _worst(float(np.abs(a - b).max()) for arm in pairs for a, b in arm)
    if whole is not None:
        package, golden = whole
        number = len(golden.slices)
        # golden and other slices, and both arms, each by themselves: none hides another
        values["probability_difference"] = _worst(
            large_difference(arm[part], right[part])
            for arm, right in zip(found[0], known, strict=True)
            for part in (slice(number), slice(number, len(right)))
        )
        values["systematic_error"] = _worst(map(_systematic_error, pairs))
        ours = Answers(*(arm[:number] for arm in found[0]))
        outlined, affected = _decisions(ours, golden, package)
        right_outlined, right_affected = _decisions(golden.answers, golden, package)
        total = int(outlined.sum() + right_outlined.sum())
        values["dice_loss"] = int((outlined != right_outlined).sum()) / max(total, 1)
        values["regions"] = int((affected != right_affected).sum())
    return values


def wrong_answer(found: Answers, known: Answers, rows: Indices, number: int) -> str | None:
    """What is wrong with a run's answers, some of which are to slices with known ones; None: nothing.

    Parameters
    ----------
    known: the right answers to the slices at ``rows`` of the run, [k, classes, H, W].
    number: of slices that were run, those included.
    """
    if not _fits(found, known, number):
        return "answers of another shape"
    if not all(np.isfinite(arm).all() for arm in found):
        return "answers that are not finite"
    if not _sum_error([found]) <= LIMITS["sum_error"]:
        return "answers that are no probabilities"
    error = _worst(
        _log_odds_error(arm[row], answer)
        for arm, right in zip(found, known, strict=True)
        for row, answer in zip(rows, right, strict=True)
    )
    if not error <= LIMITS["log_odds_error"]:
        return f"a wrong answer to a slice with a known one (log_odds_error {error:.2g})"
    return None


def large_difference(found: Float4D, right: Float4D) -> float:
    """The 99.9th percentile of the absolute difference over all values."""
    difference = np.abs(found - right).ravel()
    above = difference.size - int(_PERCENTILE * difference.size)
    # most are exactly 0, and a selection is slow among equals
    positive = difference[difference > 0]
    return float(np.partition(positive, -above)[-above]) if positive.size >= above else 0.0


def _fits(found: Answers, known: Answers, number: int) -> bool:
    """Whether these are answers to ``number`` slices at all."""
    return all(
        isinstance(arm, np.ndarray) and arm.dtype == np.float32 and arm.shape == (number, *expected.shape[1:])
        for arm, expected in zip(found, known, strict=True)
    )


def _worst(values: Iterable[float]) -> float:
    """The largest; NaN where one is."""
    return float(np.max(list(values)))


def _sum_error(found: Sequence[Answers]) -> float:
    """How far a pixel's classes are from summing to 1, or below 0; not finite where a value is not."""
    return _worst(
        max(float(np.abs(arm.sum(axis=1) - 1).max()), -float(arm.min())) for arms in found for arm in arms
    )


def _log_odds(probability: Float3D, others: Float3D) -> Float3D:
    """Log-odds of classes against all ``others``, which are given as their sum.

    1 - p would keep no digit of that sum in a short format.
    """
    return np.log(np.maximum(probability, _FLOOR)) - np.log(np.maximum(others, _FLOOR))


def _log_odds_error(found: Float3D, right: Float3D) -> float:
    """Root mean square error of a class's log-odds over their standard deviation, in the worst class.

    About 1 for a constant, 1.4 for an answer that has nothing to do with the right one.

    Parameters
    ----------
    found, right: of one slice [classes, H, W].
    """
    ours, theirs = (_log_odds(arm, arm.sum(axis=0) - arm) for arm in (found, right))
    error = np.sqrt(np.square(ours - theirs).mean(axis=(1, 2)))
    return float((error / np.maximum(theirs.std(axis=(1, 2)), _LEAST_SPREAD)).max())


def _systematic_error(pairs: Sequence[tuple[Float3D, Float3D]]) -> float:
    """Root mean square of the errors in the log-odds of infarct, as far as they are systematic.

    Systematic is what an offset, a scale, and a displacement along rows and columns (by d pixels it adds d
    times the slope) explain of the errors by least squares. Arithmetic in a short format errs to both sides
    and leaves next to nothing. NaN where the right answers are a constant.

    Parameters
    ----------
    pairs: an arm's answer and the right one to each slice, [classes, H, W].
    """
    products, projections, pixels = np.zeros((4, 4)), np.zeros(4), 0
    for pair in pairs:
        ours, theirs = (_log_odds(p[1:].sum(axis=0), p[0]).astype(np.float64) for p in pair)
        used = np.abs(theirs) < _SATURATED
        terms = np.stack([np.ones_like(theirs), theirs, *np.gradient(theirs)])[:, used]
        products += terms @ terms.T
        projections += terms @ (ours - theirs)[used]
        pixels += terms.shape[1]
    if not pixels or products[1, 1] / pixels - (products[0, 1] / pixels) ** 2 < _CONSTANT**2:
        return math.nan
    explained = float(projections @ np.linalg.lstsq(products, projections, rcond=None)[0])
    return math.sqrt(max(explained, 0.0) / pixels)


def outline_is_steady(package: ModelPackage, golden: Golden) -> bool:
    """Whether a right engine outlines the golden cases alike: the rounding of fp32 must not decide.

    With a lesion threshold on a plateau of the map a difference of 1e-5 flips a part of the outline, and the
    gate refuses every engine.
    """
    infarct = _golden_infarct(golden.answers, golden, package)
    outlined = 2 * int((infarct >= package.lesion_threshold).sum())
    near = int((np.abs(infarct - package.lesion_threshold) < _ROUNDING).sum())
    return near <= LIMITS["dice_loss"] * max(outlined, 1)


def _golden_infarct(answers: Answers, golden: Golden, package: ModelPackage) -> Float32Array:
    """Infarct probability by the network alone in the brain of the golden cases; [pixels]."""
    infarct = infarct_probability(answers.bg, answers.sg, golden.share.astype(np.float64))
    if package.combination is not None:  # the weight-free engine is taken to have no opinion
        infarct = combined(infarct, np.zeros_like(infarct), golden.regions, {}, package.combination)
    return infarct[golden.brain & (golden.case >= 0)[:, None, None]]


def _decisions(answers: Answers, golden: Golden, package: ModelPackage) -> tuple[BoolArray, BoolArray]:
    """What the network alone calls of the golden cases: pixels of brain inside a lesion; affected regions."""
    infarct = infarct_probability(answers.bg, answers.sg, golden.share.astype(np.float64))
    probabilities = []
    for case in range(int(golden.case.max()) + 1):
        mine = golden.case == case
        found = region_log_odds(infarct[mine], golden.regions[mine], golden.brain[mine])
        log_odds = against_mirror(found, package.mirror_weight)
        probabilities += [package.calibration[r.name].probability(x) for r, x in log_odds.items()]
    outlined = _golden_infarct(answers, golden, package) >= package.lesion_threshold
    return outlined, np.array(probabilities) >= package.region_threshold
