from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from trainer.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'torch', 'transformers', 'monai', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-steps" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["prepare"],
        ["prepare", "simulated", "out"],
        ["train", "--config", "x"],
        ["evaluate", "run"],
        ["ablate", "--config", "x", "--data", "y", "--seeds", "many"],
        ["export", "run"],
        ["unknown"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["5", "9..3", "a..b", "-1..5", "30000..30010"])
def test_bad_seeds_are_named(seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "simulated", str(tmp_path / "out"), "--n", "1", f"--seeds={seeds}"]) == 2
    assert "seeds" in capsys.readouterr().err
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_missing_recipe_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(tmp_path / "none.yaml"), "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    assert main(["train", *given]) == 2
    assert "none.yaml is not there" in capsys.readouterr().err


def test_a_missing_package_names_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without_torch(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("trainer.config"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    given = ["--config", "x.yaml", "--data", str(tmp_path), "--run", str(tmp_path / "run")]
    assert main(["train", *given]) == 2
    assert "pip install 'strokecore[train]'" in capsys.readouterr().err
