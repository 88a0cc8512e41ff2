"""What libraries compiled for this machine, kept from one start to the next.

That is TensorRT's serialised engines and OpenVINO's compiled models. They are code, so they lie in the
node's own cache folder and are read through ``strokecore.files.read_own``. A file begins with the sha256 of
the rest: half a file or a flipped bit is never handed to a library. Where anything is wrong, it is compiled
again; nothing but time depends on the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strokecore.errors import EngineError
from strokecore.files import CACHE_VARIABLE, cache_folder, keep_newest, read_own, write_own

log = logging.getLogger(__name__)

_DIGEST_BYTES: Final = 32

Key = Mapping[str, Any]
"""All that a compiled file depends on, JSON-ready: library and version, device, precision, package's hash."""


@dataclass(frozen=True)
class CompiledCache:
    """The files of one kind.

    Attributes
    ----------
    folder: below the node's cache.
    suffix: of the files.
    most, max_bytes: what is kept; the longest unused go first.
    """

    folder: str
    suffix: str
    most: int
    max_bytes: int = 2**30

    def path(self, key: Key) -> Path:
        """Where the file of ``key`` is or would be; raises EngineError when there can be no cache folder."""
        digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:32]
        return cache_folder(self.folder) / f"{digest}{self.suffix}"

    def load(self, key: Key) -> bytes | None:
        """What was compiled for ``key``; None where there is none, with a warning where it is not sound."""
        try:
            path = self.path(key)
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

    def store(self, key: Key, compiled: bytes) -> Path:
        """Keep what was compiled; returns its file. Raises EngineError when it cannot be written."""
        path = self.path(key)
        try:
            write_own(path, hashlib.sha256(compiled).digest() + compiled)
        except OSError as error:
            raise EngineError(
                f"{len(compiled) / 2**20:.0f} MiB cannot be written to {path.parent} "
                f"({os.strerror(error.errno or 0)}); make room there, or set {CACHE_VARIABLE} to another "
                "folder."
            ) from error
        keep_newest(path.parent, f"*{self.suffix}", self.most, self.max_bytes, keep=path)
        return path

    def discard(self, key: Key) -> None:
        """Remove what proved useless."""
        with contextlib.suppress(OSError, EngineError):
            self.path(key).unlink()
