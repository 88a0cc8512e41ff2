"""What ``strokecore build-engine`` does: builds and keeps plans, and says time, size and place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from strokecore.errors import EngineError, UsageError
from strokecore.learned.package import load_package
from strokecore.learned.shipped import package_folder
from strokecore.learned.tensorrt_build import MOST_SLICES, PRECISIONS, check_precision
from strokecore.learned.tensorrt_engines import Built, build, unavailable, usable_gpu

# Behind everything that serves: a build takes a core and minutes.
_BACKGROUND_NICENESS: Final = 15


def build_engine(
    folder: Path,
    precisions: Sequence[str],
    console: Console,
    *,
    gpu: int = 0,
    most: int | None = None,
    force: bool = False,
    background: bool = False,
) -> int:
    """Build the plans of a package.

    Parameters
    ----------
    precisions: in this order; the first one that the GPU has when empty.
    most: slices at once; as many as the GPU's memory suggests when None.
    background: at low priority, and not at all where another build is at work.

    Returns 0 when every plan is there in the end, 1 when one could not be built.

    Raises
    ------
    UsageError: there is no GPU or TensorRT here, or the arguments cannot be.
    ModelPackageError: the package is damaged or does not fit this version.
    """
    wrong = [precision for precision in precisions if precision not in PRECISIONS]
    if wrong:
        raise UsageError(f"precision {', '.join(wrong)}: expected {', '.join(PRECISIONS)}.")
    if most is not None and not 1 <= most <= MOST_SLICES:
        raise UsageError(f"--max-slices {most}: expected 1 to {MOST_SLICES}.")
    if reason := unavailable():
        raise UsageError(reason)
    package = load_package(package_folder(folder) or folder)
    try:
        device = usable_gpu(gpu)
    except EngineError as error:
        raise UsageError(str(error)) from error
    if background:
        os.nice(_BACKGROUND_NICENESS)
    if not precisions:
        precisions = [_first_of(gpu)]
    failed = 0
    for precision in precisions:
        console.print(f"{package.name} {package.version} in {precision} for {device}")
        try:
            plan = build(package, precision, gpu=gpu, most=most, force=force, wait=not background)
            _print(plan, console)
        except BlockingIOError:
            console.print("another build is at work on this GPU")
        except EngineError as error:
            console.print(f"failed: {error}", markup=False)
            failed += 1
    return 1 if failed else 0


def _first_of(gpu: int) -> str:
    device = usable_gpu(gpu)
    for precision in PRECISIONS:
        try:
            check_precision(precision, device)
        except EngineError:
            continue
        return precision
    raise AssertionError("every GPU has fp32")


def _print(plan: Built, console: Console) -> None:
    profile = plan.key.profile
    took = "was there" if plan.seconds is None else f"built in {plan.seconds:.0f} s"
    console.print(
        f"{plan.key.precision}: {took}, {plan.size_bytes / 2**20:.1f} MiB, "
        f"{profile.minimum}..{profile.maximum} slices (best {profile.optimum}), {plan.path}",
        highlight=False,
        markup=False,
    )
