"""The golden set of a package: slices and the network's fp32 answers, as the trainer wrote them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import BoolArray, Float4D, Float32Array, UInt8Array
from strokecore.errors import ModelPackageError
from strokecore.learned.arms import CLASSES
from strokecore.learned.package import OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import Answers

# The file is unpacked into memory: 24 slices of 512 x 416 with their answers take 0.4 GB.
_UNPACKED_BYTES: Final = 2**31


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs, answers, and what region decisions are made from.

    Attributes
    ----------
    slices: float32 [n, channels, H, W].
    answers: of the network in fp32, rounded to steps of 2**-16.
    case: int16 [n], index of the slice's case, -1 for random input.
    share: float32 [n], weight of the SG arm.
    regions: uint8 [n, H, W], RegionId.label.
    brain: bool [n, H, W].
    """

    slices: Float4D
    answers: Answers
    case: npt.NDArray[np.int16]
    share: Float32Array
    regions: UInt8Array
    brain: BoolArray


def read_golden(package: ModelPackage) -> Golden:
    """The package's golden set.

    Raises ModelPackageError when it is damaged or shows no case. That its answers are the network's, the gate
    finds out.
    """
    size = package.spec.size
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "slices": (np.float32, (package.spec.channel_count, *size)),
        OUTPUT_NAMES["bg"]: (np.float32, (len(CLASSES["bg"]), *size)),
        OUTPUT_NAMES["sg"]: (np.float32, (len(CLASSES["sg"]), *size)),
        "case": (np.int16, ()),
        "share": (np.float32, ()),
        "regions": (np.uint8, size),
        "brain": (np.bool_, size),
    }
    arrays = _unpacked(package, tuple(expected))
    number = arrays["slices"].shape[:1]
    for name, (dtype, one) in expected.items():
        found, shape = arrays[name], (*number, *one)
        if found.dtype != dtype or found.shape != shape:
            raise _unusable(
                package,
                f"has {name} as {found.dtype} {list(found.shape)}, expected {np.dtype(dtype)} {list(shape)}",
            )
    slices, bg, sg, case, share, regions, brain = arrays.values()
    if not (case >= 0).any():
        raise _unusable(package, "holds no slice of a case")
    if not brain[case >= 0].any():
        raise _unusable(package, "shows no brain in the slices of its cases")
    if not ((share >= 0) & (share <= 1)).all():
        raise _unusable(package, "has shares outside 0..1")
    return Golden(slices, Answers(bg, sg), case, share, regions, brain)


def _unpacked(package: ModelPackage, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
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


def _unusable(package: ModelPackage, what: str) -> ModelPackageError:
    return ModelPackageError(
        f"model package {package.folder}: {package.golden.name} {what}; without it no engine can be proved. "
        "Export the model again."
    )
