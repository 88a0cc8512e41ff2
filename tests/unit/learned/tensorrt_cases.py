"""A small package, and a GPU with TensorRT that are both stand-ins."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from strokecore.learned import devices
from strokecore.learned.arms import BG_CLASSES, SG_CLASSES
from strokecore.learned.preprocessing import InputSpec
from tests.unit.learned.cuda_fake import FakeCuda
from tests.unit.learned.package_cases import mirror_network, write_package
from tests.unit.learned.tensorrt_fake import FakeTensorRt

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


def slices(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 1.0, (count, *INPUT)).astype(np.float32)


@contextmanager
def stand_ins(version: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRt]:
    """TensorRT of ``version`` on a GPU, with an empty cache; fails when it was misused or not given back."""
    cuda = FakeCuda()
    module = FakeTensorRt(version, cuda)
    monkeypatch.setattr(devices, "open_driver", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setenv("STROKECORE_CACHE", str(cache))
    yield module
    gc.collect()
    assert cuda.faults == []
    if not cuda.lost:
        assert cuda.left_over == {}
