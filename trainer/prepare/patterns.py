"""Which regions a simulated training case has infarcted: BG-SG coupled and uncoupled patterns, outside, none.

Every draw comes from the case's seed, so that a dataset is a list of seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from strokecore.anatomy.regions import CORTICAL, DEEP, SIDES, SUPRAGANGLIONIC, RegionId, Side
from strokecore.learned.arms import COUPLED
from strokecore.simulate import SampleSpec, random_affected, random_spec, training_fields
from trainer.data.cases import Group

# Share of each pattern among the cases. A third is coupled, because that is what the coupling term is about;
# a fifth has no infarct, because most heads that a node sees have none.
SHARES: Final[dict[Group, float]] = {
    "coupled": 0.34,
    "bg_only": 0.15,
    "sg_only": 0.10,
    "mixed": 0.13,
    "outside": 0.08,
    "lesion_free": 0.20,
}
# Early change darkens by 2-4 HU in the first hours and by 6-8 HU within a day (Dzialowski et al., Stroke
# 2007;38:1028, water uptake of 1 % lowers CT density by about 2 HU).
_DELTA_HU: Final = (3.0, 9.0)
# Partial volume and beam hardening under the vault make supraganglionic change fainter (the case that the
# coupling is meant for): this share of the cases, with this range of relative contrast.
_FAINT_SHARE: Final = 0.5
_FAINT: Final = (0.35, 0.75)
_OLD_INFARCT_SHARE: Final = 0.08
_OTHER_TERRITORY_SHARE: Final = 0.06
_PATTERN_STREAM: Final = 101  # apart from the simulator's own streams


@dataclass(frozen=True)
class Pattern:
    """What a case was asked to show."""

    group: Group
    affected: tuple[RegionId, ...]


def training_spec(seed: int) -> tuple[SampleSpec, Pattern]:
    """The head of one seed: pattern, depth, confounders, patient and acquisition, from the training world."""
    rng = np.random.default_rng([seed, _PATTERN_STREAM])
    group: Group = list(SHARES)[int(rng.choice(len(SHARES), p=list(SHARES.values())))]
    side = SIDES[int(rng.integers(2))]
    other: tuple[tuple[str, Side], ...] = ()
    if group == "outside" or (group != "lesion_free" and rng.random() < _OTHER_TERRITORY_SHARE):
        other = ((str(rng.choice(["ACA", "PCA"])), side),)
    affected = _affected(group, side, rng, seed)
    healthy = [RegionId(name, s) for name in CORTICAL for s in SIDES if RegionId(name, s) not in affected]
    old = (healthy[int(rng.integers(len(healthy)))],) if rng.random() < _OLD_INFARCT_SHARE else ()
    spec = random_spec(
        seed,
        affected=affected,
        delta_hu=round(float(rng.uniform(*_DELTA_HU)), 2),
        supraganglionic_share=round(float(rng.uniform(*_FAINT)), 2) if rng.random() < _FAINT_SHARE else 1.0,
        other_territory=other,
        old_infarct=old,
        **training_fields(seed),
    )
    return spec, Pattern(group, affected)


def _affected(group: Group, side: Side, rng: np.random.Generator, seed: int) -> tuple[RegionId, ...]:
    if group in ("outside", "lesion_free"):
        return ()
    if group == "mixed":
        return random_affected(seed)
    deep = [name for name in DEEP if rng.random() < 0.35]
    first = int(rng.integers(3))
    columns = COUPLED[first : first + int(rng.integers(1, 4))]
    if group == "coupled":
        names = deep + [name for pair in columns for name in pair]
    elif group == "bg_only":
        lower = [pair[0] for pair in columns] if rng.random() < 0.75 else []
        names = deep + lower or ["I", "L"]
    else:
        names = [pair[1] for pair in columns]
        assert set(names) <= set(SUPRAGANGLIONIC)
    return tuple(RegionId(name, side) for name in DEEP + CORTICAL if name in names)
