"""A small package, and a machine with a GPU and TensorRT that are both stand-ins."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from strokecore.learned.devices import Gpu
from strokecore.learned.package import TYPED_PRECISIONS, ModelPackage, load_package
from strokecore.learned.preprocessing import InputSpec
from strokecore.learned.tensorrt import build
from strokecore.learned.tensorrt.build import Compiled
from strokecore.learned.tensorrt.engine_files import EngineFile
from tests.unit.learned.cuda_fake import L4, FakeDriver
from tests.unit.learned.package_cases import mirror_network, read_manifest, write_manifest, write_package
from tests.unit.learned.tensorrt.fakes import FakeTensorRt
from trainer.package.typed_graph import typed_graph

SPEC = InputSpec(size=(16, 24))
INPUT = (len(SPEC.channels), *SPEC.size)


def write_small_package(folder: Path, classes: tuple[int, int] = (9, 6), **changes: Any) -> Path:
    """A package of slices of 16 x 24; ``classes`` are the network's, whatever the manifest says."""
    outputs = [
        {"name": "bg_probability", "shape": ["n", 9, *SPEC.size], "classes": list(BG_CLASSES)},
        {"name": "sg_probability", "shape": ["n", 6, *SPEC.size], "classes": list(SG_CLASSES)},
    ]
    given = {"name": "slices", "dtype": "float32", "shape": ["n", *INPUT], **SPEC.to_dict()}
    return write_package(
        folder, network=mirror_network(SPEC, classes), input=given, outputs=outputs, **changes
    )


def add_typed_graphs(folder: Path) -> ModelPackage:
    """The package with graphs in bf16 and fp16, as trainer export --typed writes them."""
    content = read_manifest(folder)
    for precision in TYPED_PRECISIONS:
        graph = typed_graph((folder / "model.onnx").read_bytes(), precision)
        (folder / f"model.{precision}.onnx").write_bytes(graph)
        content["files"][f"model.{precision}.onnx"] = hashlib.sha256(graph).hexdigest()
    write_manifest(folder, content)
    return load_package(folder)


def slices(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 1.0, (count, *INPUT)).astype(np.float32)


def install(driver: FakeDriver | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in in place of cuda-bindings; None for a machine without."""
    package = ModuleType("cuda.bindings")
    package.__spec__ = ModuleSpec("cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", package if driver else None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)


class Machine:
    """A machine with one GPU, TensorRT and an empty cache.

    Attributes
    ----------
    builds: (precision, timing cache) of each build; ``build_error`` is raised instead when it is not None.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.driver = FakeDriver(gpu)
        self.trt = FakeTensorRt(self.driver)
        self.builds: list[tuple[str, bytes]] = []
        self.build_error: Exception | None = None

    def compile_network(self, file: EngineFile, timing: bytes) -> Compiled:
        assert self.driver.current == file.gpu.index, "no device is chosen"
        if self.build_error is not None:
            raise self.build_error
        self.builds.append((file.precision, timing))
        return Compiled(file.package.onnx.read_bytes(), b"measured on this GPU")


@contextmanager
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu = L4) -> Iterator[Machine]:
    """Fails in the end when memory of the GPU was not given back."""
    made = Machine(gpu)
    install(made.driver, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", made.trt)
    monkeypatch.setattr(build, "compile_network", made.compile_network)
    monkeypatch.setenv("STROKECORE_CACHE", str(cache))
    yield made
    assert made.driver.memory == {}
