"""The cases of a study: folders with truth beside the images, or heads simulated on the fly."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from strokecore.errors import UsageError
from strokecore.evaluate.truth import SPLIT_SEEDS, TRUTH_FILE, Split, Truth, person_of, read_truth, split_of
from strokecore.simulate import SampleSpec, random_affected, random_person_spec, random_spec, write_sample
from strokecore.simulate.people import load_person
from strokecore.simulate.write import TRUTH_FOLDER

SIMULATED: Final = "simulated:"
_SEEDS: Final = re.compile(r"simulated:(\d+)\.\.(\d+)")
# One in three heads without infarct, as in the studies so far: specificity needs healthy hemispheres whose
# partner is healthy too.
NORMAL_SHARE: Final = 1 / 3
DELTA_HU: Final = 5.0
_SHOWN_ERRORS: Final = 5


@dataclass(frozen=True)
class Case:
    """One head CT whose truth is known: a folder of DICOM files, or a head that is yet to be simulated.

    Attributes
    ----------
    name: the folder's name, or "seed-N".
    folder, spec: exactly one is not None.
    truth: of a simulated case without what is known only once it has been made: volumes, what was involved.
    person: label map of the person that a simulated head is made from; None for the average head.
    """

    name: str
    truth: Truth
    folder: Path | None = None
    spec: SampleSpec | None = None
    person: Path | None = None

    @contextmanager
    def images(self, scratch: Path | None = None) -> Iterator[Path]:
        """A folder that holds the case's DICOM files.

        A simulated case's is made in ``scratch`` and lasts as long as the context.
        """
        if self.folder is not None:
            yield self.folder
            return
        assert self.spec is not None
        spec, base = self.spec, None
        if self.person is not None:
            base = load_person(self.person)
            definition = spec.definition if spec.definition in base.definitions else "atlas"
            spec = replace(spec, anatomy=base.anatomy, definition=definition)
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            yield write_sample(Path(folder) / self.name, spec, base)


def find_cases(
    source: str,
    delta_hu: float | None = None,
    normals: int | None = None,
    persons: Sequence[Path] = (),
) -> list[Case]:
    """The cases that ``source`` names: a folder, or "simulated:A..B" for the seeds A to B, both included.

    ``delta_hu``, ``normals`` and ``persons`` are those of simulated_cases. Raises UsageError.
    """
    if not source.startswith(SIMULATED):
        if normals is not None or persons:
            raise UsageError("Persons and the number of heads without infarct are for simulated cases only.")
        return folder_cases(Path(source))
    match = _SEEDS.fullmatch(source)
    if not match or int(match[1]) > int(match[2]):
        raise UsageError(f"Cannot read the seeds of {source!r}; write for example simulated:20000..20059.")
    return simulated_cases(range(int(match[1]), int(match[2]) + 1), delta_hu, normals, persons)


def folder_cases(folder: Path) -> list[Case]:
    """One case per sub-folder, in the order of their names; hidden ones are passed over.

    Raises UsageError that names the cases whose truth is missing or wrong.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder; give the folder that holds one sub-folder per case, or "
            "simulated:A..B for simulated cases."
        )
    if (folder / TRUTH_FOLDER / TRUTH_FILE).exists():
        raise UsageError("The folder is itself one case; give the folder that holds the cases.")
    cases, errors = [], []
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            cases.append(Case(path.name, read_truth(path), folder=path))
        except UsageError as error:
            errors.append(str(error))
    if errors:
        more = len(errors) - _SHOWN_ERRORS
        raise UsageError("\n".join(errors[:_SHOWN_ERRORS]) + (f"\nand {more} more." if more > 0 else ""))
    if not cases:
        raise UsageError("The folder holds no case; every case is a sub-folder with DICOM files and a truth.")
    return cases


def simulated_cases(
    seeds: Sequence[int],
    delta_hu: float | None = None,
    normals: int | None = None,
    persons: Sequence[Path] = (),
) -> list[Case]:
    """A random head per seed; the last ``normals`` of them (a third when None) have no infarct.

    Without ``persons`` they are bent from the average head, and the others have 1-8 neighbouring regions of
    one side darker by ``delta_hu`` (DELTA_HU when None; see random_affected). With them, label maps of real
    people, they are made from these people by turns and drawn from the committed population: see
    random_person_spec, also for a ``delta_hu`` of None.
    """
    count = round(len(seeds) * NORMAL_SHARE) if normals is None else normals
    if delta_hu is not None and delta_hu <= 0:
        raise UsageError(f"The depth of infarcts is {delta_hu:g} HU, expected above 0; see --normals.")
    if not 0 <= count <= len(seeds):
        raise UsageError(f"{count} heads without infarct were asked for, of {len(seeds)} heads.")
    if missing := [path.name for path in persons if not path.is_file()]:
        raise UsageError(f"There is no label map {missing[0]}; give the file of one person with --anatomy.")
    cases = []
    for number, seed in enumerate(seeds):
        infarct = number < len(seeds) - count
        person = persons[number % len(persons)] if persons else None
        if person is None:
            affected = random_affected(seed) if infarct else ()
            spec = random_spec(seed, affected=affected, delta_hu=delta_hu or DELTA_HU)
        else:
            # the label map's hash is not known before it is read; "" would be the average head
            wanted = None if infarct else ()
            spec = random_person_spec(seed, person.name, affected=wanted, delta_hu=delta_hu)
        truth = Truth(
            frozenset(spec.affected),
            split=split_of(seed),
            seed=seed,
            person=None if person is None else person_of(person.name),
            delta_hu=spec.delta_hu if infarct else None,
        )
        cases.append(Case(f"seed-{seed}", truth, spec=spec, person=person))
    return cases


def of_one_split(cases: Sequence[Case], split: Split | None = None, *, mixed: bool = False) -> list[Case]:
    """The cases of ``split``, or all of them where they belong to one.

    Raises UsageError for a split without cases and, unless ``mixed``, for cases of several splits: a figure
    over cases that were used to choose the model is not a test. Nor is one over a person whose other heads
    were: a person belongs to one split.
    """
    by_person: dict[str, set[str]] = {}
    for case in cases:
        if case.truth.person is not None:
            by_person.setdefault(case.truth.person, set()).add(case.truth.split or "not stated")
    shared = {person: splits for person, splits in by_person.items() if len(splits) > 1}
    if shared and not mixed:
        person, splits = sorted(shared.items())[0]
        raise UsageError(
            f"{person} is in several splits: {', '.join(sorted(splits))}. Keep every person in one, or say "
            "--mixed-splits."
        )
    if split is not None:
        chosen = [case for case in cases if case.truth.split == split]
        if not chosen:
            seeds = SPLIT_SEEDS[split]
            raise UsageError(
                f"No case belongs to the split {split!r}: its simulated seeds are {seeds[0]}-{seeds[-1]}, "
                f'and other cases say "split": "{split}" in {TRUTH_FILE}.'
            )
        return chosen
    found = Counter(case.truth.split or "not stated" for case in cases)
    if len(found) > 1 and not mixed:
        words = ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
        raise UsageError(
            f"The cases belong to several splits: {words}. Choose one with --split, or say --mixed-splits."
        )
    return list(cases)
