from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from strokecore.cli import main


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from strokecore.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'scipy', 'SimpleITK', 'pydicom', 'highdicom', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "score" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["score"], ["score", "x"], ["score", "x", "--out", "y", "--engine", "magic"], ["unknown"]],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_missing_folder_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    packed = tmp_path / "packed"
    packed.write_bytes(b"PK\x03\x04" + bytes(100))
    assert main(["score", str(packed), "--out", str(tmp_path / "out")]) == 2
    assert "is an archive (zip); unpack it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("extra", [["--engine", "tensorrt"], ["--model", "somewhere"]])
def test_an_engine_or_package_that_cannot_be_had_is_said(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(tmp_path), "--out", str(tmp_path / "out"), *extra]) == 2
    assert "--engine auto or asymmetry" in capsys.readouterr().err


def test_a_sample_of_what_is_no_label_map_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.nii.gz").write_bytes(b"nothing")
    out = str(tmp_path / "out")
    assert main(["sample", out, "--anatomy", str(tmp_path / "labels.nii.gz")]) == 2
    assert "labels.nii.gz cannot be read" in capsys.readouterr().err
    assert main(["sample", out, "--definition", "second"]) == 2
    assert "--anatomy" in capsys.readouterr().err
    assert main(["sample", out, "--blood-place", "subdural"]) == 2
    assert "--blood-ml" in capsys.readouterr().err
    (tmp_path / "a_file").write_bytes(b"")
    assert main(["sample", str(tmp_path / "a_file" / "sample")]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
