"""The share of each step of the pipeline: as a process of its own, and again and again in a warm one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.bench.summary import Spread
from strokecore.config import ScoringConfig
from strokecore.errors import EngineError

# A head of 5 mm slices with an infarct, gantry tilted: an everyday examination.
_SEED: Final = 3
_STATES: Final = ("scored", "withheld")


@dataclass(frozen=True)
class Scoring:
    """One way of scoring, measured several times.

    Attributes
    ----------
    wall_s: from start to end, seconds; of a process with its start, its imports and its end.
    steps_s: seconds of each step by name, as in result.json; "total" is what they add up to and what lies
        between them.
    peak_bytes: highest resident memory of a process; None in a warm one.
    """

    wall_s: Spread
    steps_s: dict[str, Spread]
    peak_bytes: int | None


@dataclass(frozen=True)
class Steps:
    """Both ways, on one head.

    Attributes
    ----------
    origin: "given" or "simulated".
    slices: of the series that was scored.
    engine, precision: that segmented.
    """

    origin: str
    slices: int
    engine: str
    precision: str
    cold: Scoring
    warm: Scoring


def measure_steps(dicom: Path | None, model: Path | None, runs: int) -> Steps:
    """Score a head in processes and in this one, ``runs`` times each after one that does not count.

    Parameters
    ----------
    dicom: DICOM files of a head CT; None: a simulated one.
    model: folder of a model package; None: the node's own engine.

    Raises
    ------
    EngineError: the head is not scored, so that there is nothing to measure.
    """
    with _head(dicom) as folder:
        cold = [_in_a_process(folder, model) for _ in range(runs + 1)][1:]
        warm = [_in_this_process(folder, model) for _ in range(runs + 1)][1:]
    result = cold[0][1]
    return Steps(
        origin="simulated" if dicom is None else "given",
        slices=int(result["series"]["slices"]),
        engine=str(result["model"]["engine"]),
        precision=str(result["model"]["precision"]),
        cold=_scoring([(wall, result["timings_s"]) for wall, result, _ in cold], max(p for _, _, p in cold)),
        warm=_scoring(warm, None),
    )


@contextmanager
def _head(dicom: Path | None) -> Iterator[Path]:
    if dicom is not None:
        yield dicom
        return
    from strokecore.simulate import SampleSpec, parse_affected, write_sample

    affected = parse_affected("right:I,M1,M2")
    with tempfile.TemporaryDirectory() as folder:
        yield write_sample(Path(folder) / "ct", SampleSpec(seed=_SEED, affected=affected, tilt_deg=12.0))


def _in_a_process(folder: Path, model: Path | None) -> tuple[float, dict[str, Any], int]:
    """Wall seconds, result and highest resident bytes of one ``strokecore score``."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "strokecore", "score", str(folder), "--out", out]
        if model is not None:
            command += ["--model", str(model)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)  # the memory of this very process
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        written = Path(out) / "result.json"
        result = json.loads(written.read_text("utf-8")) if written.is_file() else {}
    _check(result.get("status"), f"strokecore score ends with status {process.returncode}")
    return wall_s, result, used.ru_maxrss * 1024  # Linux counts kilobytes


def _in_this_process(folder: Path, model: Path | None) -> tuple[float, dict[str, float]]:
    from strokecore.pipeline import score_folder
    from strokecore.reports.outputs import write_all

    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        scored = write_all(score_folder(folder, ScoringConfig(model=model)), folder, Path(out))
        wall_s = time.perf_counter() - start
    _check(scored.result.status, "scoring ends")
    return wall_s, dict(scored.result.timings_s)


def _check(status: str | None, how: str) -> None:
    if status not in _STATES:
        raise EngineError(
            f"{how} and the head is {status or 'not read'}, expected scored; try strokecore score on it."
        )


def _scoring(runs: list[tuple[float, dict[str, float]]], peak_bytes: int | None) -> Scoring:
    return Scoring(
        wall_s=Spread.of([wall_s for wall_s, _ in runs]),
        steps_s={step: Spread.of([times[step] for _, times in runs]) for step in runs[0][1]},
        peak_bytes=peak_bytes,
    )
