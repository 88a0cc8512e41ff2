"""Imports point one way, and what starts quickly stays light."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What each package may import of the others: orthanc_plugin -> strokecore <- trainer.
ALLOWED = {
    "strokecore": {"strokecore"},
    "trainer": {"trainer", "strokecore"},
    "orthanc_plugin": {"orthanc_plugin", "strokecore"},
}
PACKAGES = set(ALLOWED)
# Runs inside Orthanc's interpreter, where no third-party package can be counted on. The other two files
# are run by the virtual environment's python.
IN_ORTHANC = sorted(
    path for path in (ROOT / "orthanc_plugin").glob("*.py") if path.name not in ("supervise.py", "notice.py")
)


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = tops(imported(path)) & PACKAGES - ALLOWED[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


# What each room of strokecore may import of the others. Files beside the rooms that stand below all of
# them are in BASE; those above them (pipeline.py, cli.py and what starts from there) may import every room.
BASE = {"_version", "arrays", "config", "errors", "files", "flags"}
ROOMS = {
    "anatomy": set(),
    "reading": set(),
    "head": {"anatomy", "reading"},
    "scoring": {"anatomy", "head", "result"},
    "learned": {"anatomy", "head", "scoring"},
    "reports": {"anatomy", "reading", "result", "identifiers"},
    "simulate": {"anatomy", "head"},
    "atlas_tools": {"anatomy", "head", "reading"},
    "result": {"anatomy"},
    "identifiers": {"reading", "result"},
}


def runtime_imports(path: Path) -> set[str]:
    """Full names that a file imports, the names taken from a package included; not those for types only."""
    names: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str:
    """The second part of a dotted name of strokecore; the name of the package itself for its own names."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_follow_the_way_of_a_series(room: str) -> None:
    place = ROOT / "strokecore" / room
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        used = {room_of(name) for name in runtime_imports(path) if name.split(".")[0] == "strokecore"}
        wrong = used - ROOMS[room] - BASE - {room, "__version__"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_every_room_has_its_rule() -> None:
    above = {"bench", "evaluate"}  # they run the whole pipeline
    rooms = {path.parent.name for path in (ROOT / "strokecore").glob("*/__init__.py")}
    assert rooms - above == {room for room in ROOMS if (ROOT / "strokecore" / room).is_dir()}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_imports_in_a_circle(package: str) -> None:
    modules = {}
    for path in (ROOT / package).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path
    edges = {
        name: {
            target
            for used in runtime_imports(path)
            for target in (used, used.rpartition(".")[0])
            if target in modules and target != name
        }
        for name, path in modules.items()
    }
    # A package's own file counts as imported only where a name is taken from it, not on the way through.
    for used in edges.values():
        used -= {name for name in used if any(other.startswith(f"{name}.") for other in used)}
    # The sorter raises CycleError, which names the circle.
    tuple(graphlib.TopologicalSorter(edges).static_order())


def test_only_the_entry_point_imports_orthanc() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "orthanc" in tops(imported(path))
    }
    assert users == {"orthanc_plugin/plugin.py"}


@pytest.mark.parametrize("path", IN_ORTHANC, ids=lambda p: p.name)
def test_the_plugin_uses_the_standard_library_only(path: Path) -> None:
    names = imported(path)
    assert tops(names) <= set(sys.stdlib_module_names) | {"orthanc", "orthanc_plugin", "strokecore"}
    ours = {name for name in names if name.split(".")[0] == "strokecore"}
    assert ours <= {"strokecore", "strokecore.learned.runtimes", "strokecore.reading.acquisition"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``statement``."""
    code = (
        f"{statement}\nimport json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {
    "torch",
    "tensorrt",
    "numpy",
    "scipy",
    "SimpleITK",
    "pydicom",
    "highdicom",
    "onnxruntime",
    "openvino",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import strokecore",
        "import strokecore.reading.acquisition",
        "import strokecore.learned.runtimes",
        "import orthanc_plugin.dispatcher, orthanc_plugin.rest",
    ],
)
def test_light_imports_stay_light(statement: str) -> None:
    assert not modules_after(statement) & HEAVY


def test_scoring_needs_no_training_or_gpu_package() -> None:
    loaded = modules_after("import strokecore.pipeline, strokecore.reports.outputs")
    assert not loaded & {"torch", "tensorrt", "nibabel", "nilearn", "matplotlib", "distributed"}
