"""What is asked of TensorRT's builder, on stand-ins; test_tensorrt_rtx.py has a real builder and parser."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import tensorrt_build
from strokecore.learned.cuda import Cuda
from strokecore.learned.devices import Gpu
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.plans import Profile
from strokecore.learned.tensorrt_build import (
    PRECISIONS,
    build_plan,
    check_precision,
    logger_of,
    network_bytes,
    profile_for,
)
from tests.unit.learned.tensorrt_cases import INPUT, stand_ins, write_small_package
from tests.unit.learned.tensorrt_fake import FakeTensorRt
from tests.unit.learned.tensorrt_fake_base import VERSIONS

PROFILE = Profile(1, 32, 64)
GIB = 2**30


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


@pytest.fixture(params=VERSIONS)
def trt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeTensorRt]:
    with stand_ins(request.param, tmp_path / "cache", monkeypatch) as module:
        cuda = Cuda(0)
        yield module
        cuda.close()


def test_what_the_builder_is_asked_for(package: ModelPackage, trt: FakeTensorRt) -> None:
    built = build_plan(trt, package, "tf32", PROFILE, GIB)
    (config,) = trt._builds
    assert built.plan
    assert built.seconds >= 0
    assert config.max_aux_streams == 0
    assert config._pools == {trt.MemoryPoolType.WORKSPACE: GIB}
    assert config._flags == {trt.BuilderFlag.TF32}
    (profile,) = config._profiles
    assert profile._shapes == {"slices": ((1, *INPUT), (32, *INPUT), (64, *INPUT))}
    # absent before 10.10
    resize = trt.PreviewFeature.__members__.get("RUNTIME_ACTIVATION_RESIZE_10_10")
    assert config._features == ({resize: True} if resize else {})
    assert (resize is None) == (trt.__version__ == "10.3.0")


def test_fp32_is_not_tf32(package: ModelPackage, trt: FakeTensorRt) -> None:
    build_plan(trt, package, "fp32", PROFILE, GIB)
    assert trt._builds[0]._flags == set()


def test_typed_precisions_build_the_typed_graph(
    package: ModelPackage, trt: FakeTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def typed(self: ModelPackage, precision: str) -> bytes:
        asked.append(precision)
        return package.onnx.read_bytes()

    monkeypatch.setattr(ModelPackage, "typed", typed)
    for precision in PRECISIONS:
        build_plan(trt, package, precision, PROFILE, GIB)
    assert asked == ["bf16", "fp16"]
    # nothing but TF32 is ever set: the types are the graph's
    assert [config._flags for config in trt._builds[:3]] == [{trt.BuilderFlag.TF32}] * 3


def test_timings_of_an_earlier_build_are_used(
    package: ModelPackage, trt: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    first = build_plan(trt, package, "fp32", PROFILE, GIB)
    assert first.timing == trt._timing
    assert build_plan(trt, package, "fp32", PROFILE, GIB, first.timing).timing == trt._timing
    assert not caplog.records
    assert build_plan(trt, package, "fp32", PROFILE, GIB, b"of another GPU").timing == trt._timing
    assert "timing cache is of another device or driver" in caplog.text


def test_what_the_parser_says_is_said_in_full(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._parser_error = "plugin not found"
    with pytest.raises(
        EngineError, match=r"does not understand the fp32 .*: GridSample 'node_7': plugin not found"
    ):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_what_the_builder_says_is_said(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._build_error = "Error Code 10: could not find any implementation for node {ForeignNode}"
    with pytest.raises(EngineError, match=r"cannot build the fp32 network of mirror .*ForeignNode"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_a_builder_that_cannot_be_made_is_an_engine_error(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._cuda.current = None
    with pytest.raises(EngineError, match="factory function returned nullptr"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path, trt: FakeTensorRt) -> None:
    folder = write_small_package(tmp_path / "other")
    package = load_package(folder)
    content = package.onnx.read_bytes().replace(b"slices", b"images")
    package.onnx.write_bytes(content)
    with pytest.raises(EngineError, match=r"has inputs \['images'\], expected slices"):
        build_plan(trt, package, "fp32", PROFILE, GIB)


def test_a_vanished_graph_is_a_damaged_package(package: ModelPackage) -> None:
    package.onnx.unlink()
    with pytest.raises(ModelPackageError, match=r"model.onnx cannot be read"):
        network_bytes(package, "fp32")


def test_messages_go_to_the_log_by_severity(trt: FakeTensorRt, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "strokecore")
    logger = logger_of(trt)
    assert logger_of(trt) is logger
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(trt.ILogger, name), f"a message of {name}")
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert levels == [
        ("ERROR", "TensorRT: a message of INTERNAL_ERROR"),
        ("ERROR", "TensorRT: a message of ERROR"),
        ("WARNING", "TensorRT: a message of WARNING"),
        ("DEBUG", "TensorRT: a message of INFO"),
    ]
    assert logger.said().endswith("a message of ERROR; a message of WARNING")
    logger.log("not a severity", "lost")  # comes from threads that no exception may pass
    logger.forget()
    assert logger.said() == "it gave no reason"


def test_profiles_fit_the_memory() -> None:
    small, large = (136, 112), (512, 416)
    assert profile_for(small, 80 * GIB) == Profile(1, 32, 64)
    assert profile_for(small, 4 * GIB) == Profile(1, 32, 64)
    assert profile_for(large, 80 * GIB) == Profile(1, 32, 64)
    assert profile_for(large, 24 * GIB) == Profile(1, 32, 32)
    assert profile_for(large, 8 * GIB) == Profile(1, 16, 16)
    assert profile_for((4096, 4096), GIB) == Profile(1, 1, 1)
    assert profile_for(small, 80 * GIB, most=48) == Profile(1, 32, 32)
    assert profile_for(small, 80 * GIB, most=1) == Profile(1, 1, 1)
    for size in (small, large):
        for gib in (4, 8, 16, 24, 40, 80):
            profile = profile_for(size, gib * GIB)
            used = profile.maximum * tensorrt_build._BYTES_PER_PIXEL * size[0] * size[1]
            assert used <= gib * GIB / 2


def test_precisions_of_gpus() -> None:
    turing = Gpu(0, "Tesla T4", (7, 5), 16 * GIB, "")
    ada = Gpu(0, "NVIDIA L4", (8, 9), 24 * GIB, "")
    for precision in PRECISIONS:
        check_precision(precision, ada)
    for precision in ("fp16", "fp32"):
        check_precision(precision, turing)
    for precision in ("bf16", "tf32"):
        with pytest.raises(EngineError, match=f"has no {precision}.*use fp16 or fp32"):
            check_precision(precision, turing)
