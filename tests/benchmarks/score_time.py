"""How long ``strokecore score`` takes, as a user waits for it: whole processes, median of several.

    python tests/benchmarks/score_time.py DICOM_DIR [--runs 5]

Prints the process's wall seconds, the share of each pipeline step and the peak memory of the largest
process (Linux reports kilobytes). One warm-up run is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run_once(folder: Path) -> tuple[float, dict[str, float]]:
    """Wall seconds of one process and the timings that it wrote."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "strokecore", "score", str(folder), "--out", out],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
        return seconds, json.loads((Path(out) / "result.json").read_text())["timings_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    run_once(options.folder)
    runs = [run_once(options.folder) for _ in range(options.runs)]
    walls = sorted(wall for wall, _ in runs)
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores; {options.runs} runs after one warm-up")
    print(f"wall s: median {statistics.median(walls):.2f}, min {walls[0]:.2f}, max {walls[-1]:.2f}")
    for step in runs[0][1]:
        print(f"  {step:10s} median {statistics.median(times[step] for _, times in runs):.3f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
