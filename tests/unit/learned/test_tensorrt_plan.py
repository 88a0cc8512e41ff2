"""How the TensorRT engine comes to its plan, on stand-ins for libcuda and tensorrt."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from strokecore.errors import EngineError
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.tensorrt import TensorRtRuntime, build, ready
from tests.unit.learned.tensorrt_cases import slices, stand_ins, write_small_package
from tests.unit.learned.tensorrt_fake import FakeTensorRt


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_small_package(tmp_path_factory.mktemp("trt") / "model"))


@pytest.fixture(params=["10.3.0", "11.4.0.106"])
def trt(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeTensorRt]:
    with stand_ins(request.param, tmp_path / "cache", monkeypatch) as module:
        yield module


def test_a_plan_is_built_once_and_then_loaded(package: ModelPackage, trt: FakeTensorRt) -> None:
    assert not ready(package, "fp32")
    TensorRtRuntime(package, "fp32").close()
    assert len(trt._builds) == 1
    assert ready(package, "fp32")
    TensorRtRuntime(package, "fp32").close()
    assert len(trt._builds) == 1
    assert not ready(package, "tf32")


def test_a_damaged_plan_is_built_again(
    package: ModelPackage, trt: FakeTensorRt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TensorRtRuntime(package, "fp32").close()
    (plan,) = (tmp_path / "cache" / "tensorrt").glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    assert not ready(package, "fp32")
    TensorRtRuntime(package, "fp32").close()
    assert len(trt._builds) == 2
    assert "will be built again: it is damaged" in caplog.text
    assert ready(package, "fp32")


def test_a_plan_that_tensorrt_refuses_is_removed(package: ModelPackage, trt: FakeTensorRt) -> None:
    TensorRtRuntime(package, "fp32").close()
    trt._load_error = "Error Code 6: the engine plan file is not compatible"
    with pytest.raises(EngineError, match=r"cannot load its plan: Error Code 6.*It was removed"):
        TensorRtRuntime(package, "fp32")
    assert not ready(package, "fp32")


def test_a_plan_that_does_not_fit_the_memory_is_kept(package: ModelPackage, trt: FakeTensorRt) -> None:
    TensorRtRuntime(package, "fp32").close()
    trt._load_error, trt._cuda.memory = "out of memory", 100
    with pytest.raises(EngineError, match="0 MiB of free memory, and the plan needs"):
        TensorRtRuntime(package, "fp32")
    trt._cuda.memory = 2**31
    assert ready(package, "fp32")


def test_a_plan_of_another_profile_is_used(package: ModelPackage, trt: FakeTensorRt) -> None:
    build(package, "fp32", most=16)
    assert ready(package, "fp32")
    with TensorRtRuntime(package, "fp32") as engine:
        assert engine.most == 16
    assert len(trt._builds) == 1


def test_wrong_tensors_are_refused(tmp_path: Path, trt: FakeTensorRt) -> None:
    wrong = load_package(write_small_package(tmp_path / "model", classes=(9, 7)))
    with (
        TensorRtRuntime(wrong, "fp32") as engine,
        pytest.raises(EngineError, match=r"sg_probability of shape"),
    ):
        engine.run(slices(2))


def test_wrong_types_are_refused(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._dtype = "HALF"
    with pytest.raises(EngineError, match="not float32"):
        TensorRtRuntime(package, "fp32")


def test_precisions_are_the_gpus(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._cuda.names, trt._cuda.capability = ("Tesla T4",), (7, 5)
    with pytest.raises(EngineError, match=r"Tesla T4 .* has no bf16, which came with compute capability 8.0"):
        TensorRtRuntime(package, "bf16")
    with pytest.raises(EngineError, match="no precision 'int4'"):
        TensorRtRuntime(package, "int4")
    TensorRtRuntime(package, "fp32").close()


def test_another_gpu(package: ModelPackage, trt: FakeTensorRt) -> None:
    trt._cuda.names = ("NVIDIA L4", "NVIDIA A10")
    with TensorRtRuntime(package, "fp32", gpu=1) as engine:
        assert engine.device == "NVIDIA A10"
        assert trt._cuda.current == 1
    with pytest.raises(EngineError, match=r"no GPU 2; this process sees 0: NVIDIA L4, 1: NVIDIA A10"):
        TensorRtRuntime(package, "fp32", gpu=2)


def test_without_a_gpu_tensorrt_is_not_even_imported() -> None:
    code = (
        "import sys\nfrom strokecore.learned import devices\ndevices.gpus = lambda: ()\n"
        "import strokecore.learned.tensorrt_api as api\napi.gpus = lambda: ()\n"
        "from strokecore.learned.tensorrt import ready, unavailable\n"
        "assert 'no NVIDIA GPU' in unavailable(), unavailable()\n"
        "assert not {'tensorrt', 'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tensorrts_own_words_go_to_the_log(
    package: ModelPackage, trt: FakeTensorRt, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "strokecore")
    trt._build_error = "Error Code 10: could not find any implementation"
    with pytest.raises(EngineError, match=r"cannot build the fp32 network of mirror .*Error Code 10"):
        TensorRtRuntime(package, "fp32")
    assert "TensorRT: Error Code 10" in caplog.text
