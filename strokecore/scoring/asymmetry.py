"""The embedded engine: needs no weights, compares each voxel and region with its mirror partner.

Early ischaemic change darkens brain by a few Hounsfield units. Both hemispheres of one head share scanner,
beam hardening and age, so the mirror partner across the mid-sagittal plane is the natural reference;
2.0 HU between the two sides of an ASPECTS region agreed best with the final infarct in Mokin et al.,
Stroke 2017;48:1574. The mirror alone is blind to its own partner's disease: a bright or old lesion on one
side makes the other look dark. So every finding must also be dark in absolute terms, that is below what
this person's tissue of the same grey-white mixture measures elsewhere.

Both criteria are measured on *residuals*: Hounsfield units minus the person's own tissue curve
(HU as a function of the expected grey-matter share).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import DEEP, RegionId
from strokecore.arrays import Bool3D, Float3D
from strokecore.config import WEIGHT_FREE
from strokecore.head.canonical import Head, crop, symmetric_box, uncrop
from strokecore.scoring.engine import UNKNOWN, Lesion, RegionEvidence
from strokecore.scoring.old_infarct import keep_components
from strokecore.scoring.tissue import MIN_VOXELS, OLD_RESIDUAL_HU, Tissue, measure_regions


@dataclass(frozen=True)
class AsymmetryConfig:
    """Constants of the engine. Tuned on simulator seeds 0-9999 only, except where a source is named.

    Attributes
    ----------
    cortical_hu: darker than the mirror region by this much is even odds (Mokin 2017: 2.0 HU).
    deep_hu: the same for C, L, IC and I, which are small and border on CSF or on tissue of another density.
    region_scale_hu: natural asymmetry of a region's residual; the width of the logistic.
    dark_hu: the absolute criterion that stands beside the mirror's: even odds at this much below the
        person's own tissue curve. Negative, because normal regions lie up to 4 HU above the curve.
    bright_hu, bright_slope: a mirror region brighter than the curve by more than ``bright_hu`` is itself
        suspect (calcium, blood, contrast); per HU beyond, the absolute criterion rises by ``bright_slope``.
    dark_scale_hu: its width.
    alone_hu: the absolute criterion when it overrules a mirror that is just as dark (both sides affected).
        High: atrophy and leukoaraiosis darken both sides of old heads, most of all the caudate beside wide
        ventricles (7.5 HU on both sides of the real head CT of the test data).
    unmirrored_hu: the absolute criterion where the mirror region cannot be measured at all.
    voxel_hu: like the region's threshold for one smoothed voxel of a region.
    outside_hu: the same outside the regions, where no region's mean supports it.
    voxel_scale_hu: width of the voxel's logistic.
    region_weight: how many units of the region's log-odds its voxels inherit.
    smoothing_mm: standard deviation of the in-plane and through-plane Gaussian.
    min_voxels: fewer measurable voxels than this leave a region unjudged.
    min_component_ml, min_outside_ml: smaller lesions are not segmented, in and outside the regions.
    old_residual_hu: tissue this far below the curve is CSF-like: neither normal nor early change.
    """

    cortical_hu: float = 2.0
    deep_hu: float = 2.2
    region_scale_hu: float = 0.6
    dark_hu: float = -1.5
    bright_hu: float = 4.5
    bright_slope: float = 0.5
    dark_scale_hu: float = 0.6
    alone_hu: float = 9.5
    unmirrored_hu: float = 2.5
    voxel_hu: float = 3.5
    outside_hu: float = 5.0
    voxel_scale_hu: float = 0.8
    region_weight: float = 1.0
    smoothing_mm: float = 3.5
    min_voxels: int = MIN_VOXELS
    min_component_ml: float = 0.7
    min_outside_ml: float = 4.0
    old_residual_hu: float = OLD_RESIDUAL_HU


# Support of the normalised smoothing below which a voxel's neighbourhood holds too little brain to be judged.
MIN_SUPPORT: Final = 0.25
# Outside the regions only well supported tissue is judged: the convexity is partial volume.
MIN_OUTSIDE_SUPPORT: Final = 0.6
MIN_OUTSIDE_TISSUE: Final = 0.8
# How far below the lowest region a lesion is looked for; the skull base below hardens the beam.
BELOW_REGIONS_MM: Final = 8.0
# Beyond this a log-odds only says "sure".
LOGIT_LIMIT: Final = 8.0


class AsymmetryEngine:
    """Weight-free engine behind the same protocol as trained models."""

    name = engine = WEIGHT_FREE
    version = "1.0.0"
    precision = "fp32"

    def __init__(self, config: AsymmetryConfig | None = None, *, fallbacks: tuple[str, ...] = ()) -> None:
        """``fallbacks``: what it serves in place of, see strokecore.scoring.engine.Engine."""
        self.config = config or AsymmetryConfig()
        self.fallbacks = fallbacks
        self.sha256 = hashlib.sha256(
            f"{self.name} {self.version} {sorted(asdict(self.config).items())}".encode()
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
            evidence=lesion.evidence,
        )

    def _segment(self, head: Head) -> Lesion:
        tissue = Tissue.of(head, self.config.old_residual_hu)
        evidence = self._evidence(head, tissue) | dict.fromkeys(tissue.bordering_on_old(head), UNKNOWN)
        probability = self._voxel_probability(head, tissue, evidence)
        found = probability >= 0.5
        acute = keep_components(found, self.config.min_component_ml, head.grid)
        # what lies wholly outside the regions must be larger to be believed
        acute &= (head.regions > 0) | keep_components(
            found & (head.regions == 0), self.config.min_outside_ml, head.grid
        )
        return Lesion(probability=probability, acute=acute, old=tissue.old, evidence=evidence)

    def _evidence(self, head: Head, tissue: Tissue) -> dict[RegionId, RegionEvidence]:
        config = self.config
        measured = measure_regions(head, tissue)
        evidence = {}
        for region, mine in measured.items():
            other = measured[region.mirror]
            if mine.voxels < config.min_voxels:
                evidence[region] = UNKNOWN
                continue
            if not mine.has_mirror(other, config.min_voxels):
                unmirrored = _logistic(
                    mine.dark_hu - config.unmirrored_hu, config.dark_scale_hu, mine.error_hu
                )
                evidence[region] = RegionEvidence(unmirrored, mine.mean_hu, None)
                continue
            alone = _logistic(mine.dark_hu - config.alone_hu, config.dark_scale_hu, mine.error_hu)
            threshold = config.deep_hu if region.name in DEEP else config.cortical_hu
            mirrored = _logistic(
                mine.dark_hu - other.dark_hu - threshold,
                config.region_scale_hu,
                mine.error_hu,
                other.error_hu,
            )
            too_bright = max(0.0, -other.dark_hu - config.bright_hu)
            needed = config.dark_hu + config.bright_slope * too_bright
            absolute = _logistic(mine.dark_hu - needed, config.dark_scale_hu, mine.error_hu)
            evidence[region] = RegionEvidence(
                max(min(mirrored, absolute), alone), mine.mean_hu, mine.mean_hu - other.mean_hu
            )
        return evidence

    def _voxel_probability(
        self, head: Head, tissue: Tissue, evidence: Mapping[RegionId, RegionEvidence]
    ) -> Float3D:
        config, usable = self.config, tissue.usable
        smooth, support = _smooth_within(tissue.residual, usable, config.smoothing_mm, head.grid.spacing_mm)
        inside = head.regions > 0
        judged = usable & np.where(inside, support > MIN_SUPPORT, _outside(head, support))
        mirror, has_mirror = smooth[:, :, ::-1], usable[:, :, ::-1] & (support[:, :, ::-1] > MIN_SUPPORT)
        darker = mirror - smooth - np.where(inside, config.voxel_hu, config.outside_hu)
        # inside the regions a bright mirror has already lowered the region's own odds
        absolute = -smooth - np.where(inside, config.dark_hu, config.outside_hu / 2)
        mirrored = np.minimum(darker, absolute)
        with_mirror = np.where(inside, np.maximum(mirrored, -smooth - config.alone_hu), mirrored)
        without = -smooth - np.where(inside, config.unmirrored_hu, config.alone_hu)
        local = np.where(has_mirror, with_mirror, without)
        logit = (local / config.voxel_scale_hu).astype(np.float32)
        log_odds = np.zeros(256, np.float32)  # by region label
        for region, found in evidence.items():
            if found.probability is not None:
                p = np.clip(found.probability, 1e-4, 1 - 1e-4)
                log_odds[region.label] = config.region_weight * np.log(p / (1 - p))
        logit += log_odds[head.regions]
        probability = 1.0 / (1.0 + np.exp(-np.clip(logit, -LOGIT_LIMIT, LOGIT_LIMIT)))
        return np.where(judged, probability, 0.0).astype(np.float32)


def _outside(head: Head, support: Float3D) -> Bool3D:
    """Where a lesion outside the regions may be called: well supported tissue at or above their level."""
    planes = np.flatnonzero((head.regions > 0).any(axis=(1, 2)))
    may = (support > MIN_OUTSIDE_SUPPORT) & (head.tissue > MIN_OUTSIDE_TISSUE)
    if planes.size:
        may[: max(0, planes[0] - round(BELOW_REGIONS_MM / head.grid.spacing_mm[0]))] = False
        may[planes[-1] + 1 :] = False
    return may


def _smooth_within(
    values: Float3D, mask: Bool3D, sigma_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[Float3D, Float3D]:
    """Gaussian mean of ``values`` over ``mask`` only, and the share of the kernel that the mask fills."""
    sigma = [sigma_mm / mm for mm in spacing_mm]
    support = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(mask, values, 0.0).astype(np.float32), sigma, truncate=3.0)
    return np.where(support > 1e-3, total / np.maximum(support, 1e-3), 0.0).astype(np.float32), support


def _logistic(x: float, *scales: float) -> float:
    """Logistic of ``x`` over the root of the sum of squared scales."""
    scale = float(np.sqrt(np.sum(np.square(scales))))
    return float(1.0 / (1.0 + np.exp(-np.clip(x / scale, -LOGIT_LIMIT, LOGIT_LIMIT))))
