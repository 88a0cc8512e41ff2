"""Which engine serves a run."""

from __future__ import annotations

from strokecore.config import ScoringConfig
from strokecore.engines.base import Engine
from strokecore.errors import UsageError

TRAINED = ("tensorrt", "openvino", "onnx", "torch")


def select_engine(config: ScoringConfig) -> Engine:
    """The engine for ``config``. Raises UsageError when it cannot be had.

    "auto" without a model package is the embedded weight-free engine.
    """
    from strokecore.engines.asymmetry import AsymmetryEngine

    if config.model is not None or config.engine in TRAINED:
        raise UsageError(
            "This version has no engine for trained model packages; only the weight-free engine "
            "(asymmetry) exists. Run without --model and with --engine auto or asymmetry."
        )
    if config.engine not in ("auto", "asymmetry"):
        raise UsageError(f"Unknown engine {config.engine!r}; expected auto or asymmetry.")
    return AsymmetryEngine()
