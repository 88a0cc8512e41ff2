"""The cases of the study: infarcts, heads without any, and bleeds, all of the committed population."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from strokecore.anatomy.regions import SIDES
from strokecore.evaluate.figures import PLAIN
from strokecore.evaluate.truth import Split, Truth, split_of
from strokecore.simulate import CONFOUNDERS, SampleSpec, random_person_spec
from strokecore.simulate.spec import BloodPlace

# Whose anatomy may be looked at for what.
PERSON_SPLIT: Final[dict[str, Split]] = {
    **dict.fromkeys(("01", "02", "03", "04", "05", "06", "07", "08"), "tune"),
    **dict.fromkeys(("09", "10"), "validate"),
    **dict.fromkeys(("11", "12"), "test"),
}
# 21000-28999 were seen with other people.
FIRST_SEED: Final[dict[Split, int]] = {"tune": 1000, "validate": 15_000, "test": 29_000}
REAL_OFFSET: Final = 500  # of the real head's cases, from the first seed on
PARTS: Final = ("infarct", "normal", "blood", "average")

# For each person: ten infarcts of each depth and eight heads without one, interleaved so that any number of
# first cases is balanced.
_DEPTHS_HU: Final[tuple[float | None, ...]] = (2.0, 3.0, 5.0, 8.0, None)
_INFARCTS_PER_DEPTH: Final = 10
_CLEAN: Final = 8
_NORMALS_PER_CONFOUNDER: Final = 6
# Of the simulator's average head: sixty, twelve of them without infarct.
_AVERAGE_PER_DEPTH: Final = 12
# Place, smallest and largest volume, how many.
_BLEEDS: Final[tuple[tuple[BloodPlace, float, float, int], ...]] = (
    ("parenchymal", 5.0, 5.0, 8),
    ("parenchymal", 1.0, 1.0, 8),
    ("subdural", 10.0, 40.0, 6),
    ("bilateral_subdural", 10.0, 40.0, 6),
    ("subarachnoid", 8.0, 20.0, 6),
    ("ventricular", 5.0, 20.0, 6),
)
_BLOOD_STREAM: Final = 105
# Stands for the label map until the person is loaded; the average head ("") has one definition only.
_SOME_PERSON: Final = "a person"
# The node's own grid has pixels of 1 mm: with these a head is made and read in two thirds of the time.
_PIXELS: Final[dict[str, Any]] = {"matrix": 320, "pixel_mm": 0.72}


@dataclass(frozen=True)
class StudyCase:
    """One head of one person, or of the average one (None); ``spec.anatomy`` is set when it is loaded."""

    name: str
    part: str
    person: Path | None
    spec: SampleSpec
    confounder: str | None = None

    @property
    def truth(self) -> Truth:
        """What is known before the head was made: of a case that was lost."""
        return Truth(
            frozenset(self.spec.affected),
            split=split_of(self.spec.seed),
            seed=self.spec.seed,
            person=self.person.name.split(".")[0] if self.person else "",
            delta_hu=self.spec.delta_hu if self.spec.affected else None,
            confounder=self.confounder,
        )


def study_cases(
    persons: Mapping[str, Path],
    first_seed: int,
    parts: Sequence[str],
    limit: int | None,
    definition: str | None,
) -> list[StudyCase]:
    """All cases, persons by turns; ``limit`` keeps the first so many of every kind of each part.

    The parts take the seeds beside each other from the first on, whichever of them are asked for.
    """
    makers = {"infarct": _infarcts, "normal": _normals, "blood": _bleeds, "average": _averages}
    changes = {} if definition is None else {"definition": definition}
    people = list(persons.values())
    found = []
    for part in PARTS:
        drawn = list(makers[part](first_seed, len(people), changes))
        for number, (confounder, spec) in enumerate(drawn):
            person = None if part == "average" else people[number % len(people)]
            found.append(StudyCase(f"{part}-{spec.seed}", part, person, spec, confounder))
        first_seed += len(drawn)
    found = [case for case in found if case.part in parts]
    return found if limit is None else _first_of_each(found, limit)


Draws = Iterator[tuple[str | None, SampleSpec]]


def _spec(seed: int, changes: dict[str, Any], **drawn: Any) -> SampleSpec:
    return random_person_spec(seed, _SOME_PERSON, **drawn, **_PIXELS, **changes)


def _infarcts(seed: int, persons: int, changes: dict[str, Any]) -> Draws:
    cycle = [
        depth
        for turn in range(_INFARCTS_PER_DEPTH)
        for depth in _DEPTHS_HU
        if depth is not None or turn < _CLEAN
    ]
    for number, depth in enumerate(depth for depth in cycle for _ in range(persons)):
        affected = () if depth is None else None
        yield None, _spec(seed + number, changes, affected=affected, delta_hu=depth)


def _normals(seed: int, persons: int, changes: dict[str, Any]) -> Draws:
    names = [name for _ in range(_NORMALS_PER_CONFOUNDER) for name in (PLAIN, *CONFOUNDERS)]
    # those of one name beside each other: the persons take turns within it
    for number, name in enumerate(sorted(names, key=names.index)):
        yield name, _spec(seed + number, changes, affected=(), confounder=name)


def _bleeds(seed: int, persons: int, changes: dict[str, Any]) -> Draws:
    kinds = [kind for kind in _BLEEDS for _ in range(kind[3])]
    for number, (place, low, high, _) in enumerate(kinds):
        rng = np.random.default_rng([seed + number, _BLOOD_STREAM])
        spec = _spec(seed + number, changes, affected=())
        side = SIDES[int(rng.integers(2))]
        ml = round(float(rng.uniform(low, high)), 2)
        yield None, replace(spec, blood_place=place, blood_ml=ml, blood_side=side)


def _averages(seed: int, persons: int, changes: dict[str, Any]) -> Draws:
    del persons, changes  # the average head has one definition
    for number in range(_AVERAGE_PER_DEPTH * len(_DEPTHS_HU)):
        depth = _DEPTHS_HU[number % len(_DEPTHS_HU)]
        affected = () if depth is None else None
        yield None, random_person_spec(seed + number, "", affected=affected, delta_hu=depth, **_PIXELS)


def _first_of_each(cases: Sequence[StudyCase], limit: int) -> list[StudyCase]:
    taken: dict[object, int] = {}
    kept = []
    for case in cases:
        depth = case.spec.delta_hu if case.spec.affected else None
        kind = (case.part, depth, case.confounder, case.spec.blood_place, case.spec.blood_ml > 2)
        taken[kind] = taken.get(kind, 0) + 1
        if taken[kind] <= limit:
            kept.append(case)
    return kept
