"""A few slices with known answers, kept for the check at every start and for the one within every run.

Golden slices and random heads, with ONNX Runtime's answers to the latter: so that a process which scores one
scan needs neither to unpack the golden set nor to load ONNX Runtime beside the engine that serves.
"""

from __future__ import annotations

import io
import math
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from strokecore.learned.differences import fit, infarct_log_odds, largest_of_slices, rearranged
from strokecore.learned.fresh import HEADS, Fresh
from strokecore.learned.golden import Golden
from strokecore.learned.parity import fits_in, not_finite, run_or_none, sum_error
from strokecore.learned.parity_report import Criterion, Limit, ParityReport
from strokecore.learned.runtime import Answers, Float4D, Runtime

QUICK_LIMITS: Final[Mapping[str, Limit]] = MappingProxyType(
    {
        "runs": Limit(0, 0),
        "not_finite": Limit(0, 0),
        "sum": Limit(None, 0.01),
        # of each single slice, where the gate takes all together: wider, because a sound bf16 must never fail
        "slice_difference": Limit(None, 0.08),
        "scale": Limit(0.95, 1.05),
        "rearranged": Limit(None, 0.5),
    }
)
"""What the check at a start asks: is it still the engine that passed the gate? Not how precise it is."""

# Golden slices and random heads that are kept, fewer where they are large.
_KEPT: Final = (3, HEADS)
_KEPT_BYTES: Final = 2**25
# Of the kept ones, how many a start looks at.
_GOLDEN_SHOWN: Final = 1
_RANDOM_SHOWN: Final = 2


@dataclass(frozen=True, eq=False)
class Probes:
    """Slices with known answers.

    Attributes
    ----------
    seed: that the random ones were drawn from.
    golden: how many are golden slices; they come first, the one with most infarct first of all.
    slices: float32 [n, channels, H, W]; answers: of the fp32 reference.
    """

    seed: int
    golden: int
    slices: Float4D
    answers: Answers

    def sentinel(self, run: int) -> tuple[Float4D, Answers]:
        """The slice [1, channels, H, W] that goes along in a run, with its answer.

        Another one each time, so that an answer which was left from the run before is seen.
        """
        row = run % len(self.slices)
        return self.slices[row : row + 1], Answers(*(arm[row : row + 1] for arm in self.answers))


def choose_probes(golden: Golden, fresh: Fresh, answers: Answers) -> Probes:
    """Slices of the golden cases with most infarct, and random heads with ONNX Runtime's answers."""
    row_bytes = golden.slices[0].nbytes + sum(arm[0].nbytes for arm in answers)
    number = max(3, min(sum(_KEPT), _KEPT_BYTES // row_bytes))
    random = min(_KEPT[1], number - min(_KEPT[0], number // 2))
    infarct = 1 - golden.answers.bg[:, 0].mean(axis=(1, 2))
    infarct[golden.case < 0] = -1
    best = np.argsort(-infarct, kind="stable")[: min(_KEPT[0], number - random, len(infarct))]
    arms = (np.concatenate([g[best], a[:random]]) for g, a in zip(golden.answers, answers, strict=True))
    return Probes(
        fresh.seed,
        len(best),
        np.concatenate([golden.slices[best], fresh.slices[:random]]),
        Answers(*arms),
    )


def check_quickly(engine: Runtime, probes: Probes, rng: np.random.Generator) -> ParityReport:
    """Whether an engine that passed the gate still answers so; a failure of any kind is a report.

    One golden slice and two random heads of those that are kept, in two runs.
    """
    start = time.perf_counter()
    random = probes.golden + rng.permutation(len(probes.slices) - probes.golden)[:_RANDOM_SHOWN]
    chosen = np.concatenate([rng.permutation(probes.golden)[:_GOLDEN_SHOWN], random])
    known = Answers(*(arm[chosen] for arm in probes.answers))
    parts = [run_or_none(engine, probes.slices[part]) for part in (chosen[:-1], chosen[-1:])]
    found = [part for part in parts if part is not None]
    failed = len(parts) - len(found)
    if not failed:
        failed = sum(not fits_in(arms, known, n) for arms, n in zip(found, (len(chosen) - 1, 1), strict=True))
    values: dict[str, float] = {"runs": failed}
    if not failed:
        values |= _values(Answers(*(np.concatenate(arms) for arms in zip(*found, strict=True))), known)
    return ParityReport(
        engine.name,
        engine.precision,
        probes.seed,
        len(chosen),
        time.perf_counter() - start,
        tuple(Criterion(name, float(value), QUICK_LIMITS[name]) for name, value in values.items()),
    )


def wrong_answer(found: Answers, known: Answers, number: int) -> str | None:
    """What is wrong with a run's answers, the last of which is the sentinel's; None when nothing is.

    Parameters
    ----------
    known: the right answer to the sentinel.
    number: of slices that were run, the sentinel included.
    """
    if not fits_in(found, known, number):
        return "answers of another shape"
    if not_finite([found]):
        return "answers that are not finite"
    if sum_error([found]) > (QUICK_LIMITS["sum"].high or 0):
        return "answers that are no probabilities"
    last = Answers(found.bg[-1:], found.sg[-1:])
    difference = max(map(largest_of_slices, last, known))
    if difference > (QUICK_LIMITS["slice_difference"].high or 0):
        return f"a wrong answer to the slice with a known one (difference {difference:.2g})"
    return None


def pack(probes: Probes) -> bytes:
    """As a file of the cache."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        numbers=np.array([probes.seed, probes.golden], np.int64),
        slices=probes.slices,
        bg=probes.answers.bg,
        sg=probes.answers.sg,
    )
    return buffer.getvalue()


def unpack(content: bytes) -> Probes:
    """The inverse of ``pack``. Raises ValueError for anything else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            seed, golden = (int(value) for value in file["numbers"])
            return Probes(seed, golden, file["slices"], Answers(file["bg"], file["sg"]))
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"no probes ({type(error).__name__})") from error


def _values(found: Answers, known: Answers) -> dict[str, float]:
    if wrong := not_finite([found]):
        return {"not_finite": wrong}
    fits = [
        fit(infarct_log_odds(f), infarct_log_odds(k), np.ones((len(k), *k.shape[2:]), np.bool_))
        for f, k in zip(found, known, strict=True)
    ]
    return {
        "not_finite": 0,
        "sum": sum_error([found]),
        "slice_difference": max(map(largest_of_slices, found, known)),
        "scale": max((f.scale for f in fits), key=lambda s: math.inf if math.isnan(s) else abs(s - 1)),
        "rearranged": max(
            rearranged(f, k, np.ones((len(k), *k.shape[2:]), np.bool_))
            for f, k in zip(found, known, strict=True)
        ),
    }
