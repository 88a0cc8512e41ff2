"""The node's own folder for what it compiled and checked: plans, compiled models, verdicts of the gate.

What lies there is run as code or believed without a second look, so it is only read from a folder that this
user made and nobody else can write to.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from strokecore.errors import EngineError

CACHE_VARIABLE: Final = "STROKECORE_CACHE"
_OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def cache_folder(*names: str) -> Path:
    """The folder ``names`` below the cache, made where it is missing.

    The cache is STROKECORE_CACHE, else XDG_CACHE_HOME/strokecore, else ~/.cache/strokecore.

    Raises
    ------
    EngineError: it cannot be made or belongs to somebody else, or others may write to it.
    """
    folder = _root()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        own(folder)
        for name in names:
            folder /= name
            folder.mkdir(exist_ok=True, mode=0o700)
            own(folder)
    except OSError as error:
        raise EngineError(
            f"the cache {folder} cannot be made or written ({type(error).__name__}); "
            f"set {CACHE_VARIABLE} to a folder of this user's own."
        ) from error
    return folder


def own(path: Path) -> None:
    """Raises EngineError unless ``path`` is this user's, no link, and closed to other writers."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_MAY_WRITE:
        raise EngineError(
            f"{path} is a link, belongs to another user or can be written by others, and what lies there is "
            f"run as code; expected a folder of this user alone. Run chmod go-w on it, or set "
            f"{CACHE_VARIABLE} to another folder."
        )


def _root() -> Path:
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "strokecore"
