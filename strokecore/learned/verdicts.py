"""Verdicts of the parity gate, remembered: a process scores one scan, and the whole gate takes seconds.

A verdict holds for one package, engine, precision, set of libraries, device, number of threads and source of
ours, and not for ever. What is believed without a second look lies in the node's own cache; where that cannot
be had, nothing is remembered and the whole gate runs each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from strokecore._version import __version__
from strokecore.errors import EngineError
from strokecore.files import cache_folder, keep_newest, read_own, write_own
from strokecore.learned.devices import cpu_flags, cpu_name, driver_version, gpus
from strokecore.learned.package import ModelPackage
from strokecore.learned.parity_report import ParityReport
from strokecore.learned.probes import Probes, pack, unpack
from strokecore.learned.runtimes import library_versions, runtime_kind

log = logging.getLogger(__name__)

PASSED_FOR: Final = timedelta(days=30)
"""Then the whole gate is run again, on random input that it was not run on before."""
WRONG_FOR: Final = timedelta(days=1)
"""How long an engine that answered wrong is not tried again."""
FAILED_FOR: Final = timedelta(hours=1)
"""The same for one that could not answer: memory may be free by then."""

# Variables by which users change what these libraries compute.
_VARIABLES: Final = ("NVIDIA_", "CUBLAS_", "CUDNN_", "DNNL_", "ONEDNN_", "OPENVINO_", "OV_", "ORT_")
_MOST_VERDICTS: Final = 64
_MOST_PROBES: Final = 4


@dataclass(frozen=True)
class Key:
    """What a verdict holds for; ``facts`` are JSON-ready."""

    engine: str
    precision: str
    facts: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.engine} {self.precision} {self.facts}".encode()).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """A report and when it was made (UTC)."""

    report: ParityReport
    date: datetime

    @property
    def passed(self) -> bool:
        return self.report.passed


def key_of(package: ModelPackage, engine: str, precision: str, threads: int) -> Key:
    """The key of an engine on this machine as it is now; looks at names and versions only, loads nothing."""
    on_gpu = runtime_kind(engine).device == "gpu"
    facts = {
        "package": package.sha256,
        "strokecore": __version__,
        "source": _source_sha256(),
        "python": platform.python_version(),
        # the reference's too: it is what the engine was compared with
        "libraries": {**library_versions("onnx"), **library_versions(engine)},
        "cpu": [cpu_name(), _short(" ".join(sorted(cpu_flags())))],
        "gpus": [str(gpu) + gpu.uuid for gpu in gpus()] + [driver_version()] if on_gpu else [],
        "threads": threads,
        "variables": _short(repr(sorted(v for v in os.environ.items() if v[0].startswith(_VARIABLES)))),
    }
    return Key(engine, precision, json.dumps(facts, sort_keys=True))


def remembered(key: Key) -> Verdict | None:
    """The verdict for ``key`` that still holds; None when there is none or it cannot be read."""
    try:
        content = json.loads(read_own(_folder() / f"{key.digest}.json"))
        if content["facts"] != key.facts:
            return None
        verdict = Verdict(ParityReport.from_dict(content["report"]), datetime.fromisoformat(content["date"]))
        age = datetime.now(UTC) - verdict.date
    except FileNotFoundError:
        return None
    except (EngineError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("a verdict of the parity gate cannot be read (%s); the gate runs again", error)
        return None
    # a clock that was set back must not make a verdict hold for ever
    return verdict if timedelta(0) <= age < _holds_for(verdict) else None


def remember(key: Key, report: ParityReport) -> Verdict:
    """Keep a report; where the cache cannot be had, the gate runs again next time."""
    verdict = Verdict(report, datetime.now(UTC))
    content = {"facts": key.facts, "date": verdict.date.isoformat(), "report": report.to_dict()}
    try:
        folder = _folder()
        write_own(folder / f"{key.digest}.json", json.dumps(content, indent=1).encode())
        _evict(folder)
    except (EngineError, OSError) as error:
        log.warning("a verdict of the parity gate cannot be kept, so it runs at every start: %s", error)
    return verdict


def remembered_probes(key: Key) -> Probes | None:
    """Those that the reference's verdict ``key`` left; None when they are not there or damaged."""
    try:
        return unpack(read_own(_folder() / f"{key.digest}.npz"))
    except FileNotFoundError:
        return None
    except (EngineError, OSError, ValueError) as error:
        log.warning("the probes of the parity gate cannot be read (%s); the gate runs again", error)
        return None


def remember_probes(key: Key, probes: Probes) -> None:
    """Keep them for the next starts."""
    with contextlib.suppress(EngineError, OSError):  # ``remember`` says it
        folder = _folder()
        write_own(folder / f"{key.digest}.npz", pack(probes))
        _evict(folder)


def _holds_for(verdict: Verdict) -> timedelta:
    if verdict.passed:
        return PASSED_FOR
    failed = any(c.name == "runs" and not c.passed for c in verdict.report.criteria)
    return FAILED_FOR if failed else WRONG_FOR


def _folder() -> Path:
    return cache_folder("parity")


def _evict(folder: Path) -> None:
    keep_newest(folder, "*.json", _MOST_VERDICTS)
    keep_newest(folder, "*.npz", _MOST_PROBES)


@cache
def _source_sha256() -> str:
    """Of everything that runs or judges an engine."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _short(text: Any) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()[:16]
