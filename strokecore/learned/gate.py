"""Who may serve a package: the parity gate with its references and its memory.

First use of an engine here: the whole gate, against golden answers and ONNX Runtime on fresh random input.
Later starts: a quick check against a few kept answers. An engine that was refused is not tried again for a
while. ONNX Runtime itself is held against the golden answers before it is anyone's reference.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final

import numpy as np

from strokecore.errors import ModelPackageError
from strokecore.learned import runtimes, verdicts
from strokecore.learned.fresh import Fresh, fresh_slices
from strokecore.learned.golden import Golden, read_golden
from strokecore.learned.package import ModelPackage
from strokecore.learned.parity import check_parity
from strokecore.learned.parity_report import ParityReport
from strokecore.learned.probes import Probes, check_quickly, choose_probes
from strokecore.learned.runtime import Answers, Runtime
from strokecore.learned.verdicts import Key, Verdict

log = logging.getLogger(__name__)

REFERENCE: Final = ("onnx", "fp32")
_SEED_BITS: Final = 63


class Gate:
    """Of one package in one process.

    Attributes
    ----------
    probes: slices with known answers; None before the first engine was let through.
    """

    def __init__(self, package: ModelPackage, threads: int) -> None:
        self.package, self.threads = package, threads
        self.probes: Probes | None = None
        self._material: tuple[Golden, Fresh, Answers] | None = None

    def refused(self, engine: str, precision: str) -> Verdict | None:
        """An earlier verdict against an engine, which then need not even be started."""
        found = verdicts.remembered(self._key(engine, precision))
        return found if found is not None and not found.passed else None

    def examine(self, engine: Runtime) -> ParityReport:
        """Whether ``engine`` may serve: the quick check where it passed before, else the whole gate.

        Raises
        ------
        EngineError: ONNX Runtime, the reference, cannot be had.
        ModelPackageError: ONNX Runtime itself does not give the package's golden answers.
        """
        key = self._key(engine.name, engine.precision)
        verdict = verdicts.remembered(key)
        if verdict is not None and verdict.passed and (probes := self._kept_probes()) is not None:
            report = check_quickly(engine, probes, np.random.default_rng(secrets.randbits(_SEED_BITS)))
            if report.passed:
                log.info("%s %s: quick check passed", engine.name, engine.precision)
                return report
            verdicts.remember(key, report)
        else:
            report = self.examine_fully(engine)
        if not report.passed and (engine.name, engine.precision) == REFERENCE:
            raise self._unusable(report)
        return report

    def examine_fully(self, engine: Runtime) -> ParityReport:
        """The whole gate, whatever is remembered; the verdict is kept. Raises as ``examine``."""
        golden, fresh, answers = self._prepared(engine)
        report = check_parity(engine, self.package, golden, fresh, answers)
        verdicts.remember(self._key(engine.name, engine.precision), report)
        said = "passed" if report.passed else f"refused: {report.reason}"
        log.info("parity gate, %s %s: %s", engine.name, engine.precision, said)
        return report

    def forget_material(self) -> None:
        """Free the golden set and the random input; read and drawn again when they are needed."""
        self._material = None

    def _key(self, engine: str, precision: str) -> Key:
        return verdicts.key_of(self.package, engine, precision, self.threads)

    def _kept_probes(self) -> Probes | None:
        """The probes of the last whole gate, where the reference's verdict still holds."""
        if self.probes is None:
            key = self._key(*REFERENCE)
            verdict = verdicts.remembered(key)
            if verdict is not None and verdict.passed:
                self.probes = verdicts.remembered_probes(key)
        return self.probes

    def _prepared(self, engine: Runtime) -> tuple[Golden, Fresh, Answers]:
        """Golden set, random input, and the answers to it of a reference that was held to the golden set.

        The random input is the same for all engines of a process, so that they are judged alike.
        """
        if self._material is None:
            golden = read_golden(self.package)
            fresh = fresh_slices(self.package.spec, secrets.randbits(_SEED_BITS))
            own = (engine.name, engine.precision) != REFERENCE
            reference = runtimes.start(self.package, *REFERENCE, self.threads) if own else engine
            try:
                answers = _one_by_one(reference, fresh)
                if own:
                    self._hold(reference, golden, fresh, answers)
            finally:
                if own:
                    reference.close()
            self._material = golden, fresh, answers
            self.probes = choose_probes(golden, fresh, answers)
            verdicts.remember_probes(self._key(*REFERENCE), self.probes)
        return self._material

    def _hold(self, reference: Runtime, golden: Golden, fresh: Fresh, answers: Answers) -> None:
        """Raises ModelPackageError unless the reference gives, or lately gave, the golden answers."""
        key = self._key(*REFERENCE)
        verdict = verdicts.remembered(key)
        if verdict is None:
            report = check_parity(reference, self.package, golden, fresh, answers)
            verdict = verdicts.remember(key, report)
        if not verdict.passed:
            raise self._unusable(verdict.report)

    def _unusable(self, report: ParityReport) -> ModelPackageError:
        return ModelPackageError(
            f"model package {self.package.folder}: ONNX Runtime does not give its golden answers "
            f"({report.reason}), so nothing can prove an engine here. Install the onnxruntime of "
            "deploy/constraints.txt, or export the model again."
        )


def _one_by_one(reference: Runtime, fresh: Fresh) -> Answers:
    """The reference's answers, each slice alone: no batch can then have mixed them up."""
    parts = [reference.run(fresh.slices[row : row + 1]) for row in range(len(fresh.slices))]
    return Answers(*(np.concatenate(arms) for arms in zip(*parts, strict=True)))
