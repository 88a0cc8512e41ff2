"""Which engines can be measured, and how each is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, Final, Protocol

from strokecore.errors import UsageError
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtime import Float4D
from strokecore.learned.runtimes import RUNTIME_NAMES, availability, runtime_kind

REFERENCE: Final = "onnx"
"""The engine that all others are compared with."""
REFERENCE_PRECISION: Final = "fp32"


class Running(Protocol):
    """An engine at work, as far as it is measured."""

    device: str
    library: str

    def run(self, slices: Float4D) -> tuple[Float4D, Float4D]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Kind:
    """A way to run a package.

    Attributes
    ----------
    module, name: of the engine's class; its PRECISIONS are what it has.
    options: given to it besides package, precision and threads.
    gpu: needs an NVIDIA GPU.
    """

    module: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    gpu: bool = False

    def load(self) -> Any:
        """The class; the library behind it is imported when an engine is opened."""
        return getattr(import_module(self.module), self.name)

    def precisions(self) -> tuple[str, ...]:
        """What the class has, most preferred first."""
        return runtime_kind(self.load().name).precisions

    def usable(self) -> tuple[str, ...]:
        """Those that this machine has; of an engine that is not here the first, so that it says why."""
        every = self.precisions()
        engine = self.load().name
        if engine not in RUNTIME_NAMES:
            return every
        here = availability(engine).precisions
        return tuple(precision for precision in every if precision in here) or every[:1]


KINDS: Final[dict[str, Kind]] = {
    "onnx": Kind("strokecore.learned.onnx", "OnnxRuntime"),
    "onnx-cuda": Kind("strokecore.learned.onnx", "OnnxCudaRuntime", gpu=True),
    "openvino": Kind("strokecore.learned.openvino", "OpenVinoRuntime"),
    "tensorrt": Kind("strokecore.learned.tensorrt", "TensorRtRuntime", gpu=True),
}


@dataclass(frozen=True)
class Subject:
    """One line of the table: an engine in one precision.

    Attributes
    ----------
    engine: a key of KINDS.
    precision: such as "bf16".
    kind: how it is opened.
    """

    engine: str
    precision: str
    kind: Kind

    @property
    def name(self) -> str:
        """Such as "openvino bf16"."""
        return f"{self.engine} {self.precision}"

    def open(self, package: ModelPackage, threads: int) -> Running:
        """Raises EngineError."""
        engine: Running = self.kind.load()(package, self.precision, threads, **self.kind.options)
        return engine

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; another process makes the same subject of them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Subject:
        """The inverse of ``to_dict``."""
        return cls(values["engine"], values["precision"], Kind(**values["kind"]))


def find_subjects(
    engines: Sequence[str],
    precisions: Sequence[str],
    kinds: Mapping[str, Kind] = KINDS,
    *,
    gpu: bool = False,
) -> tuple[Subject, ...]:
    """What is to be measured: the reference first, then the others in the order of ``kinds``.

    Parameters
    ----------
    engines: only these; empty: all, those that need a GPU only with one.
    precisions: only these; empty: all that this machine has. The reference is always measured.
    gpu: there is one.

    Raises
    ------
    UsageError: there is no such engine or precision.
    """
    if unknown := set(engines) - set(kinds):
        raise UsageError(f"Unknown engine {', '.join(sorted(unknown))}; expected some of {', '.join(kinds)}.")
    known = {precision for kind in kinds.values() for precision in kind.precisions()}
    if unknown := set(precisions) - known:
        raise UsageError(
            f"Unknown precision {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(known))}."
        )
    reference = Subject(REFERENCE, REFERENCE_PRECISION, kinds[REFERENCE])
    chosen = engines or [name for name, kind in kinds.items() if gpu or not kind.gpu]
    found = [reference]
    for name, kind in kinds.items():
        if name in chosen:
            # what is asked for by name is tried, to say why it cannot be had
            wanted = [p for p in kind.precisions() if p in precisions] if precisions else kind.usable()
            found += [one for p in wanted if (one := Subject(name, p, kind)) != reference]
    return tuple(found)
