"""The file of a package's TensorRT engine on this GPU: what it depends on, where it is, whether it is there.

A serialised engine is code for one GPU model, one TensorRT version, one network and one precision. It takes
minutes to build and is kept in the node's cache.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from strokecore._version import __version__
from strokecore.errors import EngineError
from strokecore.files import cache_folder
from strokecore.learned.compiled_cache import CompiledCache, Key
from strokecore.learned.devices import Gpu, gpus
from strokecore.learned.package import ModelPackage
from strokecore.learned.runtimes import runtime_kind
from strokecore.learned.tensorrt.library import library_name, load_library

log = logging.getLogger(__name__)

FOLDER: Final = "tensorrt"
"""Of the cache."""
# A few models in a few precisions.
ENGINES: Final = CompiledCache(FOLDER, ".engine", 12, 8 * 2**30)
TIMINGS: Final = CompiledCache(FOLDER, ".timing", 6)

MOST_SLICES: Final = 64
"""One head is 25 to 40 slices of 4-6 mm; no more is gained beyond twice that."""
OPTIMUM: Final = 32
# Memory per pixel and slice. NVIDIA's builder (TensorRT for RTX 1.7, Ada, fp32) counts 290 bytes of
# activations for the tiny network, 210 for ViT-S and 410 for ViT-B; inputs and outputs add 72. Twice that,
# for kernels that keep an attention's scores.
_BYTES_PER_PIXEL: Final = 1000
# The rest of the GPU's memory is for the weights, the other workers of this node and other programs.
_SHARE: Final = 0.5


class Profile(NamedTuple):
    """Numbers of slices that an engine runs at once: fewest, the number it is tuned for, and most."""

    minimum: int
    optimum: int
    maximum: int


@dataclass(frozen=True)
class EngineFile:
    """What an engine of a package depends on.

    Attributes
    ----------
    trt: the module of TensorRT.
    """

    trt: Any
    package: ModelPackage
    precision: str
    gpu: Gpu

    @property
    def profile(self) -> Profile:
        """Its numbers of slices."""
        return profile_for(self.package.spec.size, self.gpu.memory_bytes)

    @property
    def key(self) -> Key:
        """StrokeCore's version is a part of it: its code chooses the builder's settings."""
        return {
            **self.timing_key,
            "precision": self.precision,
            "package_sha256": self.package.sha256,
            "profile": list(self.profile),
            "strokecore": __version__,
        }

    @property
    def timing_key(self) -> Key:
        """The GPU's model, not the one card: what is measured on one holds for the next."""
        return {
            "gpu": self.gpu.name,
            "compute_capability": list(self.gpu.compute_capability),
            "tensorrt": library_name(self.trt),
        }

    @property
    def path(self) -> Path:
        """Where the serialised engine is or would be."""
        return ENGINES.path(self.key)

    @property
    def lock(self) -> Path:
        """Held while any engine is built on this GPU: a build measures how fast kernels run."""
        name = hashlib.sha256((self.gpu.uuid or str(self.gpu.index)).encode()).hexdigest()[:16]
        return cache_folder(FOLDER) / f"build-{name}.lock"


def engine_file(package: ModelPackage, precision: str) -> EngineFile:
    """The engine's file on the first GPU that this process may use; CUDA_VISIBLE_DEVICES says which that is.

    Raises EngineError when there is none, it lacks the precision, or TensorRT cannot be loaded.
    """
    found = gpus()
    if not found:
        raise EngineError(
            "no NVIDIA GPU is visible to this process; install its driver (nvidia-smi must list the GPU, in "
            f"a container too), look at CUDA_VISIBLE_DEVICES, and run: {runtime_kind('tensorrt').install}"
        )
    gpu = found[0]
    if not gpu.computes_in(precision):
        raise EngineError(
            f"{gpu} has no {precision}, which came with compute capability 8.0 (Ampere); use fp16 or fp32."
        )
    return EngineFile(load_library(gpu), package, precision, gpu)


def ready(package: ModelPackage, precision: str) -> bool:
    """Whether GPU, TensorRT and a sound engine are there, so that it starts at once; never raises."""
    try:
        return ENGINES.load(engine_file(package, precision).key) is not None
    except EngineError as error:
        log.debug("TensorRT is not ready: %s", error)
        return False


def profile_for(size: tuple[int, int], memory_bytes: int) -> Profile:
    """1 to 64 slices of ``size`` pixels; fewer where half of the GPU's memory would not hold them."""
    fitting = int(memory_bytes * _SHARE) // (_BYTES_PER_PIXEL * size[0] * size[1])
    maximum = 1 << (max(1, min(MOST_SLICES, fitting)).bit_length() - 1)
    return Profile(1, min(OPTIMUM, maximum), maximum)
