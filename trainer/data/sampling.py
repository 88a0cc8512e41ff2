"""Which slices a training step sees.

A step sees either pairs, one BG-level and one SG-level slice of the same patient with one augmentation, or
single slices from anywhere in the head, each for its own arm. The draw is a pure function of the recipe's
seed, the step and the process, so that a resumed run continues with the batches it would have seen.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from strokecore.errors import UsageError
from strokecore.learned.arms import Arm
from strokecore.learned.preprocessing import with_neighbours
from trainer.config import Recipe
from trainer.data.augment import (
    NONE,
    Augmentation,
    augment_hu,
    augment_labels,
    draw,
    draw_version,
    mirror_territories,
    version_noise,
)
from trainer.data.batch import PLAIN, UNCACHED, ArmTruth, Batch, Kind, SliceKey
from trainer.data.fresh_infarct import with_fresh_infarct
from trainer.data.slices import CaseSlices

__all__ = ["ArmTruth", "Batch", "Choice", "SliceKey", "TrainingData", "batches"]

log = logging.getLogger(__name__)

ARMS: Final[tuple[Arm, Arm]] = ("bg", "sg")

# Share of the pairs whose patient has an infarct at one of the levels; the rest have none there. Close to the
# 4 of 5 of simulated data, so that no patient is seen much more often than another; below the 5 of 5 of AISD
# where it can be, because the gate keeps a median of pairs without lesion and a node sees mostly such heads.
LESION_PATIENT_SHARE: Final = 0.7
# In such a patient each level's slice is drawn from those with infarct with this probability, else from all
# of the level, so that small infarcts and the level that is less often hit are seen. Measured on 60 simulated
# cases: two thirds of the slices of pairs show infarct (0.68 of the BG, 0.63 of the SG slices).
LESION_SLICE_SHARE: Final = 0.75
# Single slices come from all patients and heights alike, but half of them, where the patient has one, from
# slices with infarct: infarcts outside the ten regions (anterior and posterior cerebral artery, cerebellum)
# are rare, and no pair shows them unless they reach a level.
SINGLE_LESION_SHARE: Final = 0.5

# Streams of random numbers, apart from each other.
_CHOICE: Final = 1
_CHANGE: Final = 2
_NOISE: Final = 3
_FRESH: Final = 4


class Choice(NamedTuple):
    """One slice that a step has chosen: index of its case, row in it, and the arm that answers.

    fresh: an infarct is drawn into the case in this step.
    """

    case: int
    row: int
    arm: Arm
    fresh: bool = False


class TrainingData:
    """Draws batches of ``training.pairs`` pairs, or twice as many single slices, from cases in memory.

    Every process makes the choice for all of them and takes its part: no two draw the same case while there
    are enough, all draw the same kind, and two processes of 4 pairs see what one of 8 sees. Half of every
    batch is the BG arm's and half the SG arm's, so that both arms weigh alike in either kind.
    """

    def __init__(self, slices: Sequence[CaseSlices], recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        """Raises UsageError when the cases hold no pair, or no slice of one of the arms."""
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}, expected 0 to {world - 1}")
        self.slices = tuple(slices)
        self.recipe = recipe
        self.rank = rank
        self.world = world
        both = [i for i, c in enumerate(self.slices) if all(len(c.level_rows(arm)) for arm in ARMS)]
        if not both:
            raise UsageError("no training case shows both ASPECTS levels, so that no pair can be drawn.")
        lesion = {i for i in both if any(_has_lesion(self.slices[i], arm) for arm in ARMS)}
        self._with_lesion = sorted(lesion)
        self._without = [i for i in both if i not in lesion]
        self._free = [i for i in self._without if not self.slices[i].lesion_rows.any()]
        self._drawn: tuple[int, dict[int, CaseSlices]] = (-1, {})
        self._of_arm = {arm: [i for i, c in enumerate(self.slices) if len(c.arm_rows(arm))] for arm in ARMS}
        log.info(
            "pairs from %d patients with infarct at a level and %d without; %d cases show one level or none",
            len(self._with_lesion),
            len(self._without),
            len(self.slices) - len(both),
        )
        if not lesion:
            log.warning("no training case shows an infarct at an ASPECTS level")

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)

    def batch(self, step: int) -> Batch:
        """The slices of one step for this process; a pure function of seed, step, rank and world."""
        kind, units = self.choose(step)
        mine = range(self.rank, len(units), self.world)
        # the augmentation's number: that of the pair, or of the single slice
        bg = [self._prepare(units[i][0], step, 2 * i, 2 * i) for i in mine]
        sg = [self._prepare(units[i][1], step, 2 * i + (kind == "singles"), 2 * i + 1) for i in mine]
        k = len(bg)
        return Batch(
            kind=kind,
            hu=torch.stack([one.hu for one in bg + sg]),
            bg=_truth(slice(0, k), bg),
            sg=_truth(slice(k, 2 * k), sg),
            keys=tuple(one.key for one in bg + sg),
        )

    def choose(self, step: int) -> tuple[Kind, list[tuple[Choice, Choice]]]:
        """Which slices the step shows to all processes together: pairs, or a BG and an SG slice each."""
        rng = np.random.default_rng([self.recipe.seed, step, _CHOICE])
        count = self.recipe.training.pairs * self.world
        if rng.random() < self.recipe.training.single_share:
            singles = [self._choose_singles(step, arm, count, rng) for arm in ARMS]
            return "singles", list(zip(*singles, strict=True))
        return "pairs", self._choose_pairs(step, count, rng)

    def _choose_pairs(self, step: int, count: int, rng: np.random.Generator) -> list[tuple[Choice, Choice]]:
        # rounded up or down at random: the share holds on average, and each batch is near it
        wanted = int(LESION_PATIENT_SHARE * count + rng.random())
        if not self._without:
            wanted = count
        elif not self._with_lesion:
            wanted = 0
        fresh = 0
        if self.recipe.augment.fresh_infarct and self._free:
            fresh = int(self.recipe.augment.fresh_infarct * wanted + rng.random())
        cases = _distinct(self._with_lesion, wanted - fresh, rng)
        cases += _distinct(self._without, count - wanted, rng) + _distinct(self._free, fresh, rng)
        return [
            (self._level_slice(step, case, new, "bg", rng), self._level_slice(step, case, new, "sg", rng))
            for case, new in zip(cases, _last_true(count, fresh), strict=True)
        ]

    def _level_slice(self, step: int, case: int, fresh: bool, arm: Arm, rng: np.random.Generator) -> Choice:
        slices = self._shown(step, case, fresh)
        return Choice(case, _row(slices, slices.level_rows(arm), LESION_SLICE_SHARE, rng), arm, fresh)

    def _choose_singles(self, step: int, arm: Arm, count: int, rng: np.random.Generator) -> list[Choice]:
        share = LESION_PATIENT_SHARE * self.recipe.augment.fresh_infarct
        chosen = []
        for case in _distinct(self._of_arm[arm], count, rng):
            fresh = bool(share) and case in self._free and bool(rng.random() < share)
            slices = self._shown(step, case, fresh)
            chosen.append(
                Choice(case, _row(slices, slices.arm_rows(arm), SINGLE_LESION_SHARE, rng), arm, fresh)
            )
        return chosen

    def _shown(self, step: int, case: int, fresh: bool) -> CaseSlices:
        """A case as a step shows it; what was drawn into it is remembered for the step."""
        if not fresh:
            return self.slices[case]
        if self._drawn[0] != step:
            self._drawn = (step, {})
        drawn = self._drawn[1]
        if case not in drawn:
            rng = np.random.default_rng([self.recipe.seed, step, _FRESH, case])
            drawn[case] = with_fresh_infarct(self.slices[case], rng, self.recipe.augment.fresh_hu)
        return drawn[case]

    def _prepare(self, choice: Choice, step: int, change: int, place: int) -> _Prepared:
        """The chosen slice, augmented. ``change``: number of the augmentation in the step; ``place``: of the
        slice, for its noise."""
        case = self._shown(step, choice.case, choice.fresh)
        version, augmentation = self._augmentation(case.record.id, step, change)
        noise = (
            np.random.default_rng([self.recipe.seed, step, _NOISE, place])
            if version == UNCACHED
            else version_noise(case.record.id, version, choice.row)
        )
        labels = np.stack(
            [case.target(choice.arm)[choice.row], case.brain[choice.row], case.territories[choice.row]]
        )
        target, brain, territories = augment_labels(labels, augmentation, case.pixel_mm)
        return _Prepared(
            key=SliceKey(case.record.id, choice.row, version),
            hu=augment_hu(
                with_neighbours(case.hu, np.array([choice.row]), self.recipe.input)[0],
                augmentation,
                case.pixel_mm,
                noise,
            ),
            target=target.long(),
            brain=brain.bool(),
            territories=mirror_territories(territories) if augmentation.flip else territories,
            binary=case.binary,
        )

    def _augmentation(self, case_id: str, step: int, change: int) -> tuple[int, Augmentation]:
        """The version and what it does. Cached versions do not depend on the seed, so that the runs of an
        ablation share them."""
        rng = np.random.default_rng([self.recipe.seed, step, _CHANGE, change])
        versions = self.recipe.training.cached_features
        if not versions:
            return UNCACHED, draw(self.recipe.augment, rng)
        version = 1 + int(rng.integers(versions))
        augmentation = draw_version(self.recipe.augment, case_id, version)
        return (PLAIN, NONE) if augmentation == NONE else (version, augmentation)


class _Prepared(NamedTuple):
    key: SliceKey
    hu: Tensor
    target: Tensor
    brain: Tensor
    territories: Tensor
    binary: bool


def batches(data: TrainingData, steps: range) -> Iterator[Batch]:
    """The batches of ``steps`` in order, made ahead by ``training.workers`` processes."""
    # more than the cores would only wait for each other; the batches are the same with any number
    workers = min(data.recipe.training.workers, len(os.sched_getaffinity(0)))
    if not workers:
        return map(data.batch, steps)
    # duck-typed: a map from step to batch is all that DataLoader needs
    source: Any = data
    loader: DataLoader[Batch] = DataLoader(
        source,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        worker_init_fn=_leave_signals,
    )
    return iter(loader)


def _leave_signals(worker: int) -> None:
    """A signal to the whole job ends it after the step in hand, which may still need this process's batch."""
    del worker
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _truth(rows: slice, prepared: Sequence[_Prepared]) -> ArmTruth:
    return ArmTruth(
        rows=rows,
        target=torch.stack([one.target for one in prepared]),
        brain=torch.stack([one.brain for one in prepared]),
        territories=torch.stack([one.territories for one in prepared]),
        binary=torch.tensor([one.binary for one in prepared]),
    )


def _has_lesion(slices: CaseSlices, arm: Arm) -> bool:
    return bool(slices.lesion_rows[slices.level_rows(arm)].any())


def _distinct(pool: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """``count`` members of ``pool`` in random order; none twice before all were there once."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += rng.permutation(pool).tolist()
    return drawn[:count]


def _last_true(count: int, true: int) -> list[bool]:
    return [False] * (count - true) + [True] * true


def _row(
    slices: CaseSlices, rows: npt.NDArray[np.intp], lesion_share: float, rng: np.random.Generator
) -> int:
    """One of ``rows``; with probability ``lesion_share`` one that shows infarct, where there is one."""
    shown = rows[slices.lesion_rows[rows]]
    preferred = rng.random() < lesion_share and len(shown)
    return int(rng.choice(shown if preferred else rows))
