"""The cache of compiled models: what is read, what is not, and what goes first."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from strokecore.errors import EngineError
from strokecore.learned import compiled_cache
from strokecore.learned.compiled_cache import CompiledCache

CACHE = CompiledCache("compiler", ".compiled", 3, 1000)
KEY = {"library": "tensorrt 11.4", "gpu": "NVIDIA L4", "profile": [1, 32, 64]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made by the first store."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "compiler"


def test_what_was_stored_comes_back(folder: Path) -> None:
    assert CACHE.load(KEY) is None
    path = CACHE.store(KEY, b"code")
    assert path == CACHE.path(KEY)
    assert path.parent == folder
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert CACHE.load(dict(reversed(KEY.items()))) == b"code"
    CACHE.discard(KEY)
    assert CACHE.load(KEY) is None
    CACHE.discard(KEY)


@pytest.mark.parametrize("name", KEY)
def test_another_key_is_another_file(name: str) -> None:
    CACHE.store(KEY, b"code")
    assert CACHE.load({**KEY, name: "other"}) is None


@pytest.mark.parametrize("damage", ["bit", "short", "empty", "writable", "link"])
def test_an_unsound_file_is_left_alone(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = CACHE.store(KEY, b"code")
    match damage:
        case "bit":
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        case "short":
            path.write_bytes(path.read_bytes()[:-1])
        case "empty":
            path.write_bytes(b"")
        case "writable":
            path.chmod(0o666)
        case "link":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
    assert CACHE.load(KEY) is None
    assert "will be made again" in caplog.text or "can be written by others" in caplog.text
    CACHE.store(KEY, b"new")
    assert CACHE.load(KEY) == b"new"


def test_a_folder_of_others_is_not_used(folder: Path) -> None:
    CACHE.store(KEY, b"code")
    folder.chmod(0o777)
    assert CACHE.load(KEY) is None
    with pytest.raises(EngineError, match="can be written by others"):
        CACHE.store(KEY, b"code")


def test_the_longest_unused_go(folder: Path) -> None:
    keys = [{"number": number} for number in range(4)]
    for age, key in enumerate(keys[:3]):
        path = CACHE.store(key, b"x" * 100)
        os.utime(path, (1000.0 + age, 1000.0 + age))
    assert CACHE.load(keys[0]) is not None  # used just now
    CACHE.store(keys[3], b"x" * 100)
    assert [CACHE.load(key) is not None for key in keys] == [True, False, True, True]
    CACHE.store(keys[1], b"x" * 900)
    assert [path.name for path in folder.iterdir()] == [CACHE.path(keys[1]).name]


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled_cache, "write_own", full)
    with pytest.raises(EngineError, match=r"cannot be written to .* \(No space left on device\); make room"):
        CACHE.store(KEY, b"code")
