"""The part of ``deploy/gpu-acceptance`` behind the installation: every step on the GPU, and one report.

Uses the standard library only, so that it can say what is missing where nothing is installed.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import re
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]
from gpu_steps import ROOT, Acceptance, Step  # noqa: E402

from strokecore._version import __version__  # noqa: E402
from strokecore.learned.devices import driver_version, gpus  # noqa: E402

SCHEMA: Final = 1
_LIBRARIES: Final = (
    *("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    *("onnx", "onnxruntime", "openvino", "torch", "numpy"),
)
# Two folders or more from the root: other texts hardly look like that.
_PATH: Final = re.compile(r"(?<![\w.<>/-])/(?:[\w.@+-]+/)+[\w.@+-]*")


@dataclass
class Report:
    """What is sent back; JSON by ``asdict``."""

    schema: int = SCHEMA
    strokecore: str = __version__
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    result: str = "not run"
    machine: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every step passed, 1 when one did not."""
    parser = argparse.ArgumentParser(description="See deploy/gpu-acceptance --help.")
    parser.add_argument("--has-gpu", action="store_true", help="only say by the exit status")
    parser.add_argument("--tensorrt-package", action="store_true", help="only print what pip installs here")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(words)
    if options.has_gpu:
        return 0 if gpus() else 1
    if options.tensorrt_package:
        print(tensorrt_package())
        return 0
    if options.out is None:
        parser.error("--out is missing")
    report = Report(machine=machine())
    with tempfile.TemporaryDirectory(prefix="strokecore-") as folder:
        work = Path(folder)
        os.environ["STROKECORE_CACHE"] = str(work / "cache")
        run_all(report, Acceptance(options.model, work))
        passed = all(step.status == "passed" for step in report.steps)
        report.result = "passed" if passed else "failed"
        text = write(report, options.out, work)
    print(text)
    print(f"Report: {options.out / 'report.json'} and report.txt beside it. Read it, then send it back.")
    return 0 if passed else 1


def tensorrt_package() -> str:
    """What pip is asked for: the wheels of the current TensorRT need a driver for CUDA 13."""
    driver = driver_version()
    return "tensorrt-cu12>=10.3" if driver is not None and driver < (13, 0) else "tensorrt>=10.3"


def machine() -> dict[str, Any]:
    """What explains a result: no name of a host or user, no serial number."""
    driver = driver_version()
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "system": system,
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "gpus": [str(gpu) for gpu in gpus()],
        "cuda_of_driver": None if driver is None else f"{driver[0]}.{driver[1]}",
        "libraries": versions,
    }


def run_all(report: Report, acceptance: Acceptance) -> None:
    """Every step; without a GPU none, and the report says what is missing."""
    there = bool(gpus())
    missing = "no NVIDIA GPU is visible: install its driver; nvidia-smi must list it, in a container too"
    found = (
        Step("GPU", "passed", ", ".join(report.machine["gpus"])) if there else Step("GPU", "failed", missing)
    )
    report.steps = [found]
    for name, act in acceptance.steps:
        step = Step(name)
        report.steps.append(step)
        if not there:
            continue
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        try:
            act(step)
        except Exception as error:  # one broken step must not cost the report
            step.status, step.summary = "failed", f"{type(error).__name__}: {error}"
        step.seconds = round(time.monotonic() - started, 1)


def write(report: Report, out: Path, work: Path) -> str:
    """Both files, without anything that names the place; returns the one for people."""
    clean = scrubbed(asdict(report), work)
    text = as_text(Report(**{**clean, "steps": [Step(**step) for step in clean["steps"]]}))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(clean, indent=1) + "\n", "utf-8")
    (out / "report.txt").write_text(text + "\n", "utf-8")
    return text


def scrubbed(value: Any, work: Path) -> Any:
    """``value`` with folders, host and user replaced in every text."""
    folders = {work: "<work>", ROOT: "<checkout>", Path(sys.prefix): "<environment>", Path.home(): "<home>"}
    words = {socket.gethostname(): "<host>", _user(): "<user>"}

    def clean(item: Any) -> Any:
        if isinstance(item, dict):
            return {clean(key): clean(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [clean(inner) for inner in item]
        if not isinstance(item, str):
            return item
        for folder in sorted(folders, key=lambda path: len(str(path)), reverse=True):
            if len(str(folder)) > 1:
                item = item.replace(str(folder), folders[folder])
        item = _PATH.sub("<path>", item)
        for word, instead in words.items():
            if len(word) > 1:
                item = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", instead, item)
        return item

    return clean(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in some containers
        return ""


def as_text(report: Report) -> str:
    """The report for people."""
    facts = report.machine
    lines = [
        f"StrokeCore {report.strokecore} on an NVIDIA GPU, {report.date}: {report.result}",
        f"GPU: {', '.join(facts['gpus']) or 'none'}; driver for CUDA {facts['cuda_of_driver'] or '-'}",
        f"{facts['system']}, {facts['architecture']}, {facts['cores']} cores, {facts['memory_gib']} GiB",
        ", ".join(
            f"{name} {version}" for name, version in {"Python": facts["python"], **facts["libraries"]}.items()
        ),
        "",
    ]
    lines += [f"{s.name:11}  {s.status:7}  {s.seconds:7.1f} s  {s.summary}" for s in report.steps]
    for step in report.steps:
        if step.status == "failed" and step.output:
            lines += ["", f"--- {step.name}", step.output.rstrip()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
