"""strokecore/learned/golden.py: a golden set that proves something, and every other is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.errors import ModelPackageError
from strokecore.learned.golden import read_golden
from strokecore.learned.package import load_package
from tests.unit.learned.package_cases import SPEC, golden_arrays, mirror_answers, write_package

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return golden_arrays()


def packed(arrays: Arrays, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=allow_pickle, **arrays)
    return buffer.getvalue()


def test_what_the_trainer_wrote_is_read(tmp_path: Path, arrays: Arrays) -> None:
    golden = read_golden(load_package(write_package(tmp_path / "model")))
    assert golden.slices.shape == (9, 3, *SPEC.size)
    assert golden.case.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, -1]
    for found, computed in zip(golden.answers, mirror_answers(golden.slices), strict=True):
        assert np.abs(found - computed).max() <= 2**-16
    assert np.array_equal(golden.regions, arrays["regions"])
    assert (golden.answers.bg[:4, 0] < 0.5).any()  # the first case has an infarct


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: values for key, values in arrays.items() if key != name}


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name].copy())}


def first(value: float) -> Callable[[Any], Any]:
    def change(values: Any) -> Any:
        values.flat[0] = value
        return values

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("share"), "lacks an array"),
        (without("bg_probability"), "lacks an array"),
        (changed("slices", lambda v: v.astype(np.float64)), r"slices as float64 .*expected float32"),
        (changed("slices", lambda v: v[:, :2]), r"slices as float32 \[9, 2"),
        (changed("slices", lambda v: np.float32(0)), "expected float32"),
        (changed("sg_probability", lambda v: v[:-1]), "sg_probability"),
        (changed("brain", lambda v: v.astype(np.uint8)), "brain as uint8"),
        (changed("case", lambda v: v[:, None]), "case as int16"),
        (changed("case", lambda v: v * 0 - 1), "no slice of a case"),
        (changed("brain", lambda v: v & False), "no brain"),
        (changed("share", first(np.nan)), "shares outside"),
        (changed("share", first(1.5)), "shares outside"),
    ],
)
def test_a_set_that_proves_nothing_is_refused(
    change: Callable[[Arrays], Arrays], words: str, arrays: Arrays, tmp_path: Path
) -> None:
    package = load_package(write_package(tmp_path / "model", golden=packed(change(arrays))))
    with pytest.raises(ModelPackageError, match=words):
        read_golden(package)


def test_a_pickle_is_never_read(tmp_path: Path, arrays: Arrays) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "evil",))

    content = packed({**arrays, "case": np.array([Evil()], object)}, allow_pickle=True)
    with pytest.raises(ModelPackageError, match="cannot be read"):
        read_golden(load_package(write_package(tmp_path / "model", golden=content)))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"golden", b"", b"PK\x05\x06" + bytes(18)])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match=r"golden.npz (cannot be read|lacks)"):
        read_golden(load_package(write_package(tmp_path / "model", golden=content)))


def test_a_cut_file_is_refused(tmp_path: Path, arrays: Arrays) -> None:
    content = packed(arrays)
    for kept in (len(content) // 2, len(content) - 30):
        package = load_package(write_package(tmp_path / str(kept), golden=content[:kept]))
        with pytest.raises(ModelPackageError, match="cannot be read"):
            read_golden(package)


def test_a_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strokecore.learned.golden._UNPACKED_BYTES", 1_000_000)
    with pytest.raises(ModelPackageError, match="unpacks to more than"):
        read_golden(load_package(write_package(tmp_path / "model")))
