"""What runs a package's network: the protocol, and what is shared by all that hand the graph to a library."""

from __future__ import annotations

import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from strokecore.arrays import Float4D
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.devices import default_threads
from strokecore.learned.package import ModelPackage, output_shapes

log = logging.getLogger(__name__)

CPU_BATCH_PIXELS: Final = 2**17
"""Of the slices of one batch: 8 of 136 x 112, or 1 of 512 x 416, of which ViT-B holds about 0.5 GB at a time.
With all CPU engines fewer or more are slower, and more take more memory (docs/engines.md)."""

# How onnxruntime, OpenVINO, CUDA and the C++ library word it.
_NO_MEMORY: Final = re.compile(
    r"out ?of ?memory|bad_?alloc|alloc_failed|(can't|cannot|could not|failed to) allocate|not enough memory|"
    r"is smaller than requested bytes",
    re.IGNORECASE,
)
# Of a library's message; more of it does not fit a report.
_MESSAGE_CHARACTERS: Final = 200


class Answers(NamedTuple):
    """Class probabilities of both arms, float32 [n, 9, H, W] and [n, 6, H, W]."""

    bg: Float4D
    sg: Float4D


class Runtime(Protocol):
    """Runs slices through the network of one model package.

    Attributes
    ----------
    name: as in ``--engine``, such as "onnx".
    precision: of the numbers that it computes with: "bf16", "fp16", "tf32" or "fp32".
    device, library: in words, such as "AMD EPYC, 2 threads" and "onnxruntime 1.22.0".
    fallbacks: what was preferred to it and may not run here, "<name> <precision>: <reason>".
    """

    name: str
    precision: str
    device: str
    library: str
    fallbacks: tuple[str, ...]

    def run(self, slices: Float4D) -> Answers:
        """The network's answers to slices float32 [n, channels, H, W]; raises EngineError when it fails."""

    def close(self) -> None:
        """Free what it holds; may be called twice."""


class BatchedRuntime(ABC):
    """A package's graph in a library that runs a batch of slices at a time; see ``Runtime``.

    Attributes
    ----------
    threads: at work on one batch on the CPU.
    batch: most slices at once; halved when memory runs out.
    """

    name: str
    device: str
    library: str
    fallbacks: tuple[str, ...] = ()

    def __init__(self, package: ModelPackage, precision: str, threads: int | None, batch_pixels: int) -> None:
        """
        Parameters
        ----------
        threads: on the CPU; None as ``default_threads``.
        batch_pixels: of the slices of one batch.
        """
        self.package, self.precision = package, precision
        self.threads = threads or default_threads()
        self.batch = max(1, batch_pixels // int(np.prod(package.spec.size)))
        self._lock = threading.Lock()
        self._closed = False

    def run(self, slices: Float4D) -> Answers:
        """Class probabilities of both arms for slices float32 [n, channels, H, W].

        Callers wait for each other.

        Raises EngineError when the library fails, the device is lost or has no memory for even one slice.
        """
        slices = np.require(slices, np.float32, ("C", "W"))
        with self._lock:
            if self._closed:
                raise EngineError(f"this {self.name} engine is closed; make another one.")
            try:
                return self._run(slices)
            except EngineError:
                raise
            except self._failures() as error:
                raise EngineError(
                    f"{self.library} failed on {self.device}: {said(error)}. Another engine takes over where "
                    "there is one; start the node again when the cause is found."
                ) from error

    def close(self) -> None:
        """Free what the library holds; may be called twice."""
        with self._lock:
            self._closed = True
            self._free()

    @abstractmethod
    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        """Write the answer for up to ``batch`` slices into ``bg`` and ``sg``."""

    @abstractmethod
    def _free(self) -> None:
        """Let go of the network."""

    @abstractmethod
    def _failures(self) -> tuple[type[Exception], ...]:
        """What the library raises."""

    def _run(self, slices: Float4D) -> Answers:
        shapes = output_shapes(self.package.spec.size)
        bg, sg = (np.empty((len(slices), *shapes[arm][1:]), np.float32) for arm in ("bg", "sg"))
        done = 0
        while done < len(slices):
            part = slice(done, done + self._next(len(slices) - done))
            short: Exception | None = None
            try:
                self._answer(slices[part], bg[part], sg[part])
                done = part.stop
            except self._failures() as error:
                if not is_memory(error):
                    raise
                # without the frames that hold on to what was allocated: it is free before the next try
                short = error.with_traceback(None)
            if short is not None:
                self._shrink(short)
        return Answers(bg, sg)

    def _next(self, left: int) -> int:
        """How many of ``left`` slices go into the next batch."""
        return min(left, self.batch)

    def _shrink(self, error: Exception) -> None:
        """Go on with half the batch; raises EngineError when it is one slice already."""
        if self.batch == 1:
            rows, columns = self.package.spec.size
            raise EngineError(
                f"{self.device} has no memory left for even one slice of {rows} x {columns}; stop other "
                "programs there, or use another engine."
            ) from error
        self.batch //= 2
        log.warning("%s: no memory for so many slices at once; going on with %d", self.device, self.batch)


def is_memory(error: Exception) -> bool:
    """Whether memory ran out, by the error's type or words."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def said(error: BaseException) -> str:
    """First line of a library's message, or the error's type where it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip()[:_MESSAGE_CHARACTERS] if lines else "").rstrip(".") or type(error).__name__


def check_tensors(package: ModelPackage, found: Mapping[str, tuple[str, list[Any]]]) -> None:
    """The graph has the tensors that the manifest describes; the first axis is the number of slices.

    Parameters
    ----------
    found: (type, shape) by name; the type of all is "float32". A length that is free is no number.

    Raises ModelPackageError.
    """
    described = [package.manifest["input"], *package.manifest["outputs"]]
    expected = {t["name"]: ("float32", t["shape"][1:]) for t in described}
    tails = {name: (kind, list(shape[1:])) for name, (kind, shape) in found.items()}
    fixed = any(isinstance(shape[0], int) for _, shape in found.values() if shape)
    if tails != expected or fixed:
        raise ModelPackageError(
            f"model package {package.folder}: {package.onnx.name} has tensors {tails}"
            f"{' with a fixed number of slices' if fixed else ''}, expected {expected}; export it again."
        )
