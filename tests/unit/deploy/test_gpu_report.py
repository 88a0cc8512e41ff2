"""deploy/gpu_report.py: a report is written whatever happens, and names neither the place nor the person."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from strokecore.learned.devices import Gpu

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
GPU = Gpu(0, "NVIDIA L4", (8, 9), 24 * 2**30, "ab" * 16)


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DEPLOY))
    for name in ("gpu_report", "gpu_steps"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("STROKECORE_CACHE", "as it was")  # set by the report for its own process
    return importlib.import_module("gpu_report")


def written(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "report.json").read_text("utf-8"))
    return content


def test_without_a_gpu_the_report_says_what_is_missing(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "gpus", lambda: ())
    assert report.main(["--has-gpu"]) == 1
    assert report.main(["--out", str(tmp_path)]) == 1
    found = written(tmp_path)
    assert found["result"] == "failed"
    assert found["machine"]["gpus"] == []
    assert [step["status"] for step in found["steps"]] == ["failed"] + ["not run"] * 7
    assert "install its driver" in found["steps"][0]["summary"]
    assert "no NVIDIA GPU is visible" in (tmp_path / "report.txt").read_text("utf-8")


def test_every_step_is_run_and_one_that_breaks_costs_only_itself(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "gpus", lambda: (GPU,))

    class Steps:
        def __init__(self, model: Path | None, work: Path) -> None:
            self.steps = (("good", self.good), ("broken", self.broken), ("after", self.good))

        def good(self, step: Any) -> None:
            step.status, step.summary, step.figures = "passed", "all right", {"x": [1, 2.5]}

        def broken(self, step: Any) -> None:
            raise ValueError("a defect")

    monkeypatch.setattr(report, "Acceptance", Steps)
    assert report.main(["--has-gpu"]) == 0
    assert report.main(["--out", str(tmp_path / "new")]) == 1
    found = written(tmp_path / "new")
    assert [(step["name"], step["status"]) for step in found["steps"]] == [
        ("GPU", "passed"),
        ("good", "passed"),
        ("broken", "failed"),
        ("after", "passed"),
    ]
    assert found["steps"][2]["summary"] == "ValueError: a defect"
    assert found["steps"][1]["figures"] == {"x": [1, 2.5]}
    assert found["machine"]["gpus"] == ["NVIDIA L4 (24 GiB, compute capability 8.9)"]
    monkeypatch.setattr(Steps, "broken", Steps.good)
    assert report.main(["--out", str(tmp_path / "new")]) == 0
    assert written(tmp_path / "new")["result"] == "passed"


def test_nothing_names_the_place_or_the_person(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.socket, "gethostname", lambda: "ct-node-7")
    monkeypatch.setattr(report, "_user", lambda: "radiology")
    work = tmp_path / "work"
    text = (
        f"{report.ROOT}/strokecore/cli.py {work}/out {Path.home()}/.cache/x {sys.prefix}/lib "
        "/srv/hospital/models/a.onnx ct-node-7 radiology 1/2 https://example.org/a ms/slice ct-node-70"
    )
    found = report.scrubbed({"a": [text, 3, None], text: {"b": text}}, work)
    for content in (found["a"][0], *(key for key in found if key != "a")):
        assert content == (
            "<checkout>/strokecore/cli.py <work>/out <home>/.cache/x <environment>/lib "
            "<path> <host> <user> 1/2 https://example.org/a ms/slice ct-node-70"
        )
    assert found["a"][1:] == [3, None]


@pytest.mark.parametrize(
    ("driver", "package"),
    [((13, 0), "tensorrt>=10.3"), ((12, 8), "tensorrt-cu12>=10.3"), (None, "tensorrt>=10.3")],
)
def test_tensorrt_fits_the_driver(
    driver: tuple[int, int] | None,
    package: str,
    report: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(report, "driver_version", lambda: driver)
    assert report.main(["--tensorrt-package"]) == 0
    assert capsys.readouterr().out.strip() == package


def test_a_step_keeps_what_was_said(report: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = sys.modules["gpu_steps"]
    step = report.Step("a step")
    code = "import sys; print('one'); print('two'); print('noise', file=sys.stderr)"
    assert step.run([sys.executable, "-c", code]) == "one\ntwo\n"
    assert (step.status, step.summary, step.output) == ("passed", "two", "one\ntwo\nnoise\n")
    step.run([sys.executable, "-c", "import sys; sys.exit('no TensorRT')"])
    assert (step.status, step.summary) == ("failed", "no TensorRT")
    monkeypatch.setattr(steps, "LIMIT_S", 0.2)
    step.run([sys.executable, "-c", "import time; time.sleep(30)"])
    assert (step.status, step.summary) == ("failed", "not done after 0.2 s")


def test_skipped_tests_are_no_success(report: ModuleType, tmp_path: Path) -> None:
    steps = sys.modules["gpu_steps"]
    path = tmp_path / "tests.xml"
    assert steps.counted(path) == {}
    path.write_text('<testsuites><testsuite tests="4" failures="1" errors="0" skipped="2"/></testsuites>')
    assert steps.counted(path) == {"tests": 4, "failures": 1, "errors": 0, "skipped": 2}
    acceptance = steps.Acceptance(None, tmp_path)
    step = report.Step("GPU tests")

    def all_skipped(command: list[str]) -> str:
        path.write_text('<testsuite tests="3" failures="0" errors="0" skipped="3"/>')
        step.status = "passed"
        return ""

    step.run = all_skipped
    acceptance.tests(step)
    assert step.status == "failed"


def test_the_script_runs_without_an_environment(tmp_path: Path) -> None:
    """What is missing is said by the system's own Python, before anything is installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", DEPLOY / "gpu_report.py", "--has-gpu"], capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    shown = subprocess.run([DEPLOY / "gpu-acceptance", "--help"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0
    assert "usage: deploy/gpu-acceptance" in shown.stdout
    wrong = subprocess.run([DEPLOY / "gpu-acceptance", "--nonsense"], capture_output=True, check=False)
    assert wrong.returncode == 2


def test_the_gate_must_let_tensorrt_through(report: ModuleType, tmp_path: Path) -> None:
    acceptance = sys.modules["gpu_steps"].Acceptance(tmp_path, tmp_path)
    step = report.Step("parity gate")
    others = {"engine": "onnx", "precisions": [{"precision": "fp32", "passed": True}]}
    for verdicts, status, words in (
        ({"bf16": True, "fp16": False}, "passed", "in bf16; see"),
        ({"bf16": False}, "failed", "in no precision"),
        ({}, "failed", "in no precision"),
    ):
        found = [{"precision": name, "passed": verdict} for name, verdict in verdicts.items()]
        said = json.dumps({"engines": [others, {"engine": "tensorrt", "precisions": found}]})
        step.run = lambda command, said=said: said
        acceptance.gate(step)
        assert step.status == status
        assert words in step.summary
