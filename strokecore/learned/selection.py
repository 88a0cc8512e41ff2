"""Which engine serves a run."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strokecore.config import ScoringConfig
from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned import shipped
from strokecore.learned.runtimes import ENGINES, availability
from strokecore.learned.shipped import SHIPPED, package_folder
from strokecore.learned.threads import default_threads
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import Engine

if TYPE_CHECKING:
    from strokecore.learned.serving import ServingEngine

log = logging.getLogger(__name__)

_WITHOUT: Final = "To score without a model, leave --model out and use --engine auto or asymmetry."


def select_engine(config: ScoringConfig) -> Engine:
    """The engine for ``config``.

    For a model package the first of TensorRT, torch on CUDA, OpenVINO and ONNX Runtime that is here and that
    the parity gate lets through; ``config.engine`` says where to begin. Without one "auto" is the default of
    strokecore.learned.shipped, and an engine that runs packages runs the shipped one.

    Raises
    ------
    UsageError: it cannot be had, or none of this machine's engines is right.
    ModelPackageError: the package is damaged or does not fit this version.
    """
    if config.engine not in ("auto", "asymmetry", *ENGINES):
        raise UsageError(f"Unknown engine {config.engine!r}; expected auto, asymmetry, {', '.join(ENGINES)}.")
    folder = package_folder(config.model)
    if config.engine == "asymmetry":
        if folder is not None:
            raise UsageError(
                "The asymmetry engine has no use for a model package; leave --model out, or use auto."
            )
        return AsymmetryEngine()
    if folder is None and config.engine == "auto":
        return _default(config)
    from strokecore.anatomy.atlas import load_atlas

    return serving_engine(folder or SHIPPED, config.engine, load_atlas(config.atlas).sha256)


def default_package() -> Path | None:
    """The model package that runs when none is named; None for the weight-free engine."""
    return shipped.SHIPPED if shipped.IS_DEFAULT else None


def _default(config: ScoringConfig) -> Engine:
    """Who scores where nobody named a model: there is always one, and what was passed over is said."""
    folder = default_package()
    if folder is None:
        return AsymmetryEngine()
    if config.atlas is not None:
        return AsymmetryEngine(fallbacks=(f"{folder.name}: made for the atlas that ships",))
    from strokecore.anatomy.atlas import load_atlas

    try:
        return serving_engine(folder, "auto", load_atlas().sha256)
    except (UsageError, ModelPackageError) as error:
        log.warning("the shipped model cannot serve, the weight-free engine does: %s", error)
        return AsymmetryEngine(fallbacks=(f"{folder.name}: no engine here runs it",))


def serving_engine(folder: Path, wanted: str, atlas_sha256: str) -> ServingEngine:
    """The engine of a package; kept for the next series while no file of the package changes.

    Raises as ``select_engine``.
    """
    require(wanted)
    try:
        files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in folder.iterdir())
    except OSError:
        files = []  # load_package says what is wrong
    return _kept(folder.resolve(), wanted, atlas_sha256, tuple(files), default_threads())


def require(wanted: str) -> None:
    """Raises UsageError, with the command that installs it, when the engine or the reference is missing."""
    for engine in dict.fromkeys((wanted, "onnx")):
        if engine == "auto" or (found := availability(engine)).available:
            continue
        install = f"run: {found.install}" if found.install else "see strokecore engines"
        what = "" if engine == wanted else ", and every engine is compared with it before it serves"
        raise UsageError(f"The {engine} engine cannot be used: {found.reason}{what}; {install}. {_WITHOUT}")


@lru_cache(maxsize=2)
def _kept(
    folder: Path,
    wanted: str,
    atlas_sha256: str,
    files: tuple[tuple[str, int, int], ...],
    threads: int,
) -> ServingEngine:
    del files  # only a part of the key
    from strokecore.learned.gate import Gate
    from strokecore.learned.ladder import start, steps
    from strokecore.learned.package import load_package
    from strokecore.learned.serving import ServingEngine

    package = load_package(folder, atlas_sha256=atlas_sha256)
    gate = Gate(package, threads)
    try:
        return ServingEngine(
            package,
            lambda: steps(wanted, package, gate.refused),
            lambda step: start(package, step, threads),
            gate,
        )
    except EngineError as error:
        raise UsageError(
            f"{error} strokecore engines --model DIR --check shows the figures. {_WITHOUT}"
        ) from error
