"""``strokecore bench`` from top to bottom: settings in, a record out (docs/bench.md)."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from strokecore._version import __version__
from strokecore.bench.engines import EngineResult, Say, measure_engines
from strokecore.bench.machine import load_average, machine_facts, without_folders
from strokecore.bench.settings import NONE, BenchSettings
from strokecore.bench.steps import PipelineResult, measure_pipeline
from strokecore.files import write_atomically
from strokecore.learned.devices import THREADS_VARIABLE, default_threads
from strokecore.learned.package import load_package
from strokecore.learned.shipped import SHIPPED, package_folder

SCHEMA_VERSION: Final = 2


@dataclass(frozen=True)
class Benchmark:
    """What was measured; strokecore/bench/bench.schema.json describes it as JSON.

    Attributes
    ----------
    date: ISO 8601, UTC.
    settings: those of strokecore.bench.settings.BenchSettings that name no folder.
    threads: of every CPU engine.
    load_average: programs that wanted the processor, mean of a minute, "before" and "after".
    model: name, version, sha256, backbone, and size of a slice in pixels; None when no package was measured.
    pipeline: None when it was not measured.
    pipeline_error: why it could not be measured.
    """

    schema: int
    date: str
    strokecore: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    threads: int
    load_average: dict[str, float]
    model: dict[str, Any] | None
    engines: list[EngineResult]
    pipeline: PipelineResult | None
    pipeline_error: str | None

    @property
    def succeeded(self) -> bool:
        """Of what was asked for, an engine ran and the pipeline did."""
        ran = any(call.ms for one in self.engines for call in one.calls)
        return (ran or not self.engines) and self.pipeline_error is None

    def write(self, path: Path) -> None:
        """Write the JSON; the whole of it or nothing."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        write_atomically(path, text.encode())


def run_benchmark(settings: BenchSettings, say: Say = lambda words: None) -> Benchmark:
    """Measure what ``settings`` asks for.

    ``settings.threads`` holds for this process from then on, and for those that it starts.

    Raises
    ------
    UsageError: there is no such engine or precision.
    ModelPackageError: the package cannot be used.
    """
    if settings.threads is not None:
        os.environ[THREADS_VARIABLE] = str(settings.threads)
    threads = default_threads()
    date, before = datetime.now(UTC).isoformat(timespec="seconds"), load_average()
    model, engines, pipeline, pipeline_error = None, [], None, None
    # engines first: what they compile on their first day is then not compiled beside the pipeline
    if settings.engines != (NONE,):
        package = load_package(package_folder(settings.model) or SHIPPED)
        engines = measure_engines(package, settings, threads, say)
        facts = {name: getattr(package, name) for name in ("name", "version", "sha256")}
        model = {**facts, "backbone": package.manifest["backbone"]["name"], "size": package.spec.size}
    if settings.pipeline_runs:
        say("steps of the pipeline")
        try:
            pipeline = measure_pipeline(settings.dicom, settings.model, settings.pipeline_runs)
        except Exception as error:  # engines' hours are not thrown away for it
            pipeline_error = without_folders(error)
    return Benchmark(
        schema=SCHEMA_VERSION,
        date=date,
        strokecore=__version__,
        settings={name: value for name, value in asdict(settings).items() if name not in ("model", "dicom")},
        machine=machine_facts(),
        threads=threads,
        load_average={"before": before, "after": load_average()},
        model=model,
        engines=engines,
        pipeline=pipeline,
        pipeline_error=pipeline_error,
    )
