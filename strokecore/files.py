"""Files that are written whole or not at all, locks, and the node's own cache folder.

What lies in the cache (serialised engines, compiled models, reports of the parity gate) is run as code or
believed without a second look, so it is only read from a folder that this user made and nobody else can
write to.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from strokecore.errors import EngineError

CACHE_VARIABLE: Final = "STROKECORE_CACHE"
PARTIAL_SUFFIX: Final = ".part"
"""The end of the name of a file that is being written; ``partial_pattern`` finds what a crash left of one."""
_PRIVATE: Final = 0o600
_PUBLIC: Final = 0o666  # less the umask
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_ABANDONED_SECONDS: Final = 3600


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write ``content`` so that a reader sees the old file or the whole new one, power cuts included.

    Parameters
    ----------
    private: readable and writable by this user only.

    Raises
    ------
    OSError: no room, or it cannot be written; the old file is left as it was.
    """
    # a name of its own in the same folder, so that two writers never share one, and never through a link
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, _PRIVATE if private else _PUBLIC)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def csv_bytes(rows: Sequence[Mapping[str, object]]) -> bytes:
    """A table as CSV, UTF-8: one or more rows with the same keys; None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def partial_pattern(name: str) -> str:
    """Glob pattern of what a killed ``write_atomically`` left of the file ``name``."""
    return f".{name}.*{PARTIAL_SUFFIX}"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock on ``path``, a folder or a file that is made where it is missing.

    It is held alone, in this process and among all of this machine. The kernel gives it back when the process
    ends, however it ends; a file stays, and must: who waits for it holds it open.

    Raises
    ------
    BlockingIOError: another one holds it, and ``wait`` is False.
    OSError: it is a link, cannot be opened, or its file system has no locks.
    """
    folder = path.is_dir() and not path.is_symlink()
    flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether another process or thread holds the lock ``path`` now."""
    if not path.exists():
        return False
    try:
        with locked(path, wait=False):
            return False
    except BlockingIOError:
        return True


def keep_newest(
    folder: Path, pattern: str, most: int, max_bytes: float = float("inf"), *, keep: Path | None = None
) -> tuple[Path, ...]:
    """Remove files of a cache, the longest unchanged first; returns those removed.

    What a crash left half-written there goes too, once it is old enough not to be at work in another process.

    Parameters
    ----------
    pattern: glob pattern of the files that count and may be removed.
    most, max_bytes: how many files stay at most, and how many bytes they hold together.
    keep: a file that counts first and stays in any case: the one just written.
    """
    by_age: list[tuple[bool, int, int, Path]] = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            found = path.stat()
            by_age.append((path != keep, -found.st_mtime_ns, found.st_size, path))
    removed: list[Path] = []
    number = size = 0
    for _, _, length, path in sorted(by_age):
        number, size = number + 1, size + length
        if path != keep and (number > most or size > max_bytes):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    for partial in folder.glob(partial_pattern("*")):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()
    return tuple(removed)


def cache_folder(*names: str) -> Path:
    """The folder ``names`` below the cache, made where it is missing.

    The cache is STROKECORE_CACHE, else XDG_CACHE_HOME/strokecore, else ~/.cache/strokecore.

    Raises
    ------
    EngineError: it cannot be made or belongs to somebody else, or others may write to it.
    """
    folder = _cache_root()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_own(folder)
        for name in names:
            folder /= name
            folder.mkdir(exist_ok=True, mode=0o700)
            _check_own(folder)
    except OSError as error:
        raise EngineError(
            f"the cache {folder} cannot be made or written ({type(error).__name__}); "
            f"set {CACHE_VARIABLE} to a folder of this user's own."
        ) from error
    return folder


def read_own(path: Path) -> bytes:
    """The content of ``path``.

    Raises
    ------
    FileNotFoundError: there is none.
    EngineError: the file or its folder is a link, belongs to another user, or can be written by others.
    OSError: it cannot be read.
    """
    _check_own(path.parent)
    _check_own(path)
    # the folder is closed to others, so that nobody can have put a link there since
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read()


def write_own(path: Path, content: bytes) -> None:
    """``write_atomically`` for ``read_own``: mode 0600.

    Raises
    ------
    EngineError: the folder belongs to another user or can be written by others.
    OSError: as write_atomically.
    """
    _check_own(path.parent)
    write_atomically(path, content, private=True)


def _check_own(path: Path) -> None:
    """Raises EngineError unless ``path`` is this user's, no link, and closed to other writers."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise EngineError(
            f"{path} is a link, belongs to another user or can be written by others, and what lies there is "
            f"run as code; expected a folder of this user alone. Run chmod go-w on it, or set "
            f"{CACHE_VARIABLE} to another folder."
        )


def _cache_root() -> Path:
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "strokecore"
