"""Which engine scores: the first on this machine that is right and works, and the next when that one fails.

Engines and precisions are tried in the order of strokecore.learned.runtimes until the parity gate lets one
through. What was passed over, at the start or while a scan is segmented, is said in ``fallbacks``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from strokecore.arrays import Float4D
from strokecore.config import WEIGHT_FREE, ScoringConfig
from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned import runtimes, shipped
from strokecore.learned.devices import default_threads
from strokecore.learned.runtimes import ENGINE_CHOICES, RUNTIME_NAMES
from strokecore.learned.shipped import SHIPPED, package_folder
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.decision import load_decision
from strokecore.scoring.engine import Engine

if TYPE_CHECKING:
    from strokecore.learned.engine import LearnedEngine
    from strokecore.learned.gate import Gate
    from strokecore.learned.package import ModelPackage
    from strokecore.learned.runtime import Answers, Runtime

log = logging.getLogger(__name__)

_WITHOUT: Final = "To score without a model, leave --model out and use --engine auto or asymmetry."


def select_engine(config: ScoringConfig) -> Engine:
    """The engine for ``config``.

    For a model package the first engine of strokecore.learned.runtimes that is here and that the parity gate
    lets through; ``config.engine`` says where to begin. Without one "auto" is the default of
    strokecore.learned.shipped, and an engine that runs packages runs the shipped one.

    Raises
    ------
    UsageError: the engine is not here, or none of this machine's engines is right.
    ModelPackageError: the package is damaged or does not fit this version.
    """
    if config.engine not in ENGINE_CHOICES:
        raise UsageError(f"Unknown engine {config.engine!r}; expected {', '.join(ENGINE_CHOICES)}.")
    folder = package_folder(config.model)
    if config.engine == WEIGHT_FREE:
        if folder is not None:
            raise UsageError(
                "The asymmetry engine has no use for a model package; leave --model out, or use auto."
            )
        return _weight_free(config)
    if folder is None and config.engine == "auto":
        return _default(config)
    from strokecore.anatomy.atlas import load_atlas

    atlas = load_atlas(config.atlas).sha256
    return _learned_engine(folder or SHIPPED, config.engine, atlas, _own_threshold(config))


def default_package() -> Path | None:
    """The model package that runs when none is named; None for the weight-free engine."""
    return shipped.SHIPPED if shipped.IS_DEFAULT else None


def _default(config: ScoringConfig) -> Engine:
    """The engine where no model is named; there always is one, and it names what was passed over."""
    folder = default_package()
    if folder is None:
        return _weight_free(config)
    if config.atlas is not None:
        return _weight_free(config, f"{folder.name}: made for the atlas that ships")
    from strokecore.anatomy.atlas import load_atlas

    own = _own_threshold(config)
    try:
        return _learned_engine(folder, "auto", load_atlas().sha256, own)
    except (UsageError, ModelPackageError) as error:
        log.warning("no engine here runs the shipped model, so the weight-free engine scores: %s", error)
        return _weight_free(config, f"{folder.name}: no engine here runs it")


def _weight_free(config: ScoringConfig, *fallbacks: str) -> AsymmetryEngine:
    """The weight-free engine; what it outlines follows a site's own decision point where there is one."""
    own = _own_threshold(config)
    decision = None if own is None else replace(load_decision(), threshold=own)
    return AsymmetryEngine(decision=decision, fallbacks=fallbacks)


def _own_threshold(config: ScoringConfig) -> float | None:
    """The site's own decision point, where there is one."""
    cut = config.load_region_cut()
    return None if cut is None else cut.threshold


def _learned_engine(
    folder: Path, wanted: str, atlas_sha256: str, region_threshold: float | None
) -> LearnedEngine:
    """A package's engine; kept for the next series while no file of the package changes."""
    _require(wanted)
    try:
        files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir())
    except OSError:
        files = []  # load_package says what is wrong
    return _kept(folder.resolve(), wanted, atlas_sha256, tuple(files), default_threads(), region_threshold)


def _require(wanted: str) -> None:
    """Raises UsageError, with the command that installs it, when the engine or the reference is missing."""
    for engine in dict.fromkeys((wanted, "onnx")):
        if engine == "auto" or (found := runtimes.availability(engine)).available:
            continue
        install = f"run: {found.install}" if found.install else "see strokecore engines"
        what = "" if engine == wanted else ", and every engine is compared with it before it scores"
        raise UsageError(f"The {engine} engine cannot be used: {found.reason}{what}; {install}. {_WITHOUT}")


@lru_cache(maxsize=2)
def _kept(
    folder: Path,
    wanted: str,
    atlas_sha256: str,
    files: tuple[tuple[str, int, int], ...],
    threads: int,
    region_threshold: float | None,
) -> LearnedEngine:
    del files  # only a part of the key
    from strokecore.learned.engine import LearnedEngine
    from strokecore.learned.gate import Gate
    from strokecore.learned.package import load_package

    package = load_package(folder, atlas_sha256=atlas_sha256)
    try:
        runtime = GatedRuntime(package, wanted, threads, Gate(package, threads))
        return LearnedEngine(package, runtime, region_threshold)
    except EngineError as error:
        raise UsageError(
            f"{error} strokecore engines --model DIR --check shows the figures. {_WITHOUT}"
        ) from error


@dataclass(frozen=True)
class Candidate:
    """An engine of this machine in one precision.

    Attributes
    ----------
    not_ready: why it is passed over without being tried; empty when it is to be tried.
    """

    name: str
    precision: str
    not_ready: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.precision}"


def candidates(wanted: str, package: ModelPackage, gate: Gate) -> Iterator[Candidate]:
    """What to try in turn; each is looked for only when none before it may score.

    Parameters
    ----------
    wanted: "auto", or the engine to begin with.
    """
    first = 0 if wanted == "auto" else RUNTIME_NAMES.index(wanted)
    for name in RUNTIME_NAMES[first:]:
        found = [Candidate(name, precision) for precision in runtimes.package_precisions(name, package)]
        if runtimes.runtime_kind(name).compiled_beforehand:
            yield from _with_builds(found, package, gate)
        else:
            yield from found


def _with_builds(found: list[Candidate], package: ModelPackage, gate: Gate) -> Iterator[Candidate]:
    """A build takes minutes: the first precision without an engine file is built beside the work.

    The next precision is built only when the gate refused this one.
    """
    from strokecore.learned.tensorrt.build import start_background_build
    from strokecore.learned.tensorrt.engine_files import ready

    building = False
    for candidate in found:
        precision = candidate.precision
        if gate.refused(candidate.name, precision) or ready(package, precision):
            yield candidate
        elif not building:
            building = start_background_build(package, precision)
            not_ready = "engine is being built" if building else "engine could not be built"
            yield replace(candidate, not_ready=not_ready)


class GatedRuntime:
    """The first of this machine's runtimes that the parity gate lets through; see ``Runtime``.

    Attributes
    ----------
    name, precision, device, library: of the one that runs now, or ran last.
    fallbacks: what was passed over before it, "<name> <precision>: <reason>".
    """

    def __init__(self, package: ModelPackage, wanted: str, threads: int, gate: Gate) -> None:
        """
        Parameters
        ----------
        wanted: "auto", or the engine to begin with.
        threads: on the CPU.

        Raises
        ------
        EngineError: the gate lets none through.
        ModelPackageError: the package's golden answers cannot be reproduced by the reference.
        """
        self._package, self._wanted, self._threads, self._gate = package, wanted, threads, gate
        self._runs = 0
        self._runtime: Runtime | None = None
        self.name = self.precision = self.device = self.library = "none"
        self._begin()

    def run(self, slices: Float4D) -> Answers:
        """See ``Runtime``. Slices with known answers go along each time.

        Raises
        ------
        FloatingPointError: the last engine's answers are not finite, and none is left.
        EngineError: the last engine failed or answered wrong, and none is left.
        """
        if self._runtime is None:  # all were lost in an earlier run: perhaps one can be started again
            self._begin()
        while True:
            assert self._runtime is not None, "advanced to one, or raised"
            wrong, answers = self._answer(self._runtime, slices)
            if answers is not None:
                return answers
            self._pass_over(Candidate(self.name, self.precision), f"{wrong} while running")
            self.close()
            try:
                self._advance()
            except (EngineError, ModelPackageError) as error:
                if "not finite" in wrong:
                    raise FloatingPointError("the network's answer is not finite") from error
                raise EngineError(str(error)) from error

    def close(self) -> None:
        """Free the runtime; ``run`` starts again from the first."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            runtime.close()

    def _answer(self, runtime: Runtime, slices: Float4D) -> tuple[str, Answers | None]:
        """(what is wrong, None) or ("", answers)."""
        from strokecore.learned.parity import wrong_answer
        from strokecore.learned.runtime import Answers

        sentinels, known = self._gate.sentinels(self._runs)
        self._runs += 1
        # At the beginning, in the middle and at the end: a part of a batch can fail by itself.
        before = np.linspace(0, len(slices), len(sentinels), dtype=np.intp)
        rows = before + np.arange(len(sentinels))
        try:
            found = Answers(*runtime.run(np.insert(slices, before, sentinels, axis=0)))
        except Exception as error:  # foreign libraries raise what they like; another engine takes over
            log.warning("%s %s failed while running: %s", runtime.name, runtime.precision, error)
            return f"failed ({type(error).__name__})", None
        if wrong := wrong_answer(found, known, rows, len(slices) + len(sentinels)):
            return f"gave {wrong}", None
        return "", Answers(*(np.delete(arm, rows, axis=0) for arm in found))

    def _begin(self) -> None:
        self.fallbacks: tuple[str, ...] = ()
        self._left = candidates(self._wanted, self._package, self._gate)
        self._advance()

    def _advance(self) -> None:
        """To the next runtime that the gate lets through. Raises as the constructor."""
        try:
            for candidate in self._left:
                if runtime := self._admitted(candidate):
                    self._runtime = runtime
                    self.name, self.precision = runtime.name, runtime.precision
                    self.device, self.library = runtime.device, runtime.library
                    log.info("%s runs %s on %s", candidate, self._package.name, self.device)
                    return
        finally:
            self._gate.release()
        tried = "; ".join(self.fallbacks) or "none is installed"
        raise EngineError(
            f"no engine on this machine runs the model {self._package.name} as it must: {tried}."
        )

    def _admitted(self, candidate: Candidate) -> Runtime | None:
        """The candidate's runtime when the gate lets it through."""
        if candidate.not_ready:
            self._pass_over(candidate, candidate.not_ready)
            return None
        if refused := self._gate.refused(candidate.name, candidate.precision):
            self._pass_over(candidate, f"refused by the parity gate ({refused.reason})")
            return None
        try:
            runtime = runtimes.start(self._package, candidate.name, candidate.precision, self._threads)
        except (EngineError, ModelPackageError) as error:
            log.warning("%s cannot be started: %s", candidate, error)
            self._pass_over(candidate, "could not be started")
            return None
        try:
            report = self._gate.examine(runtime)
        except BaseException:
            runtime.close()
            raise
        if report.passed:
            return runtime
        runtime.close()
        self._pass_over(candidate, f"refused by the parity gate ({report.reason})")
        return None

    def _pass_over(self, candidate: Candidate, reason: str) -> None:
        self.fallbacks = (*self.fallbacks, f"{candidate}: {reason}")
        log.warning("%s is passed over: %s", candidate, reason)
