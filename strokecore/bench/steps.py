"""Each step of the pipeline: in a process of its own (cold), and again and again in one process (warm)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.bench.timing import Spread
from strokecore.config import ScoringConfig
from strokecore.errors import EngineError

# A head of 5 mm slices with an infarct, gantry tilted: an everyday examination.
_SEED: Final = 3
_TILT_DEG: Final = 12.0
_AFFECTED: Final = "right:I,M1,M2"
_STATES: Final = ("scored", "withheld")
# ``strokecore score`` that prints at its end what memory it took.
_SCORE: Final = (
    "import sys; from strokecore.cli import main; status = main(['score', *sys.argv[1:]]); "
    "from strokecore.bench.memory import peak_resident_mib; print(peak_resident_mib()); sys.exit(status)"
)


@dataclass(frozen=True)
class Timings:
    """One way of scoring, measured several times.

    Attributes
    ----------
    wall_s: from start to end, seconds; of a process with its start, its imports and its end.
    steps_s: seconds of each step by name, as in result.json; "total" holds what lies between them too.
    peak_mib: highest resident memory of the last process; None in a warm one.
    """

    wall_s: Spread
    steps_s: dict[str, Spread]
    peak_mib: int | None


@dataclass(frozen=True)
class PipelineResult:
    """Both ways, on one head.

    Attributes
    ----------
    head: "given" or "simulated".
    slices: of the series that was scored.
    engine, precision: that segmented.
    """

    head: str
    slices: int
    engine: str
    precision: str
    cold: Timings
    warm: Timings


def measure_pipeline(dicom: Path | None, model: Path | None, runs: int) -> PipelineResult:
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
    _, result, peak_mib = cold[-1]
    return PipelineResult(
        head="simulated" if dicom is None else "given",
        slices=int(result["series"]["slices"]),
        engine=str(result["model"]["engine"]),
        precision=str(result["model"]["precision"]),
        cold=_timings([(wall_s, one["timings_s"]) for wall_s, one, _ in cold], peak_mib),
        warm=_timings(warm, None),
    )


@contextmanager
def _head(dicom: Path | None) -> Iterator[Path]:
    if dicom is not None:
        yield dicom
        return
    from strokecore.simulate import SampleSpec, parse_affected, write_sample

    spec = SampleSpec(seed=_SEED, affected=parse_affected(_AFFECTED), tilt_deg=_TILT_DEG)
    with tempfile.TemporaryDirectory() as folder:
        yield write_sample(Path(folder) / "ct", spec)


def _in_a_process(folder: Path, model: Path | None) -> tuple[float, dict[str, Any], int | None]:
    """Wall seconds, result and highest resident MiB of one ``strokecore score``."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", _SCORE, str(folder), "--out", out]
        command += ["--model", str(model)] if model is not None else []
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        wall_s = time.perf_counter() - start
        written = Path(out) / "result.json"
        result = json.loads(written.read_text("utf-8")) if written.is_file() else {"status": "not read"}
    _check(result["status"])
    peak_mib = done.stdout.split()[-1]
    return wall_s, result, int(peak_mib) if peak_mib.isdigit() else None


def _in_this_process(folder: Path, model: Path | None) -> tuple[float, dict[str, float]]:
    """Wall seconds, and seconds of each step."""
    from strokecore.pipeline import score_folder
    from strokecore.reports.outputs import write_all

    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        scored = write_all(score_folder(folder, ScoringConfig(model=model)), folder, Path(out))
        wall_s = time.perf_counter() - start
    _check(scored.result.status)
    return wall_s, dict(scored.result.timings_s)


def _check(status: str) -> None:
    if status not in _STATES:
        raise EngineError(f"the head is {status}, expected scored; try strokecore score on it.")


def _timings(runs: Sequence[tuple[float, Mapping[str, float]]], peak_mib: int | None) -> Timings:
    wall_s = Spread.of([wall_s for wall_s, _ in runs])
    steps_s = {step: Spread.of([times[step] for _, times in runs]) for step in runs[0][1]}
    return Timings(wall_s, steps_s, peak_mib)
