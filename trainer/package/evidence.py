"""What a network says of validation cases, through the node's own functions: the ground of all thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import BoolArray, Float32Array, Float64Array, dice_of_counts
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.combination import Combination, combined, region_opinions
from strokecore.learned.engine import Run, against_mirror, best_outline, infarct_map, logit, region_log_odds
from strokecore.learned.package import Calibration
from strokecore.learned.preprocessing import InputSpec
from strokecore.scoring.aspects import MIN_PLANE_AREA_MM2, longest_run, spans_enough
from trainer.data.cases import Case, CaseRecord, Dataset
from trainer.measure.thresholds import THRESHOLDS, at_or_above, levels, reaching
from trainer.package.combine import fit_combination, voxel_sample, weight_free


@dataclass(frozen=True)
class Decisions:
    """How regions are called.

    Attributes
    ----------
    calibration: curves by region name, from evidence against the mirror's (learned.engine.against_mirror).
    threshold: probability from which a region is affected.
    mirror_weight: how much of the partner's evidence is taken off.
    """

    calibration: Mapping[str, Calibration]
    threshold: float
    mirror_weight: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a network says of validation cases; regions are in ALL_REGIONS order.

    Attributes
    ----------
    log_odds: float64 [cases, 20], each region's own evidence; NaN where it has no usable voxel.
    affected: bool [cases, 20], the truth.
    outlined: bool [cases, 20, thresholds], the lesion in the region is tall enough to count (aspects.py).
    dice: float64 [cases, thresholds]; NaN for a case without infarct.
    called_ml: float64 [cases, thresholds], volume of what is outlined.
    asymmetry: float64 [cases, 20], log-odds by the weight-free engine; None where it is not joined.
    judged: bool [cases, 20], the truth says whether the region is affected.
    """

    log_odds: Float64Array
    affected: BoolArray
    outlined: BoolArray
    dice: Float64Array
    called_ml: Float64Array
    judged: BoolArray
    asymmetry: Float64Array | None = None


def collect(
    run: Run,
    dataset: Dataset,
    records: Sequence[CaseRecord],
    spec: InputSpec,
    fit: Callable[[Float64Array, BoolArray, BoolArray, Float64Array | None], Decisions],
    *,
    joined: bool,
    done: Callable[[], object] = lambda: None,
) -> tuple[Evidence, Decisions, Combination | None]:
    """Show every case to a network, and where ``joined`` to the weight-free engine, as the node would.

    The node also leaves out old infarct; a prepared case does not hold where that is. The maps wait on disk
    between fitting the decisions and outlining with them: 14 MB a case.

    Parameters
    ----------
    fit: the regions' decisions from log_odds, affected, judged and asymmetry (see Evidence).
    done: called after each case.

    Returns
    -------
    The evidence, the regions' decisions, and where ``joined`` the weights that join both maps.
    """
    atlas = load_atlas()
    affected = np.array([_affected(record) for record in records])
    judged = np.array([_judged(record) for record in records])
    with tempfile.TemporaryDirectory() as folder:
        own: list[dict[RegionId, float]] = []
        other: list[dict[RegionId, float]] = []
        for number, record in enumerate(records):
            case = dataset.load(record)
            maps = [_learned_map(run, case, spec)]
            own.append(region_log_odds(maps[0], case.regions, case.brain))
            if joined:
                lesion = weight_free(case, atlas)
                other.append(region_opinions(lesion))
                maps.append(lesion.probability)
            np.save(Path(folder) / f"{number}.npy", np.stack(maps).astype(np.float16), allow_pickle=False)
            done()
        asymmetry = _table(other) if joined else None
        decisions = fit(_table(own), affected, judged, asymmetry)
        theirs: list[dict[RegionId, float] | None] = [*other] if joined else [None] * len(own)
        opinions = [_opinions(decisions, *pair) for pair in zip(own, theirs, strict=True)]

        def kept(number: int) -> tuple[Case, Float32Array]:
            stored = np.load(Path(folder) / f"{number}.npy", allow_pickle=False)
            return dataset.load(records[number]), stored.astype(np.float32)

        weights: Combination | None = None
        if joined:
            samples = []
            for number, odds in enumerate(opinions):
                case, both = kept(number)
                samples.append(voxel_sample(case, both[0], both[1], odds))
            weights = fit_combination(samples)
        rows = []
        for number, odds in enumerate(opinions):
            case, both = kept(number)
            probability = both[0]
            if weights is not None:
                probability = combined(
                    both[0], both[1], case.regions, odds, weights, logit(decisions.threshold)
                )
                probability[~case.inside] = 0.0
            called = {region.side for region, value in odds.items() if value >= logit(decisions.threshold)}
            for side in called:  # outlined whatever the threshold is
                part = CANONICAL_GRID.side_columns(side)
                probability[part][best_outline(probability[part])] = 1.0
            rows.append(_of_case(case, probability, own[number]))
    evidence = Evidence(*(np.stack(column) for column in zip(*rows, strict=True)))
    return replace(evidence, asymmetry=asymmetry), decisions, weights


def _opinions(
    decisions: Decisions, mine: Mapping[RegionId, float], theirs: Mapping[RegionId, float] | None
) -> dict[RegionId, float]:
    """Log-odds of the regions that all opinions judge, by the decisions' curves."""
    compared, curves = against_mirror(mine, decisions.mirror_weight), decisions.calibration
    if theirs is None:
        return {region: curves[region.name].log_odds(value, 0.0) for region, value in compared.items()}
    return {
        region: curves[region.name].log_odds(value, theirs[region])
        for region, value in compared.items()
        if region in theirs
    }


def _table(opinions: Sequence[dict[RegionId, float]]) -> Float64Array:
    """[cases, 20] in ALL_REGIONS order, NaN where a region has no opinion."""
    return np.array([[found.get(region, np.nan) for region in ALL_REGIONS] for found in opinions])


def _affected(record: CaseRecord) -> list[bool]:
    return [f"{region.side}:{region.name}" in record.affected for region in ALL_REGIONS]


def _judged(record: CaseRecord) -> list[bool]:
    return [f"{region.side}:{region.name}" not in record.not_judged for region in ALL_REGIONS]


def _learned_map(run: Run, case: Case, spec: InputSpec) -> Float32Array:
    """The network's infarct probability, float32 [z, y, x]; 0 outside the skull."""
    probability = infarct_map(run, case.density(spec), case.regions, case.brain, CANONICAL_GRID, spec)
    probability[~case.inside] = 0.0
    return probability


def _of_case(
    case: Case, probability: Float32Array, found: dict[RegionId, float]
) -> tuple[npt.NDArray[Any], ...]:
    """The first six fields of Evidence for one case: ``probability`` is outlined, ``found`` its log-odds."""
    level = levels(probability)
    reached, both = reaching(level), reaching(level[case.lesion])
    lesion = int(np.count_nonzero(case.lesion))
    dice = dice_of_counts(both, reached + lesion) if lesion else np.full(len(THRESHOLDS), np.nan)
    return (
        _table([found])[0],
        np.array(_affected(case.record)),
        _outlined(level, case),
        dice,
        reached * CANONICAL_GRID.voxel_ml,
        np.array(_judged(case.record)),
    )


def _outlined(level: npt.NDArray[np.intp], case: Case) -> BoolArray:
    """[20, thresholds]: the outlined part of the region spans enough neighbouring planes (aspects.py)."""
    planes, thresholds = CANONICAL_GRID.shape[0], len(THRESHOLDS)
    dz, dy, dx = CANONICAL_GRID.spacing_mm
    labels = [region.label for region in ALL_REGIONS]
    kinds = max(labels) + 1
    index = (np.arange(planes)[:, None, None] * kinds + case.regions) * (thresholds + 1) + level
    counts = np.bincount(index.ravel(), minlength=planes * kinds * (thresholds + 1))
    area = at_or_above(counts.reshape(planes, kinds, thresholds + 1)) * dy * dx
    longest = longest_run(area > MIN_PLANE_AREA_MM2)
    tall = spans_enough(longest, dz, case.record.slice_thickness_mm)
    return np.asarray(tall & (longest > 0))[labels]
