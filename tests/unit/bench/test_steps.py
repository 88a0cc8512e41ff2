from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from strokecore import pipeline
from strokecore.bench.steps import measure_pipeline
from strokecore.errors import EngineError
from strokecore.reports import outputs


def test_a_process_and_a_warm_scoring_of_a_real_folder(sample_ct: Path) -> None:
    found = measure_pipeline(sample_ct, None, runs=1)
    assert set(found.cold.steps_s) == set(found.warm.steps_s)
    for one in (found.cold, found.warm):
        assert one.steps_s["total"].median < one.wall_s.median
    assert found.cold.peak_mib is not None
    assert found.cold.peak_mib > 100


def test_the_first_of_each_kind_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"status": "scored", "series": {"slices": 30}, "model": {"engine": "x", "precision": "fp32"}}
    cold, warm = iter([9.0, 3.0, 4.0, 5.0]), iter([8.0, 1.0, 1.5, 2.0])
    clock = SimpleNamespace(now=0.0)

    def process(command: list[str], **options: Any) -> SimpleNamespace:
        wall = next(cold)
        clock.now += wall
        written = result | {"timings_s": {"segment": wall / 2, "total": wall - 1}}
        (Path(command[command.index("--out") + 1]) / "result.json").write_text(json.dumps(written))
        return SimpleNamespace(stdout=f"scored\n{wall:.0f}\n".encode())

    def here(*arguments: Any) -> SimpleNamespace:
        wall = next(warm)
        clock.now += wall
        timings_s = {"segment": wall / 4, "total": wall}
        return SimpleNamespace(result=SimpleNamespace(status="scored", timings_s=timings_s))

    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(subprocess, "run", process)
    monkeypatch.setattr(pipeline, "score_folder", lambda *arguments: None)
    monkeypatch.setattr(outputs, "write_all", here)
    found = measure_pipeline(tmp_path, None, runs=3)
    assert (found.head, found.slices, found.engine) == ("given", 30, "x")
    assert (found.cold.wall_s.median, found.cold.wall_s.min, found.cold.wall_s.rounds) == (4.0, 3.0, 3)
    assert found.cold.steps_s["segment"].median == 2.0
    assert (found.cold.peak_mib, found.warm.peak_mib) == (5, None)
    assert found.warm.wall_s.median == 1.5


def test_a_folder_that_is_not_scored_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the head is (refused|ineligible)"):
        measure_pipeline(tmp_path, None, runs=1)
