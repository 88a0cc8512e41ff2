"""Building plans in the foreground and in the background, on stand-ins for a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from strokecore.cli import main
from strokecore.errors import EngineError
from strokecore.learned import build_command, devices, plans, tensorrt_plan
from strokecore.learned.devices import gpus
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.tensorrt_api import install_command
from strokecore.learned.tensorrt_plan import (
    background_command,
    build,
    plan_key,
    ready,
    start_background_build,
)
from tests.unit.learned.cuda_fake import FakeCuda
from tests.unit.learned.tensorrt_cases import stand_ins, write_small_package
from tests.unit.learned.tensorrt_fake import FakeTensorRt


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRt]:
    with stand_ins("11.4.0.106", tmp_path / "cache", monkeypatch) as module:
        yield module


def absent() -> None:
    raise OSError("no driver")


def test_the_command_builds_and_says_where(
    package: ModelPackage, trt: FakeTensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", str(package.folder), "--precision", "tf32", "fp32"]) == 0
    said = capsys.readouterr().out
    assert "mirror 1.2.3+test in tf32 for NVIDIA H100 80GB HBM3 (80 GiB, compute capability 9.0)" in said
    assert "1..64 slices (best 32)" in said
    assert str(plans.path_of(plan_key(trt, package, "tf32", gpus()[0]))) in said
    assert ready(package, "tf32")
    assert ready(package, "fp32")
    assert len(trt._builds) == 2
    assert main(["build-engine", str(package.folder), "--precision", "fp32"]) == 0
    assert "was there" in capsys.readouterr().out
    assert len(trt._builds) == 2
    assert main(["build-engine", str(package.folder), "--precision", "fp32", "--force"]) == 0
    assert len(trt._builds) == 3


def test_the_first_precision_of_the_gpu_is_built(package: ModelPackage, trt: FakeTensorRt) -> None:
    assert main(["build-engine", str(package.folder)]) == 0
    assert ready(package, "bf16")
    trt._cuda.names, trt._cuda.capability = ("Tesla T4",), (7, 5)
    assert main(["build-engine", str(package.folder)]) == 0
    assert ready(package, "fp16")


def test_fewer_slices(package: ModelPackage, trt: FakeTensorRt, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build-engine", str(package.folder), "--precision", "fp32", "--max-slices", "20"]
    assert main(arguments) == 0
    assert "1..16 slices (best 16)" in capsys.readouterr().out
    assert ready(package, "fp32")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "int4"], "expected bf16, fp16, tf32, fp32"),
        (["--max-slices", "0"], "expected 1 to 64"),
        (["--max-slices", "65"], "expected 1 to 64"),
        (["--gpu", "3"], "there is no GPU 3"),
    ],
)
def test_wrong_arguments_are_said(
    arguments: list[str],
    words: str,
    package: ModelPackage,
    trt: FakeTensorRt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["build-engine", str(package.folder), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not trt._builds


def test_one_failed_precision_does_not_stop_the_next(
    package: ModelPackage, trt: FakeTensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    trt._cuda.names, trt._cuda.capability = ("Tesla T4",), (7, 5)
    assert main(["build-engine", str(package.folder), "--precision", "bf16", "fp32"]) == 1
    assert "failed: Tesla T4" in capsys.readouterr().out
    assert ready(package, "fp32")


def test_without_a_gpu_the_remedy_is_said(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "open_driver", absent)
    assert main(["build-engine", str(package.folder)]) == 2
    said = capsys.readouterr().err
    assert "no NVIDIA GPU is visible" in said
    assert "pip install 'strokecore[gpu]'" in said


@pytest.mark.parametrize(
    ("version", "command"),
    [("13050", "pip install 'strokecore[gpu]'"), ("12090", "pip install tensorrt-cu12 onnx")],
)
def test_without_tensorrt_the_remedy_fits_the_driver(
    version: str,
    command: str,
    package: ModelPackage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(devices, "open_driver", FakeCuda(version=version))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build-engine", str(package.folder)]) == 2
    assert (
        f"TensorRT cannot be loaded (ModuleNotFoundError: {'import of tensorrt halted'}"
        in capsys.readouterr().err
    )
    assert install_command() == command


def test_an_old_tensorrt_is_refused(
    package: ModelPackage, trt: FakeTensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    trt.__version__ = "8.6.1"
    assert main(["build-engine", str(package.folder)]) == 2
    assert "TensorRT 8.6.1 is too old, expected 10.3 or newer" in capsys.readouterr().err


def test_a_background_build_yields_to_another(
    package: ModelPackage,
    trt: FakeTensorRt,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    niceness: list[int] = []
    monkeypatch.setattr(os, "nice", niceness.append)
    (device,) = gpus()
    arguments = ["build-engine", str(package.folder), "--precision", "fp32", "--background"]
    with plans.building(device):
        assert main(arguments) == 0
    assert "another build is at work" in capsys.readouterr().out
    assert not trt._builds
    assert main(arguments) == 0
    assert ready(package, "fp32")
    assert niceness == [build_command._BACKGROUND_NICENESS] * 2


def test_a_build_waits_for_another_and_shares_its_plan(package: ModelPackage, trt: FakeTensorRt) -> None:
    first = build(package, "fp32")
    assert first.seconds is not None
    again = build(package, "fp32")
    assert again.seconds is None
    assert again.path == first.path


def test_a_failed_build_is_remembered_and_not_started_again(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._build_error = "Error Code 10: no implementation"
    with pytest.raises(EngineError, match="no implementation"):
        build(package, "fp32")
    said = start_background_build(package, "fp32")
    assert said.startswith("TensorRT fp32 could not be built lately: TensorRT 11.4.0.106 cannot build")
    assert "background" not in said
    trt._build_error = ""
    build(package, "fp32")
    assert plans.failure(plan_key(trt, package, "fp32", gpus()[0])) is None


def test_a_background_build_is_started_once(
    package: ModelPackage, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    told = "[os.environ.get(name) for name in ('HOME', 'TMPDIR', 'STROKECORE_CACHE')]"
    code = f"import os, sys; open({str(started)!r}, 'w').write(repr(sys.argv[1:] + {told})); print('built')"
    monkeypatch.setenv("HOME", str(tmp_path / "scan"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scan"))
    monkeypatch.setattr(
        tensorrt_plan, "background_command", lambda *given: [sys.executable, "-c", code, *map(str, given)]
    )
    said = start_background_build(package, "bf16")
    assert said == "TensorRT bf16 is not built yet; a build was started in the background"
    (process,) = tensorrt_plan._started
    assert process.wait(60) == 0
    # a scan's own folders end before the build does, the cache stays
    told = [None, None, str(tmp_path / "cache")]
    assert started.read_text() == repr([str(package.folder), "bf16", "0", *told])
    assert (tmp_path / "cache" / "tensorrt" / "build.log").read_text() == "built\n"
    with plans.building(gpus()[0]):
        said = start_background_build(package, "bf16")
    assert said == "TensorRT bf16 is not built yet; a build is at work in the background"
    assert len(tensorrt_plan._started) == 1
    tensorrt_plan._started.clear()


def test_a_background_build_that_cannot_be_is_said(
    package: ModelPackage, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "expected one of bf16" in start_background_build(package, "int4")
    assert "there is no GPU 5" in start_background_build(package, "fp32", gpu=5)
    monkeypatch.setattr(tensorrt_plan, "background_command", lambda *given: ["/no/such/program"])
    assert start_background_build(package, "fp32").startswith("TensorRT fp32 cannot be built: ")
    monkeypatch.setattr(devices, "open_driver", absent)
    assert "there is no GPU 0" in start_background_build(package, "fp32")
    assert not ready(package, "fp32")


def test_the_background_command_is_a_command_of_this_package(tmp_path: Path) -> None:
    command = background_command(tmp_path, "bf16", 1)
    assert command[:3] == [sys.executable, "-m", "strokecore"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # here for want of a GPU or of a package; not for its words
    assert "usage:" not in done.stderr
    assert done.returncode in (1, 2)


def test_a_key_of_another_version_is_another_plan(package: ModelPackage, trt: FakeTensorRt) -> None:
    key = plan_key(trt, package, "fp32", gpus()[0])
    assert key.tensorrt == "11.4.0.106"
    assert key.gpu == "NVIDIA H100 80GB HBM3"
    build(package, "fp32")
    assert ready(package, "fp32")
    assert plans.load(replace(key, tensorrt="11.4.0.107")) is None
