"""Imports point one way, and what starts quickly stays light."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What each package may import of the others, see DESIGN: orthanc_plugin -> strokecore <- trainer.
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
