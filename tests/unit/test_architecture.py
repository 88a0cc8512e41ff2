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


# Of strokecore, the standard library alone behind each.
PERMITTED = {
    "strokecore",
    "strokecore.config",
    "strokecore.errors",
    "strokecore.files",
    "strokecore.learned.runtimes",
    "strokecore.reading.acquisition",
    "strokecore.reading.header_words",
}


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


# What each room, and each file beside the rooms, may import of its own package. BASE is below everything.
BASE = {"_version", "arrays", "config", "errors", "files", "flags"}
BELOW_PIPELINE = {"anatomy", "head", "identifiers", "learned", "reading", "reports", "result", "scoring"}
RULES: dict[str, dict[str, set[str]]] = {
    "strokecore": {
        **{name: set() for name in BASE - {"config", "files"}},
        "config": {"errors"},
        "files": {"errors"},
        "anatomy": BASE,
        "reading": BASE,
        "head": {*BASE, "anatomy", "reading"},
        "result": {*BASE, "anatomy"},
        "scoring": {*BASE, "anatomy", "head", "result"},
        "learned": {*BASE, "anatomy", "head", "scoring"},
        "identifiers": {*BASE, "reading", "result"},
        "reports": {*BASE, "anatomy", "identifiers", "reading", "result"},
        "pipeline": BASE | BELOW_PIPELINE - {"reports"},
        "simulate": {*BASE, "anatomy", "head", "reading"},
        "evaluate": {*BASE, *BELOW_PIPELINE, "pipeline", "simulate"},
        "bench": {*BASE, *BELOW_PIPELINE, "evaluate", "pipeline", "simulate"},
        "atlas_tools": {*BASE, "anatomy", "head", "reading"},
        "send": {*BASE, "reading"},
        "info": {*BASE, "anatomy", "learned"},
        "doctor": BASE,
        "cli": {
            *BASE,
            *BELOW_PIPELINE,
            "bench",
            "doctor",
            "evaluate",
            "info",
            "pipeline",
            "send",
            "simulate",
        },
    },
    "trainer": {
        "loss": set(),
        "network": set(),
        "config": {"loss", "network"},
        "data": {"config", "loss", "network"},
        "prepare": {"data"},
        "loop": {"config", "data", "loss", "network"},
        "measure": {"data", "loop", "loss", "network"},
        "package": {"data", "measure", "network"},
        "pretrain": {"data", "network"},
        "train": {"config", "data", "loop", "loss", "network"},
        "evaluate": {"data", "loop", "measure", "network", "prepare"},
        "export": {"config", "data", "evaluate", "loop", "measure", "package"},
        "ablate": {"config", "data", "evaluate", "loop", "loss", "measure", "train"},
        "cli": {"ablate", "config", "data", "evaluate", "export", "prepare", "pretrain", "train"},
    },
}
# What names the other only to say a type.
TYPES_ONLY = {("result", "reading")}


def full_names(path: Path, *, types: bool) -> set[str]:
    """Full names that a file imports, names taken from a package included; ``types``: also type-only ones."""
    names: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if id(node) in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place_of(path: Path) -> str:
    """The room of a file, or its own name beside the rooms."""
    inside = path.relative_to(ROOT).parts[1:]
    return inside[0] if len(inside) > 1 else path.stem


@pytest.mark.parametrize("package", sorted(RULES))
def test_rooms_follow_the_way_of_a_series(package: str) -> None:
    rules = RULES[package]
    met = set()
    for path in sorted((ROOT / package).rglob("*.py")):
        place = place_of(path)
        if place in ("__init__", "__main__"):  # the doors, which know the whole house
            continue
        names = [name.split(".") for name in full_names(path, types=True)]
        used = {parts[1] for parts in names if parts[0] == package and len(parts) > 1} - {"__version__"}
        wrong = {u for u in used - rules[place] - {place} if (place, u) not in TYPES_ONLY}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"
        met.add(place)
    assert met == set(rules)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_imports_in_a_circle(package: str) -> None:
    modules = {}
    for path in (ROOT / package).rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path
    # "from a.b import c" needs the module a.b.c where there is one, else the module a.b.
    edges = {
        name: {used if used in modules else used.rpartition(".")[0] for used in full_names(path, types=False)}
        & set(modules) - {name}
        for name, path in modules.items()
    }
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
    assert ours <= PERMITTED


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``statement``."""
    code = (
        f"{statement}\nimport json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "statement",
    [
        "import strokecore",
        "import strokecore.reading.acquisition",
        "import strokecore.learned.runtimes",
        "import orthanc_plugin.dispatcher, orthanc_plugin.rest",
    ],
)
def test_light_imports_need_the_standard_library_only(statement: str) -> None:
    loaded = modules_after(statement) - modules_after("pass")
    assert loaded <= set(sys.stdlib_module_names) | {"strokecore", "orthanc_plugin"}


def test_scoring_needs_no_training_or_gpu_package() -> None:
    loaded = modules_after("import strokecore.pipeline, strokecore.reports.outputs")
    assert not loaded & {"torch", "tensorrt", "cuda", "nibabel", "nilearn", "matplotlib"}
