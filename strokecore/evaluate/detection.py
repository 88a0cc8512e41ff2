"""How near the node comes to the detection limit, by depth of the infarct and by region.

Three scores rank the same regions: the node's probability, its plain mirror difference, and the difference
that an observer measures who knows the true regions, the density field and the noise. The second shows
whether the node's evidence is worth its trouble, the third what the images hold at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, CORTICAL, DEEP
from strokecore.arrays import BoolArray, Float64Array, ratio
from strokecore.evaluate import statistics as st
from strokecore.evaluate.outcomes import Outcome

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "all": (*DEEP, *CORTICAL),
    **{name: (name,) for name in DEEP},
    "M": CORTICAL,
}
# Infarcts at least this deep are what the node promises to find by its own decision.
CLEAR_HU: Final = 4.0
SPECIFICITY: Final = 0.95
FEWEST_REGIONS_FOR_SIDE: Final = 2


def detection(outcomes: Sequence[Outcome], draws: int = st.BOOTSTRAP_DRAWS) -> dict[str, Any]:
    """Figures of the infarcts of each depth ("2": .., "5": ..) and of all at least CLEAR_HU ("clear").

    Each beside the heads that have none; none for cases whose depth is not known.
    """
    clean = [o for o in outcomes if o.truth.clean]
    depths = sorted({o.truth.delta_hu for o in outcomes if o.truth.delta_hu is not None})
    found = {}
    for depth in depths:
        these = [o for o in outcomes if o.truth.delta_hu == depth]
        found[f"{depth:g}"] = _of_depth(these, clean, draws)
    clear = [o for o in outcomes if (o.truth.delta_hu or 0.0) >= CLEAR_HU]
    if clear:
        found["clear"] = _of_depth(clear, clean, draws)
    return found


def _of_depth(infarcts: Sequence[Outcome], clean: Sequence[Outcome], draws: int) -> dict[str, Any]:
    outcomes = [*infarcts, *clean]
    counts = st.draw_patients(len(outcomes), draws)
    truth = np.array([o.truth.regions for o in outcomes])
    judged = np.array([o.truth.judged for o in outcomes])
    called = np.array([o.affected for o in outcomes])
    known = any(o.truth.observer_hu for o in infarcts)
    scores = {
        "auc": np.array([o.probability for o in outcomes]),
        "mirror": np.array([_darkness(o.difference_hu) for o in outcomes]),
    }
    if known:
        # a case that was lost before it was made has no observer: NaN leaves it out of his ranking
        nobody = [float("nan")] * len(ALL_REGIONS)
        scores["observer"] = np.array([_darkness(o.truth.observer_hu) or nobody for o in outcomes])
    groups = {}
    for group, names in GROUPS.items():
        columns = [number for number, region in enumerate(ALL_REGIONS) if region.name in names]
        part = {name: np.where(judged, score, np.nan)[:, columns] for name, score in scores.items()}
        groups[group] = _of_regions(truth[:, columns], judged[:, columns], called[:, columns], part, counts)
    return {
        "infarcts": len(infarcts),
        "clean": len(clean),
        "side_correct": asdict(_side_correct(infarcts, draws)),
        "regions": groups,
    }


def _of_regions(
    truth: BoolArray, judged: BoolArray, called: BoolArray, scores: dict[str, Float64Array], counts: st.Counts
) -> dict[str, Any]:
    """Arrays [patients, regions]; scores are NaN where a region is not judged."""
    sick, well = truth & judged, ~truth & judged
    values = {name: st.auc(truth, score) for name, score in scores.items()}
    several = len(truth) > 1  # one patient drawn again and again would look certain
    drawn = {
        name: st.auc_draws(truth, score, counts if several else counts[:0]) for name, score in scores.items()
    }
    if "observer" in scores:
        values["of_observer"] = _share(values["auc"], values["observer"])
        drawn["of_observer"] = _share(drawn["auc"], drawn["observer"])
    return {
        "affected": int(sick.sum()),
        "normal": int(well.sum()),
        **{name: asdict(st.estimate(values[name], drawn[name])) for name in values},
        "sensitivity": asdict(st.rate((called & sick).sum(axis=1), sick.sum(axis=1), counts)),
        "specificity": asdict(st.rate((~called & well).sum(axis=1), well.sum(axis=1), counts)),
        "sensitivity_at_95": asdict(st.sensitivity_at(SPECIFICITY, truth, scores["auc"], counts)),
    }


def _share(found: Any, possible: Any) -> Any:
    """How much of what can be ranked better than by chance was."""
    return ratio(np.asarray(found) - 0.5, np.asarray(possible) - 0.5)


def _darkness(differences: Sequence[float | None]) -> list[float]:
    """A region that was not measured is neither darker nor brighter than the other side."""
    return [0.0 if value is None else -value for value in differences]


def _side_correct(outcomes: Sequence[Outcome], draws: int) -> st.Estimate:
    """Share of infarcts of at least FEWEST_REGIONS_FOR_SIDE regions whose side was said."""
    several = [o for o in outcomes if len(o.truth.affected) >= FEWEST_REGIONS_FOR_SIDE]
    correct = [o.side == o.truth.side for o in several]
    return st.rate(correct, np.ones(len(several)), st.draw_patients(len(several), draws))
