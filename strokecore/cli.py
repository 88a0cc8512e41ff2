"""The ``strokecore`` command: thin over the API. Heavy imports happen inside the commands."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strokecore._version import __version__
from strokecore.config import OUTPUT_KINDS
from strokecore.errors import EngineError, ModelPackageError, StrokeCoreError, UsageError
from strokecore.learned.runtimes import ENGINE_CHOICES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    from strokecore.result import Scored

# Behind everything that scores: a build takes a core and minutes.
_BACKGROUND_NICENESS: Final = 15

_BLOOD_PLACES_HELP: Final = "parenchymal (default), subdural, bilateral_subdural, subarachnoid or ventricular"

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 3

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 usage, 3 refused or ineligible)."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    options.command = shlex.join(["strokecore", *words])
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # of our own log alone is known that it holds no patient data
    logging.getLogger("strokecore").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        return int(options.run(options))
    except (UsageError, ModelPackageError) as error:
        print(f"strokecore: {error}", file=sys.stderr)
        return EXIT_USAGE
    except StrokeCoreError as error:
        print(f"strokecore: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _score(options: argparse.Namespace) -> int:
    from rich.console import Console

    from strokecore.config import ScoringConfig, check_outputs
    from strokecore.pipeline import score_folder
    from strokecore.reading.files import archive_kind
    from strokecore.reading.tags import quiet_pydicom
    from strokecore.reports.outputs import failed_run, prepare, reason, write_all
    from strokecore.reports.terminal import print_table

    if not options.folder.is_dir():
        kind = archive_kind(options.folder) if options.folder.is_file() else None
        what = f"an archive ({kind}); unpack it and" if kind else "not a folder;"
        raise UsageError(f"{options.folder} is {what} give the folder that holds the DICOM files.")
    config = ScoringConfig(
        engine=options.engine,
        model=options.model,
        atlas=options.atlas,
        region_cut=options.region_cut,
        withhold_on_blood=not options.score_despite_blood,
        minimum_age_years=options.minimum_age,
        outputs=check_outputs(options.outputs),
    )
    given = {"content_datetime": options.content_datetime, "supersedes": options.supersedes}

    def failed(error: Exception) -> Scored:  # a defect of ours: said in every output, never silent
        # where and what kind, without the error's text: it can hold a header's values
        places = "".join(traceback.format_tb(error.__traceback__))
        log.error("scoring failed\n%s%s: (text withheld)", places, type(error).__qualname__)
        return failed_run(config, error, **given)

    try:
        prepare(options.folder, options.out)
        try:
            with quiet_pydicom():
                scored = score_folder(options.folder, config, series_uid=options.series, **given)
        except StrokeCoreError:
            raise
        except Exception as error:
            scored = failed(error)
        try:
            scored = write_all(scored, options.folder, options.out, options.series, config.outputs)
        except (StrokeCoreError, OSError):
            raise
        except Exception as error:
            scored = write_all(failed(error), options.folder, options.out, options.series, config.outputs)
    except OSError as error:
        print(f"strokecore: cannot write to the output folder: {reason(error)}", file=sys.stderr)
        return EXIT_FAILED
    print_table(scored.result, Console(soft_wrap=True))
    status = scored.result.status
    if status == "failed":
        return EXIT_FAILED
    return EXIT_OK if status in ("scored", "withheld") else EXIT_REFUSED


def _sample(options: argparse.Namespace) -> int:
    from strokecore.simulate import parse_affected, random_spec, write_sample

    base, changes = None, {}
    if options.anatomy is not None:
        from strokecore.simulate.people import load_person

        base = load_person(options.anatomy, options.second_atlas)
        changes = {"anatomy": base.anatomy, "definition": options.definition}
    elif options.second_atlas is not None or options.definition != "atlas":
        raise UsageError("--second-atlas and --definition belong to --anatomy; give a label map as well.")
    if options.blood_ml == 0 and (options.blood_place is not None or options.blood_side is not None):
        raise UsageError("--blood-place and --blood-side belong to --blood-ml; give a volume as well.")
    spec = random_spec(
        options.seed,
        affected=parse_affected(options.affected),
        delta_hu=options.delta_hu,
        thickness_mm=options.thickness,
        tilt_deg=options.tilt,
        blood_ml=options.blood_ml,
        **changes,
        blood_place=options.blood_place or "parenchymal",
        blood_side=options.blood_side or "left",
    )
    try:
        folder = write_sample(options.out, spec, base)
    except OSError as error:
        raise UsageError(f"cannot write to {options.out}: {error.strerror}; give another folder.") from error
    files = len(list(folder.glob("*.dcm")))
    print(f"{files} slices of a simulated head CT in {folder}; the truth is in {folder / 'truth'}")
    return EXIT_OK


def _evaluate(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from strokecore.config import ScoringConfig
    from strokecore.evaluate.cases import find_cases, of_one_split
    from strokecore.evaluate.evaluation import evaluate
    from strokecore.evaluate.table import print_study

    cases = find_cases(options.cases, options.delta_hu, options.normals, options.anatomy)
    cases = of_one_split(cases, options.split, mixed=options.mixed_splits)
    columns = (TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("cases", total=len(cases))
        record = evaluate(
            cases,
            ScoringConfig(engine=options.engine, model=options.model, region_cut=options.region_cut),
            options.out,
            command=options.command,
            workers=options.workers,
            timeout_s=options.timeout,
            done=lambda: progress.advance(task),
        )
    print_study(record, Console(soft_wrap=True))
    # a study is done also where the node refused or failed some cases: they are named in every output
    return EXIT_OK if record["figures"]["processed"]["fraction"]["value"] > 0 else EXIT_FAILED


def _send(options: argparse.Namespace) -> int:
    from strokecore.send import send_folder

    sent = send_folder(options.folder, options.host, options.port, options.aet)
    print(sent.summary())
    return EXIT_OK if sent.ok else EXIT_FAILED


def _info(options: argparse.Namespace) -> int:
    from rich.console import Console

    from strokecore.info import print_info

    print_info(Console(soft_wrap=True))
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    """Exit status 0 when nothing failed; warnings do not count."""
    from rich.console import Console

    from strokecore.doctor import as_json, examine, find_orthanc, is_well, print_checks

    orthanc = find_orthanc(options.config, options.url, options.user, options.password_file)
    checks = list(examine(orthanc, options.engine, options.model))
    if options.json:
        print(as_json(checks))
    else:
        print_checks(checks, Console(soft_wrap=True))
    return EXIT_OK if is_well(checks) else EXIT_FAILED


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


def _build_engine(options: argparse.Namespace) -> int:
    """Exit status 0 when every engine is there, 1 when one could not be built.

    With --background also 0 when another build is at work on the GPU; the next worker asks again.
    """
    from rich.console import Console

    from strokecore.learned.package import load_package
    from strokecore.learned.runtimes import availability, package_precisions, runtime_kind
    from strokecore.learned.shipped import package_folder
    from strokecore.learned.tensorrt.build import build
    from strokecore.learned.tensorrt.engine_files import engine_file

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
    for precision in options.precision or package_precisions("tensorrt", package)[:1]:
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


def _moment(text: str) -> str:
    """An ISO 8601 date and time as it was given. Raises ValueError, which argparse reports."""
    datetime.fromisoformat(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="strokecore", description="ASPECTS on non-contrast head CT. Research use only."
    )
    parser.add_argument("--version", action="version", version=f"strokecore {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, on standard error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="score the head CT in a folder of DICOM files")
    score.add_argument("folder", type=Path, metavar="DICOM_DIR", help="DICOM files of one study")
    score.add_argument(
        "--out", type=Path, required=True, help="folder for the results; earlier ones are replaced"
    )
    score.add_argument("--model", type=Path, help="folder of a model package, or shipped")
    score.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="what segments; auto")
    score.add_argument("--atlas", type=Path, help="folder of the site's own atlas")
    score.add_argument(
        "--region-cut", type=Path, metavar="FILE", help="the site's own decision point, as JSON"
    )
    score.add_argument("--series", metavar="UID", help="score this series instead of choosing")
    score.add_argument(
        "--outputs",
        type=_words,
        default=OUTPUT_KINDS,
        metavar="KIND,KIND",
        help=f"what is written as DICOM, of {','.join(OUTPUT_KINDS)}; all",
    )
    score.add_argument("--minimum-age", type=int, default=18, metavar="YEARS", help="refuse younger patients")
    score.add_argument("--score-despite-blood", action="store_true", help="do not withhold the score")
    score.add_argument(
        "--content-datetime", type=_moment, metavar="ISO8601", help="content date of the outputs; now"
    )
    score.add_argument("--supersedes", metavar="KEY", help="key of the result that this one replaces")
    score.set_defaults(run=_score)

    sample = commands.add_parser("sample", help="write a simulated head CT with a known infarct")
    sample.add_argument("out", type=Path, metavar="OUT")
    sample.add_argument("--affected", default="", metavar="SIDE:R,R", help="such as right:I,M1,M2;left:M4")
    sample.add_argument("--delta-hu", type=float, default=6.0, help="depth of the infarct in HU")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--thickness", type=float, default=5.0, help="slice thickness in mm")
    sample.add_argument("--tilt", type=float, default=0.0, help="gantry tilt in degrees")
    sample.add_argument("--blood-ml", type=float, default=0.0, help="volume of a haemorrhage")
    sample.add_argument(
        "--anatomy", type=Path, metavar="LABELS.nii.gz", help="make a real person's head, from a label map"
    )
    sample.add_argument(
        "--definition",
        choices=("atlas", "second", "between"),
        default="atlas",
        help="whose region borders are that person's truth; %(default)s",
    )
    sample.add_argument(
        "--second-atlas",
        type=Path,
        metavar="DIR",
        help="masks of the second definition, MNI152_M1_L.nii.gz ...",
    )
    sample.add_argument("--blood-place", metavar="PLACE", help=_BLOOD_PLACES_HELP)
    sample.add_argument("--blood-side", choices=("left", "right"), help="its side; left")
    sample.set_defaults(run=_sample)

    evaluate = commands.add_parser("evaluate", help="how good the node is on cases with known truth")
    evaluate.add_argument(
        "cases",
        metavar="CASES",
        help="folder with one sub-folder per case (DICOM files and truth/truth.json), or simulated:A..B for "
        "heads simulated from the seeds A to B",
    )
    evaluate.add_argument("--out", type=Path, required=True, help="folder for figures, tables and pictures")
    evaluate.add_argument("--model", type=Path, help="folder of a model package, or shipped")
    evaluate.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="what segments; auto")
    evaluate.add_argument(
        "--region-cut", type=Path, metavar="FILE", help="a decision point to be tried, as JSON"
    )
    evaluate.add_argument("--workers", type=int, default=1, help="cases scored at the same time; 1")
    evaluate.add_argument(
        "--split", choices=("tune", "validate", "test"), help="only the cases of this split"
    )
    evaluate.add_argument("--mixed-splits", action="store_true", help="allow cases of several splits")
    evaluate.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for one case; 300")
    evaluate.add_argument(
        "--anatomy",
        type=Path,
        action="append",
        default=[],
        metavar="LABELS",
        help="make the simulated heads from this person's label map; several take turns",
    )
    evaluate.add_argument(
        "--delta-hu",
        type=float,
        help="depth of simulated infarcts in grey matter; 5, or with --anatomy 2, 3, 5 and 8 drawn",
    )
    evaluate.add_argument(
        "--normals", type=int, metavar="N", help="simulated heads without infarct, the last N; a third"
    )
    evaluate.set_defaults(run=_evaluate)

    send = commands.add_parser("send", help="send a folder of DICOM files by C-STORE")
    send.add_argument("folder", type=Path, metavar="DIR")
    send.add_argument("host", metavar="HOST")
    send.add_argument("port", type=int, metavar="PORT")
    send.add_argument("aet", metavar="AET", help="application entity title of the receiver")
    send.set_defaults(run=_send)

    info = commands.add_parser("info", help="versions, atlas, engines and limits")
    info.set_defaults(run=_info)

    doctor = commands.add_parser("doctor", help="what is wrong with this node, and what to do")
    doctor.add_argument(
        "--config", type=Path, metavar="PATH", help="Orthanc's configuration, a file or folder; /etc/orthanc"
    )
    doctor.add_argument("--url", help="Orthanc's address; http://127.0.0.1 and the port of the configuration")
    doctor.add_argument("--user", help="a user of Orthanc; the first of the configuration")
    doctor.add_argument("--password-file", type=Path, metavar="FILE", help="that user's password")
    doctor.add_argument("--engine", choices=ENGINE_CHOICES, help="instead of the configuration's")
    doctor.add_argument(
        "--model", help="folder of a model package, or shipped, instead of the configuration's"
    )
    doctor.add_argument("--json", action="store_true", help="everything, for programs")
    doctor.set_defaults(run=_doctor)

    _add_engines(commands)
    _add_bench(commands)
    _add_build_engine(commands)
    return parser


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
