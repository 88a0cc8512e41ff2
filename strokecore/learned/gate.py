"""The parity gate: does a runtime give a package's own answers? None scores a patient before it does.

First use of a runtime here: the whole gate, on the package's golden slices and on random ones drawn for the
occasion. Reference is ONNX Runtime on the CPU in fp32, which must itself give the golden answers that the
trainer's network wrote. Later starts: a few slices with known answers. What was measured is remembered,
because a process scores one scan and the whole gate takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from strokecore._version import __version__
from strokecore.arrays import Float4D
from strokecore.errors import EngineError, ModelPackageError
from strokecore.files import cache_folder, keep_newest, read_own, write_own
from strokecore.learned import runtimes
from strokecore.learned.devices import cpu_flags, cpu_name, driver_version, gpus
from strokecore.learned.golden import Golden, read_golden
from strokecore.learned.package import ModelPackage
from strokecore.learned.parity import GateReport, Indices, compare, run_all
from strokecore.learned.random_slices import random_slices
from strokecore.learned.runtime import Answers, Runtime

log = logging.getLogger(__name__)

REFERENCE: Final = ("onnx", "fp32")

PASSED_FOR: Final = timedelta(days=30)
"""Then the whole gate is run again, on random slices that it was not run on before."""
WRONG_FOR: Final = timedelta(days=1)
"""How long a runtime that answered wrong is not tried again."""
FAILED_FOR: Final = timedelta(hours=1)
"""The same for one that could not answer: memory may be free by then."""

_SEED_BITS: Final = 63
# Answers of one run that are held at a time; beyond, the batch is smaller.
_HELD_BYTES: Final = 2**29
# A run as long as a head of 5 mm slices. It turns the slices, so that other places of an engine's batches get
# those with infarct, and where batches are powers of two it is padded.
_HEAD_SLICES: Final = 29
# A GPU has kernels of its own for each batch size; 1 and 4 are parts of others.
_SMALLER_BATCHES: Final = (32, 16, 8, 2)
# Slices of the runs that have few of them.
_SHORT_RUN: Final = 5
# Variables by which users change what the libraries compute.
_VARIABLES: Final = ("NVIDIA_", "CUBLAS_", "CUDNN_", "DNNL_", "ONEDNN_", "OPENVINO_", "OV_", "ORT_")
_MOST_REPORTS: Final = 64


class Gate:
    """The gate of one package in one process.

    Attributes
    ----------
    threads: of what runs on the CPU.
    seed: of the random slices, the same for all runtimes of a process, so that they are judged alike.
    """

    def __init__(self, package: ModelPackage, threads: int) -> None:
        self.package, self.threads = package, threads
        self.seed = secrets.randbits(_SEED_BITS)
        self._golden: Golden | None = None
        self._random: tuple[Float4D, Answers] | None = None
        self._few: tuple[Float4D, Answers] | None = None

    def remembered(self, engine: str, precision: str) -> GateReport | None:
        """The last report on a runtime as this machine is now; None where there is none that still holds."""
        try:
            content = json.loads(read_own(cache_folder("parity") / self._file_name(engine, precision)))
            report = GateReport.from_dict(content["report"])
        except FileNotFoundError:
            return None
        except (EngineError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("a report of the parity gate cannot be read (%s); the gate runs again", error)
            return None
        # a clock that was set back must not make a report hold for ever
        return report if timedelta(0) <= datetime.now(UTC) - report.date < _holds_for(report) else None

    def refused(self, engine: str, precision: str) -> GateReport | None:
        """A remembered report on a runtime that did not pass, and need not even be started."""
        report = self.remembered(engine, precision)
        return report if report is not None and not report.passed else None

    def examine(self, runtime: Runtime) -> GateReport:
        """Whether ``runtime`` may score: a few golden slices where it passed before, else the whole gate.

        Raises
        ------
        EngineError: ONNX Runtime, the reference, cannot be used.
        ModelPackageError: the golden set proves nothing, or ONNX Runtime does not give its answers.
        """
        before = self.remembered(runtime.name, runtime.precision)
        if before is None or not before.passed:
            return self.examine_fully(runtime)
        slices, known = self._few_golden()
        # two runs: an answer that was left from the first is seen in the second
        batches = [rows for rows in np.array_split(np.arange(len(slices)), 2) if len(rows)]
        report = self._examined(runtime, slices, known, batches)
        if not report.passed:
            self._remember(report)
        return report

    def examine_fully(self, runtime: Runtime) -> GateReport:
        """The whole gate, whatever is remembered; its report is. Raises as ``examine``."""
        golden = self._golden_set()
        random, answers = self._random_slices(runtime)
        known = Answers(*(np.concatenate(arms) for arms in zip(golden.answers, answers, strict=True)))
        batches = _batches(known, getattr(runtime, "batch", 1))
        report = self._examined(
            runtime, np.concatenate([golden.slices, random]), known, batches, (self.package, golden)
        )
        self._remember(report)
        return report

    def sentinels(self, run: int) -> tuple[Float4D, Answers]:
        """The slices [k, channels, H, W], up to three, that go along in a run, and the right answers to them.

        In another order each time, so that an answer which was left from the run before is seen.
        """
        slices, known = self._few_golden()
        order = np.roll(np.arange(len(slices)), run)
        return slices[order], Answers(*(arm[order] for arm in known))

    def release(self) -> None:
        """Free the golden set and the random slices; read and drawn again when they are needed."""
        self._golden = self._random = None

    def _examined(
        self,
        runtime: Runtime,
        slices: Float4D,
        known: Answers,
        batches: Sequence[Indices],
        whole: tuple[ModelPackage, Golden] | None = None,
    ) -> GateReport:
        """As ``compare``. A failure of any kind is in the report, never raised."""
        start = time.perf_counter()
        # looked at after the last run: an earlier answer in a buffer that was used again is seen to be wrong
        found = run_all(runtime, slices, batches)
        values = compare(found, batches, known, fp32=runtime.precision == "fp32", whole=whole)
        report = GateReport(
            engine=runtime.name,
            precision=runtime.precision,
            date=datetime.now(UTC),
            seed=self.seed,
            slices=sum(map(len, batches)),
            seconds=time.perf_counter() - start,
            values=values,
        )
        said = "passed" if report.passed else f"refused: {report.reason}"
        log.info("parity gate, %s %s: %s", report.engine, report.precision, said)
        return report

    def _golden_set(self) -> Golden:
        if self._golden is None:
            self._golden = golden = read_golden(self.package)
            few = _most_telling(golden)
            self._few = golden.slices[few], Answers(*(arm[few] for arm in golden.answers))
        return self._golden

    def _few_golden(self) -> tuple[Float4D, Answers]:
        """The golden slices of ``_most_telling`` and the answers to them; they outlive ``release``."""
        if self._few is None:
            self._golden_set()
        assert self._few is not None, "chosen when the golden set was read"
        return self._few

    def _random_slices(self, runtime: Runtime) -> tuple[Float4D, Answers]:
        """Random slices and the reference's answers to them. Raises as ``examine``."""
        if self._random is None:
            slices = random_slices(self.package.spec, self.seed)
            if (runtime.name, runtime.precision) == REFERENCE:
                self._random = slices, self._reference_answers(runtime, slices)
            else:
                reference = runtimes.start(self.package, *REFERENCE, self.threads)
                with contextlib.closing(reference):
                    self._random = slices, self._reference_answers(reference, slices)
        return self._random

    def _reference_answers(self, reference: Runtime, slices: Float4D) -> Answers:
        """The answers of a reference that gives the golden ones; of each slice alone: no batch mixes them.

        Raises as ``examine``.
        """
        golden = self._golden_set()
        held = self._examined(reference, golden.slices, golden.answers, _one_by_one(golden.slices))
        found = run_all(reference, slices, _one_by_one(slices))
        if "failed_runs" in held.failed or len(found) < len(slices):
            raise EngineError(
                "ONNX Runtime, which all engines are compared with, fails in the parity gate; the log says "
                "why. Stop other programs if it has no memory, or install the onnxruntime of "
                "deploy/constraints.txt."
            )
        if not held.passed:
            raise ModelPackageError(
                f"model package {self.package.folder}: ONNX Runtime does not give its golden answers "
                f"({held.reason}), so nothing can prove an engine here. Install the onnxruntime of "
                "deploy/constraints.txt, or export the model again."
            )
        return Answers(*map(np.concatenate, zip(*found, strict=True)))

    def _remember(self, report: GateReport) -> None:
        """Keep a report; where the cache cannot be used, the gate runs again next time."""
        content = {"facts": self._facts(report.engine, report.precision), "report": report.to_dict()}
        try:
            folder = cache_folder("parity")
            name = self._file_name(report.engine, report.precision)
            write_own(folder / name, json.dumps(content, indent=1).encode())
            keep_newest(folder, "*.json", _MOST_REPORTS)
        except (EngineError, OSError) as error:
            log.warning("a report of the parity gate cannot be kept, so it runs at every start: %s", error)

    def _file_name(self, engine: str, precision: str) -> str:
        facts = json.dumps(self._facts(engine, precision), sort_keys=True)
        return f"{hashlib.sha256(facts.encode()).hexdigest()}.json"

    def _facts(self, engine: str, precision: str) -> dict[str, Any]:
        """What a report holds for, JSON-ready. Looks at names and versions only, and loads nothing."""
        on_gpu = runtimes.runtime_kind(engine).device == "gpu"
        libraries = runtimes.library_versions(REFERENCE[0]) | runtimes.library_versions(engine)
        return {
            "engine": engine,
            "precision": precision,
            "package": self.package.sha256,
            "strokecore": __version__,
            "source": _source_sha256(),
            "python": platform.python_version(),
            "libraries": libraries,  # the reference's too: it is what the engine was compared with
            "cpu": [cpu_name(), _short(sorted(cpu_flags()))],
            "gpus": [[str(gpu), gpu.uuid] for gpu in gpus()] + [driver_version()] if on_gpu else [],
            "threads": self.threads,
            "variables": _short(sorted(v for v in os.environ.items() if v[0].startswith(_VARIABLES))),
        }


def _most_telling(golden: Golden) -> Indices:
    """The slice with most infarct in its left half, that with most in its right one, and one of noise.

    Together they show what is wrong on one side only, and what is wrong only where activations are large.
    """
    infarct = 1 - golden.answers.bg[:, 0]
    infarct[golden.case < 0] = -1.0
    middle = infarct.shape[2] // 2
    halves = infarct[:, :, :middle], infarct[:, :, -middle:]
    chosen = [int(half.mean(axis=(1, 2)).argmax()) for half in halves] + np.flatnonzero(golden.case < 0)[
        :1
    ].tolist()
    return np.array(list(dict.fromkeys(chosen)))


def _one_by_one(slices: Float4D) -> list[Indices]:
    return list(np.arange(len(slices))[:, None])


def _batches(known: Answers, own: int) -> list[Indices]:
    """Which slices each run gets, by index into those that ``known`` answers.

    All at once, and more than the engine's ``own`` batch, so that its last part is not full; as many as a
    head has; smaller batches, for each of which a GPU has kernels of its own; a few in reversed order; one
    alone; the few again. No run repeats the one before it, so that an answer that comes one run late is seen.
    """
    number = len(known.bg)
    at_once = max(number, min(own + 1, _HELD_BYTES // sum(arm[0].nbytes for arm in known)))
    while at_once % 2 == 0 or (own > 1 and at_once % own == 0):
        at_once += 1
    # from the middle: the last part must not resemble the first
    more = (number // 2 + np.arange(at_once - number)) % number
    smaller = [
        (number // 3 + np.arange(size)) % number
        for size in _SMALLER_BATCHES
        if size <= min(at_once, own // 2)
    ]
    few = np.arange(number)[: -_SHORT_RUN - 1 : -1]
    head = (number // 2 + np.arange(min(_HEAD_SLICES, at_once))) % number
    return [np.concatenate([np.arange(number), more]), head, *smaller, few, np.array([number // 2]), few]


def _holds_for(report: GateReport) -> timedelta:
    if report.passed:
        return PASSED_FOR
    return FAILED_FOR if "failed_runs" in report.failed else WRONG_FOR


@cache
def _source_sha256() -> str:
    """Hash of the source of everything that runs or judges an engine."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
