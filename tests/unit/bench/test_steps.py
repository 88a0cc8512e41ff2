from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from strokecore.bench import steps
from strokecore.bench.steps import measure_pipeline
from strokecore.errors import EngineError


def test_a_process_and_a_warm_scoring_of_a_real_folder(sample_ct: Path) -> None:
    wall_s, result, peak_mib = steps._in_a_process(sample_ct, None)
    assert result["status"] == "scored"
    assert result["timings_s"]["total"] < wall_s
    assert peak_mib is not None
    assert peak_mib > 100
    warm_s, times = steps._in_this_process(sample_ct, None)
    assert set(times) == set(result["timings_s"])
    assert times["total"] < warm_s


def test_the_first_of_each_kind_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"status": "scored", "series": {"slices": 30}, "model": {"engine": "x", "precision": "fp32"}}
    cold, warm = iter([9.0, 3.0, 4.0, 5.0]), iter([8.0, 1.0, 1.5, 2.0])

    def process(folder: Path, model: Path | None) -> tuple[float, dict[str, Any], int]:
        wall = next(cold)
        return wall, result | {"timings_s": {"segment": wall / 2, "total": wall - 1}}, int(wall)

    def here(folder: Path, model: Path | None) -> tuple[float, dict[str, float]]:
        wall = next(warm)
        return wall, {"segment": wall / 4, "total": wall}

    monkeypatch.setattr(steps, "_in_a_process", process)
    monkeypatch.setattr(steps, "_in_this_process", here)
    found = measure_pipeline(tmp_path, None, runs=3)
    assert (found.head, found.slices, found.engine) == ("given", 30, "x")
    assert (found.cold.wall_s.median, found.cold.wall_s.min, found.cold.wall_s.rounds) == (4.0, 3.0, 3)
    assert found.cold.steps_s["segment"].median == 2.0
    assert (found.cold.peak_mib, found.warm.peak_mib) == (5, None)
    assert found.warm.wall_s.median == 1.5


def test_a_folder_that_is_not_scored_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the head is (refused|ineligible)"):
        measure_pipeline(tmp_path, None, runs=1)
