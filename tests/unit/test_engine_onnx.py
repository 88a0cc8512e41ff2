from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from strokecore.anatomy.regions import RegionId
from strokecore.cli import main
from strokecore.engines import onnx as onnx_module
from strokecore.engines.onnx import OnnxEngine, default_threads, onnx_engine
from strokecore.errors import ModelPackageError, UsageError
from strokecore.model_package import load_package
from strokecore.preprocess import to_channels
from tests.unit.heads import darken, flat_head, region_slices
from tests.unit.package_cases import SPEC, mirror_network, write_package

RIGHT_M1 = RegionId("M1", "right")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="module")
def engine(folder: Path) -> OnnxEngine:
    return OnnxEngine(load_package(folder), threads=1)


def test_a_dark_region_is_found_on_its_own_side(engine: OnnxEngine) -> None:
    lesion = engine.segment(darken(flat_head(noise_hu=1.0), RIGHT_M1, 6.0))
    found = [r for r, e in lesion.evidence.items() if (e.probability or 0.0) >= 0.5]
    assert found == [RIGHT_M1]
    assert lesion.acute[region_slices(RIGHT_M1)].mean() > 0.7


def test_batches_do_not_change_the_answer(engine: OnnxEngine, folder: Path) -> None:
    slices = to_channels(np.random.default_rng(0).normal(35, 6, (7, *SPEC.size)).astype(np.float32), SPEC)
    whole = engine.run(slices)
    assert [arm.shape for arm in whole] == [(7, 9, *SPEC.size), (7, 6, *SPEC.size)]
    small = OnnxEngine(load_package(folder), threads=1)
    small.batch = 3
    for arm, same in zip(whole, small.run(slices), strict=True):
        assert np.array_equal(arm, same)
        assert arm.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_large_slices_go_in_small_batches(engine: OnnxEngine) -> None:
    assert engine.batch * np.prod(SPEC.size) <= onnx_module._BATCH_PIXELS
    assert 1 <= onnx_module._BATCH_PIXELS // (512 * 416) <= 4


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


def test_an_engine_is_kept_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    assert onnx_engine(folder) is onnx_engine(folder)
    other = write_package(tmp_path / "model")
    first = onnx_engine(other)
    card = other / "MODEL_CARD.md"
    card.write_text("# Altered\n")
    assert first.name == "mirror"
    with pytest.raises(ModelPackageError, match=r"altered MODEL_CARD.md"):
        onnx_engine(other)
    with pytest.raises(ModelPackageError, match="not a folder"):
        onnx_engine(tmp_path / "none")


def test_threads_come_from_who_starts_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROKECORE_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert default_threads() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads() == 5
    monkeypatch.setenv("STROKECORE_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("0", "-1", "many", "2.5"):
        monkeypatch.setenv("STROKECORE_THREADS", wrong)
        with pytest.raises(UsageError, match="STROKECORE_THREADS"):
            default_threads()


def test_without_onnxruntime_the_command_that_installs_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'strokecore\[cpu\]'"):
        OnnxEngine(load_package(folder))


def test_a_broken_package_is_a_usage_error_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = write_package(tmp_path / "model", preprocess_version="0")
    (tmp_path / "ct").mkdir()
    arguments = ["score", str(tmp_path / "ct"), "--out", str(tmp_path / "out"), "--model", str(package)]
    assert main(arguments) == 2
    assert "preprocessing 0" in capsys.readouterr().err
