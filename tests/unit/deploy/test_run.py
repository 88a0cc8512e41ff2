"""What deploy/run makes of its words, with stand-ins for the installation and the demonstration."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"
# Says the extra that would be installed, and the words that the demonstration would get.
COMMON = """
set -euo pipefail
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
NODE_PACKAGES=(orthanc)
PYTHON=$ROOT/python
say() { printf '%s\\n' "$*"; }
prepare_state_folder() { :; }
only_one() { :; }
install_packages() { :; }
make_environment() { say "extra: $1"; }
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script in a folder of its own."""
    deploy = tmp_path / "checkout" / "deploy"
    deploy.mkdir(parents=True)
    shutil.copy(DEPLOY / "run", deploy / "run")
    (deploy / "common.sh").write_text(COMMON)
    (tmp_path / "checkout" / "python").write_text('#!/bin/bash\nshift 2; echo "words: $*"\n')
    (tmp_path / "checkout" / "python").chmod(0o755)
    return tmp_path / "checkout"


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "deploy" / "run", *words],
        env={"PATH": os.environ["PATH"]},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "extra", "handed_on"),
    [
        ((), "", ""),
        (("--keep",), "", "--keep"),
        (("--model", "shipped"), "cpu", "--model shipped"),
        (("--engine", "auto"), "", "--engine auto"),
        (("--engine", "asymmetry"), "", "--engine asymmetry"),
        (("--engine", "onnx"), "cpu", "--engine onnx"),
        (("--engine", "auto", "--model", "shipped"), "cpu", "--engine auto --model shipped"),
    ],
)
def test_words_are_handed_on_with_what_they_need(
    checkout: Path, words: tuple[str, ...], extra: str, handed_on: str
) -> None:
    done = run(checkout, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"extra: {extra}", f"words: {handed_on}"]


def test_a_folder_is_handed_on_from_wherever_it_is_named(checkout: Path) -> None:
    (checkout / "model").mkdir()
    assert f"words: --model {checkout / 'model'}\n" in run(checkout, "--model", "model").stdout


@pytest.mark.parametrize("words", [("--nonsense",), ("--model",), ("--model", "nowhere")])
def test_wrong_words(checkout: Path, words: tuple[str, ...]) -> None:
    done = run(checkout, *words)
    assert done.returncode == 2
    assert done.stderr
