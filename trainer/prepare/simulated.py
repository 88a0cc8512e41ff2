"""``trainer prepare simulated``: simulated head CT as training, validation and test data."""

from __future__ import annotations

import dataclasses
import fnmatch
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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
    random_person_spec,
    simulate,
    simulator_sha256,
)
from strokecore.simulate.anatomy import BaseHead
from strokecore.simulate.head import SimulatedHead
from strokecore.simulate.people import load_person
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
# Apart from the simulator's own streams and the other draws of cases.
_ANATOMY_STREAM: Final = 105
_FREE_STREAM: Final = 106
# Of the real people's heads: most that a node sees have no infarct, and a training can draw one into such a
# head (trainer.data.fresh_infarct).
PERSON_FREE_SHARE: Final = 0.5
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


@dataclass(frozen=True)
class Anatomies:
    """Label maps that simulated people are made from.

    Attributes
    ----------
    paths: in the order of their names. second_atlas: see people.load_person.
    validate: people of the split "validate" alone; empty: ``paths`` are of every split.
    """

    paths: tuple[Path, ...]
    second_atlas: Path | None = None
    validate: tuple[Path, ...] = ()

    def of(self, seed: int) -> Path:
        """The label map of a seed's person."""
        people = self.validate if self.validate and split_of(seed) == "validate" else self.paths
        rng = np.random.default_rng([seed, _ANATOMY_STREAM])
        return people[int(rng.integers(len(people)))]


def find_anatomies(
    folder: Path, persons: str = "*", second_atlas: Path | None = None, validate: str = ""
) -> Anatomies:
    """The label maps of a folder.

    Parameters
    ----------
    persons: which of them: a glob pattern for their names, or the ends of names such as "01,02".
    validate: the same for people who are kept to the split "validate"; empty: nobody is.

    Raises
    ------
    UsageError: there is none, one that is asked for is missing, or one is in both.
    """
    chosen = _label_maps(folder, persons, "--persons")
    kept = _label_maps(folder, validate, "--validate-persons") if validate else ()
    both = sorted(_stem(path) for path in {*chosen} & {*kept})
    if both:
        raise UsageError(
            f"{', '.join(both)} would be trained on and validated with; name each person once, in --persons "
            "or in --validate-persons."
        )
    return Anatomies(chosen, second_atlas, kept)


def _label_maps(folder: Path, persons: str, option: str) -> tuple[Path, ...]:
    found = sorted(folder.glob("*.nii.gz"))
    if any(sign in persons for sign in "*?["):
        chosen = [path for path in found if fnmatch.fnmatchcase(_stem(path), persons)]
    else:
        names = [name.strip() for name in persons.split(",")]
        chosen = [path for path in found if any(name and _stem(path).endswith(name) for name in names)]
        missing = [name for name in names if not any(_stem(path).endswith(name) for path in chosen)]
        if missing or "" in names:
            raise UsageError(
                f"{option} is {persons!r} and there are {', '.join(map(_stem, found)) or 'none'}; give ends "
                "of their names, such as 01,02, or a pattern."
            )
    if not chosen:
        raise UsageError(
            f"no label map NAME.nii.gz fits {persons!r}; give a folder of them, and {option} as 01,02 or a "
            "pattern."
        )
    return tuple(chosen)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def prepare_simulated(
    out: Path, number: int, seeds: range, workers: int, anatomies: Anatomies | None = None
) -> Iterator[Dataset | int]:
    """Simulate and prepare ``number`` heads; yields the count done so far, and at last the dataset.

    Cases that a stopped run has written are taken as they are.

    Parameters
    ----------
    anatomies: make real people's heads of the population (random_person_spec), one person per seed; None
        bends the average head.

    Raises
    ------
    UsageError: bad seeds, a bad label map, or ``out`` already holds a dataset.
    """
    if number < 1:
        raise UsageError(f"--n is {number}, expected at least 1.")
    chosen = choose_seeds(number, seeds)
    make: Callable[[Path, int], CaseRecord | str] = prepare_seed
    if anatomies is not None:
        # one person after the other, because a process keeps one person's head
        chosen = sorted(chosen, key=lambda seed: (anatomies.of(seed), seed))
        make = partial(prepare_person, anatomies)
    jobs = {case_id(seed): seed for seed in chosen}
    writer = DatasetWriter(out)
    yield from prepare_cases(writer, jobs, make, workers)
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
    return _prepare(out, spec, wanted.group, None)


def prepare_person(anatomies: Anatomies, out: Path, seed: int) -> CaseRecord | str:
    """Make a real person's case; returns its record, or why the node would refuse this head."""
    base = load_person(anatomies.of(seed), anatomies.second_atlas)
    free = np.random.default_rng([seed, _FREE_STREAM]).random() < PERSON_FREE_SHARE
    spec = random_person_spec(seed, base.anatomy, affected=() if free else None)
    if spec.definition not in base.definitions:
        spec = dataclasses.replace(spec, definition="atlas")
    return _prepare(out, spec, "lesion_free" if free else "population", base)


def _prepare(out: Path, spec: SampleSpec, wanted: str, base: BaseHead | None) -> CaseRecord | str:
    seed = spec.seed
    made_from = {"spec": canonical_json(spec.to_dict()), "simulator": simulator_sha256()}
    if base is not None:
        made_from["second_atlas"] = base.second_sha256
    made = made_case(out, case_id(seed), made_from)
    if made is not None:
        return made
    head = simulate(spec) if base is None else simulate(spec, base)
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
                affected=_named(head, "affected", True),
                not_judged=_named(head, "judged", False),
                provenance={
                    "seed": str(seed),
                    "wanted": wanted,
                    "delta_hu": str(spec.delta_hu),
                    "supraganglionic_share": str(spec.supraganglionic_share),
                    **_confounders(spec),
                    **_person(spec),
                },
            )
        except Refusal as refusal:
            return f"{refusal.code}: {refusal}"
    return write_case(out, case, made_from)


def _named(head: SimulatedHead, what: str, value: bool) -> tuple[str, ...]:
    """Regions of which truth.json says ``value``, such as "left:M1": what was drawn, not what was wanted."""
    return tuple(f"{row['side']}:{row['name']}" for row in head.truth["regions"] if row[what] is value)


def _confounders(spec: SampleSpec) -> dict[str, str]:
    found = {}
    if spec.old_infarct:
        found["old_infarct"] = ",".join(f"{region.side}:{region.name}" for region in spec.old_infarct)
    if spec.other_territory:
        found["other_territory"] = ",".join(f"{side}:{name}" for name, side in spec.other_territory)
    return found


def _person(spec: SampleSpec) -> dict[str, str]:
    return {"anatomy": spec.anatomy, "definition": spec.definition} if spec.anatomy else {}


def _slice_order(series: Series, head: SimulatedHead) -> list[int]:
    """Index into the simulated slices of each slice that the reader returned."""
    made = np.asarray(head.geometry.positions_mm)
    order = [int(np.argmin(np.linalg.norm(made - position, axis=1))) for position in series.positions_mm]
    far = max(float(np.linalg.norm(made[k] - p)) for k, p in zip(order, series.positions_mm, strict=True))
    assert far < 0.01, f"the reader's slices lie {far} mm from the simulated ones"
    return order
