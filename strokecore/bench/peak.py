"""What the machine reaches at best: a large matrix product in each precision, in turn with the engines.

numpy's BLAS for fp32 on the CPU, torch for bf16 there and for everything on a GPU. A measured peak is lower
than the data sheet's, and is what a program can hope for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from strokecore.errors import EngineError

# Large enough that the product is bound by arithmetic: 0.1 s on two cores, some milliseconds on a GPU.
_CPU_SIZE: Final = 2048
_GPU_SIZE: Final = 8192
_SEED: Final = 1
# What OpenBLAS, the library of numpy's wheels, reads when it is loaded; in this order.
_BLAS_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product to be timed.

    Attributes
    ----------
    on_gpu, precision: what it stands for.
    how: for people.
    flops: operations of one call.
    run: the call; done when it returns.
    """

    on_gpu: bool
    precision: str
    how: str
    flops: int
    run: Callable[[], object]


def product(on_gpu: bool, precision: str, threads: int, size: int | None = None) -> Product:
    """The matrix product of a device and precision.

    Parameters
    ----------
    threads: on the CPU.
    size: of the square matrices; None: large enough to be bound by arithmetic.

    Raises
    ------
    EngineError: there is none here.
    """
    size = size or (_GPU_SIZE if on_gpu else _CPU_SIZE)
    if not on_gpu and precision == "fp32":
        return _numpy_product(size, threads)
    return _torch_product(on_gpu, precision, threads, size)


def _numpy_product(size: int, threads: int) -> Product:
    rng = np.random.default_rng(_SEED)
    a, b = (rng.standard_normal((size, size), np.float32) for _ in range(2))
    out = np.empty_like(a)
    how = f"numpy's BLAS, {size} x {size}, {_blas_threads(threads)}"
    return Product(False, "fp32", how, 2 * size**3, lambda: np.matmul(a, b, out=out))


def _blas_threads(threads: int) -> str:
    """Threads of the product, as set before numpy was loaded (strokecore.cli_engines), else all cores."""
    own = next((os.environ[name] for name in _BLAS_VARIABLES if name in os.environ), "")
    return f"{own if own.isdecimal() else os.cpu_count()} threads (engines: {threads})"


def _torch_product(on_gpu: bool, precision: str, threads: int, size: int) -> Product:
    try:
        import torch
    except ImportError as error:
        raise EngineError(
            f"the peak in {precision} is measured with torch, which is not installed; run: pip install torch"
        ) from error
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
    if precision not in kinds or (not on_gpu and precision != "bf16"):
        raise EngineError(f"no matrix product stands for {precision} here")
    if on_gpu and not torch.cuda.is_available():
        raise EngineError("the peak of a GPU is measured with torch, and this torch sees none")
    from strokecore.learned.torch_settings import torch_settings

    device = torch.device("cuda" if on_gpu else "cpu")
    a, b = (torch.randn(size, size, device=device).to(kinds[precision]) for _ in range(2))

    def run() -> Any:
        with torch_settings(None if on_gpu else threads, tf32=precision == "tf32"), torch.inference_mode():
            found = a @ b
            if on_gpu:
                torch.cuda.synchronize()
            return found

    where = torch.cuda.get_device_name() if on_gpu else f"{threads} threads"
    how = f"torch {torch.__version__}, {size} x {size}, {where}"
    return Product(on_gpu, precision, how, 2 * size**3, run)
