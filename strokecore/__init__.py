"""StrokeCore: early ischaemic change and ASPECTS on non-contrast head CT.

Importing this package loads nothing heavy; the names below are resolved on first use, so that
``strokecore --help`` and the Orthanc plugin start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from strokecore._version import __version__

if TYPE_CHECKING:
    from strokecore.config import ScoringConfig
    from strokecore.errors import Refusal, StrokeCoreError
    from strokecore.pipeline import score_folder
    from strokecore.reading.series import Series, read_series
    from strokecore.result import Result

_HOME = {
    "Refusal": "errors",
    "Result": "result",
    "ScoringConfig": "config",
    "Series": "reading.series",
    "StrokeCoreError": "errors",
    "read_series": "reading.series",
    "score_folder": "pipeline",
}

__all__ = [
    "Refusal",
    "Result",
    "ScoringConfig",
    "Series",
    "StrokeCoreError",
    "__version__",
    "read_series",
    "score_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"strokecore.{_HOME[name]}"), name)
    raise AttributeError(f"module 'strokecore' has no attribute {name!r}")
