"""torch's settings of the whole process, set for one run and then as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_settings(threads: int | None, *, tf32: bool = False) -> Iterator[None]:
    """Threads on the CPU, what fp32 means, and the same answer every time.

    By torch's defaults a GPU rounds convolutions in fp32 to TF32 and matrix products not; with another
    setting for products even a CPU rounds them. torch has a newer way to set this, but its own code still
    asks in the older one, and fails where the two disagree.

    Parameters
    ----------
    threads: None leaves them as they are.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    kinds = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = tf32, False, True
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        if threads is not None:
            torch.set_num_threads(before[1])
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = kinds
