"""Everything of a run that changes with its steps: what a resumed run needs to continue the same curve.

Batches, learning rate and dropout are functions of the recipe and the step, so no random state is kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from strokecore.errors import UsageError
from trainer.loop.checkpoint import load_state, save_state
from trainer.loop.ema import WeightAverage
from trainer.loss.tagl import TerritoryAwareGatedLoss

MOMENTS: Final = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class Progress:
    """Counters of a run.

    Attributes
    ----------
    step: optimiser steps done.
    best_step, best_dice: the validation whose weights are kept; 0 and -1 before the first.
    without_better: validations since then.
    seconds: time spent in steps, over all sessions.
    """

    step: int = 0
    best_step: int = 0
    best_dice: float = -1.0
    without_better: int = 0
    seconds: float = 0.0


class TrainingState:
    """Decoder, its running mean, AdamW's moments, the gate's medians and the counters.

    ``decoder``, ``optimizer`` and ``loss`` are the bare objects, not what fabric wraps around them.
    """

    def __init__(
        self, decoder: nn.Module, optimizer: torch.optim.AdamW, loss: TerritoryAwareGatedLoss, decay: float
    ) -> None:
        self.decoder = decoder
        self.optimizer = optimizer
        self.loss = loss
        self.average = WeightAverage(decoder, decay)
        self.progress = Progress()

    def save(self, folder: Path, fabric: Fabric) -> None:
        """Write the resume state; every process must call it, the first one writes."""
        tensors = {f"loss.{name}": _of_all(value, fabric) for name, value in self.loss.named_buffers()}
        if fabric.is_global_zero:
            tensors |= _named("decoder", self.decoder) | _named("average", self.average.decoder)
            for name, parameter in self.decoder.named_parameters():
                moments = self.optimizer.state.get(parameter, {})
                tensors |= {f"{kind}.{name}": moments[kind] for kind in MOMENTS if kind in moments}
            save_state(folder, tensors, {**asdict(self.progress), "processes": fabric.world_size})

    def load(self, folder: Path, fabric: Fabric) -> bool:
        """Continue from what ``save`` wrote; False when nothing was.

        Raises UsageError when it is damaged or of another number of processes.
        """
        found = load_state(folder)
        if found is None:
            return False
        tensors, state = found
        if state["processes"] != fabric.world_size:
            raise UsageError(
                f"the run was started with {state['processes']} processes, this command has "
                f"{fabric.world_size}; the batches would be others. Use as many, or another run folder."
            )
        self.progress = Progress(**{name: state[name] for name in asdict(Progress())})
        self.decoder.load_state_dict(of(tensors, "decoder"))
        self.average.decoder.load_state_dict(of(tensors, "average"))
        self.loss.load_state_dict(
            {name: value[fabric.global_rank] for name, value in of(tensors, "loss").items()}
        )
        for name, parameter in self.decoder.named_parameters():
            if f"step.{name}" in tensors:
                moments = {kind: tensors[f"{kind}.{name}"] for kind in MOMENTS}
                # AdamW keeps its step count on the CPU
                self.optimizer.state[parameter] = {
                    kind: value if kind == "step" else value.to(parameter.device)
                    for kind, value in moments.items()
                }
        return True


def of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part of the state, such as "average", by their own names."""
    return {
        name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")
    }


def _named(part: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for name, value in module.state_dict().items()}


def _of_all(value: Tensor, fabric: Fabric) -> Tensor:
    """Each process's own buffer, [processes, ...]."""
    if fabric.world_size == 1:
        return value[None]
    gathered = [torch.empty_like(value) for _ in range(fabric.world_size)]
    distributed.all_gather(gathered, value)
    return torch.stack(gathered)
