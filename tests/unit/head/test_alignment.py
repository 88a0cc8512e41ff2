"""Alignment gives the same bits whatever the number of threads of the linear algebra library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strokecore.head.alignment import summed

ROOT = Path(__file__).resolve().parents[3]
# Sums as long and as badly scaled as a head's; prints their bytes.
_PROGRAM = """
import hashlib, numpy as np
from strokecore.head.alignment import summed
for rows in (40_961, 120_000):
    rng = np.random.default_rng(3)
    left = rng.normal(size=(rows, 12)) * 10.0 ** rng.integers(-6, 6, 12)
    weighted, difference = left * rng.random((rows, 1)), rng.normal(size=(rows, 1))
    for right in (left, difference):
        print(hashlib.sha256(summed(weighted, right).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("rows", [0, 1, 1023, 1024, 5000])
def test_it_is_the_product(rows: int) -> None:
    rng = np.random.default_rng(rows)
    left, right = rng.normal(size=(rows, 7)), rng.normal(size=(rows, 3))
    assert summed(left, right) == pytest.approx(left.T @ right, abs=1e-9)


def test_one_and_several_threads_give_the_same_bits() -> None:
    found = set()
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=environment,
        )
        found.add(done.stdout)
    assert len(found) == 1
