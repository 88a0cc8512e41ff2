"""The curve of a run: one row per step in metrics.csv, the same in TensorBoard."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, TextIO

from strokecore.errors import UsageError
from trainer.loop.checkpoint import write_file

# step: optimiser steps done. kind: "pairs", or "singles" (plain loss; the gate's columns are empty).
# loss_sg: as weighted; loss_sg_plain: as the control sees it. *_lesion, *_free: means over the pairs whose BG
# slice has lesion or not. tau_*: running medians of the gate. val_*: empty but after a validation. seconds:
# duration of the step without validation, the only column that two equal runs differ in. Over several
# processes the values are the first one's.
COLUMNS: Final = (
    "step",
    "kind",
    "loss",
    "loss_bg",
    "loss_sg",
    "loss_sg_plain",
    "coupling",
    "valid_pairs",
    "gate_lesion",
    "gate_free",
    "confidence_lesion",
    "confidence_free",
    "tau_lesion",
    "tau_free",
    "gradient_norm",
    "learning_rate",
    "val_dice",
    "val_loss",
    "seconds",
)


class Curve:
    """metrics.csv and tensorboard/ of a run folder, continued after ``steps`` rows.

    Rows that a killed run wrote after its last checkpoint are cut off: those steps are done again.
    """

    def __init__(self, folder: Path | None, steps: int) -> None:
        """``folder`` None keeps nothing. Raises UsageError when metrics.csv has fewer rows than ``steps``."""
        from torch.utils.tensorboard import SummaryWriter

        self._file: TextIO | None = None
        if folder is None:
            return
        path = folder / "metrics.csv"
        _keep_rows(path, steps)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS, restval="", lineterminator="\n")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=steps + 1)

    def __enter__(self) -> Curve:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()
            self._board.close()

    def add(self, kind: str, values: Mapping[str, float]) -> None:
        """Append one step's row. NaN, the mean over nothing, becomes an empty field."""
        if self._file is None:
            return
        step = int(values["step"])
        shown = {name: _text(value) for name, value in values.items()}
        self._rows.writerow({"kind": kind, **shown})
        self._file.flush()
        for name, value in values.items():
            if name != "step" and shown[name]:
                group = "validate" if name.startswith("val_") else "train"
                self._board.add_scalar(f"{group}/{name}", value, step)

    def sync(self) -> None:
        """Put everything on disk, before a checkpoint counts on it."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()


def read_curve(run: Path) -> list[dict[str, str]]:
    """Rows of a run's metrics.csv. Raises UsageError when there is none."""
    path = run / "metrics.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); is {run} a training run?") from error


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"  # 9 digits tell all float32 apart


def _keep_rows(path: Path, rows: int) -> None:
    header = io.StringIO()
    csv.DictWriter(header, COLUMNS, lineterminator="\n").writeheader()
    kept: list[str] = []
    if rows:
        text = path.read_text("utf-8") if path.exists() else ""
        kept = text.splitlines(keepends=True)[1 : rows + 1]
        if len(kept) < rows or not text.startswith(header.getvalue()):
            raise UsageError(
                f"{path} does not hold the {rows} steps that the checkpoint counts; restore it, or give "
                "another run folder to start from the beginning."
            )
    write_file(path, (header.getvalue() + "".join(kept)).encode())
