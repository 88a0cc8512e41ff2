"""The study from the command line: cases, run, figures, page."""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from strokecore.anatomy.atlas import load_atlas
from strokecore.config import ScoringConfig
from strokecore.evaluate.evaluation import study_record, write_study
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.workers import Lost, map_in_processes
from strokecore.files import write_atomically
from strokecore.learned.selection import select_engine
from strokecore.result import SoftwareInfo
from strokecore.scoring.engine import model_info
from strokecore.simulate import SIMULATOR_VERSION, random_person_spec, simulator_sha256, write_sample
from strokecore.simulate.people import load_person
from tests.studies.real_anatomy.acceptance import Measured, Timing, acceptance, fit_figures
from tests.studies.real_anatomy.cases import FIRST_SEED, PERSON_SPLIT, REAL_OFFSET, StudyCase, study_cases
from tests.studies.real_anatomy.page import write_page
from tests.studies.real_anatomy.real_head import RealCase, read_real, real_cases, run_real
from tests.studies.real_anatomy.run import is_done, read_fit, read_outcome, run_case

_ROOT: Final = Path(__file__).resolve().parents[3]
DATA: Final = Path(os.environ.get("STROKECORE_TEST_DATA", _ROOT.parent / "shared" / "data"))
PARTS: Final = ("infarct", "normal", "blood", "average", "real", "time")
TIMEOUT_S: Final = 900.0
# Slice thickness for about 30 and about 300 slices, and the bar in seconds.
_TIMED: Final = ((5.6, 6.0), (0.53, 20.0))


def main() -> None:
    options = _options()
    persons = {p: DATA / "anatomies" / f"person_{p}.nii.gz" for p in options.persons}
    splits = {PERSON_SPLIT.get(p) for p in persons}
    if len(splits) != 1 or None in splits:
        sys.exit(f"persons {', '.join(persons)} are not of one split: {PERSON_SPLIT}")
    if missing := [path.name for path in persons.values() if not path.exists()]:
        sys.exit(f"{missing[0]} is not in the test data; set STROKECORE_TEST_DATA")
    (split,) = splits
    assert split is not None
    first = FIRST_SEED[split] if options.seeds is None else options.seeds
    if REAL_OFFSET + 100 + first > {"tune": 10_000, "validate": 20_000, "test": 30_000}[split]:
        sys.exit(f"seeds from {first} on are not those of {split}")
    second = DATA / "aspects_masks_mni152"
    cases = study_cases(persons, first, options.only, options.limit, options.definition)
    real = real_cases(first + REAL_OFFSET, options.limit) if "real" in options.only else []
    out = options.out.resolve()
    engine = [] if options.model is None else ["--model", str(options.model)]
    _same_node(out, engine)
    simulated = partial(run_case, out=out, second_atlas=second, engine=engine)
    lost = dict(_run(simulated, cases, out, options.workers))
    lost |= _run(partial(run_real, out=out, data=DATA, engine=engine), real, out, options.workers)
    timings = _timings(next(iter(persons.values())), first, second, engine) if "time" in options.only else []
    outcomes: dict[str, list[Outcome]] = {part: [] for part in PARTS[:-1]}
    for case in cases:
        outcomes[case.part].append(read_outcome(case, out, lost.get(case.name)))
    outcomes["real"] = [read_real(case, out, lost.get(case.name)) for case in real]
    fits = {c.name: fit for c in cases if c.part != "blood" and (fit := read_fit(c.name, out)) is not None}
    measured = Measured(outcomes, fits, timings)
    _write(measured, options, out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="real_anatomy", description="The study on real anatomy.")
    parser.add_argument("out", type=Path, help="what the node said of every case is kept here")
    parser.add_argument("--persons", type=lambda text: text.split(","), default=["07", "08"])
    parser.add_argument("--seeds", type=int, help="first seed; that of the persons' split")
    parser.add_argument(
        "--model", type=Path, help="folder of a model package, or shipped; the weight-free engine"
    )
    parser.add_argument("--definition", choices=("atlas", "second", "between"), help="all three by chance")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS)
    )
    parser.add_argument("--limit", type=int, help="only the first so many of each kind of case")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="the page's file; real-anatomy.md in OUT")
    return parser.parse_args()


def _same_node(out: Path, engine: list[str]) -> None:
    """End here where ``out`` holds what another version of the node, or another model, said."""
    digest = hashlib.sha256(" ".join(engine).encode())
    code = (path for kind in ("*.py", "*.json") for path in (_ROOT / "strokecore").rglob(kind))
    for path in sorted(code):
        digest.update(path.read_bytes())
    digest.update(load_atlas().sha256.encode())
    path = out / "node.txt"
    if path.exists() and path.read_text("utf-8") != digest.hexdigest():
        sys.exit(f"{out.name} holds results of another version or model of the node; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, digest.hexdigest().encode())


def _run(function: Any, cases: Sequence[StudyCase | RealCase], out: Path, workers: int) -> Mapping[str, Lost]:
    """Run what is not done yet; a case whose process was lost counts as failed and is tried next time."""
    waiting = [case for case in cases if not is_done(out / case.name)]
    if not waiting:
        return {}
    started, done = time.monotonic(), [0]

    def progress() -> None:
        done[0] += 1
        each = (time.monotonic() - started) / done[0]
        left = each * (len(waiting) - done[0]) / 60
        print(f"\r{done[0]} of {len(waiting)}, {left:.0f} minutes left ", end="", file=sys.stderr, flush=True)

    found = map_in_processes(function, waiting, workers, TIMEOUT_S, progress)
    print(file=sys.stderr)
    lost = {
        case.name: answer for case, answer in zip(waiting, found, strict=True) if isinstance(answer, Lost)
    }
    for name, answer in lost.items():
        print(f"{name}: {answer.why} {answer.kind}", file=sys.stderr)
    return lost


def _timings(person: Path, seed: int, second: Path, engine: Sequence[str]) -> list[Timing]:
    """The command alone on this machine: from its start to its end, and its peak memory."""
    found = []
    base = load_person(person, second)
    for thickness_mm, most_seconds in _TIMED:
        with tempfile.TemporaryDirectory() as scratch:
            images = Path(scratch) / "images"
            spec = random_person_spec(seed, base.anatomy, affected=(), confounder="plain", tilt_deg=0.0)
            write_sample(images, replace(spec, thickness_mm=thickness_mm), base)
            command = [sys.executable, "-m", "strokecore", "score", str(images), "--out", f"{scratch}/out"]
            command += engine
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, _, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - started
            slices = len(list(images.glob("*.dcm")))
            cpu_seconds = usage.ru_utime + usage.ru_stime
            found.append(Timing(slices, seconds, cpu_seconds, usage.ru_maxrss / 2**20, most_seconds))
    return found


def _write(measured: Measured, options: argparse.Namespace, out: Path) -> None:
    """The page, and in the folder of its name the pictures and study.json."""
    rows = acceptance(measured)
    config = ScoringConfig(model=options.model)
    command = shlex.join(["python", "-m", "tests.studies.real_anatomy", *sys.argv[1:]])
    page = (options.page or out / "real-anatomy.md").resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    everything = [o for found in measured.outcomes.values() for o in found]
    record = study_record(
        everything,
        measured.figures,
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        workers=options.workers,
        model=model_info(select_engine(config)),
        software=SoftwareInfo.of(config, load_atlas().sha256),
    )
    record |= {"bars": [asdict(row) for row in rows], "fit": fit_figures(measured) if measured.fits else None}
    heading = {
        "command": f"`{command}`",
        "persons": ", ".join(options.persons),
        "cases": ", ".join(f"{len(found)} {part}" for part, found in measured.outcomes.items() if found),
        "engine": f"{record['model']['name']} {record['model']['version']}",
        "simulator": f"{SIMULATOR_VERSION}, sources {simulator_sha256()[:12]}",
        "date": record["date"],
    }
    write_page(measured, rows, page, out, heading)
    write_study(record, page.with_suffix(""))
    for row in rows:
        verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
        print(f"{row.name:52} {row.bar:30} {row.figure:60} {verdict}")
    print(f"page: {page}")


if __name__ == "__main__":
    main()
