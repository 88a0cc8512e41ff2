"""The file of an engine: how many slices it is for, and when it is taken from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.runtimes import package_precisions
from strokecore.learned.tensorrt.build import build
from strokecore.learned.tensorrt.engine_files import (
    _BYTES_PER_PIXEL,
    Profile,
    engine_file,
    profile_for,
    ready,
)
from tests.unit.learned.cuda_fake import T4
from tests.unit.learned.tensorrt.cases import Machine, add_typed_graphs, machine, write_small_package

GIB = 2**30


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return load_package(write_small_package(tmp_path / "model"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path / "cache", monkeypatch) as made:
        yield made


def test_profiles_fit_the_memory() -> None:
    small, large = (136, 112), (512, 416)
    assert profile_for(small, 80 * GIB) == Profile(1, 32, 64)
    assert profile_for(small, 4 * GIB) == Profile(1, 32, 64)
    assert profile_for(large, 80 * GIB) == Profile(1, 32, 64)
    assert profile_for(large, 24 * GIB) == Profile(1, 32, 32)
    assert profile_for(large, 8 * GIB) == Profile(1, 16, 16)
    assert profile_for((4096, 4096), GIB) == Profile(1, 1, 1)
    for size in (small, large):
        for gib in (4, 8, 16, 24, 40, 80):
            used = profile_for(size, gib * GIB).maximum * _BYTES_PER_PIXEL * size[0] * size[1]
            assert used <= gib * GIB / 2


def test_graphs_decide_what_is_offered(package: ModelPackage, here: Machine) -> None:
    assert package_precisions("tensorrt", package) == ("tf32", "fp32")
    typed = add_typed_graphs(package.folder)
    assert package_precisions("tensorrt", typed) == ("bf16", "fp16", "tf32", "fp32")
    here.driver.gpus = (T4,)
    assert package_precisions("tensorrt", typed) == ("fp16", "fp32")
    assert package_precisions("onnx", package) == ("fp32",)


@pytest.mark.parametrize("change", ["gpu", "library", "precision", "package"])
def test_an_engine_of_something_else_is_not_taken(
    change: str, package: ModelPackage, here: Machine, tmp_path: Path
) -> None:
    build(engine_file(package, "fp32"))
    precision = "fp32"
    match change:
        case "gpu":
            here.driver.gpus = (T4,)
        case "library":
            here.trt.__version__ = "11.4.0.107"
        case "precision":
            precision = "tf32"
        case "package":
            package = load_package(write_small_package(tmp_path / "other", name="other"))
    assert not ready(package, precision)


def test_a_damaged_engine_is_built_again(package: ModelPackage, here: Machine) -> None:
    path = engine_file(package, "fp32").path
    build(engine_file(package, "fp32"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert not ready(package, "fp32")
    assert build(engine_file(package, "fp32")).seconds is not None
