"""The engine that a pipeline holds for a model package: the first on this machine that is right and works.

It goes down a ladder of engines and precisions until the parity gate lets one through, and goes on down when
that one fails or answers wrong while it serves. What it passed over is said in ``fallbacks``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.engine import Float4D, LearnedEngine
from strokecore.learned.golden import Answers
from strokecore.learned.ladder import Step
from strokecore.learned.package import ModelPackage
from strokecore.learned.parity_report import ParityReport
from strokecore.learned.probes import Probes, wrong_answer
from strokecore.learned.verdicts import Verdict

log = logging.getLogger(__name__)


class Examiner(Protocol):
    """The parity gate as it is used here (strokecore.learned.gate.Gate)."""

    probes: Probes | None

    def refused(self, engine: str, precision: str) -> Verdict | None: ...

    def examine(self, engine: LearnedEngine) -> ParityReport: ...

    def forget_material(self) -> None: ...


class ServingEngine(LearnedEngine):
    """A package behind the engines' protocol, run by one gated engine at a time.

    Attributes
    ----------
    engine, precision, device, library: of what serves now, or served last.
    fallbacks: what was passed over before it, "<engine> <precision>: <reason>".
    """

    def __init__(
        self,
        package: ModelPackage,
        ladder: Callable[[], Iterator[Step]],
        start: Callable[[Step], LearnedEngine],
        gate: Examiner,
    ) -> None:
        """Go down the ladder to the first engine that may serve.

        Parameters
        ----------
        ladder: what to try in turn.
        start: makes the engine of a step; raises EngineError or ModelPackageError when it cannot be had.

        Raises
        ------
        EngineError: none may serve.
        ModelPackageError: the package's golden answers cannot be reproduced by its reference.
        """
        super().__init__(package)
        self._ladder, self._start, self._gate = ladder, start, gate
        self._steps = ladder()
        self._runs = 0
        self._serving: LearnedEngine | None = None
        self.engine = self.precision = self.device = self.library = "none"
        self._advance()

    def run(self, slices: Float4D) -> tuple[Float4D, Float4D]:
        """See ``Run``. One slice with a known answer goes along each time.

        Raises
        ------
        FloatingPointError: the last engine's answers are not finite, and none is left.
        EngineError: the last engine failed or answered wrong, and none is left.
        """
        if self._serving is None:  # all were lost in an earlier run: perhaps one can be had again
            self.fallbacks, self._steps = (), self._ladder()
            self._advance()
        while True:
            assert self._serving is not None, "advanced to one, or raised"
            wrong, answers = self._answer(self._serving, slices)
            if answers is not None:
                return answers.bg, answers.sg
            self._pass_over(Step(self.engine, self.precision), f"{wrong} while running")
            serving, self._serving = self._serving, None
            serving.close()
            try:
                self._advance()
            except (EngineError, ModelPackageError) as error:
                if "not finite" in wrong:
                    raise FloatingPointError("the network's answer is not finite") from error
                raise EngineError(str(error)) from error

    def close(self) -> None:
        """Free the engine that serves; ``run`` starts again from the ladder's top."""
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.close()

    def _answer(self, engine: LearnedEngine, slices: Float4D) -> tuple[str, Answers | None]:
        """(what is wrong, None) or ("", answers)."""
        probes = self._gate.probes
        assert probes is not None, "the gate has them when it lets an engine through"
        sentinel, known = probes.sentinel(self._runs)
        self._runs += 1
        try:
            found = Answers(*engine.run(np.concatenate([slices, sentinel])))
        except Exception as error:  # foreign libraries raise what they like; another engine takes over
            log.warning("%s %s failed while running: %s", engine.engine, engine.precision, error)
            return f"failed ({type(error).__name__})", None
        if wrong := wrong_answer(found, known, len(slices) + 1):
            return f"gave {wrong}", None
        return "", Answers(found.bg[:-1], found.sg[:-1])

    def _advance(self) -> None:
        """To the next engine that may serve. Raises as the constructor."""
        try:
            for step in self._steps:
                if engine := self._gated(step):
                    self._serving = engine
                    self.engine, self.precision = engine.engine, engine.precision
                    self.device = str(getattr(engine, "device", "unknown"))
                    self.library = str(getattr(engine, "library", "unknown"))
                    log.info("%s runs %s on %s", step, self.package.name, self.device)
                    return
        finally:
            self._gate.forget_material()
        tried = "; ".join(self.fallbacks) or "none is installed"
        raise EngineError(
            f"no engine on this machine runs the model {self.package.name} as it must: {tried}."
        )

    def _gated(self, step: Step) -> LearnedEngine | None:
        """The step's engine when the gate lets it through."""
        if step.note:
            self._pass_over(step, step.note)
            return None
        if verdict := self._gate.refused(step.engine, step.precision):
            self._pass_over(step, f"refused by the parity gate ({verdict.report.reason})")
            return None
        try:
            engine = self._start(step)
        except (EngineError, ModelPackageError) as error:
            log.warning("%s cannot be started: %s", step, error)
            self._pass_over(step, "could not be started")
            return None
        try:
            report = self._gate.examine(engine)
        except BaseException:
            engine.close()
            raise
        if report.passed:
            return engine
        engine.close()
        self._pass_over(step, f"refused by the parity gate ({report.reason})")
        return None

    def _pass_over(self, step: Step, reason: str) -> None:
        self.fallbacks = (*self.fallbacks, f"{step}: {reason}")
        log.warning("%s is passed over: %s", step, reason)
