"""TensorRT plans that this node has built, kept from one start to the next.

A plan is code for one GPU model, one TensorRT version, one network and one precision. Whoever can write one
runs code in the node, so plans live in the node's own cache folder (strokecore/files.py). A plan that is
damaged, foreign or of another version is left alone with a warning, and built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from strokecore._version import __version__
from strokecore.errors import EngineError
from strokecore.files import cache_folder, is_locked, keep_newest, locked, read_own, write_own
from strokecore.learned.devices import Gpu

log = logging.getLogger(__name__)

MAX_PLANS: Final = 12
"""Plans that are kept: a few models in a few precisions; the longest unused go first."""
MAX_BYTES: Final = 8 * 2**30
MAX_TIMINGS: Final = 6
# A build that failed fails again until something changes; a driver may have been repaired by tomorrow.
FAILURE_HOURS: Final = 24
_ABANDONED_SECONDS: Final = 3600


@dataclass(frozen=True)
class Profile:
    """Numbers of slices that a plan runs at once: fewest, the number it is tuned for, and most."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(f"{self} is not 1 <= minimum <= optimum <= maximum")


@dataclass(frozen=True)
class PlanKey:
    """All that makes a plan usable.

    Attributes
    ----------
    gpu, compute_capability: of the device it was tuned on; a part of a partitioned GPU has a name of its own.
    tensorrt: version of the library that built it.
    precision: "bf16", "fp16", "tf32" or "fp32".
    package_sha256: of the model package.
    profile: its numbers of slices.
    strokecore: this version, whose code made the typed network and chose the builder's settings.
    """

    gpu: str
    compute_capability: tuple[int, int]
    tensorrt: str
    precision: str
    package_sha256: str
    profile: Profile
    strokecore: str = __version__

    @classmethod
    def of(cls, gpu: Gpu, tensorrt: str, precision: str, package_sha256: str, profile: Profile) -> PlanKey:
        """The key of a plan for ``gpu``."""
        return cls(gpu.name, gpu.compute_capability, tensorrt, precision, package_sha256, profile)

    @property
    def text(self) -> str:
        """As JSON, the same for the same key."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """Stem of the plan's files."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


def load(key: PlanKey) -> bytes | None:
    """The plan of ``key``; None where there is none, and with a warning where it is not sound."""
    folder = _folder()
    plan, about = _paths(folder, key)
    try:
        record = _record(about)
        if record["key"] != json.loads(key.text):
            raise ValueError("it was built for something else")
        content = read_own(plan)
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ValueError("it is damaged")
    except FileNotFoundError:
        return None
    except (EngineError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the TensorRT plan %s is not used and will be built again: %s", plan.name, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(about)  # the longest unused are removed first
    return content


def find(key: PlanKey) -> PlanKey | None:
    """``key`` where its plan is there, else the last used one of another profile only, else None.

    Looks at names and records only; ``load`` says whether the plan is sound.
    """
    plan, about = _paths(_folder(), key)
    if plan.is_file() and about.is_file():
        return key
    for path in _by_age(_folder(), ".json"):
        with contextlib.suppress(EngineError, OSError, ValueError, KeyError, TypeError):
            other = replace(key, profile=Profile(**_record(path)["key"]["profile"]))
            if path.stem == other.digest and path.with_suffix(".plan").is_file():
                return other
    return None


def store(key: PlanKey, plan: bytes, seconds: float) -> Path:
    """Keep a plan that took ``seconds`` to build; returns its file. The longest unused plans are removed.

    Raises EngineError when it cannot be written.
    """
    folder = _folder()
    path, about = _paths(folder, key)
    record = {
        "key": json.loads(key.text),
        "sha256": hashlib.sha256(plan).hexdigest(),
        "bytes": len(plan),
        "build_seconds": round(seconds, 1),
    }
    try:
        # without its record a plan is not read: in this order a crash in between leaves no wrong pair
        about.unlink(missing_ok=True)
        write_own(path, plan)
        write_own(about, json.dumps(record, indent=1).encode())
        (folder / f"{key.digest}.failed").unlink(missing_ok=True)
        _evict(folder, keep=path)
    except OSError as error:
        raise EngineError(
            f"the TensorRT plan ({len(plan) / 2**20:.0f} MiB) cannot be written to {folder} "
            f"({os.strerror(error.errno or 0)}); make room there, or set STROKECORE_CACHE to another folder."
        ) from error
    return path


def path_of(key: PlanKey) -> Path:
    """Where the plan of ``key`` is or would be."""
    return _paths(_folder(), key)[0]


def discard(key: PlanKey) -> None:
    """Remove a plan that proved useless."""
    for path in _paths(_folder(), key):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def building(gpu: Gpu, *, wait: bool = True) -> Iterator[None]:
    """Hold the right to build on ``gpu``: one build at a time, because a build measures how fast kernels run.

    Raises BlockingIOError when another process builds there and ``wait`` is False.
    """
    with locked(_lock(gpu), wait=wait):
        yield


def being_built(gpu: Gpu) -> bool:
    """Whether another process builds on ``gpu`` now."""
    return is_locked(_lock(gpu))


def record_failure(key: PlanKey, reason: str) -> None:
    """Remember that the plan could not be built, so that it is not tried at every start."""
    with contextlib.suppress(OSError):
        write_own(_folder() / f"{key.digest}.failed", reason.encode())


def failure(key: PlanKey) -> str | None:
    """Why the plan could not be built within the last ``FAILURE_HOURS``; None when it was not tried."""
    path = _folder() / f"{key.digest}.failed"
    try:
        if time.time() - path.stat().st_mtime > FAILURE_HOURS * 3600:
            return None
        return read_own(path).decode("utf-8", "replace")
    except (OSError, EngineError):
        return None


def load_timing(gpu: Gpu, tensorrt: str) -> bytes:
    """What TensorRT measured on this GPU model in earlier builds; empty at first."""
    try:
        return read_own(_timing(gpu, tensorrt))
    except FileNotFoundError:
        return b""
    except (EngineError, OSError) as error:
        log.warning("the TensorRT timing cache is not used: %s", error)
        return b""


def store_timing(gpu: Gpu, tensorrt: str, content: bytes) -> None:
    """Keep it for the next build. Losing it costs time only."""
    try:
        write_own(_timing(gpu, tensorrt), content)
        keep_newest(_folder(), "*.timing", MAX_TIMINGS)
    except (EngineError, OSError) as error:
        log.warning("the TensorRT timing cache cannot be written: %s", error)


def _folder() -> Path:
    return cache_folder("tensorrt")


def _paths(folder: Path, key: PlanKey) -> tuple[Path, Path]:
    return folder / f"{key.digest}.plan", folder / f"{key.digest}.json"


def _lock(gpu: Gpu) -> Path:
    return _folder() / f"build-{_short(gpu.uuid or str(gpu.index))}.lock"


def _timing(gpu: Gpu, tensorrt: str) -> Path:
    return _folder() / f"{_short(f'{gpu.name} {gpu.compute_capability} {tensorrt}')}.timing"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _record(path: Path) -> Mapping[str, Any]:
    """Of a plan; raises ValueError when it is none."""
    record = json.loads(read_own(path).decode())
    if not isinstance(record, dict):
        raise ValueError("its record is not an object")
    return record


def _by_age(folder: Path, suffix: str) -> list[Path]:
    """Files with ``suffix``, the last used first."""
    found = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _evict(folder: Path, keep: Path) -> None:
    kept, size = 0, 0
    for about in _by_age(folder, ".json"):
        plan = about.with_suffix(".plan")
        with contextlib.suppress(OSError):
            size += plan.stat().st_size
        kept += 1
        if plan != keep and (kept > MAX_PLANS or size > MAX_BYTES):
            log.info("removing the TensorRT plan %s: it was not used for the longest time", plan.name)
            about.unlink(missing_ok=True)
            plan.unlink(missing_ok=True)
            kept -= 1
    # what a crash left: a plan without its record, or half a file; younger ones may be at work elsewhere
    for left in _by_age(folder, ""):
        alone = left.suffix == ".plan" and not left.with_suffix(".json").exists()
        with contextlib.suppress(OSError):
            old = time.time() - left.stat().st_mtime > _ABANDONED_SECONDS
            if old and (alone or left.name.startswith(".")):
                left.unlink()
