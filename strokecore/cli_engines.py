"""The commands about engines: ``strokecore engines``, ``build-engine`` and ``bench``; thin over the API."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned.runtimes import ENGINE_CHOICES

# Behind everything that scores: a build takes a core and minutes.
_BACKGROUND_NICENESS: Final = 15

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_engine_commands(commands: Commands) -> None:
    """Add the parsers of these commands to ``strokecore``'s."""
    _add_engines(commands)
    _add_bench(commands)
    _add_build_engine(commands)


def _add_engines(commands: Commands) -> None:
    engines = commands.add_parser("engines", help="which engines are here, which one scores, and why")
    engines.add_argument("--model", type=Path, help="folder of a model package, or shipped")
    engines.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="where to begin; auto")
    engines.add_argument(
        "--check",
        action="store_true",
        help="run the whole parity gate on every engine that is here; TensorRT's are built first",
    )
    engines.add_argument("--json", action="store_true", help="as JSON, with every figure")
    engines.set_defaults(run=_engines)


def _engines(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from strokecore.learned.overview import overview, print_overview

    record = overview(options.model, options.engine, check=options.check)
    if options.json:
        print(json.dumps(record, indent=1, allow_nan=False))
    else:
        print_overview(record, Console(soft_wrap=True))
    return 0 if record["chosen"]["engine"] is not None else 1


def _add_bench(commands: Commands) -> None:
    bench = commands.add_parser("bench", help="how fast every engine is here, and what each step takes")
    bench.add_argument("--model", type=Path, help="folder of a model package; the shipped one")
    bench.add_argument(
        "--engines", type=_words, default=(), metavar="A,B", help="only these, or none; all that are here"
    )
    bench.add_argument("--precisions", type=_words, default=(), metavar="A,B", help="only these; all")
    bench.add_argument("--slices", type=int, default=32, help="of one series; 32")
    bench.add_argument(
        "--batches", type=_numbers, default=(1, 8, 32), metavar="N,N", help="slices in one call; 1,8,32"
    )
    bench.add_argument("--repeats", type=int, default=10, help="rounds of each measurement; 10")
    bench.add_argument(
        "--seconds", type=float, default=120.0, help="no new round of a measurement after this long; 120"
    )
    bench.add_argument("--threads", type=int, metavar="N", help="of the CPU engines; all cores")
    bench.add_argument(
        "--dicom", type=Path, metavar="DIR", help="a head CT for the pipeline; a simulated one"
    )
    bench.add_argument(
        "--pipeline-runs", type=int, default=5, metavar="N", help="scorings of that head; 5; 0 for none"
    )
    bench.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON too")
    bench.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from rich.console import Console

    from strokecore.bench.benchmark import run_benchmark
    from strokecore.bench.settings import BenchSettings
    from strokecore.bench.table import print_benchmark

    settings = BenchSettings(
        model=options.model,
        engines=options.engines,
        precisions=options.precisions,
        slices=options.slices,
        batches=options.batches,
        repeats=options.repeats,
        seconds=options.seconds,
        threads=options.threads,
        dicom=options.dicom,
        pipeline_runs=options.pipeline_runs,
    )
    if options.out is not None and not options.out.parent.is_dir():
        raise UsageError(f"{options.out.parent} is not a folder; give a file in one that exists with --out.")
    with Console(stderr=True).status("bench") as status:
        found = run_benchmark(settings, say=status.update)
    print_benchmark(found, Console(soft_wrap=True))
    if options.out is not None:
        try:
            found.write(options.out)
        except OSError as error:
            raise UsageError(f"cannot write {options.out}: {error.strerror}; the table is above.") from error
    return 0 if found.succeeded else 1


def _add_build_engine(commands: Commands) -> None:
    build = commands.add_parser("build-engine", help="compile a model for this machine's NVIDIA GPU")
    build.add_argument("model", type=Path, metavar="MODEL", help="folder of a model package, or shipped")
    build.add_argument(
        "--precision",
        nargs="+",
        default=[],
        metavar="P",
        help="bf16, fp16, tf32 or fp32, one or several; the first that the package and the GPU have",
    )
    build.add_argument("--force", action="store_true", help="build again what was built before")
    build.add_argument(
        "--background", action="store_true", help="low priority; end if another build is at work"
    )
    build.set_defaults(run=_build_engine)


def _build_engine(options: argparse.Namespace) -> int:
    """Exit status 0 when every engine is there in the end, 1 when one could not be built."""
    from rich.console import Console

    from strokecore.learned.package import load_package
    from strokecore.learned.runtimes import availability, runtime_kind
    from strokecore.learned.shipped import package_folder
    from strokecore.learned.tensorrt import build, engine_file, with_graph

    known = runtime_kind("tensorrt").precisions
    if wrong := [precision for precision in options.precision if precision not in known]:
        raise UsageError(f"precision {', '.join(wrong)}: expected {', '.join(known)}.")
    here = availability("tensorrt")
    if not here.available:
        raise UsageError(f"{here.reason}{here.install and f'; run: {here.install}'}")
    package = load_package(package_folder(options.model) or options.model)
    console = Console(soft_wrap=True)
    if options.background:
        os.nice(_BACKGROUND_NICENESS)
    failed = 0
    for precision in options.precision or with_graph(package, here.precisions)[:1]:
        console.print(f"{package.name} {package.version} in {precision} for {here.device}")
        try:
            built = build(engine_file(package, precision), force=options.force, wait=not options.background)
        except BlockingIOError:
            console.print("another build is at work on this GPU")
            continue
        except (EngineError, ModelPackageError) as error:
            console.print(f"failed: {error}", markup=False)
            failed += 1
            continue
        took = "was there" if built.seconds is None else f"built in {built.seconds:.0f} s"
        least, best, most = built.file.profile
        console.print(
            f"{precision}: {took}, {len(built.engine) / 2**20:.1f} MiB, {least}..{most} slices "
            f"(best {best}), {built.file.path}",
            highlight=False,
            markup=False,
        )
    return 1 if failed else 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in _words(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole numbers such as 1,8,32") from error
