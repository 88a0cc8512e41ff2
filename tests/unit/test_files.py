"""Files written whole, locks, eviction, and what is read from the node's own cache."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from strokecore.errors import EngineError
from strokecore.files import (
    cache_folder,
    is_locked,
    keep_newest,
    locked,
    partial_pattern,
    read_own,
    write_atomically,
    write_own,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the cache."""
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "cache"))
    return cache_folder("own")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_found_by_the_files_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(os, "replace", lambda old, new: None)
        write_atomically(tmp_path / "seg.dcm", b"half")
    assert len(list(tmp_path.glob(partial_pattern("seg.dcm")))) == 1
    assert not list(tmp_path.glob(partial_pattern("sr.dcm")))


def test_the_umask_decides_who_reads_a_file_and_nobody_else_reads_the_caches(own: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(own / "report", b"")
        write_own(own / "engine", b"")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in own.iterdir()}
    assert modes == {"report": 0o644, "engine": 0o600}


def test_only_files_that_nobody_else_can_have_written_are_read(own: Path) -> None:
    write_own(own / "engine", b"code")
    assert read_own(own / "engine") == b"code"
    with pytest.raises(FileNotFoundError):
        read_own(own / "none")
    (own / "link").symlink_to(own / "engine")
    with pytest.raises(EngineError, match="is a link"):
        read_own(own / "link")
    (own / "engine").chmod(0o620)
    with pytest.raises(EngineError, match="can be written by others"):
        read_own(own / "engine")
    own.chmod(0o770)
    for act in (
        lambda: read_own(own / "engine"),
        lambda: write_own(own / "engine", b""),
        lambda: cache_folder("own"),
    ):
        with pytest.raises(EngineError, match="chmod go-w"):
            act()


def test_a_cache_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STROKECORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(EngineError, match="cannot be made or written"):
        cache_folder("own")


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_a_lock_is_held_alone_and_given_back(tmp_path: Path, folder: bool) -> None:
    path = tmp_path if folder else tmp_path / "lock"
    with locked(path):
        assert is_locked(path)
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass
    assert not is_locked(path)
    assert not is_locked(tmp_path / "none")


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"), locked(tmp_path / "lock"):
        pass


def _files(folder: Path, sizes: dict[str, int]) -> None:
    """The first is the oldest, an hour younger each."""
    for hour, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (0, hour * 3600))


def test_the_longest_unchanged_files_go(tmp_path: Path) -> None:
    _files(tmp_path, {"a.bin": 1, "b.bin": 1, "other": 1, "c.bin": 1})
    assert keep_newest(tmp_path, "*.bin", 2) == (tmp_path / "a.bin",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.bin", "c.bin", "other"]


def test_large_files_make_room_but_the_one_just_written_stays(tmp_path: Path) -> None:
    _files(tmp_path, {"a.bin": 300, "b.bin": 10, "c.bin": 10})
    assert keep_newest(tmp_path, "*.bin", 5, max_bytes=320, keep=tmp_path / "a.bin") == ()
    assert keep_newest(tmp_path, "*.bin", 5, max_bytes=310, keep=tmp_path / "a.bin") == (tmp_path / "b.bin",)


def test_what_a_crash_left_goes_once_it_is_old(tmp_path: Path) -> None:
    _files(tmp_path, {".old.1a2b.part": 1, "old": 1})
    (tmp_path / ".at-work.3c4d.part").touch()
    keep_newest(tmp_path, "*.bin", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".at-work.3c4d.part", "old"]
