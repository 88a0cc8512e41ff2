"""A trained model as an engine: a head to slices, the network's answer to infarct map, regions and lesion.

A runtime only runs the network; everything else is here, so that all runtimes decide alike. The trainer fits
the lesion threshold and the regions' calibration through these same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SUPRAGANGLIONIC, RegionId, Side
from strokecore.arrays import Bool3D, BoolArray, Float3D, Float4D, Float32Array, UInt8Array
from strokecore.head.canonical import Head, crop, symmetric_box, uncrop
from strokecore.head.grid import Grid
from strokecore.learned.arms import infarct_probability, level_plane_mm, sg_share
from strokecore.learned.combination import combined, region_opinions
from strokecore.learned.package import ModelPackage
from strokecore.learned.preprocessing import (
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
    to_volume,
    with_neighbours,
)
from strokecore.learned.runtime import Runtime
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.engine import UNKNOWN, Lesion, RegionEvidence
from strokecore.scoring.old_infarct import keep_components
from strokecore.scoring.tissue import MIN_VOXELS, Measured, Tissue, measure_regions

Run = Callable[[Float4D], tuple[Float4D, Float4D]]
"""A network: slices [n, channels, rows, columns] to class probabilities of the BG arm [n, 9, rows, columns]
and of the SG arm [n, 6, rows, columns]."""

# A region's mean infarct probability is kept this far from 0 and 1, so that its logit is finite.
MEAN_MARGIN: Final = 1e-4
# Where something is called, less is never outlined: a paler shade than this says nothing to a reader.
LEAST_OUTLINED: Final = 0.3
_STEPS: Final = 100  # of probability, in which the best outline is looked for


class LearnedEngine:
    """A model package, run by a runtime.

    Attributes
    ----------
    package: what is run; name, version and sha256 are its own.
    runtime: what runs it; engine, precision and fallbacks are its own and can change in ``segment``.
    region_threshold: probability from which a region is called: a site's own, or the package's.
    """

    def __init__(
        self, package: ModelPackage, runtime: Runtime, region_threshold: float | None = None
    ) -> None:
        self.package, self.runtime = package, runtime
        self.region_threshold = package.region_threshold if region_threshold is None else region_threshold
        self.name, self.version, self.sha256 = package.name, package.version, package.sha256

    @property
    def engine(self) -> str:
        return self.runtime.name

    @property
    def precision(self) -> str:
        return self.runtime.precision

    @property
    def fallbacks(self) -> tuple[str, ...]:
        return self.runtime.fallbacks

    def segment(self, head: Head) -> Lesion:
        """Infarct map, lesion and evidence per region.

        Old infarct and its rim are never acute, nor is anything outside the skull or the scan. Infarct is
        outlined also where brain borders on CSF or skull, as readers and the training's truth do; a region's
        probability counts only brain that may be measured.
        """
        box = symmetric_box(head.brain.intracranial)
        cropped = crop(head, box)
        tissue = Tissue.of(cropped)
        near_old, old = (uncrop(mask, box, head.grid.shape) for mask in (tissue.near_old, tissue.old))
        probability = infarct_map(
            self.runtime.run,
            head.flat if self.package.spec.flat else head.hu,
            head.regions,
            head.brain.parenchyma,
            head.grid,
            self.package.spec,
        )
        judged = head.brain.intracranial & head.covered & ~near_old
        probability[~judged] = 0.0
        usable = head.brain.parenchyma & head.covered & ~near_old
        own = against_mirror(region_log_odds(probability, head.regions, usable), self.package.mirror_weight)
        other: dict[RegionId, float] = {}
        weight_free: Lesion | None = None
        if self.package.combination is not None:
            weight_free = AsymmetryEngine().segment(head)
            other = region_opinions(weight_free)
            both = {
                region: self.package.calibration[region.name].log_odds(own[region], other[region])
                for region in own.keys() & other.keys()
            }
            probability = combined(
                probability,
                weight_free.probability,
                head.regions,
                both,
                self.package.combination,
                logit(self.region_threshold),
            )
            probability[~judged] = 0.0
        evidence = self._evidence(own, other, measure_regions(cropped, tissue))
        evidence |= dict.fromkeys(tissue.bordering_on_old(cropped), UNKNOWN)
        called = {r.side for r, e in evidence.items() if (e.probability or 0.0) >= self.region_threshold}
        return Lesion(
            probability=probability,
            acute=keep_components(
                outline(probability, called, self.package.lesion_threshold, head.grid),
                self.package.minimum_component_ml,
                head.grid,
            ),
            old=old,
            other=_without(weight_free.other, weight_free.acute) if weight_free else None,
            evidence=evidence,
            threshold=self.region_threshold,
        )

    def _evidence(
        self, own: dict[RegionId, float], other: dict[RegionId, float], measured: dict[RegionId, Measured]
    ) -> dict[RegionId, RegionEvidence]:
        """``own``, ``other``: log-odds by the network and, where it is joined, by the weight-free engine."""
        joined = self.package.combination is not None
        evidence = {}
        for region, mine in measured.items():
            if mine.voxels < MIN_VOXELS or region not in own or (joined and region not in other):
                evidence[region] = UNKNOWN
                continue
            mirror = measured[region.mirror]
            curve = self.package.calibration[region.name]
            difference = mine.flat_hu - mirror.flat_hu if mine.has_mirror(mirror) else None
            evidence[region] = RegionEvidence(
                probability=curve.probability(own[region], other.get(region, 0.0)),
                mean_hu=mine.mean_hu,
                contralateral_difference_hu=difference,
            )
        return evidence


def _without(other: BoolArray | None, acute: BoolArray) -> BoolArray | None:
    return None if other is None else other & ~acute


def infarct_map(
    run: Run,
    hu: Float3D,
    regions: UInt8Array,
    brain: Bool3D,
    grid: Grid,
    spec: InputSpec,
) -> Float3D:
    """Infarct probability of both arms joined, on ``grid``; float32 [z, y, x].

    Parameters
    ----------
    hu, regions, brain: [z, y, x] on ``grid``; HU (flat where ``spec.flat``), RegionId.label, brain tissue.

    Only the slices that hold brain are run; the others count as 0.

    Raises FloatingPointError when the network answers with NaN.
    """
    shown = mask_slices(brain, grid, spec).any(axis=(1, 2))
    slices = hu_slices(hu, grid, spec)
    found = np.zeros(slices.shape, np.float32)
    if shown.any():
        share = sg_share(slice_centres_mm(grid, spec)[shown], _plane_mm(regions, grid))
        stacks = with_neighbours(slices, np.flatnonzero(shown), spec)
        bg, sg = run(to_channels(stacks, label_slices(regions, grid, spec)[shown], spec))
        found[shown] = infarct_probability(bg, sg, share)
    if not np.isfinite(found).all():
        # never scored: a comparison with NaN is false, and all of it would look like healthy brain
        raise FloatingPointError("the network's answer is not finite")
    return to_volume(found, grid, spec)


def outline(probability: Float3D, called: Collection[Side], threshold: float, grid: Grid) -> BoolArray:
    """The voxels that are outlined as early infarct; bool [z, y, x].

    Where no region is called, only what is sure stands out, from ``threshold`` on: a faint shade in a head
    that is scored 10 is a contradiction. On a side with a called region there is an infarct, and the question
    is where: there ``best_outline`` may lower the threshold.

    Parameters
    ----------
    probability: of infarct, [z, y, x] on ``grid``. called: the sides with a region that is called affected.
    """
    found = probability >= threshold
    for side in called:
        part = grid.side_columns(side)
        found[part] |= best_outline(probability[part])
    return np.asarray(found)


def best_outline(probability: Float32Array) -> BoolArray:
    """The voxels whose outline has the largest Dice to be expected, but none below LEAST_OUTLINED.

    Whichever the true voxels are, each with its probability, the Dice of the n most probable ones is expected
    to be near 2 * (sum of their probabilities) / (n + sum of all probabilities). For the cut that maximises
    such a ratio see Lipton et al., "Optimal thresholding of classifiers to maximize F1 measure", 2014.
    """
    count, edges = np.histogram(probability, _STEPS, (0.0, 1.0))
    total, _ = np.histogram(probability, _STEPS, (0.0, 1.0), weights=probability)
    above = 2 * np.cumsum(total[::-1]) / np.maximum(np.cumsum(count[::-1]) + total.sum(), 1.0)
    cut = max(float(edges[-2 - int(np.argmax(above))]), LEAST_OUTLINED)
    return np.asarray(probability >= cut)


def region_log_odds(probability: Float3D, regions: UInt8Array, usable: Bool3D) -> dict[RegionId, float]:
    """Logit of the mean infarct probability over each region's usable voxels; all arrays [z, y, x].

    A region without a usable voxel is left out.
    """
    labels = regions[usable]
    voxels = np.bincount(labels, minlength=256)
    total = np.bincount(labels, weights=probability[usable], minlength=256)
    log_odds = {}
    for region in ALL_REGIONS:
        if voxels[region.label]:
            mean = np.clip(total[region.label] / voxels[region.label], MEAN_MARGIN, 1 - MEAN_MARGIN)
            log_odds[region] = logit(float(mean))
    return log_odds


def against_mirror(log_odds: Mapping[RegionId, float], weight: float) -> dict[RegionId, float]:
    """Each region's evidence less ``weight`` times that of its partner across the midline.

    What darkens both sides alike, such as old age or a scanner, is seldom an infarct. Without a partner a
    region is compared with itself, so that it speaks for less.
    """
    return {region: own - weight * log_odds.get(region.mirror, own) for region, own in log_odds.items()}


def logit(probability: float) -> float:
    """Natural log-odds of a probability between 0 and 1."""
    return float(np.log(probability / (1 - probability)))


def _plane_mm(regions: UInt8Array, grid: Grid) -> float:
    """Where the arms meet; with one level outside the atlas's reach the other level's arm answers alone."""
    try:
        return level_plane_mm(regions, grid)
    except ValueError:
        upper = [region.label for region in ALL_REGIONS if region.name in SUPRAGANGLIONIC]
        return -np.inf if np.isin(regions, upper).any() else np.inf
