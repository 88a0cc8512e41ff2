"""Private working folders: mode 0700, removed after each attempt, and after a crash by the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from strokecore.files import is_locked, locked

PREFIX: Final = "strokecore-job-"
_LOCK_NAME: Final = "lock"


@contextlib.contextmanager
def workspace(root: str | None) -> Iterator[Path]:
    """A new private folder. A lock held on a file in it says that its maker lives."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    try:
        with locked(folder / _LOCK_NAME):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: str | None) -> int:
    """Remove the folders of dead makers; returns how many. Those of other users and of living ones stay."""
    removed = 0
    for folder in Path(root or tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or is_locked(folder / _LOCK_NAME):
                continue
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        removed += 1
    return removed
