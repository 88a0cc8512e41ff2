"""Memory that an engine takes, measured in a process of its own: a process never gives all of it back.

``python -m strokecore.bench.memory`` is that process; ``measure_memory`` starts it. There an engine is also
opened first, so that one that kills its process costs a line of the table and no more.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.bench.gpu_memory import gpu_bytes_in_use
from strokecore.bench.words import in_words
from strokecore.errors import EngineError

# Compiling an engine for a GPU takes minutes, once.
_TIMEOUT_S: Final = 3600.0
_RUNS: Final = 2


@dataclass(frozen=True)
class Memory:
    """What one engine takes in a fresh process.

    Attributes
    ----------
    load_s: seconds until it is ready: its library imported, its graph read and compiled; compiled graphs that
        an earlier run kept are used.
    host_bytes: growth of the process's resident memory from before the library is imported to its highest
        while a series is run; input slices left out, answers included.
    gpu_bytes: growth of what is in use on the GPU, its context left out; None without a GPU.
    torch_bytes: most that torch held in tensors on the GPU; None where torch is not at work there.
    """

    load_s: float
    host_bytes: int
    gpu_bytes: int | None = None
    torch_bytes: int | None = None


def measure_memory(subject: dict[str, str], package: Path, slices: int, threads: int) -> Memory:
    """Open the engine in a fresh process and run a series.

    Parameters
    ----------
    subject: strokecore.bench.subjects.Subject.to_dict().

    Raises
    ------
    EngineError: it cannot be opened or run; its process's own words, or how that died.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        job = {
            "subject": subject,
            "package": str(package),
            "slices": slices,
            "threads": threads,
            "answer": str(answer),
        }
        try:
            done = subprocess.run(
                [sys.executable, "-m", "strokecore.bench.memory", json.dumps(job)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"was not ready after {_TIMEOUT_S:.0f} s in a process of its own") from error
        if not answer.is_file():
            raise EngineError(f"its process ended with status {done.returncode} and without an answer")
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    if "error" in found:
        raise EngineError(found["error"])
    return Memory(**found)


def resident_bytes() -> tuple[int, int]:
    """Resident memory of this process: now, and its highest since ``forget_peak`` or the start."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    )
    now, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def forget_peak() -> None:
    """Begin a new peak; where the system does not let us, the old one stands."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return


def _measure(job: dict[str, Any]) -> Memory:
    from strokecore.bench.inputs import bench_slices
    from strokecore.bench.subjects import Subject
    from strokecore.learned.package import load_package

    package = load_package(Path(job["package"]))
    subject = Subject.from_dict(job["subject"])
    slices = bench_slices(package, job["slices"]).slices
    gpu_before = gpu_bytes_in_use()
    forget_peak()
    before, _ = resident_bytes()
    start = time.perf_counter()
    engine = subject.open(package, job["threads"])
    load_s = time.perf_counter() - start
    for _ in range(_RUNS):  # the second finds what the first left in pools
        engine.run(slices)
    gpu_after = gpu_bytes_in_use()
    return Memory(
        load_s,
        resident_bytes()[1] - before,
        None if gpu_before is None or gpu_after is None else gpu_after - gpu_before,
        _torch_bytes(),
    )


def _torch_bytes() -> int | None:
    torch = sys.modules.get("torch")  # not imported for this: whoever uses it has it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def main(job: dict[str, Any]) -> None:
    """Measure, and write the answer where the job says."""
    try:
        found = asdict(_measure(job))
    except Exception as error:  # every engine's library raises its own
        found = {"error": in_words(error)}
    Path(job["answer"]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
