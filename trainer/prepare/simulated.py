"""``trainer prepare simulated``: simulated head CT as training, validation and test data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from strokecore.errors import Refusal, UsageError
from strokecore.reading.series import Series, read_series
from strokecore.simulate import (
    SIMULATOR_VERSION,
    TEST_SEEDS,
    TUNE_SEEDS,
    VALIDATE_SEEDS,
    SampleSpec,
    simulate,
    simulator_sha256,
)
from strokecore.simulate.head import SimulatedHead
from strokecore.simulate.spec import canonical_json
from strokecore.simulate.write import write_dicom
from trainer.data.canonical import canonical_case
from trainer.data.cases import CaseRecord, Dataset, DatasetWriter, Split, made_case, write_case
from trainer.prepare.patterns import training_spec
from trainer.prepare.pool import prepare_cases

# The simulator's three disjoint ranges of seeds are the three splits.
SPLIT_SEEDS: Final[dict[Split, range]] = {
    "train": TUNE_SEEDS,
    "validate": VALIDATE_SEEDS,
    "test": TEST_SEEDS,
}
# How a number of cases is shared among the splits whose seeds are in reach.
_SPLIT_SHARES: Final[dict[Split, float]] = {"train": 0.7, "validate": 0.1, "test": 0.2}


def parse_seeds(text: str) -> range:
    """Seeds of "A..B", both included. Raises UsageError."""
    first, dots, last = text.partition("..")
    if not dots or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise UsageError(f"seeds are {text!r}, expected A..B with A <= B, for example 1000..29999.")
    return range(int(first), int(last) + 1)


def split_of(seed: int) -> Split:
    """The split that a seed belongs to. Raises UsageError for a seed of none."""
    for split, seeds in SPLIT_SEEDS.items():
        if seed in seeds:
            return split
    raise UsageError(f"seed {seed} belongs to no split; use 0..{TEST_SEEDS.stop - 1}.")


def choose_seeds(number: int, seeds: range) -> list[int]:
    """``number`` seeds of ``seeds``: the first of each split in reach; 70 : 10 : 20 among the three splits.

    A later call with a larger ``number`` gives the same seeds and more. Raises UsageError when there are not
    enough.
    """
    reach = {
        split: range(max(own.start, seeds.start), min(own.stop, seeds.stop))
        for split, own in SPLIT_SEEDS.items()
    }
    reach = {split: own for split, own in reach.items() if len(own)}
    if not reach:
        raise UsageError(f"seeds {seeds.start}..{seeds.stop - 1} belong to no split; use 0..29999.")
    total = sum(_SPLIT_SHARES[split] for split in reach)
    counts = {split: int(number * _SPLIT_SHARES[split] / total) for split in reach}
    counts[next(iter(reach))] += number - sum(counts.values())
    for split, count in counts.items():
        if count > len(reach[split]):
            raise UsageError(
                f"{count} {split} cases are asked for and {len(reach[split])} seeds are in reach; "
                "give a wider range of seeds or a smaller number."
            )
    return [seed for split, count in counts.items() for seed in reach[split][:count]]


def prepare_simulated(out: Path, number: int, seeds: range, workers: int) -> Iterator[Dataset | int]:
    """Simulate and prepare ``number`` heads; yields the count done so far, and at last the dataset.

    Cases that a stopped run has written are taken as they are.

    Raises
    ------
    UsageError: bad seeds, or ``out`` already holds a dataset.
    """
    if number < 1:
        raise UsageError(f"--n is {number}, expected at least 1.")
    jobs = {case_id(seed): seed for seed in choose_seeds(number, seeds)}
    writer = DatasetWriter(out)
    yield from prepare_cases(writer, jobs, prepare_seed, workers)
    yield writer.close(
        "simulated",
        "territory",
        simulator={"version": SIMULATOR_VERSION, "sha256": simulator_sha256()},
        seeds=f"{seeds.start}..{seeds.stop - 1}",
        licence="simulated; no patient, no licence attached",
    )


def case_id(seed: int) -> str:
    """Name of the case of a seed."""
    return f"sim-{seed:05d}"


def prepare_seed(out: Path, seed: int) -> CaseRecord | str:
    """Make one case's file; returns its record, or why the node would refuse this head."""
    spec, wanted = training_spec(seed)
    made_from = {"spec": canonical_json(spec.to_dict()), "simulator": simulator_sha256()}
    made = made_case(out, case_id(seed), made_from)
    if made is not None:
        return made
    head = simulate(spec)
    with tempfile.TemporaryDirectory() as folder:
        write_dicom(Path(folder), spec, head.hu, head.geometry)
        try:
            series = read_series(Path(folder))
            order = _slice_order(series, head)
            case = canonical_case(
                series,
                head.infarct[order],
                head.infarct_regions[order],
                case_id=case_id(seed),
                split=split_of(seed),
                affected=tuple(f"{region.side}:{region.name}" for region in wanted.affected),
                provenance={
                    "seed": str(seed),
                    "wanted": wanted.group,
                    "delta_hu": str(spec.delta_hu),
                    "supraganglionic_share": str(spec.supraganglionic_share),
                    **_confounders(spec),
                },
            )
        except Refusal as refusal:
            return f"{refusal.code}: {refusal}"
    return write_case(out, case, made_from)


def _confounders(spec: SampleSpec) -> dict[str, str]:
    found = {}
    if spec.old_infarct:
        found["old_infarct"] = ",".join(f"{region.side}:{region.name}" for region in spec.old_infarct)
    if spec.other_territory:
        found["other_territory"] = ",".join(f"{side}:{name}" for name, side in spec.other_territory)
    return found


def _slice_order(series: Series, head: SimulatedHead) -> list[int]:
    """Index into the simulated slices of each slice that the reader returned."""
    made = np.asarray(head.geometry.positions_mm)
    order = [int(np.argmin(np.linalg.norm(made - position, axis=1))) for position in series.positions_mm]
    far = max(float(np.linalg.norm(made[k] - p)) for k, p in zip(order, series.positions_mm, strict=True))
    assert far < 0.01, f"the reader's slices lie {far} mm from the simulated ones"
    return order
