"""NVIDIA's Python interface of TensorRT, or of TensorRT for RTX: loading it, and what it says."""

from __future__ import annotations

import importlib
import logging
from collections import deque
from functools import lru_cache
from typing import Any, Final

from strokecore.errors import EngineError
from strokecore.learned.devices import Gpu
from strokecore.learned.runtimes import runtime_kind

log = logging.getLogger(__name__)

OLDEST: Final = {"tensorrt": (11, 2), "tensorrt_rtx": (1, 7)}
"""Modules that are looked for, and the oldest version of each: docs/tensorrt.md says why."""
RTX_GPUS: Final = frozenset({(7, 5), (8, 6), (8, 9), (12, 0), (12, 1)})
"""Compute capabilities of NVIDIA's RTX and L series, which TensorRT for RTX is made for."""
# TensorRT's latest warnings and errors that a report repeats.
_REMEMBERED: Final = 8


def load_library(gpu: Gpu) -> Any:
    """The module of TensorRT, else of TensorRT for RTX where that is made for ``gpu``.

    Asks for a GPU because TensorRT ends the process with a segmentation fault where there is no driver.

    Raises EngineError, with what to install, when neither can be loaded or is new enough.
    """
    found = []
    for name, oldest in OLDEST.items():
        if name == "tensorrt_rtx" and gpu.compute_capability not in RTX_GPUS:
            continue
        try:
            trt = importlib.import_module(name)
            version = tuple(int(part) for part in trt.__version__.split(".")[:2])
        except (ImportError, OSError, AttributeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
            continue
        if version >= oldest:
            return trt
        found.append(f"{name} {trt.__version__} is too old, expected {oldest[0]}.{oldest[1]} or newer")
    install = runtime_kind("tensorrt").install
    raise EngineError(f"TensorRT cannot be loaded ({'; '.join(found)}); run: {install}")


def library_name(trt: Any) -> str:
    """Such as "tensorrt 11.4.0.106"."""
    return f"{trt.__name__} {trt.__version__}"


def is_rtx(trt: Any) -> bool:
    """Whether this is TensorRT for RTX."""
    return hasattr(trt, "DynamicShapesKernelSpecializationStrategy")


@lru_cache(maxsize=2)
def logger_of(trt: Any) -> Any:
    """TensorRT's messages in this package's log; one object per process, which TensorRT keeps for good.

    ``said()`` gives the latest warnings and errors in one line, ``forget()`` drops them. The messages speak
    of layers, shapes and memory, never of a patient.
    """
    levels = {
        int(trt.ILogger.INTERNAL_ERROR): logging.ERROR,
        int(trt.ILogger.ERROR): logging.ERROR,
        int(trt.ILogger.WARNING): logging.WARNING,
        int(trt.ILogger.INFO): logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._latest: deque[str] = deque(maxlen=_REMEMBERED)

        def log(self, severity: Any, msg: str) -> None:
            # called from TensorRT's own threads, through which no exception may pass
            try:
                level = levels.get(int(severity))
                if level is None:  # verbose: thousands of lines
                    return
                if level >= logging.WARNING:
                    self._latest.append(msg)
                log.log(level, "TensorRT: %s", msg)
            except Exception:
                self._latest.append("a message that could not be logged")

        def said(self) -> str:
            return "; ".join(self._latest) or "it gave no reason"

        def forget(self) -> None:
            self._latest.clear()

    return Logger()
