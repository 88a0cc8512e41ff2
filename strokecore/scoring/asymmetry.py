"""The embedded engine: needs no model package, compares each region and voxel with its mirror partner.

Early ischaemic change darkens brain by a few Hounsfield units. The person's slow density field is taken off
first (Head.flat); then every region is measured (evidence.py), with its borders as they are, as a second
definition draws them and moved a little, and a fitted logistic model turns that into a probability
(decision.py). Voxels are outlined where they are darker than their mirror partner, the more readily the
likelier their region is affected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from strokecore.anatomy.regions import RegionId
from strokecore.arrays import Bool3D, Float3D
from strokecore.config import WEIGHT_FREE
from strokecore.head.canonical import Head, crop, symmetric_box, uncrop
from strokecore.head.cranium import dilate, erode
from strokecore.head.grid import Grid
from strokecore.scoring.decision import LOGIT_LIMIT, Decision, decision_text, load_decision
from strokecore.scoring.engine import UNKNOWN, Lesion, RegionEvidence
from strokecore.scoring.evidence import labellings, region_evidence
from strokecore.scoring.old_infarct import keep_components, near_cavity
from strokecore.scoring.tissue import MIN_SUPPORT, Tissue, measure_regions, smooth_within


@dataclass(frozen=True)
class AsymmetryConfig:
    """Constants of the outline; those of the regions' probability are in decision.json.

    Attributes
    ----------
    voxel_hu: even odds for a voxel of a region as likely as not affected: this much darker than its mirror
        after smoothing.
    voxel_scale_hu: width of the voxel's logistic.
    region_weight: how many units of the region's log-odds its voxels inherit.
    least_hu: never outlined with a smaller difference: what scatters between healthy sides.
    bright_hu: never outlined where the smoothed density lies above the person's level by this: bright tissue
        is not early infarct, the mirror is darker for another reason.
    alone_hu: without a mirror, outlined this far below the person's level.
    outside_hu: like ``voxel_hu`` outside the regions, where no region's evidence supports it.
    outside_dark_hu: and this far below the person's level.
    smoothing_mm: standard deviation of the Gaussian.
    min_component_ml, min_outside_ml: smaller lesions are not segmented, in and outside the regions.
    core_mm: a lesion that vanishes when this is taken off its surface is a sliver of partial volume.
    """

    voxel_hu: float = 2.0
    voxel_scale_hu: float = 0.8
    region_weight: float = 0.8
    least_hu: float = 1.0
    bright_hu: float = 5.0
    alone_hu: float = 9.0
    outside_hu: float = 5.0
    outside_dark_hu: float = 2.0
    smoothing_mm: float = 3.5
    min_component_ml: float = 0.7
    min_outside_ml: float = 4.0
    core_mm: float = 2.0


# Outside the regions only well supported tissue is judged: the convexity is partial volume.
MIN_OUTSIDE_SUPPORT: Final = 0.6
MIN_OUTSIDE_TISSUE: Final = 0.8
# How far below the lowest region a lesion is looked for; the skull base below hardens the beam.
BELOW_REGIONS_MM: Final = 8.0
# Tissue this far below the person's level on a smoothed scan is hypodense whatever its cause; healthy white
# matter lies about 5 HU below it.
_HYPODENSE_HU: Final = 9.0
_HYPODENSE_ML: Final = 2.0


@dataclass(frozen=True, eq=False)
class MirrorMap:
    """Smoothed density of a head and how it differs from its mirror image; all [z, y, x].

    Attributes
    ----------
    smooth: float32, HU, flattened and smoothed within the usable tissue.
    support: float32 0-1, share of the kernel that usable tissue fills.
    difference: float32, HU, this side minus the other; 0 where ``compared`` is false.
    compared: bool, usable and supported on both sides.
    """

    smooth: Float3D
    support: Float3D
    difference: Float3D
    compared: Bool3D

    @classmethod
    def of(cls, tissue: Tissue, grid: Grid, smoothing_mm: float) -> MirrorMap:
        smooth, support = smooth_within(tissue.flat, tissue.usable, smoothing_mm, grid.spacing_mm)
        known = tissue.usable & (support > MIN_SUPPORT)
        compared = known & known[:, :, ::-1]
        difference = np.where(compared, smooth - smooth[:, :, ::-1], np.float32(0))
        return cls(smooth, support, difference, compared)


class AsymmetryEngine:
    """Weight-free engine behind the same protocol as trained models."""

    name = engine = WEIGHT_FREE
    version = "2.1.0"
    precision = "fp32"

    def __init__(
        self,
        config: AsymmetryConfig | None = None,
        decision: Decision | None = None,
        *,
        fallbacks: tuple[str, ...] = (),
    ) -> None:
        """``fallbacks``: what it serves in place of, see strokecore.scoring.engine.Engine."""
        self.config = config or AsymmetryConfig()
        self.decision = decision or load_decision()
        self.fallbacks = fallbacks
        constants = repr(decision) if decision else decision_text()
        self.sha256 = hashlib.sha256(
            f"{self.name} {self.version} {sorted(asdict(self.config).items())} {constants}".encode()
        ).hexdigest()

    def segment(self, head: Head) -> Lesion:
        """Hypodensity map, lesion and evidence per region; see the module's docstring."""
        box = symmetric_box(head.brain.intracranial)
        cropped = crop(head, box)
        lesion = self._segment(cropped)
        return Lesion(
            probability=uncrop(lesion.probability, box, head.grid.shape),
            acute=uncrop(lesion.acute, box, head.grid.shape),
            old=uncrop(lesion.old, box, head.grid.shape),
            other=None if lesion.other is None else uncrop(lesion.other, box, head.grid.shape),
            evidence=lesion.evidence,
            threshold=lesion.threshold,
        )

    def _segment(self, head: Head) -> Lesion:
        tissue = Tissue.of(head)
        evidence = self._evidence(head, tissue)
        mirror = MirrorMap.of(tissue, head.grid, self.config.smoothing_mm)
        probability = self._voxel_probability(head, tissue, mirror, evidence)
        acute = self._outlined(head, probability >= 0.5)
        rim = near_cavity(acute, tissue.old, head.grid)
        dark = tissue.usable & (mirror.smooth < tissue.level_hu - _HYPODENSE_HU) & (mirror.support > 0.5)
        acute &= ~rim
        other = keep_components((dark & ~acute) | rim, _HYPODENSE_ML, head.grid)
        return Lesion(
            probability=probability,
            acute=acute,
            old=tissue.old,
            other=other,
            evidence=evidence,
            threshold=self.decision.threshold,
        )

    def _evidence(self, head: Head, tissue: Tissue) -> dict[RegionId, RegionEvidence]:
        first, *others = [region_evidence(head, tissue, regions) for regions in labellings(head)]
        measured = measure_regions(head, tissue)
        evidence = dict.fromkeys(measured, UNKNOWN)
        known = first.keys() - set(tissue.bordering_on_old(head))
        opinions = {
            region: [first[region], *(found[region] for found in others if region in found)]
            for region in measured
            if region in known
        }
        for region, judged in self.decision.judge(opinions).items():
            mine, partner = measured[region], measured[region.mirror]
            evidence[region] = RegionEvidence(
                probability=judged.probability,
                mean_hu=mine.mean_hu,
                contralateral_difference_hu=(
                    mine.flat_hu - partner.flat_hu if mine.has_mirror(partner) else None
                ),
                borderline=judged.borderline,
            )
        return evidence

    def _voxel_probability(
        self, head: Head, tissue: Tissue, mirror: MirrorMap, evidence: Mapping[RegionId, RegionEvidence]
    ) -> Float3D:
        config, threshold = self.config, self.decision.threshold
        suspected = np.zeros(256, np.bool_)  # by region label
        log_odds = np.zeros(256, np.float32)
        for region, found in evidence.items():
            if found.probability is not None:
                p = np.clip((found.probability, threshold), 1e-4, 1 - 1e-4)
                mine, even = np.log(p / (1 - p))
                suspected[region.label] = found.borderline or mine >= even
                log_odds[region.label] = config.region_weight * (mine - even)
        below = tissue.level_hu - mirror.smooth
        # a mirror brighter than healthy tissue is no reference for the part above
        too_bright = np.maximum(0.0, mirror.smooth[:, :, ::-1] - (tissue.level_hu + config.bright_hu))
        darker = -mirror.difference - too_bright
        inside = (darker - config.voxel_hu) / config.voxel_scale_hu + log_odds[head.regions]
        inside[(darker < config.least_hu) | (below < -config.bright_hu)] = -LOGIT_LIMIT
        inside = np.where(mirror.compared, inside, (below - config.alone_hu) / config.voxel_scale_hu)
        # where no region's evidence supports it, also in a region that is not suspected
        outside = np.minimum(darker - config.outside_hu, below - config.outside_dark_hu)
        outside = np.where(mirror.compared, outside / config.voxel_scale_hu, -LOGIT_LIMIT)
        logit = np.where(suspected[head.regions], inside, outside)
        probability = 1.0 / (1.0 + np.exp(-np.clip(logit, -LOGIT_LIMIT, LOGIT_LIMIT)))
        judged = tissue.usable & ((head.regions > 0) | _outside(head, mirror.support))
        return np.where(judged, probability, 0.0).astype(np.float32)

    def _outlined(self, head: Head, found: Bool3D) -> Bool3D:
        """The lesions that are large enough and no slivers, and outside the regions larger still."""
        config = self.config
        core = erode(found, config.core_mm, head.grid.spacing_mm)
        solid = found & dilate(core, 2 * config.core_mm, head.grid.spacing_mm)
        acute = keep_components(solid, config.min_component_ml, head.grid)
        # what lies wholly outside the regions must be larger to be believed
        return np.asarray(
            acute
            & (
                (head.regions > 0)
                | keep_components(solid & (head.regions == 0), config.min_outside_ml, head.grid)
            )
        )


def _outside(head: Head, support: Float3D) -> Bool3D:
    """Where a lesion outside the regions may be called: well supported tissue at or above their level."""
    planes = np.flatnonzero((head.regions > 0).any(axis=(1, 2)))
    may = (support > MIN_OUTSIDE_SUPPORT) & (head.tissue > MIN_OUTSIDE_TISSUE)
    if planes.size:
        may[: max(0, planes[0] - round(BELOW_REGIONS_MM / head.grid.spacing_mm[0]))] = False
        may[planes[-1] + 1 :] = False
    return may
