"""Building engines in the foreground and in the background, on a stand-in for a GPU."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from strokecore import cli
from strokecore.cli import main
from strokecore.errors import EngineError
from strokecore.files import is_locked, locked
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.tensorrt import build as building
from strokecore.learned.tensorrt.build import (
    background_command,
    build,
    compile_network,
    start_background_build,
)
from strokecore.learned.tensorrt.engine_files import EngineFile, engine_file, ready
from tests.unit.learned.cuda_fake import L4, T4, FakeDriver
from tests.unit.learned.tensorrt.cases import Machine, add_typed_graphs, machine, write_small_package
from tests.unit.learned.tensorrt.fakes import FakeTensorRt


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "cache", monkeypatch) as made:
        yield made


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are started; each has ended when the test has."""
    found: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        found.append(original(*args, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    yield found
    for process in found:
        process.wait(60)


def test_the_command_builds_and_says_where(
    package: ModelPackage, here: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build-engine", str(package.folder), "--precision"]
    assert main([*command, "tf32", "fp32"]) == 0
    said = capsys.readouterr().out
    assert "mirror 1.2.3+test in tf32 for NVIDIA L4 (24 GiB, compute capability 8.9)" in said
    assert "1..64 slices (best 32)" in said
    assert str(engine_file(package, "tf32").path) in said
    assert ready(package, "tf32")
    assert ready(package, "fp32")
    assert main([*command, "fp32"]) == 0
    assert "was there" in capsys.readouterr().out
    assert main([*command, "fp32", "--force"]) == 0
    # the second and third take what the first measured
    assert here.builds == [
        ("tf32", b""),
        ("fp32", b"measured on this GPU"),
        ("fp32", b"measured on this GPU"),
    ]


def test_the_first_precision_of_package_and_gpu_is_built(package: ModelPackage, here: Machine) -> None:
    command = ["build-engine", str(package.folder)]
    assert main(command) == 0
    add_typed_graphs(package.folder)
    assert main(command) == 0
    here.driver.gpus = (T4,)
    assert main(command) == 0
    assert [precision for precision, _ in here.builds] == ["tf32", "bf16", "fp16"]


def test_an_unknown_precision_is_said(
    package: ModelPackage, here: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build-engine", str(package.folder), "--precision", "int4"]) == 2
    assert "precision int4: expected bf16, fp16, tf32, fp32" in capsys.readouterr().err
    assert not here.builds


def test_one_failed_precision_does_not_stop_the_next(
    package: ModelPackage, here: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    here.driver.gpus = (T4,)
    assert main(["build-engine", str(package.folder), "--precision", "bf16", "tf32", "fp32"]) == 1
    assert capsys.readouterr().out.count("failed: Tesla T4") == 2
    assert ready(package, "fp32")


def test_without_a_gpu_the_remedy_is_said(
    package: ModelPackage,
    here: Machine,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    here.driver.gpus = ()
    assert main(["build-engine", str(package.folder)]) == 2
    assert "no NVIDIA GPU is visible" in capsys.readouterr().err
    with pytest.raises(EngineError, match=r"no NVIDIA GPU is visible .*pip install 'strokecore\[gpu\]'"):
        engine_file(package, "fp32")
    assert not ready(package, "fp32")
    assert not start_background_build(package, "fp32")
    assert "TensorRT fp32 cannot be built: no NVIDIA GPU" in caplog.text


def test_a_background_build_yields_to_another(
    package: ModelPackage,
    here: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    niceness: list[int] = []
    monkeypatch.setattr(os, "nice", niceness.append)
    arguments = ["build-engine", str(package.folder), "--precision", "fp32", "--background"]
    with locked(engine_file(package, "fp32").lock):
        assert main(arguments) == 0
    assert "another build is at work" in capsys.readouterr().out
    assert not here.builds
    assert main(arguments) == 0
    assert ready(package, "fp32")
    assert niceness == [cli._BACKGROUND_NICENESS] * 2


def test_a_build_shares_what_another_made(package: ModelPackage, here: Machine) -> None:
    first = build(engine_file(package, "fp32"))
    again = build(engine_file(package, "fp32"))
    assert first.seconds is not None
    assert again.seconds is None
    assert again.engine == first.engine


def test_a_device_that_fails_is_said(package: ModelPackage, here: Machine) -> None:
    file = engine_file(package, "fp32")
    here.driver.fail["cuDevicePrimaryCtxRetain"] = "CUDA_ERROR_DEVICE_UNAVAILABLE"
    with pytest.raises(EngineError, match=r"NVIDIA L4 cannot be used \(CUDA_ERROR_DEVICE_UNAVAILABLE\)"):
        build(file)


def test_a_failed_build_is_remembered_for_a_day(
    package: ModelPackage,
    here: Machine,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(building, "background_command", lambda *given: [sys.executable, "-c", "pass"])
    here.build_error = EngineError("no implementation")
    with pytest.raises(EngineError, match="no implementation"):
        build(engine_file(package, "fp32"))
    assert not start_background_build(package, "fp32")
    assert "TensorRT fp32 could not be built lately: no implementation" in caplog.text
    path = engine_file(package, "fp32").path.with_suffix(".failed")
    old = time.time() - 25 * 3600
    os.utime(path, (old, old))
    assert not started
    assert start_background_build(package, "fp32")
    assert len(started) == 1
    here.build_error = None
    build(engine_file(package, "fp32"))
    assert not path.exists()


def test_a_background_build_is_started_once(
    package: ModelPackage,
    here: Machine,
    started: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    written = tmp_path / "written"
    told = "[os.environ.get(name) for name in ('HOME', 'TMPDIR', 'STROKECORE_CACHE')]"
    code = f"import os, sys; open({str(written)!r}, 'w').write(repr(sys.argv[1:] + {told})); print('built')"
    monkeypatch.setenv("HOME", str(tmp_path / "scan"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scan"))
    monkeypatch.setattr(
        building, "background_command", lambda *given: [sys.executable, "-c", code, *map(str, given)]
    )
    assert start_background_build(package, "tf32")
    assert "TensorRT tf32 is not built yet; a build was started in the background" in caplog.text
    (process,) = started
    assert process.wait(60) == 0
    # a scan's own folders end before the build does, the cache stays
    told = [None, None, str(tmp_path / "cache")]
    assert written.read_text() == repr([str(package.folder), "tf32", *told])
    assert (tmp_path / "cache" / "tensorrt" / "build.log").read_text() == "built\n"
    with locked(engine_file(package, "tf32").lock):
        assert start_background_build(package, "tf32")
    assert "TensorRT tf32 is not built yet; a build is at work in the background" in caplog.text
    assert len(started) == 1


def test_a_background_build_that_cannot_start_is_said(
    package: ModelPackage,
    here: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(building, "background_command", lambda *given: ["/no/such/program"])
    assert not start_background_build(package, "fp32")
    assert "TensorRT fp32 cannot be built: " in caplog.text
    assert not ready(package, "fp32")


def test_the_background_command_is_a_command_of_this_package(tmp_path: Path) -> None:
    command = background_command(tmp_path, "bf16")
    assert command[:3] == [sys.executable, "-m", "strokecore"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # here for want of a GPU or of a package; not for its words
    assert "usage:" not in done.stderr
    assert done.returncode in (1, 2)


def _hold(path: Path, held: object, release: object) -> None:
    with locked(path):
        held.set()  # type: ignore[attr-defined]
        release.wait(60)  # type: ignore[attr-defined]


def with_timing_cache(readable: bool, accepted: bool) -> FakeTensorRt:
    """A stand-in for as much of TensorRT's builder as the timing cache meets; TensorRT for RTX has none."""
    held: list[bytes] = []

    def set_timing_cache(cache: bytes | None, ignore_mismatch: bool) -> bool:
        assert cache is not None, "TensorRT's bindings raise a TypeError"
        assert not ignore_mismatch
        if cache and not accepted:
            return False
        held.append(cache)
        return True

    config = SimpleNamespace(
        clear_flag=lambda flag: None,
        set_preview_feature=lambda feature, enable: None,
        create_timing_cache=lambda content: content if readable or not content else None,
        set_timing_cache=set_timing_cache,
        get_timing_cache=lambda: SimpleNamespace(serialize=lambda: held[-1] + b" and more"),
        add_optimization_profile=lambda profile: 0,
    )
    given = SimpleNamespace(name="slices", shape=(-1, 3, 16, 24))
    builder = SimpleNamespace(
        create_network=lambda flags: SimpleNamespace(num_inputs=1, get_input=lambda index: given),
        create_builder_config=lambda: config,
        create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: None),
        build_serialized_network=lambda network, config: b"an engine",
    )
    trt = FakeTensorRt(FakeDriver())
    vars(trt).update(
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: SimpleNamespace(parse=lambda graph: True),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        BuilderFlag=SimpleNamespace(TF32=7),
        PreviewFeature=SimpleNamespace(RUNTIME_ACTIVATION_RESIZE_10_10=9),
    )
    return trt


@pytest.mark.parametrize(
    ("readable", "accepted", "begins"),
    [(True, True, b"measured"), (True, False, b""), (False, False, b"")],
    ids=["of this device", "of another device", "unreadable"],
)
def test_what_an_earlier_build_measured_is_used_where_it_fits(
    readable: bool, accepted: bool, begins: bytes, package: ModelPackage
) -> None:
    file = EngineFile(with_timing_cache(readable, accepted), package, "fp32", L4)
    found = compile_network(file, b"measured")
    assert (found.engine, found.timing) == (b"an engine", begins + b" and more")


def test_one_process_builds_on_a_gpu(package: ModelPackage, here: Machine) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    lock = engine_file(package, "fp32").lock
    process = context.Process(target=_hold, args=(lock, held, release))
    process.start()
    try:
        assert held.wait(60)
        assert is_locked(lock)
        with pytest.raises(BlockingIOError):
            build(engine_file(package, "fp32"), wait=False)
        here.driver.gpus = (T4,)
        build(engine_file(package, "fp32"), wait=False)
    finally:
        release.set()
        process.join(60)
    here.driver.gpus = (L4,)
    build(engine_file(package, "fp32"), wait=False)
