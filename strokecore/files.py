"""Files of the node's cache: written whole or not at all, and read only when nobody else can have done so."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from strokecore.cache import own
from strokecore.errors import EngineError

_PRIVATE: Final = 0o600


def read_own(path: Path) -> bytes:
    """The content of ``path``.

    Raises
    ------
    FileNotFoundError: there is none.
    EngineError: the file or its folder is a link, belongs to another user, or can be written by others.
    OSError: it cannot be read.
    """
    own(path.parent)
    own(path)
    # the folder is closed to others, so that nobody can have put a link there since
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read()


def write_own(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the whole new one; mode 0600.

    Raises
    ------
    EngineError: the folder belongs to another user or can be written by others.
    OSError: no room, or it cannot be written; the old file is left as it was.
    """
    own(path.parent)
    # a name of its own in the same folder: created with mode 0600 and never through a link
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` alone, in this process and among all of this machine.

    The lock ends with the process, however it ends; the file stays, and must: who waits for it holds it open.

    Raises
    ------
    BlockingIOError: another one holds it, and ``wait`` is False.
    EngineError: as ``read_own``.
    """
    own(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, _PRIVATE)
    except OSError as error:
        raise EngineError(
            f"the lock {path} cannot be opened ({type(error).__name__}); expected a plain file of this user. "
            "Remove it and try again."
        ) from error
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
