"""The steps of ``deploy/gpu-acceptance``: what is tried on the GPU, each in a process of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
PRECISIONS: Final = ("bf16", "fp16", "tf32", "fp32")
# A hung step must not keep the report back.
LIMIT_S: Final = 3600
_KEPT_CHARACTERS: Final = 6000
# The infarct of the simulated head; every engine must find it in the same regions.
_PATIENT: Final = ("--affected", "right:I,M1,M2", "--delta-hu", "6", "--seed", "3", "--tilt", "12")
_STROKECORE: Final = (sys.executable, "-I", "-m", "strokecore", "--verbose")
_HAS_TENSORRT: Final = (
    "import sys\nfrom strokecore.learned.tensorrt import unavailable\n"
    "if reason := unavailable(): sys.exit(reason)\n"
    "import tensorrt; print('TensorRT', tensorrt.__version__)"
)
_BUILT: Final = re.compile(r"^(\w+): built in (\d+) s, ([\d.]+) MiB, (\d+)\.\.(\d+)", re.MULTILINE)


@dataclass
class Step:
    """One line of the report.

    Attributes
    ----------
    status: "passed", "failed" or "not run".
    summary: one line for people.
    figures: what later comparisons may need, JSON-ready.
    output: the end of what was said.
    """

    name: str
    status: str = "not run"
    summary: str = ""
    seconds: float = 0.0
    figures: Any = None
    output: str = ""

    def run(self, command: Sequence[str]) -> str:
        """Run ``command`` from the checkout's root; fills the step in and returns standard output."""
        try:
            done = subprocess.run(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            self.status, self.summary = "failed", f"not done after {LIMIT_S} s"
            return ""
        said, wrong = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        self.status = "passed" if done.returncode == 0 else "failed"
        self.output = (said + wrong)[-_KEPT_CHARACTERS:]
        lines = (said if done.returncode == 0 else self.output).strip().splitlines()
        self.summary = lines[-1][:300] if lines else ""
        return said


class Acceptance:
    """All steps on one model.

    Parameters
    ----------
    model: its package; the shipped one, or one of random weights, when None.
    work: folder for everything in between.
    """

    def __init__(self, model: Path | None, work: Path) -> None:
        self._given, self._work = model, work
        self._model = model or work / "model"

    @property
    def steps(self) -> tuple[tuple[str, Callable[[Step], None]], ...]:
        """Name and work, in order."""
        return (
            ("TensorRT", self.library),
            ("model", self.model),
            ("GPU tests", self.tests),
            ("build", self.build),
            ("parity gate", self.gate),
            ("scoring", self.scoring),
            ("speed", self.speed),
        )

    def library(self, step: Step) -> None:
        step.run([sys.executable, "-I", "-c", _HAS_TENSORRT])

    def model(self, step: Step) -> None:
        step.status, step.summary = "passed", "the given package"
        if self._given is not None:
            return
        if shipped := sorted((ROOT / "strokecore" / "models").glob("*/model.json")):
            shutil.copytree(shipped[0].parent, self._model)
            step.summary = f"the shipped model {shipped[0].parent.name}"
            return
        command = [sys.executable, "-m", "tests.benchmarks.random_package", str(self._model)]
        step.run([*command, "--backbone", "tiny", "--size", "136", "112"])
        if step.status == "passed":
            step.summary = "random weights: no model ships with this version"

    def tests(self, step: Step) -> None:
        counts = self._work / "tests.xml"
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junit-xml={counts}", "tests/gpu"]
        step.run([sys.executable, "-m", "pytest", *options])
        step.figures = found = counted(counts)
        step.summary = ", ".join(f"{number} {name}" for name, number in found.items()) or step.summary
        if found and found["tests"] == found["skipped"]:
            step.status = "failed"  # nothing was tested

    def build(self, step: Step) -> None:
        said, built = "", []
        for precision in PRECISIONS:
            command = [*_STROKECORE, "build-engine", str(self._model), "--precision", precision, "--force"]
            step.run(command)
            said += step.output
            if step.status == "passed":
                built.append(precision)
        step.status, step.output = "passed" if built else "failed", said[-_KEPT_CHARACTERS:]
        step.figures = [
            {"precision": p, "seconds": int(s), "mib": float(size), "slices": int(most)}
            for p, s, size, _, most in _BUILT.findall(said)
        ]
        step.summary = f"built: {', '.join(built) or 'none'}"

    def gate(self, step: Step) -> None:
        step.figures = parsed(
            step.run([*_STROKECORE, "engines", "--model", str(self._model), "--check", "--json"])
        )
        if step.figures is not None:
            good = tensorrt_passed(step.figures)
            step.status, step.output = "passed" if good else "failed", ""
            step.summary = f"TensorRT as ONNX Runtime in {', '.join(good) or 'no precision'}; see the figures"

    def scoring(self, step: Step) -> None:
        step.run([*_STROKECORE, "sample", str(self._work / "sample"), *_PATIENT])
        if step.status != "passed":
            return
        found = {engine: self._scored(step, engine) for engine in ("tensorrt", "onnx")}
        step.figures = found
        served = (found["tensorrt"]["model"] or {}).get("engine")
        same = found["tensorrt"]["affected"] == found["onnx"]["affected"]
        step.status = "passed" if served == "tensorrt" and same else "failed"
        step.summary = f"served by {served}; {'the same' if same else 'other'} regions as ONNX Runtime"

    def speed(self, step: Step) -> None:
        record = self._work / "bench.json"
        step.run([*_STROKECORE, "bench", "--model", str(self._model), "--out", str(record)])
        if record.is_file():
            step.figures = parsed(record.read_text("utf-8"))
            step.summary = "see the figures"

    def _scored(self, step: Step, engine: str) -> dict[str, Any]:
        """What served the simulated head, and the regions it found."""
        out = self._work / f"out-{engine}"
        command = [*_STROKECORE, "score", str(self._work / "sample"), "--out", str(out)]
        step.run([*command, "--model", str(self._model), "--engine", engine])
        record = out / "result.json"
        result = parsed(record.read_text("utf-8")) if record.is_file() else None
        result = result if isinstance(result, dict) else {}
        regions = [f"{r['side']} {r['name']}" for r in result.get("regions", []) if r["affected"]]
        return {"model": result.get("model"), "affected": regions}


def tensorrt_passed(figures: Any) -> list[str]:
    """Precisions of TensorRT that the parity gate let through, from ``strokecore engines --check --json``."""
    for engine in figures.get("engines", ()):
        if engine["engine"] == "tensorrt":
            return [found["precision"] for found in engine["precisions"] if found["passed"] is True]
    return []


def parsed(text: str) -> Any:
    """JSON, or None."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def counted(path: Path) -> dict[str, int]:
    """Tests by outcome, from pytest's XML; empty where there is none."""
    if not path.is_file():
        return {}
    numbers = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ET.parse(path).getroot().iter("testsuite"):
        for name in numbers:
            numbers[name] += int(suite.get(name, 0))
    return numbers
