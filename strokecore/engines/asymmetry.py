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
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.engines.base import Head, Lesion, RegionEvidence

Float3D = npt.NDArray[np.float32]
Bool3D = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AsymmetryConfig:
    """Constants of the engine. Tuned on simulator seeds 0-9999 only, except where a source is named.

    Attributes
    ----------
    region_hu: darker than the mirror region by this much is even odds (Mokin 2017: 2.0 HU).
    region_scale_hu: natural asymmetry of a region's residual; the width of the logistic.
    dark_hu: the absolute criterion that stands beside the mirror's: even odds at this much below the
        person's own tissue curve.
    dark_scale_hu: its width.
    alone_hu: the absolute criterion when it stands alone (both sides affected, or no usable mirror).
    voxel_hu: like region_hu for one smoothed voxel, where no region supports it.
    voxel_scale_hu: width of the voxel's logistic.
    region_weight: how many units of the region's log-odds its voxels inherit.
    smoothing_mm: standard deviation of the in-plane and through-plane Gaussian.
    min_voxels: fewer measurable voxels than this leave a region unjudged.
    min_component_ml: smaller lesions are not segmented.
    old_residual_hu: tissue this far below the curve is CSF-like, an old cavity rather than early change.
    """

    region_hu: float = 2.0
    region_scale_hu: float = 0.6
    dark_hu: float = 0.7
    dark_scale_hu: float = 0.6
    alone_hu: float = 5.0
    voxel_hu: float = 3.0
    voxel_scale_hu: float = 0.8
    region_weight: float = 0.7
    smoothing_mm: float = 3.5
    min_voxels: int = 150
    min_component_ml: float = 0.7
    old_residual_hu: float = 14.0


# Support of the normalised smoothing below which a voxel's neighbourhood holds too little brain to be judged.
MIN_SUPPORT: Final = 0.25
# Trimmed on either end of a region's residuals: sulci, vessels and calcium the masks missed.
TRIM: Final = 0.10
# Two voxels closer than this share noise (the reconstruction kernel and the resampling); mm.
NOISE_CORRELATION_MM: Final = 2.0
GREY_BINS: Final = 8
LOGIT_LIMIT: Final = 8.0
# Old cavities: expected to be tissue by the atlas, CSF-like on the scan, not so on the other side.
OLD_MIN_TISSUE: Final = 0.8
OLD_MIN_ML: Final = 1.0
OLD_MIRROR_MARGIN_MM: Final = 5.0


class AsymmetryEngine:
    """Weight-free engine behind the same protocol as trained models."""

    name = "asymmetry"
    version = "1.0.0"
    precision = "fp32"

    def __init__(self, config: AsymmetryConfig | None = None) -> None:
        self.config = config or AsymmetryConfig()
        self.sha256 = hashlib.sha256(
            f"{self.name} {self.version} {sorted(asdict(self.config).items())}".encode()
        ).hexdigest()

    def segment(self, head: Head) -> Lesion:
        """Hypodensity map, lesion and evidence per region; see the module's docstring."""
        config = self.config
        old = find_old_infarct(head)
        usable = head.brain.parenchyma & head.covered & ~old
        residual = head.hu - tissue_curve(head, usable)
        usable &= residual > -config.old_residual_hu * 1.5
        evidence = {region: self._region_evidence(head, residual, usable, region) for region in ALL_REGIONS}
        probability = self._voxel_probability(head, residual, usable, evidence)
        acute = _keep_components((probability >= 0.5) & usable, config.min_component_ml, head.grid.spacing_mm)
        return Lesion(probability=probability, acute=acute, old=old, evidence=evidence)

    def _region_evidence(
        self, head: Head, residual: Float3D, usable: Bool3D, region: RegionId
    ) -> RegionEvidence:
        config = self.config
        here = (head.regions == region.label) & usable
        there = (head.regions == region.mirror.label) & usable
        if int(here.sum()) < config.min_voxels:
            return RegionEvidence(None, None, None)
        dark = -_trimmed_mean(residual[here])
        mean_hu = _trimmed_mean(head.hu[here])
        error = _standard_error(head, int(here.sum()))
        alone = _logistic(dark - config.alone_hu, float(np.hypot(config.dark_scale_hu, error)))
        if int(there.sum()) < config.min_voxels:
            return RegionEvidence(alone, mean_hu, None)
        other_dark = -_trimmed_mean(residual[there])
        error = float(np.hypot(error, _standard_error(head, int(there.sum()))))
        mirrored = _logistic(
            dark - other_dark - config.region_hu, float(np.hypot(config.region_scale_hu, error))
        )
        absolute = _logistic(dark - config.dark_hu, float(np.hypot(config.dark_scale_hu, error)))
        return RegionEvidence(
            probability=max(min(mirrored, absolute), alone),
            mean_hu=mean_hu,
            contralateral_difference_hu=mean_hu - _trimmed_mean(head.hu[there]),
        )

    def _voxel_probability(
        self,
        head: Head,
        residual: Float3D,
        usable: Bool3D,
        evidence: Mapping[RegionId, RegionEvidence],
    ) -> Float3D:
        config = self.config
        smooth, support = _smooth_within(residual, usable, config.smoothing_mm, head.grid.spacing_mm)
        judged = usable & (support > MIN_SUPPORT)
        mirror = smooth[:, :, ::-1]
        has_mirror = judged[:, :, ::-1]
        darker = np.where(has_mirror, mirror - smooth, 0.0) - config.voxel_hu
        absolute = -smooth - max(config.dark_hu, config.voxel_hu / 2)
        alone = -smooth - config.alone_hu
        local = np.where(has_mirror, np.maximum(np.minimum(darker, absolute), alone), alone)
        logit = (local / config.voxel_scale_hu).astype(np.float32)
        for region, found in evidence.items():
            if found.probability is not None:
                p = np.clip(found.probability, 1e-4, 1 - 1e-4)
                logit[head.regions == region.label] += config.region_weight * np.float32(np.log(p / (1 - p)))
        probability = 1.0 / (1.0 + np.exp(-np.clip(logit, -LOGIT_LIMIT, LOGIT_LIMIT)))
        return np.where(judged, probability, 0.0).astype(np.float32)


def tissue_curve(head: Head, usable: Bool3D) -> Float3D:
    """Expected HU of this person's normal tissue at every voxel; float32 [z, y, x].

    Median HU in bins of the expected grey share, taken in each hemisphere and the brighter hemisphere
    kept: an infarct can then not pull its own reference down, and both hemispheres share one curve.
    """
    half = head.grid.shape[2] // 2
    edges = np.linspace(0.0, 1.0, GREY_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    hemispheres = (slice(0, half), slice(head.grid.shape[2] - half, None))
    curves = []
    for columns in hemispheres:
        mask = usable[:, :, columns] & (head.regions[:, :, columns] > 0)
        grey, hu = head.grey[:, :, columns][mask], head.hu[:, :, columns][mask]
        if hu.size < GREY_BINS * 50:
            continue
        bins = np.clip(np.digitize(grey, edges) - 1, 0, GREY_BINS - 1)
        medians = np.array(
            [np.median(hu[bins == b]) if (bins == b).sum() > 50 else np.nan for b in range(GREY_BINS)]
        )
        known = ~np.isnan(medians)
        weight = np.bincount(bins, minlength=GREY_BINS)[known]
        slope, level = (
            np.polyfit(centres[known], medians[known], 1, w=np.sqrt(weight))
            if known.sum() > 1
            else (0.0, medians[known][0])
        )
        curves.append((float(level + 0.5 * slope), float(slope), float(level)))
    if not curves:
        return np.full(head.hu.shape, np.nan, dtype=np.float32)
    _, slope, level = max(curves)
    return (level + slope * head.grey).astype(np.float32)


def find_old_infarct(head: Head) -> Bool3D:
    """Old cavities: CSF-like where the atlas expects tissue and the other side has tissue; bool [z, y, x]."""
    csf = head.brain.csf & ~head.brain.ventricles
    radius = [OLD_MIRROR_MARGIN_MM / mm for mm in head.grid.spacing_mm]
    mirrored = _dilate(csf | head.brain.ventricles, radius)[:, :, ::-1]
    cavity = csf & ~mirrored & (head.tissue > OLD_MIN_TISSUE) & head.covered
    cavity = ndimage.binary_opening(cavity, structure=np.ones((1, 3, 3), bool))
    return _keep_components(cavity, OLD_MIN_ML, head.grid.spacing_mm)


def _smooth_within(
    values: Float3D, mask: Bool3D, sigma_mm: float, spacing_mm: tuple[float, float, float]
) -> tuple[Float3D, Float3D]:
    """Gaussian mean of ``values`` over ``mask`` only, and the share of the kernel that the mask fills."""
    sigma = [sigma_mm / mm for mm in spacing_mm]
    support = ndimage.gaussian_filter(mask.astype(np.float32), sigma, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(mask, values, 0.0).astype(np.float32), sigma, truncate=3.0)
    return np.where(support > 1e-3, total / np.maximum(support, 1e-3), 0.0).astype(np.float32), support


def _keep_components(mask: Bool3D, min_ml: float, spacing_mm: tuple[float, float, float]) -> Bool3D:
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    large = np.bincount(labels.ravel()) * float(np.prod(spacing_mm)) / 1000.0 >= min_ml
    large[0] = False
    return np.asarray(large[labels], dtype=np.bool_)


def _dilate(mask: Bool3D, radius: list[float]) -> Bool3D:
    distance = ndimage.distance_transform_edt(~mask, sampling=[1.0 / r for r in radius])
    return np.asarray(distance <= 1.0, dtype=np.bool_)


def _trimmed_mean(values: npt.NDArray[np.float32]) -> float:
    cut = int(TRIM * values.size)
    ordered = np.sort(values)
    return float(ordered[cut : values.size - cut].mean(dtype=np.float64))


def _standard_error(head: Head, voxels: int) -> float:
    voxel_mm3 = float(np.prod(head.grid.spacing_mm))
    shared_mm3 = NOISE_CORRELATION_MM**2 * max(head.slice_thickness_mm, NOISE_CORRELATION_MM)
    independent = max(1.0, voxels * voxel_mm3 / max(shared_mm3, voxel_mm3))
    return head.brain.noise_hu / float(np.sqrt(independent))


def _logistic(x: float, scale: float) -> float:
    return float(1.0 / (1.0 + np.exp(-np.clip(x / scale, -LOGIT_LIMIT, LOGIT_LIMIT))))
