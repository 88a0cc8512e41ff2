"""Whether two checkouts give the same answers: before and after a change that should change none.

    python tests/studies/same_answers.py BEFORE AFTER --data DIR [--out FOLDER] [--only GROUP ..]
        [--python-before PYTHON] [--python-after PYTHON]

BEFORE and AFTER are folders of checkouts. Only their command lines are called, ``python -m strokecore`` and
``python -m trainer``, from inside each checkout and with one thread, so that names inside do not matter. The
Python is the checkout's own .venv, where AFTER has none BEFORE's. DIR is the folder of test data.

- weight-free: the real head and simulated ones; calls, volumes, quality and all voxels are the same, exactly.
- phantoms: what must be refused is refused with the same exit status, code, words and picture.
- shipped: the shipped model's calls are the same, probabilities to within TOLERANCE.
- sample: ``strokecore sample`` draws the same pixels.
- train: ``trainer prepare`` makes the same arrays, a short ``trainer train`` the same curve and weights.

BEFORE simulates the heads and prepares the cases, and AFTER gets those. Rows marked "noted" are told and not
counted: a new version may give new UIDs to the same answer. FOLDER keeps every run; what BEFORE gave is taken
from there the next time, so remove FOLDER/before when BEFORE, the data or the heads have changed. The table
is kept in FOLDER/same_answers.json. The exit status is 1 when anything that counts differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom

# Of a probability: a graph that is built anew may round the last bits of fp32 otherwise.
TOLERANCE: Final = 1e-4
TIMEOUT_S: Final = 900.0
DATE: Final = "2026-01-01T00:00:00+00:00"
ABSENT: Final = "(absent)"
# What of result.json is the same exactly, with all volumes (names that end in _ml).
ANSWER: Final = ("status", "aspects", "affected_side", "regions", "quality", "haemorrhage", "series")
# Of an image, and of a frame of a segmentation: what says which voxels the pixels are.
PLACE: Final = ("Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient")
FRAME: Final = ("SegmentIdentificationSequence", "PlanePositionSequence", "PlaneOrientationSequence")
# What is compared of the shipped model's answer, of its regions and of what computed it.
DECIDED: Final = ("status", "aspects", "affected_side")
ENGINE: Final = ("engine", "precision", "fallbacks")
CALLS: Final = ("affected", "borderline", "assessable", "reason")
# Sums of floating-point numbers depend on how they are shared out among threads.
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
# Options of ``strokecore sample``. Near 30 HU of depth the infarct is as dark as CSF and called old.
HEADS: Final = {
    "tilted-right": "--seed 7101 --affected right:I,M1,M2 --delta-hu 8 --tilt 18",
    "tilted-left": "--seed 7102 --affected left:M4,M5 --tilt -15",
    "thick-left": "--seed 7103 --affected left:C,L,IC,I --delta-hu 7 --thickness 8",
    "thin-right": "--seed 7104 --affected right:M2,M3 --thickness 1.25",
    "thin-tilted": "--seed 7105 --affected left:I,M1 --delta-hu 5 --thickness 2.5 --tilt 10",
    "old-left": "--seed 7106 --affected left:M3,M6 --delta-hu 30",
    "old-right": "--seed 7107 --affected right:M2 --delta-hu 26 --tilt -8",
    "blood": "--seed 7108 --blood-ml 25",
    "blood-infarct": "--seed 7109 --affected right:L,IC --delta-hu 7 --blood-ml 6",
    "none": "--seed 7110",
    "faint": "--seed 7111 --affected right:I,L --delta-hu 3",
    "deep-bilateral": "--seed 7112 --affected right:I,L,IC,M1,M2,M3,M4,M5,M6;left:M5 --delta-hu 14",
}
SHIPPED_HEADS: Final = ("real", "tilted-right", "thick-left", "old-left", "none")
# Seeds below 10000 train and those from there validate: seven heads and one.
PREPARED: Final = "--n 8 --seeds 9993..10000 --workers 1"
# The recipe is made small and short, and still has gate, coupling and two validations.
RECIPE: Final = Path("trainer", "recipes", "simulated_tiny.yaml")
SHORTENED: Final = {"steps": "12\n  warmup_steps: 2", "pairs": "2", "validate_every": "6"}


@dataclass(frozen=True)
class Run:
    """One command of one checkout, done. ``out``: what it wrote; ``said``: its last line."""

    status: int
    out: Path
    said: str

    def images(self, pattern: str) -> dict[str, Any]:
        """What the DICOM files show, by name."""
        return {path.name: image(path) for path in sorted(self.out.glob(pattern))}

    def result(self) -> dict[str, Any]:
        """result.json with its regions by name; empty when there is none."""
        path = self.out / "result.json"
        if not path.exists():
            return {}
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found | {"regions": {f"{row['side']} {row['name']}": row for row in found["regions"]}}

    def answer(self) -> dict[str, Any]:
        """What result.json says of the head."""
        found = self.result()
        return {name: found[name] for name in found if name in ANSWER or name.endswith("_ml")}

    def calls(self) -> dict[str, Any]:
        """What is decided and by which engine, without the numbers behind it."""
        found = self.result()
        regions = {name: {k: row.get(k) for k in CALLS} for name, row in found.get("regions", {}).items()}
        used = {name: (found.get("model") or {}).get(name) for name in ENGINE}
        return {name: found[name] for name in DECIDED if name in found} | used | regions

    def uids(self) -> dict[str, str]:
        """The result key, and SOPInstanceUID by file."""
        found = {path.name: pydicom.dcmread(path).SOPInstanceUID for path in sorted(self.out.rglob("*.dcm"))}
        return {"result_key": str(self.result().get("result_key"))} | found

    def files(self) -> dict[str, Any]:
        """Bytes of each file but result.json, which holds durations."""
        paths = sorted(path for path in self.out.rglob("*") if path.is_file() and path.name != "result.json")
        return {f"{path.relative_to(self.out)}": np.fromfile(path, np.uint8) for path in paths}

    def arrays(self) -> dict[str, Any]:
        """Arrays of the prepared cases, by case."""
        return {path.stem: dict(np.load(path)) for path in sorted(self.out.glob("cases/*.npz"))}

    def curve(self) -> list[dict[str, str]]:
        """Rows of the table of losses without their duration."""
        for path in sorted(self.out.glob("*.csv")):
            rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
            if rows and "loss" in rows[0]:
                return [{name: text for name, text in row.items() if name != "seconds"} for row in rows]
        return []

    def weights(self) -> dict[str, Any]:
        """Tensors of the best weights as bytes, without the header, which names the recipe's hash."""
        read = {path.name: path.read_bytes() for path in self.out.glob("best.safetensors")}
        start = {name: 8 + int.from_bytes(content[:8], "little") for name, content in read.items()}
        return {name: np.frombuffer(content[start[name] :], np.uint8) for name, content in read.items()}


@dataclass(frozen=True)
class Check:
    """``of``: what is compared; ``counts``: a difference is a failure; ``needed``: so is absence."""

    name: str
    of: Callable[[Run], Any]
    counts: bool = True
    needed: bool = False


DONE: Final = Check("exit", lambda run: "" if run.status else "exit 0", needed=True)
ENDED: Final = Check("exit", lambda run: f"exit {run.status}", needed=True)
BYTES: Final = Check("bytes", Run.files, counts=False)
SCORED: Final = (
    Check("answer", Run.answer, needed=True),
    Check("seg.dcm pixels", lambda run: run.images("seg.dcm")),
    Check("regions.dcm pixels", lambda run: run.images("regions.dcm")),
    Check("sc/*.dcm pixels", lambda run: run.images("sc/*.dcm")),
    Check("UIDs", Run.uids, counts=False),
    BYTES,
)
SHIPPED: Final = (DONE, Check("calls", Run.calls, needed=True))
SAMPLED: Final = (DONE, Check("pixels", lambda run: run.images("*.dcm"), needed=True), BYTES)
PREPARED_CASES: Final = (DONE, Check("arrays", Run.arrays, needed=True))
TRAINED: Final = (DONE, Check("curve", Run.curve, needed=True), Check("weights", Run.weights, needed=True))


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    check: str
    same: bool
    where: str
    counts: bool = True

    def __str__(self) -> str:
        verdict = ("" if self.counts else "noted ") + ("same" if self.same else "different")
        return f"{self.case:<30} {self.check:<18} {verdict:<15} {self.where}".rstrip()


@dataclass(frozen=True)
class Checkout:
    """``name``: before or after; ``runs``: the folder of its runs; ``keep``: whether a run is used again."""

    name: str
    folder: Path
    python: Path
    runs: Path
    keep: bool

    def run(self, case: str, *words: str) -> Run:
        """Call ``python -m WORDS`` from the checkout; "{out}" among the words is the run's own folder."""
        folder = self.runs / case
        record, out, cache = folder / "run.json", folder / "out", folder / "cache"
        asked = {"checkout": str(self.folder), "words": list(words)}
        kept = json.loads(record.read_text("utf-8")) if self.keep and record.exists() else {}
        if kept.get("asked") != asked:
            shutil.rmtree(folder, ignore_errors=True)
            cache.mkdir(parents=True, mode=0o700)
            began = time.monotonic()
            done = self.call("-m", *(word.replace("{out}", str(out)) for word in words), cache=cache)
            shutil.rmtree(cache)
            (folder / "said.txt").write_text(done.stdout, "utf-8")
            said = (done.stdout.strip().splitlines() or [""])[-1].strip()
            seconds = round(time.monotonic() - began, 2)
            kept = {"asked": asked, "status": done.returncode, "said": said, "seconds": seconds}
            record.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        return Run(kept["status"], out, kept["said"])

    def call(self, *words: str, cache: Path) -> subprocess.CompletedProcess[str]:
        """Run Python with this checkout's packages first and one thread; leave its sources untouched."""
        own = {"PYTHONPATH": f"{self.folder}", "PYTHONDONTWRITEBYTECODE": "1", "STROKECORE_CACHE": f"{cache}"}
        return subprocess.run(
            [str(self.python), *words],
            cwd=self.folder,
            env=os.environ | own | dict.fromkeys(("STROKECORE_THREADS", *THREADS), "1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )

    def check(self) -> None:
        """Leave unless Python takes the packages of this checkout and of no other one."""
        code = (
            "import importlib.util as u; print(*(u.find_spec(n).origin for n in ('strokecore', 'trainer')))"
        )
        said = self.call("-c", code, cache=self.runs).stdout.strip()
        if not said or not all(Path(path).is_relative_to(self.folder) for path in said.split()):
            sys.exit(f"{self.name}: Python takes {said}, expected packages below {self.folder}.")


@dataclass(frozen=True)
class Pair:
    """The two checkouts and what both are given. ``data``: test data; ``made``: inputs made here."""

    before: Checkout
    after: Checkout
    data: Path
    made: Path

    def run(self, case: str, *words: str) -> tuple[Run, Run]:
        """The same command on both sides."""
        return self.before.run(case, *words), self.after.run(case, *words)

    def score(self, case: str, folder: Path, options: str) -> tuple[Run, Run]:
        """Score one folder on both sides."""
        fixed = ("--out", "{out}", "--content-datetime", DATE)
        return self.run(case, "strokecore", "score", str(folder), *fixed, *options.split())

    def head(self, name: str) -> Path:
        """The real head, or a simulated one that BEFORE has made."""
        if name == "real":
            return self.data / "real_head_ct"
        return self.before.run(f"sample/{name}", "strokecore", "sample", "{out}", *HEADS[name].split()).out


def weight_free(pair: Pair) -> Iterator[Row]:
    """The weight-free engine on every head: the whole answer, exactly."""
    for name in ("real", *HEADS):
        case = f"weight-free/{name}"
        yield from rows(case, pair.score(case, pair.head(name), "--engine asymmetry"), DONE, *SCORED)


def phantoms(pair: Pair) -> Iterator[Row]:
    """Inputs that are refused: the phantom's series and copies of a head that are spoilt."""
    root = pair.data / "head_phantom"
    series = {"-".join(path.parts[-2:]): path for path in sorted(root.glob("*/*")) if path.is_dir()}
    for name, folder in (series | spoilt(pair)).items():
        yield from rows(f"phantoms/{name}", pair.score(f"phantoms/{name}", folder, ""), ENDED, *SCORED)


def shipped(pair: Pair) -> Iterator[Row]:
    """The shipped model on the real head and a few others, on two engines."""
    for engine in ("onnx", "openvino"):
        for name in SHIPPED_HEADS:
            case = f"shipped/{engine}-{name}"
            runs = pair.score(case, pair.head(name), f"--model shipped --engine {engine}")
            yield from rows(case, runs, *SHIPPED)
            yield probabilities(case, runs)


def sample(pair: Pair) -> Iterator[Row]:
    """Simulated heads, made on both sides from the same seeds."""
    for name, options in HEADS.items():
        runs = pair.run(f"sample/{name}", "strokecore", "sample", "{out}", *options.split())
        yield from rows(f"sample/{name}", runs, *SAMPLED)


def train(pair: Pair) -> Iterator[Row]:
    """Cases that both sides prepare, and a short training of both on BEFORE's."""
    made = pair.run("train/prepared", "trainer", "prepare", "simulated", "{out}", *PREPARED.split())
    yield from rows("train/prepared", made, *PREPARED_CASES)
    words = ("trainer", "train", "--data", str(made[0].out), "--run", "{out}", "--config")
    one, other = (
        side.run("train/trained", *words, str(recipe(side, pair.made))) for side in (pair.before, pair.after)
    )
    yield from rows("train/trained", (one, other), *TRAINED)


GROUPS: Final[dict[str, Callable[[Pair], Iterator[Row]]]] = {
    "weight-free": weight_free,
    "phantoms": phantoms,
    "shipped": shipped,
    "sample": sample,
    "train": train,
}


def rows(case: str, runs: tuple[Run, Run], *checks: Check) -> Iterator[Row]:
    """One row per check; where nothing differs, it says what was compared."""
    for check in checks:
        one, other = (check.of(run) for run in runs)
        places = list(differences(one, other))
        if not len(one) and not len(other):
            places = [f"absent from both: {runs[1].said}"] if check.needed else []
        more = f"; and {len(places) - 2} more" if len(places) > 2 else ""
        yield Row(case, check.name, not places, "; ".join(places[:2]) + more or _told(one), check.counts)


def probabilities(case: str, runs: tuple[Run, Run]) -> Row:
    """Probabilities of the assessed regions, within TOLERANCE; the largest difference is told."""
    one, other = (
        {name: row["probability"] for name, row in run.answer().get("regions", {}).items()} for run in runs
    )
    pairs = [(one.get(name), other.get(name)) for name in one.keys() | other.keys()]
    lone = sum((p is None) != (q is None) for p, q in pairs)
    gaps = [abs(p - q) for p, q in pairs if p is not None and q is not None]
    told = f"largest difference {max(gaps, default=0.0):.1e} of {len(gaps)} regions, {lone} on one side only"
    return Row(case, "probabilities", bool(gaps) and not lone and max(gaps) <= TOLERANCE, told)


def image(path: Path) -> dict[str, Any]:
    """What a DICOM image shows and where; of a segmentation also what each frame is, UIDs aside."""
    header = pydicom.dcmread(path)
    shown: dict[str, Any] = {name: str(header.get(name)) for name in PLACE}
    shown["segments"] = [str(segment.SegmentLabel) for segment in header.get("SegmentSequence", [])]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        shown[groups] = [
            {name: str(group[name][0]) for name in FRAME if name in group} for group in header.get(groups, [])
        ]
    return shown | {"pixels": np.frombuffer(header.PixelData, np.uint8)}


def recipe(side: Checkout, made: Path) -> Path:
    """The checkout's own recipe with SHORTENED set, named by its content."""
    text = (side.folder / RECIPE).read_text("utf-8")
    for name, value in SHORTENED.items():
        text, count = re.subn(rf"(?m)^  {name}: *\d+", f"  {name}: {value}", text)
        if count != 1:
            sys.exit(f"{side.name}: {RECIPE} has {count} lines with {name}, expected 1.")
    made.mkdir(parents=True, exist_ok=True)
    path = made / f"recipe-{hashlib.sha256(text.encode()).hexdigest()[:12]}.yaml"
    path.write_text(text, "utf-8")
    return path


def spoilt(pair: Pair) -> dict[str, Path]:
    """Copies of a simulated head that must be refused, and a folder without a file."""
    source = sorted(pair.head("none").glob("*.dcm"))
    third = len(source) // 3
    kinds: dict[str, tuple[list[Path], dict[str, str]]] = {
        "child": (source, {"PatientAge": "010Y"}),
        "contrast": (source, {"ContrastBolusAgent": "IOHEXOL"}),
        "gap": (source[:third] + source[2 * third :], {}),
        "empty": ([], {}),
    }
    for name, (paths, values) in kinds.items():
        folder = pair.made / name
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.iterdir())) < len(paths):
            for path in paths:
                header = pydicom.dcmread(path)
                header.update(values)
                header.save_as(folder / path.name)
    return {name: pair.made / name for name in kinds}


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two values differ: JSON's and arrays, exactly, so that 1 and 1.0 are told apart."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key, ABSENT), other.get(key, ABSENT), f"{path} {key}".strip())
    elif isinstance(one, list) and isinstance(other, list):
        for index, (first, second) in enumerate(zip_longest(one, other, fillvalue=ABSENT)):
            yield from differences(first, second, f"{path} [{index}]".strip())
    elif isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            yield f"{path}: {one.dtype} {one.shape} -> {other.dtype} {other.shape}"
        elif one.tobytes() != other.tobytes():
            yield f"{path}: {np.count_nonzero(one != other)} of {one.size} values"
    elif repr(one) != repr(other):
        yield f"{path}: {_told(one)} -> {_told(other)}"


def _told(value: Any) -> str:
    if isinstance(value, dict) and value.get("status"):
        return ", ".join([value["status"], *(flag["code"] for flag in value.get("quality", []))])
    if isinstance(value, dict | list | np.ndarray):
        return f"{len(value)} compared" if len(value) else "none on either side"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build", "same_answers"))
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--python-before", type=Path)
    parser.add_argument("--python-after", type=Path)
    options = parser.parse_args()
    before, after, out = (path.resolve() for path in (options.before, options.after, options.out))
    venv = Path(".venv", "bin", "python")
    # A virtual environment's Python is a link: resolve() would lose the environment.
    python = (options.python_before or before / venv).absolute()
    other = (options.python_after or (after / venv if (after / venv).exists() else python)).absolute()
    pair = Pair(
        Checkout("before", before, python, out / "before", keep=True),
        Checkout("after", after, other, out / "after", keep=False),
        options.data.resolve(),
        out / "made",
    )
    pair.before.check()
    pair.after.check()
    table: list[Row] = []
    seconds: dict[str, float] = {}
    for group in options.only:
        began = time.monotonic()
        for row in GROUPS[group](pair):
            table.append(row)
            print(row, flush=True)
        seconds[group] = round(time.monotonic() - began, 1)
    report = {
        "before": str(before),
        "after": str(after),
        "seconds": seconds,
        "rows": [asdict(r) for r in table],
    }
    (out / "same_answers.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(", ".join(f"{group} {taken:.0f} s" for group, taken in seconds.items()))
    noted, counted = ([row.same for row in table if row.counts == counts] for counts in (False, True))
    print(f"noted: {sum(noted)} same, {len(noted) - sum(noted)} different")
    print(f"{sum(counted)} same, {len(counted) - sum(counted)} different")
    sys.exit(not all(counted))


if __name__ == "__main__":
    main()
