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
from strokecore.learned.engine import Run, against_mirror, infarct_map, logit, region_log_odds
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
    done: Callable[[], object] = lambda: None,
) -> Evidence:
    """Show every case to a network, as the node would; ``done`` is called after each.

    The node also leaves out old infarct; a prepared case does not hold where that is.
    """
    rows = []
    for record in records:
        case = dataset.load(record)
        probability = _learned_map(run, case, spec)
        rows.append(_of_case(case, probability, region_log_odds(probability, case.regions, case.brain)))
        done()
    return Evidence(*(np.stack(column) for column in zip(*rows, strict=True)))


def collect_joined(
    run: Run,
    dataset: Dataset,
    records: Sequence[CaseRecord],
    spec: InputSpec,
    calibrate: Callable[[Float64Array, BoolArray, BoolArray, Float64Array], Decisions],
    done: Callable[[], object] = lambda: None,
) -> tuple[Evidence, Combination]:
    """As ``collect``, for the network and the weight-free engine together; and the weights that join them.

    ``calibrate``: fits the regions' decisions from log_odds, affected, judged and asymmetry (see Evidence).
    The maps wait on disk between fitting the weights and outlining with them: 14 MB a case.
    """
    atlas = load_atlas()
    with tempfile.TemporaryDirectory() as folder:
        own, other = [], []
        for number, record in enumerate(records):
            case = dataset.load(record)
            learned, weight_free_lesion = _learned_map(run, case, spec), weight_free(case, atlas)
            own.append(region_log_odds(learned, case.regions, case.brain))
            other.append(region_opinions(weight_free_lesion))
            maps = np.stack([learned, weight_free_lesion.probability]).astype(np.float16)
            np.save(Path(folder) / f"{number}.npy", maps, allow_pickle=False)
            done()
        affected = np.array([_affected(record) for record in records])
        judged = np.array([_judged(record) for record in records])
        decisions = calibrate(_table(own), affected, judged, _table(other))
        curves, called_from = decisions.calibration, logit(decisions.threshold)
        both = [
            {r: curves[r.name].log_odds(mine[r], theirs[r]) for r in mine.keys() & theirs.keys()}
            for mine, theirs in zip(
                (against_mirror(mine, decisions.mirror_weight) for mine in own), other, strict=True
            )
        ]

        def kept(number: int) -> tuple[Case, Float32Array]:
            maps = np.load(Path(folder) / f"{number}.npy", allow_pickle=False).astype(np.float32)
            return dataset.load(records[number]), maps

        samples = []
        for number, odds in enumerate(both):
            case, maps = kept(number)
            samples.append(voxel_sample(case, *maps, odds))
        weights = fit_combination(samples)
        rows = []
        for number, odds in enumerate(both):
            case, maps = kept(number)
            probability = combined(maps[0], maps[1], case.regions, odds, weights, called_from)
            probability[~case.inside] = 0.0
            rows.append(_of_case(case, probability, own[number]))
    evidence = Evidence(*(np.stack(column) for column in zip(*rows, strict=True)))
    return replace(evidence, asymmetry=_table(other)), weights


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
