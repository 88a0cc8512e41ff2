"""Compiled OpenVINO models that this node keeps, so that the next start is quicker.

A compiled model is code, so it lies in the node's own cache folder (strokecore/files.py). Its file begins
with the sha256 of the rest: half a file or a flipped bit is never handed to the library. Where anything is
wrong, the model is compiled again; nothing but time depends on the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from strokecore.errors import EngineError
from strokecore.files import cache_folder, keep_newest, read_own, write_own

log = logging.getLogger(__name__)

MAX_MODELS: Final = 6
"""Compiled models that are kept: a few models in two precisions; the longest unused go first."""
MAX_BYTES: Final = 2 * 2**30
_SUFFIX: Final = ".blob"
_DIGEST_BYTES: Final = 32


def load(key: Mapping[str, str]) -> bytes | None:
    """The compiled model of ``key``; None where there is none, with a warning where it is not sound."""
    try:
        path = _path(key)
        content = read_own(path)
    except FileNotFoundError:
        return None
    except (EngineError, OSError) as error:
        log.warning("the cache of compiled models is not used: %s", error)
        return None
    compiled = content[_DIGEST_BYTES:]
    if hashlib.sha256(compiled).digest() != content[:_DIGEST_BYTES]:
        log.warning("the compiled model %s is damaged and will be made again", path.name)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the longest unused are removed first
    return compiled


def store(key: Mapping[str, str], compiled: bytes) -> None:
    """Keep a compiled model; only a warning when that is impossible."""
    try:
        path = _path(key)
        write_own(path, hashlib.sha256(compiled).digest() + compiled)
        keep_newest(path.parent, f"*{_SUFFIX}", MAX_MODELS, MAX_BYTES, keep=path)
    except (EngineError, OSError) as error:
        log.warning("the compiled model is not kept, so every start compiles it again: %s", error)


def discard(key: Mapping[str, str]) -> None:
    """Remove a compiled model that proved useless."""
    with contextlib.suppress(OSError, EngineError):
        _path(key).unlink()


def _path(key: Mapping[str, str]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder("openvino") / f"{digest}{_SUFFIX}"
