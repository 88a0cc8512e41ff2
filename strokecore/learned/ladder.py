"""Which engine and precision is tried after which, and how one is started."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from strokecore.learned.engine import LearnedEngine
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtimes import ENGINES, availability

log = logging.getLogger(__name__)

Refused = Callable[[str, str], Any]
"""Whether the gate refused an engine in a precision lately."""

_CLASSES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "tensorrt": ("strokecore.learned.tensorrt", "TensorRtEngine"),
        "torch": ("strokecore.learned.torch", "TorchEngine"),
        "openvino": ("strokecore.learned.openvino", "OpenVinoEngine"),
        "onnx": ("strokecore.learned.onnx", "OnnxEngine"),
    }
)


@dataclass(frozen=True)
class Step:
    """One engine in one precision.

    Attributes
    ----------
    note: why it is passed over without being tried; empty when it is to be tried.
    """

    engine: str
    precision: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def steps(wanted: str, package: ModelPackage, refused: Refused) -> Iterator[Step]:
    """What to try in turn; each is looked for only when the ones before it did not serve.

    Parameters
    ----------
    wanted: "auto", or the engine to begin with. torch runs on the CPU only when it is asked for by name: it
        is the slowest there.
    """
    first = 0 if wanted == "auto" else ENGINES.index(wanted)
    for engine in ENGINES[first:]:
        found = availability(engine)
        if not found.available or (engine == "torch" and wanted != "torch" and not found.on_gpu):
            continue
        if engine == "tensorrt":
            yield from _tensorrt_steps(found.precisions, package, refused)
        else:
            yield from (Step(engine, precision) for precision in found.precisions)


def start(package: ModelPackage, step: Step, threads: int) -> LearnedEngine:
    """Raises EngineError or ModelPackageError when the engine cannot be had."""
    return engine_class(step.engine)(package, step.precision, threads)


def engine_class(engine: str) -> Callable[[ModelPackage, str, int], LearnedEngine]:
    """The class behind a name of ENGINES."""
    module, name = _CLASSES[engine]
    return cast(
        "Callable[[ModelPackage, str, int], LearnedEngine]", getattr(importlib.import_module(module), name)
    )


def _tensorrt_steps(precisions: tuple[str, ...], package: ModelPackage, refused: Refused) -> Iterator[Step]:
    """A plan takes minutes to build: the first precision without one is built beside the work.

    The next precision is built only when the gate refused this one.
    """
    from strokecore.learned.tensorrt_engines import ready, start_background_build

    building = False
    for precision in precisions:
        if refused("tensorrt", precision) or ready(package, precision):
            yield Step("tensorrt", precision)
        elif not building:
            said = start_background_build(package, precision)
            log.warning("%s", said)
            building = "background" in said
            note = "engine is being built" if building else "engine could not be built"
            yield Step("tensorrt", precision, note)
