"""deploy/gpu-acceptance with stand-ins for the GPU and the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[3] / "deploy"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script in a folder of its own, with programs of ours first on the path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "checkout" / "deploy").mkdir(parents=True)
    for name in ("gpu-acceptance", "common.sh"):
        shutil.copy(DEPLOY / name, tmp_path / "checkout" / "deploy" / name)
    return tmp_path / "checkout"


def program(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        [checkout / "deploy" / "gpu-acceptance", *words],
        env={"PATH": path, "HOME": str(checkout.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_and_wrong_words(checkout: Path) -> None:
    assert "usage: deploy/gpu-acceptance" in run(checkout, "--help").stdout
    assert run(checkout, "--nonsense").returncode == 2
    assert run(checkout, "--model").returncode == 2


def test_without_a_gpu_it_says_so_and_installs_nothing(checkout: Path) -> None:
    program(checkout.parent / "bin" / "nvidia-smi", "exit 9")
    done = run(checkout)
    assert done.returncode == 1
    assert "No NVIDIA GPU is visible" in done.stderr
    assert not (checkout / ".strokecore").exists()


def test_one_report_holds_every_models_gate_and_bench(checkout: Path) -> None:
    program(checkout.parent / "bin" / "nvidia-smi", "echo 'GPU 0: NVIDIA L4'")
    program(checkout / ".venv-gpu" / "bin" / "python", f'echo "said: $* in {checkout}"')
    done = run(checkout, "--no-install", "--model", str(checkout), "--model", str(checkout.parent))
    assert done.returncode == 0, done.stderr
    report = (checkout / ".strokecore" / "gpu-acceptance.txt").read_text()
    assert report in done.stdout
    for model in ("<checkout>", "<home>"):
        for words in (f"engines --model {model} --check", f"bench --model {model}"):
            assert f"$ strokecore {words}\nsaid: -I -m strokecore {words} in <checkout>" in report
    assert str(checkout) not in report


def test_a_failed_step_costs_the_report_nothing_else(checkout: Path) -> None:
    program(checkout.parent / "bin" / "nvidia-smi", "echo 'GPU 0: NVIDIA L4'")
    program(checkout / ".venv-gpu" / "bin" / "python", 'echo "said: $*"; [ "$4" != engines ]')
    out = checkout.parent / "report.txt"
    done = run(checkout, "--no-install", "--out", str(out))
    assert done.returncode == 1
    assert "exit status 1" in out.read_text()
    assert "said: -I -m strokecore bench --model shipped" in out.read_text()
    assert [path.name for path in checkout.parent.glob("report*")] == ["report.txt"]
