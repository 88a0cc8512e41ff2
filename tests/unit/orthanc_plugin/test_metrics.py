"""orthanc_plugin/metrics.py: what Prometheus reads, and that the package is found where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orthanc_plugin import metrics, rest
from orthanc_plugin.health import Condition
from orthanc_plugin.settings import Problem
from orthanc_plugin.state import SeriesState
from orthanc_plugin.terminal_states import Tally
from tests.unit.orthanc_plugin.fakes import make_settings
from tests.unit.orthanc_plugin.test_rest import FakeDispatcher


@pytest.fixture
def node() -> rest.Node:
    return rest.Node("1.2.3", Tally(), dispatcher=FakeDispatcher())  # type: ignore[arg-type]


def samples(node: rest.Node) -> dict[tuple[str, str], float]:
    reply = rest.metrics(node, "GET")
    assert (reply.status, reply.content_type.split(";")[0]) == (200, "text/plain")
    return {
        (sample.name.removeprefix("strokecore_"), "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def test_the_figures_of_the_node(node: rest.Node) -> None:
    dispatcher: Any = node.dispatcher
    dispatcher.wrong = (Condition("work_folder_full", 0.0),)
    dispatcher.fit = False
    node.tally.reached("scored")
    node.tally.reached("scored")
    node.tally.error("worker_died")
    for seconds in (1.0, 4.0, 4.0, 5000.0):
        node.tally.scored_in(seconds)
    node.tally.result_after(70.0)
    node.ledger.place("study-id", ["series-id"])
    node.ledger.note("series-id", SeriesState("failed", reason="quarantined"))
    found = samples(node)
    expected = {
        ("info", "1.2.3"): 1,
        ("ready", ""): 0,
        ("healthy", ""): 0,
        ("condition", "work_folder_full"): 1,
        ("studies_waiting", ""): 2,
        ("studies_busy", ""): 1,
        ("oldest_waiting_seconds", ""): 12.3,
        ("series", "failed"): 1,
        ("series", "pending"): 0,
        ("states_total", "scored"): 2,
        ("errors_total", "worker_died"): 1,
        ("scorer_seconds_bucket", "2"): 1,
        ("scorer_seconds_bucket", "5"): 3,
        ("scorer_seconds_bucket", "1800"): 3,
        ("scorer_seconds_bucket", "+Inf"): 4,
        ("scorer_seconds_count", ""): 4,
        ("scorer_seconds_sum", ""): 5009,
        ("result_seconds_bucket", "60"): 0,
        ("result_seconds_bucket", "90"): 1,
    }
    assert {k: found.get(k) for k in expected} == expected
    text = rest.metrics(node, "GET").body
    assert b"study-id" not in text
    assert b"series-id" not in text


def test_a_node_that_does_not_score_has_figures_too() -> None:
    node = rest.Node("1.2.3", Tally(), problems=(Problem("python_missing", "no python"),))
    found = samples(node)
    assert (found["ready", ""], found["condition", "misconfigured"]) == (0, 1)


def test_without_the_package_it_is_said(node: rest.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_LIBRARY", "no_such_package")
    node.settings = make_settings(Path("/tmp"), python="/no/such/bin/python")
    reply = rest.metrics(node, "GET")
    assert (reply.status, b"metrics_unavailable" in reply.body) == (503, True)


def test_the_package_is_taken_from_the_environment_of_the_scorer(tmp_path: Path) -> None:
    """By an interpreter that does not have it, as the one inside Orthanc; nothing else comes along."""
    site = tmp_path / "lib" / "python3.9" / "site-packages"
    shutil.copytree(Path(prometheus_client.__file__).parent, site / "prometheus_client")
    (site / "stray.py").touch()
    root = Path(metrics.__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(root)!r}]\n"
        "from orthanc_plugin import metrics\n"
        "before = list(sys.path)\n"
        "try:\n    metrics._library(None)\nexcept metrics.Missing:\n    print('not here')\n"
        f"found = metrics._library({str(tmp_path / 'bin' / 'python')!r})\n"
        f"assert found.__file__.startswith({str(site)!r}), found\n"
        "found.generate_latest(found.CollectorRegistry())\n"
        "assert sys.path == before\n"
        "try:\n    import stray\nexcept ImportError:\n    print('alone')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "not here\nalone\n", done.stderr
