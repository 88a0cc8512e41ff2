from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned import devices
from strokecore.learned.onnx import OnnxEngine
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.preprocessing import to_channels
from tests.unit.learned.package_cases import SPEC, mirror_answers, mirror_network, write_package
from tests.unit.scoring.heads import darken, flat_head, region_slices

RIGHT_M1 = RegionId("M1", "right")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return load_package(write_package(tmp_path_factory.mktemp("onnx") / "model"))


@pytest.fixture(scope="module")
def engine(package: ModelPackage) -> OnnxEngine:
    return OnnxEngine(package, threads=1)


def noisy_slices(number: int) -> Any:
    hu = np.random.default_rng(0).normal(35, 6, (number, *SPEC.size))
    return to_channels(hu.astype(np.float32), SPEC)


def test_it_computes_what_the_network_means(engine: OnnxEngine) -> None:
    slices = noisy_slices(3)
    for found, expected in zip(engine.run(slices), mirror_answers(slices), strict=True):
        assert np.abs(found - expected).max() < 1e-5


def test_a_dark_region_is_found_on_its_own_side(engine: OnnxEngine) -> None:
    lesion = engine.segment(darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0))
    found = [r for r, e in lesion.evidence.items() if (e.probability or 0.0) >= 0.5]
    assert found == [RIGHT_M1]
    assert lesion.acute[region_slices(RIGHT_M1)].mean() > 0.7


def test_batches_do_not_change_the_answer(engine: OnnxEngine, package: ModelPackage) -> None:
    slices = noisy_slices(7)
    whole = engine.run(slices)
    assert [arm.shape for arm in whole] == [(7, 9, *SPEC.size), (7, 6, *SPEC.size)]
    small = OnnxEngine(package, threads=1)
    small.batch = 3
    for arm, same in zip(whole, small.run(slices), strict=True):
        assert np.array_equal(arm, same)
        assert arm.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_same_head_gives_the_same_bytes(engine: OnnxEngine) -> None:
    head = darken(flat_head(), RIGHT_M1, 4.0)
    first, second = engine.segment(head), engine.segment(head)
    assert np.array_equal(first.probability, second.probability)


@pytest.mark.parametrize("broken", [b"not a graph", b""])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, broken: bytes) -> None:
    package = write_package(tmp_path / "model", network=broken or mirror_network()[:-200])
    with pytest.raises(ModelPackageError, match=r"cannot load model.onnx"):
        OnnxEngine(load_package(package))


def test_a_graph_that_is_not_the_described_one_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "model", network=mirror_network(classes=(6, 6)))
    with pytest.raises(ModelPackageError, match=r"has tensors .*expected"):
        OnnxEngine(load_package(package))


def test_it_says_what_it_is(engine: OnnxEngine) -> None:
    import onnxruntime

    assert (engine.engine, engine.precision) == ("onnx", "fp32")
    assert engine.device.endswith(", 1 thread")
    assert engine.library == f"onnxruntime {onnxruntime.__version__}"


def test_without_onnxruntime_the_command_that_installs_it_is_said(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"pip install 'strokecore\[cpu\]'"):
        OnnxEngine(package)


def test_the_cuda_provider_is_never_replaced_by_the_cpu_in_silence(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names[1:])
    with pytest.raises(EngineError, match="pip install onnxruntime-gpu"):
        OnnxEngine(package, provider="cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.raises(EngineError, match="no NVIDIA GPU"):
        OnnxEngine(package, provider="cuda")

    class Session:
        """As onnxruntime-gpu where CUDA's libraries are missing."""

        def __init__(self, *_: object, providers: list[tuple[str, dict[str, str]]]) -> None:
            assert providers == [("CUDAExecutionProvider", {"use_tf32": "0"})]

        def get_providers(self) -> list[str]:
            return names[1:]

    gpu = devices.Gpu(0, "NVIDIA Test", (9, 0), 2**30, "")
    monkeypatch.setattr(devices, "gpus", lambda: (gpu,))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(EngineError, match="cannot start its CUDAExecutionProvider"):
        OnnxEngine(package, provider="cuda")


def test_memory_that_runs_out_at_the_start_is_not_the_packages_fault(
    package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def session(*_: object, **__: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(EngineError, match="no memory"):
        OnnxEngine(package)
