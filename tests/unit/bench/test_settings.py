from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from strokecore.bench.settings import BenchSettings
from strokecore.errors import UsageError


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"slices": 0}, "--slices is 0"),
        ({"batches": (8, 0)}, "--batches is 0"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"threads": 0}, "--threads is 0"),
        ({"pipeline_runs": -1}, "--pipeline-runs is -1"),
        ({"seconds": 0.0}, "--seconds is 0.0"),
        ({"engines": ("none",), "pipeline_runs": 0}, "Nothing to measure"),
        ({"dicom": Path("nowhere")}, "nowhere is not a folder"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        BenchSettings(**wrong)


def test_calls_end_with_the_whole_series() -> None:
    assert BenchSettings(slices=30, batches=(8, 1, 32, 8)).calls == (1, 8, 30)
    assert BenchSettings(slices=8, batches=(1, 8)).calls == (1, 8)
    assert BenchSettings(slices=4, batches=()).calls == (4,)
