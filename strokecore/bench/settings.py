"""What one benchmark is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strokecore.errors import UsageError

NONE: Final = "none"


@dataclass(frozen=True)
class BenchSettings:
    """What to measure and for how long.

    Attributes
    ----------
    model: folder of a model package, or "shipped"; None: its engines are measured with the shipped one, the
        pipeline with what scores where nobody names a model.
    engines: of strokecore.learned.runtimes.RUNTIME_NAMES; empty: all; NONE alone: the pipeline only.
    precisions: such as "bf16"; empty: all that this machine has.
    slices: of one series.
    batches: further numbers of slices in one call.
    repeats: rounds of each measurement.
    seconds: no new round of a measurement is begun after this long, once three are done.
    threads: of the CPU engines, those of the pipeline too; None: see strokecore.learned.devices.
    dicom: folder of a head CT for the steps of the pipeline; None: a simulated head.
    pipeline_runs: processes, and scorings in this process; 0: the pipeline is not measured.
    """

    model: Path | None = None
    engines: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    slices: int = 32
    batches: tuple[int, ...] = (1, 8, 32)
    repeats: int = 10
    seconds: float = 120.0
    threads: int | None = None
    dicom: Path | None = None
    pipeline_runs: int = 5

    def __post_init__(self) -> None:
        for name, value, least in (
            ("slices", self.slices, 1),
            ("batches", min(self.batches, default=1), 1),
            ("repeats", self.repeats, 1),
            ("threads", 1 if self.threads is None else self.threads, 1),
            ("pipeline-runs", self.pipeline_runs, 0),
        ):
            if value < least:
                raise UsageError(f"--{name} is {value}, expected {least} or more.")
        if self.engines == (NONE,) and not self.pipeline_runs:
            raise UsageError(
                f"Nothing to measure with --engines {NONE} and --pipeline-runs 0; leave one out."
            )
        if not self.seconds > 0:
            raise UsageError(f"--seconds is {self.seconds}, expected more than 0.")
        if self.dicom is not None and not self.dicom.is_dir():
            raise UsageError(f"{self.dicom} is not a folder; give the folder that holds the DICOM files.")

    @property
    def calls(self) -> tuple[int, ...]:
        """Numbers of slices in one call, ascending; the last is the whole series."""
        return (*sorted({batch for batch in self.batches if batch < self.slices}), self.slices)
