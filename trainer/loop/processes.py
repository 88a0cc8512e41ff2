"""One training in one or several processes: their start, their one folder, and what they must agree on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric

from trainer.config import Precision
from trainer.loop.run_folder import locked_run

# Several processes ask each other so often: an answer costs a round trip of the network.
AGREE_STEPS: Final = 10


def start_fabric(precision: Precision) -> Fabric:
    """This process's place: the first GPU, or the CPU; under torchrun the device of its rank.

    The plain command uses one GPU even where there are more: the size of a step (pairs per process) is part
    of what a run is, and does not change with the machine.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
    # which precision is used stands in run.json
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local,
        num_nodes=nodes,
        strategy="ddp" if local * nodes > 1 else "auto",
        precision=precision,
    )
    fabric.launch()
    return fabric


@contextmanager
def alone_in(run: Path, fabric: Fabric) -> Iterator[None]:
    """Hold the run folder for this training; the first process holds it for all."""
    if fabric.is_global_zero:
        with locked_run(run):
            yield
    else:
        yield


def agreed(fabric: Fabric, step: int, value: int) -> int:
    """The highest of all processes' values, so that none waits for another that has stopped.

    Over several processes 0 except at every tenth step.
    """
    if fabric.world_size == 1:
        return value
    if step % AGREE_STEPS:
        return 0
    values = torch.tensor(value, device=fabric.device)
    return int(torch.as_tensor(fabric.all_reduce(values, reduce_op="max")))
