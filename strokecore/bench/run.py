"""``strokecore bench`` from top to bottom: settings in, a record out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from strokecore._version import __version__
from strokecore.bench.engines import measure_engines
from strokecore.bench.flops import NotCountedError, count_flops
from strokecore.bench.inputs import bench_slices
from strokecore.bench.machine import load_average, machine_facts
from strokecore.bench.record import engine_lines, model_facts, peak_lines, steps_facts
from strokecore.bench.settings import NONE, BenchSettings
from strokecore.bench.steps import measure_steps
from strokecore.bench.subjects import KINDS, Kind, find_subjects
from strokecore.bench.words import in_words, without_folders
from strokecore.learned.devices import THREADS_VARIABLE, default_threads, gpus
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.shipped import SHIPPED, package_folder

SCHEMA_VERSION = 1

Say = Callable[[str], None]
"""Told in a few words what is done next."""


def run_bench(
    settings: BenchSettings, kinds: Mapping[str, Kind] = KINDS, say: Say = lambda words: None
) -> dict[str, Any]:
    """Measure what ``settings`` asks for; JSON-ready, as strokecore/bench/bench.schema.json has it.

    Raises
    ------
    UsageError: no such engine or precision.
    ModelPackageError: the package cannot be used.
    """
    threads = settings.threads or default_threads()
    folder = package_folder(settings.model) or SHIPPED
    package = None if settings.engines == (NONE,) else load_package(folder)
    record: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": settings.command(),
        "strokecore": __version__,
        "machine": machine_facts(),
        "threads": threads,
        "load_average": {"before": load_average()},
        "model": None,
        "peaks": [],
        "engines": [],
        "pipeline": None,
    }
    with _threads(threads):
        # engines first: what they compile on their first day is then not compiled beside the pipeline
        if package is not None:
            record |= _engines(package, settings, threads, kinds, say)
        if settings.pipeline_runs:
            say("steps of the pipeline")
            record["pipeline"] = _pipeline(settings)
    record["load_average"]["after"] = load_average()
    return record


def _engines(
    package: ModelPackage, settings: BenchSettings, threads: int, kinds: Mapping[str, Kind], say: Say
) -> dict[str, Any]:
    """The parts of the record that are about engines."""
    subjects = find_subjects(settings.engines, settings.precisions, kinds, gpu=bool(gpus()))
    slices = bench_slices(package, settings.slices)
    flops, not_counted = _flops(package)
    measured = measure_engines(package, subjects, slices, settings, threads, say)
    return {
        "model": model_facts(package, slices.origin, flops, not_counted),
        "peaks": peak_lines(measured),
        "engines": engine_lines(measured, sum(flops.values()) if flops else None),
    }


def _pipeline(settings: BenchSettings) -> dict[str, Any]:
    try:
        return steps_facts(measure_steps(settings.dicom, settings.model, settings.pipeline_runs))
    except Exception as error:  # engines' hours are not thrown away for it
        return {"error": in_words(error)}


def _flops(package: ModelPackage) -> tuple[dict[str, int] | None, str | None]:
    try:
        return count_flops(package.onnx), None
    except NotCountedError as error:
        return None, without_folders(str(error))


@contextmanager
def _threads(threads: int) -> Iterator[None]:
    """The pipeline's engines take their threads from the environment, here and in new processes."""
    kept = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = str(threads)
    try:
        yield
    finally:
        if kept is None:
            del os.environ[THREADS_VARIABLE]
        else:
            os.environ[THREADS_VARIABLE] = kept
