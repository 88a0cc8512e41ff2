"""One session of a run, from a start of the command to its end, in run.json."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from lightning_fabric import Fabric

from trainer.loop.checkpoint import CheckpointNotWrittenError
from trainer.loop.environment import device_name, git_state, peak_memory_mb, software
from trainer.loop.run_folder import write_record
from trainer.loop.training_state import Progress


class Session:
    """Writes run.json when the session starts and when it ends, however it ends.

    Parameters
    ----------
    record: run.json's content; this session is appended to it.
    progress: the run's counters, read at the end.

    Attributes
    ----------
    stopped: why it ended; the name of an exception when one ended it.
    """

    def __init__(self, run: Path, record: dict[str, Any], fabric: Fabric, progress: Progress) -> None:
        self.stopped: str | None = None
        self._run = run
        self._record = record
        self._fabric = fabric
        self._progress = progress
        self._seconds = progress.seconds
        self._entry: dict[str, Any] = {
            "command": shlex.join(["trainer", *sys.argv[1:]]),
            "started": _now(),
            "ended": None,
            "stopped": None,
            "first_step": progress.step,
            "last_step": progress.step,
            "device": device_name(fabric.device),
            "precision": fabric._precision.precision,
            "processes": fabric.world_size,
            "software": software(),
            "git": git_state(),
        }

    def __enter__(self) -> Session:
        self._record["sessions"].append(self._entry)
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        progress = self._progress
        steps = progress.step - self._entry["first_step"]
        self.stopped = "interrupted" if kind is KeyboardInterrupt else kind.__name__ if kind else self.stopped
        self._entry |= {
            "ended": _now(),
            "stopped": self.stopped,
            "last_step": progress.step,
            "seconds_per_step": round((progress.seconds - self._seconds) / steps, 4) if steps else None,
            "peak_memory_mb": peak_memory_mb(self._fabric.device),
        }
        best = {"step": progress.best_step, "dice": progress.best_dice} if progress.best_step else None
        self._record |= {"steps": progress.step, "stopped": self.stopped, "best": best}
        try:
            self._write()
        except CheckpointNotWrittenError:
            if error is None:  # otherwise the error that is on its way has told of the full disk
                raise

    def _write(self) -> None:
        if self._fabric.is_global_zero:
            write_record(self._run, self._record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
