"""The golden set of a package: slices and the network's fp32 answers, as the trainer wrote them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.errors import ModelPackageError
from strokecore.learned.arms import CLASSES
from strokecore.learned.package import OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import Answers, Float4D

# Golden probabilities are kept to this step (docs/model-package.md).
GOLDEN_STEP: Final = 2.0**-16
# The file is unpacked into memory: 24 slices of 512 x 416 with their answers take 0.4 GB.
_UNPACKED_BYTES: Final = 2**31
_SUM_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs, answers, and what region decisions are made from.

    Attributes
    ----------
    slices: float32 [n, channels, H, W].
    answers: of the network in fp32, to GOLDEN_STEP.
    case: int16 [n], index of the slice's case, -1 for random input.
    share: float32 [n], weight of the SG arm.
    regions: uint8 [n, H, W], RegionId.label.
    brain: bool [n, H, W].
    """

    slices: Float4D
    answers: Answers
    case: npt.NDArray[np.int16]
    share: npt.NDArray[np.float32]
    regions: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]


def read_golden(package: ModelPackage) -> Golden:
    """The package's golden set. Raises ModelPackageError when it cannot prove anything."""
    arrays = _unpacked(package)
    n = len(arrays["slices"]) if arrays["slices"].ndim else 0
    size = package.spec.size
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "slices": (np.float32, (n, len(package.spec.channels), *size)),
        OUTPUT_NAMES["bg"]: (np.float32, (n, len(CLASSES["bg"]), *size)),
        OUTPUT_NAMES["sg"]: (np.float32, (n, len(CLASSES["sg"]), *size)),
        "case": (np.int16, (n,)),
        "share": (np.float32, (n,)),
        "regions": (np.uint8, (n, *size)),
        "brain": (np.bool_, (n, *size)),
    }
    for name, (dtype, shape) in expected.items():
        found = arrays[name]
        if found.dtype != dtype or found.shape != shape:
            raise _unusable(
                package,
                f"has {name} as {found.dtype} {list(found.shape)}, expected {np.dtype(dtype)} {list(shape)}",
            )
    golden = Golden(
        arrays["slices"],
        Answers(arrays[OUTPUT_NAMES["bg"]], arrays[OUTPUT_NAMES["sg"]]),
        *(arrays[name] for name in ("case", "share", "regions", "brain")),
    )
    if wrong := _wrong(golden):
        raise _unusable(package, wrong)
    return golden


def _unpacked(package: ModelPackage) -> dict[str, npt.NDArray[Any]]:
    names = ("slices", *OUTPUT_NAMES.values(), "case", "share", "regions", "brain")
    try:
        with zipfile.ZipFile(package.golden) as archive:
            if sum(member.file_size for member in archive.infolist()) > _UNPACKED_BYTES:
                raise _unusable(package, f"unpacks to more than {_UNPACKED_BYTES} bytes")
        with np.load(package.golden, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except KeyError as error:
        raise _unusable(package, f"lacks an array ({error})") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unusable(package, f"cannot be read ({type(error).__name__})") from error


def _wrong(golden: Golden) -> str | None:
    """What keeps the values from proving anything."""
    if not (golden.case >= 0).any():
        return "holds no slice of a case"
    if not golden.brain[golden.case >= 0].any():
        return "shows no brain in the slices of its cases"
    for values in (golden.slices, *golden.answers, golden.share):
        if not np.isfinite(values).all():
            return "holds values that are not finite"
    if golden.share.min() < 0 or golden.share.max() > 1:
        return "has shares outside 0..1"
    for arm in golden.answers:
        if arm.min() < 0 or np.abs(arm.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
            return "has answers that are no probabilities"
    return None


def _unusable(package: ModelPackage, what: str) -> ModelPackageError:
    return ModelPackageError(
        f"model package {package.folder}: {package.golden.name} {what}; without it no engine can be proved "
        "and none serves. Export the model again."
    )
