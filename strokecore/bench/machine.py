"""The machine that was measured: what explains a time, nothing that names a host, a user or a folder."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from typing import Any, Final

from strokecore.errors import StrokeCoreError
from strokecore.learned.devices import cpu_name, driver_version, gpus, usable_cores
from strokecore.learned.runtimes import RUNTIME_NAMES, library_versions

_LIBRARIES: Final = ("numpy", "scipy", "SimpleITK")
# An absolute path up to its last name; "1/2" and "and/or" are not paths.
_FOLDERS: Final = re.compile(r"(?<![\w.)\]])/(?:[^\s/:'\",;()]+/)+")
_LONGEST: Final = 600


def machine_facts() -> dict[str, Any]:
    """Processor, memory, GPUs and versions; JSON-ready, see bench.schema.json."""
    cuda = driver_version()
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    for name in RUNTIME_NAMES:
        libraries |= library_versions(name)
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "python": platform.python_version(),
        "libraries": libraries,
        "gpus": [str(gpu) for gpu in gpus()],
        "cuda_of_driver": f"{cuda[0]}.{cuda[1]}" if cuda else None,
    }


def load_average() -> float:
    """How many programs want the processor, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def without_folders(error: BaseException) -> str:
    """An error as a record may hold it: absolute paths cut to their last name, at most a paragraph.

    An error that is not one of ours begins with its kind.
    """
    kind = "" if isinstance(error, StrokeCoreError) else f"{type(error).__name__}: "
    text = _FOLDERS.sub("", " ".join(f"{kind}{error}".split())).rstrip(": ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
