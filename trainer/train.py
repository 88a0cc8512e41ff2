"""The training run, from top to bottom.

A frozen backbone gives features, the dual-arm decoder learns from them with the Territory-Aware Gated Loss.
Everything that is drawn at random is a function of the recipe's seed and the step, and everything else that
changes lies in ``TrainingState``: a run that was killed continues the same curve.

One process trains on one GPU, or on the CPU. Several GPUs, on one or more machines: the same command under
torchrun, which gives each process its place (docs/training-run.md).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from strokecore.errors import StrokeCoreError, UsageError
from trainer.config import Recipe
from trainer.data.batch import Batch
from trainer.data.cases import Dataset
from trainer.data.frozen import Features, frozen_features
from trainer.data.sampling import TrainingData, batches
from trainer.data.slices import load_slices
from trainer.loop.backbone import build_network
from trainer.loop.checkpoint import write_json, write_weights
from trainer.loop.curve import Curve
from trainer.loop.display import Display
from trainer.loop.interrupt import Interrupts
from trainer.loop.processes import agreed, alone_in, start_fabric
from trainer.loop.reproducible import reproducible, seed_step
from trainer.loop.run_folder import claim, note_left_out, recipe_sha256
from trainer.loop.schedule import learning_rate
from trainer.loop.session import Session
from trainer.loop.training_state import TrainingState
from trainer.loop.validate import Validation, Validator
from trainer.loss.tagl import LossTerms, TerritoryAwareGatedLoss
from trainer.network.vit_dpt import StrokeNet

# A kill costs at most this much work; a checkpoint of the largest recipe takes about a second.
CHECKPOINT_SECONDS: Final = 60.0


class TrainingDivergedError(StrokeCoreError):
    """The loss or its gradient is not finite any more."""


def train(
    recipe: Recipe, data: Path, run: Path, max_steps: int | None = None, console: Console | None = None
) -> Path:
    """Train, or continue the run that ``run`` holds; returns ``run``.

    Parameters
    ----------
    data: folder made by ``trainer prepare``; its splits train and validate are used.
    run: new or empty, or a run of the same recipe, data and backbone, which is then continued.
    max_steps: stop after so many of the recipe's steps, with a validation and a checkpoint; the learning rate
        follows the whole recipe, and a later call continues (with one validation more than an uncut run).
    console: where progress is shown; None shows none.

    Raises
    ------
    UsageError: wrong data, or a run folder of something else.
    TrainingDivergedError: the loss is not finite; the last checkpoint is left as it was.
    CheckpointNotWrittenError: the disk is full; the last checkpoint is whole.
    KeyboardInterrupt: Ctrl-C, after a checkpoint. SystemExit(143): SIGTERM, after a checkpoint.
    """
    last = recipe.training.steps if max_steps is None else min(max_steps, recipe.training.steps)
    if last < 1:
        raise UsageError(f"max_steps is {max_steps}, expected 1 or more.")
    fabric = start_fabric(recipe.training.precision)

    with alone_in(run, fabric), reproducible(fabric.device):
        dataset = Dataset(data)
        net, origin = build_network(recipe)
        record = claim(run, recipe, data, dataset, origin.to_dict(), fabric)
        left_out: dict[str, str] = {}
        cases = load_slices(dataset, dataset.split("train"), recipe.input, skipped=left_out)
        unseen = load_slices(dataset, dataset.split("validate"), recipe.input, skipped=left_out)
        note_left_out(record, left_out)

        features = frozen_features(net.to(fabric.device), recipe, dataset, cases, fabric)
        job = Job.set_up(recipe, run, net, features, fabric)
        at = job.state.progress
        drawn = TrainingData(cases, recipe, fabric.global_rank, fabric.world_size)
        validate = Validator(unseen, features, recipe, fabric)
        with (
            Session(run, record, fabric, at) as session,
            Curve(run if fabric.is_global_zero else None, at.step) as curve,
            Display(console if fabric.is_global_zero else None, at.step, last) as display,
            Interrupts() as interrupts,
        ):
            display.say(
                f"{len(cases)} cases to train on, {len(unseen)} to validate with, {at.step} steps done"
            )
            saved = time.monotonic()
            stop = job.stop(last)
            for batch in batches(drawn, range(at.step, at.step if stop else last)):
                numbers = job.step(batch)
                display.step(numbers)
                validated = at.step % recipe.training.validate_every == 0 or at.step == last
                if validated:
                    found = validate(job.state.average.decoder, at.step)
                    display.validated(found, better=job.keep_if_best(found))
                    numbers |= {"val_dice": found.dice, "val_loss": found.loss}
                curve.add(batch.kind, numbers)

                signal = agreed(fabric, at.step, interrupts.received)
                stop = job.stop(last) or ("interrupted" if signal else None)
                due = agreed(fabric, at.step, time.monotonic() - saved > CHECKPOINT_SECONDS)
                if validated or due or stop:
                    curve.sync()
                    job.state.save(run / "last", fabric)
                    saved = time.monotonic()
                if stop:
                    break
            session.stopped = stop
            best = f"best Dice {at.best_dice:.4f} at step {at.best_step}" if at.best_step else "not validated"
            display.say(f"stopped at step {at.step}: {stop}; {best}")
        if stop == "interrupted":
            interrupts.leave()
    return run


@dataclass(frozen=True, eq=False)
class Job:
    """What every step needs.

    ``net.decoder`` holds the weights; ``decoder`` and ``optimizer`` are fabric's wrappers of it and of
    AdamW, which choose the precision and average gradients over processes.
    """

    recipe: Recipe
    run: Path
    fabric: Fabric
    net: StrokeNet
    features: Features
    decoder: Any
    optimizer: Any
    loss: TerritoryAwareGatedLoss
    state: TrainingState

    @classmethod
    def set_up(cls, recipe: Recipe, run: Path, net: StrokeNet, features: Features, fabric: Fabric) -> Job:
        """A new job, or the one whose last checkpoint lies in ``run``."""
        settings = recipe.training
        adamw = torch.optim.AdamW(
            net.decoder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        loss = TerritoryAwareGatedLoss(recipe.loss).to(fabric.device)
        state = TrainingState(net.decoder.train(), adamw, loss.train(), settings.ema_decay)
        state.load(run / "last", fabric)
        decoder, optimizer = fabric.setup(net.decoder, adamw)
        return cls(recipe, run, fabric, net, features, decoder, optimizer, loss, state)

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns its row of the curve. Raises TrainingDivergedError."""
        began = time.perf_counter()
        at, settings = self.state.progress, self.recipe.training
        seed_step(self.recipe.seed, at.step, self.fabric.global_rank)
        rate = learning_rate(at.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        taps = self.features(batch.keys, batch.hu, batch.territories)
        bg_logits, sg_logits = self.decoder(taps, tuple(batch.hu.shape[-2:]))
        bg, sg = batch.to(self.fabric.device).arms(bg_logits, sg_logits)
        if batch.kind == "pairs":
            terms = self.loss(bg, sg, at.step / settings.steps)
            total, numbers = terms.total, _numbers(terms)
        else:  # no patient has both slices: nothing to gate or to couple
            loss_bg, loss_sg = self.loss.plain(bg), self.loss.plain(sg)
            total = loss_bg + loss_sg
            numbers = {"loss_bg": loss_bg.item(), "loss_sg": loss_sg.item(), "loss_sg_plain": loss_sg.item()}
        numbers["loss"] = self._finite("loss", total, batch)

        self.fabric.backward(total)
        norm = self.fabric.clip_gradients(
            self.decoder, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        numbers["gradient_norm"] = self._finite("norm of the gradient", torch.as_tensor(norm), batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.average.update(self.net.decoder, at.step)

        at.step += 1
        seconds = time.perf_counter() - began
        at.seconds += seconds
        tau_free, tau_lesion = self.loss.pair_gate.tau().tolist()
        return {
            "step": at.step,
            **numbers,
            "tau_free": tau_free,
            "tau_lesion": tau_lesion,
            "learning_rate": rate,
            "seconds": seconds,
        }

    def keep_if_best(self, found: Validation) -> bool:
        """Keep the averaged weights when no validation was better before."""
        at = self.state.progress
        at.without_better += 1
        if found.dice <= at.best_dice:
            return False
        at.best_dice, at.best_step, at.without_better = found.dice, found.step, 0
        if self.fabric.is_global_zero:
            about = {
                "recipe_sha256": recipe_sha256(self.recipe),
                "step": str(found.step),
                "dice": repr(found.dice),
            }
            write_weights(self.run / "best.safetensors", self.state.average.decoder.state_dict(), about)
            write_json(self.run / "validation.json", found.to_dict())
        return True

    def stop(self, last: int) -> str | None:
        """Why no further step is taken after this one, if so."""
        at, settings = self.state.progress, self.recipe.training
        if at.without_better >= settings.patience:
            return "patience"
        if at.step >= settings.steps:
            return "steps"
        return "max_steps" if at.step >= last else None

    def _finite(self, what: str, value: Tensor, batch: Batch) -> float:
        number = value.item()
        if math.isfinite(number):
            return number
        cases = ", ".join(sorted({key.case_id for key in batch.keys}))
        raise TrainingDivergedError(
            f"the {what} is {number} at step {self.state.progress.step + 1} (cases {cases}). The last "
            "checkpoint is left as it was. Look at these cases; if they are sound, lower "
            "training.learning_rate and start a new run."
        )


def _numbers(terms: LossTerms) -> dict[str, float]:
    """One row of the curve; the mean over no pairs is NaN."""
    lesion = terms.lesion
    values = {
        "loss_bg": terms.bg,
        "loss_sg": terms.sg,
        "loss_sg_plain": terms.sg_plain,
        "coupling": terms.coupling,
        "valid_pairs": terms.valid_pairs.float(),
        "gate_lesion": terms.gate[lesion].mean(),
        "gate_free": terms.gate[~lesion].mean(),
        "confidence_lesion": terms.confidence[lesion].mean(),
        "confidence_free": terms.confidence[~lesion].mean(),
    }
    # one transfer from the GPU instead of nine
    return dict(zip(values, torch.stack(tuple(values.values())).tolist(), strict=True))
