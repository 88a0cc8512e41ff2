"""A study survives what its cases do to it."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from pathlib import Path

import pytest

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.config import ScoringConfig
from strokecore.errors import UsageError
from strokecore.evaluate.cases import find_cases, simulated_cases
from strokecore.evaluate.outcomes import outcome, run_case, run_study
from strokecore.evaluate.workers import Lost, map_in_processes
from tests.unit.evaluate.cases import (
    affected,
    fake_score,
    refused_result,
    result_of,
    truth_of,
    write_case,
)


def test_one_bad_case_does_not_end_the_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    true = affected(right=("M1",))
    write_case(tmp_path / "1 good", true, {"affected": "right:M1"})
    write_case(tmp_path / "2 crash", true, {"crash": "DOE^JANE"})
    write_case(tmp_path / "3 die", true, {"die": 7})
    write_case(tmp_path / "4 hang", true, {"sleep": 600, "affected": ""})
    write_case(tmp_path / "5 refused", true, {"refuse": "too_few_slices"})
    write_case(tmp_path / "6 good", true, {"affected": "right:M1,M2"})
    told: list[int] = []
    outcomes = run_study(
        find_cases(str(tmp_path)),
        ScoringConfig(),
        timeout_s=4.0,
        score=fake_score,
        done=partial(told.append, 1),
    )
    assert [(o.name[2:], o.status, o.code, o.detail) for o in outcomes] == [
        ("good", "scored", None, ""),
        ("crash", "failed", "crashed", "ValueError"),
        ("die", "failed", "died", "exit status 7"),
        ("hang", "failed", "timed_out", "4 s"),
        ("refused", "refused", "too_few_slices", ""),
        ("good", "scored", None, ""),
    ]
    assert len(told) == 6
    assert [o.processed for o in outcomes] == [True, False, False, False, False, True]
    for lost in outcomes[1:5]:
        assert set(lost.probability) == {0.5}
        assert not any(lost.affected)
        assert not any(lost.assessed)
        assert lost.scores == {"left": None, "right": None}
        assert lost.truth.side == "right"  # the truth stays: the case counts against the node
    assert outcomes[5].scores == {"left": 10, "right": 8}
    assert "DOE" not in repr(outcomes)


def test_what_the_node_says_of_a_case() -> None:
    result = result_of(
        "left:M1,M4", unassessed="left:C", probability={RegionId("M2", "left"): 0.4}, infarct_ml=8.0
    )
    found = outcome("a", truth_of("left:M1"), result)
    at = {r: i for i, r in enumerate(ALL_REGIONS)}
    assert found.probability[at[RegionId("M2", "left")]] == 0.4
    assert found.probability[at[RegionId("C", "left")]] == 0.5  # not assessed
    assert found.probability[at[RegionId("C", "right")]] == 0.1
    assert not found.assessed[at[RegionId("C", "left")]]
    assert sum(found.assessed) == 19
    assert [r for r, called in zip(ALL_REGIONS, found.affected, strict=True) if called] == [
        RegionId("M1", "left"),
        RegionId("M4", "left"),
    ]
    assert found.scores == {"left": 8, "right": 10}
    assert found.side == "left"
    assert found.infarct_ml == {"left": 0.0, "right": 8.0}
    assert found.seconds == 5.0


def test_a_refused_case_has_no_volume_and_its_first_refusal_as_code() -> None:
    found = outcome("a", truth_of("left:M1"), refused_result("gantry"))
    assert (found.code, found.infarct_ml, found.processed) == ("gantry", None, False)
    assert found.flags == ("gantry",)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_ends_what_runs_and_what_waits() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        # the first answer interrupts, as Ctrl-C would; 600 s of sleep are running and waiting
        map_in_processes(time.sleep, [0, 600, 600, 600], 2, 900.0, interrupt)
    assert time.monotonic() - start < 120
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("extra", [{"workers": 0}, {"timeout_s": 0.0}])
def test_impossible_settings_are_said(extra: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="above 0"):
        run_study([], ScoringConfig(), **extra)


def test_values_come_back_in_order_from_several_workers() -> None:
    assert map_in_processes(abs, [-3, 2, -1, "x"], 2, 60.0) == [3, 2, 1, Lost("crashed", "TypeError")]
    assert map_in_processes(abs, [], 2, 60.0) == []


def test_a_simulated_case_end_to_end() -> None:
    (case,) = simulated_cases([10_150], normals=0)
    found = run_case(case, ScoringConfig())
    assert found.status == "scored"
    assert found.side == found.truth.side is not None
    assert sum(a == t for a, t in zip(found.affected, found.truth.regions, strict=True)) >= 17
    assert found.truth.infarct_ml is not None  # read from what was simulated
    assert found.truth.simulator is not None
    assert found.dice is not None  # the simulator writes the outline too
    assert found.dice > 0.3
    assert found.seconds is not None
    assert found.digest is not None
