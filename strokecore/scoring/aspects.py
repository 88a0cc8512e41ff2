"""From a lesion and the person's regions to findings and ASPECTS. Pure functions.

Rules and their sources:

- Ten regions a side, one point deducted for each with early ischaemic change; 10 is normal
  (Barber et al., Lancet 2000;355:1670).
- All slices are read, and a finding counts only when it is seen on two adjacent slices
  (Pexman et al., AJNR 2001;22:1534; read on slices of 4-6 mm, hence the 8 mm below).
- A finding must be outlined: a region that is darker as a whole, without a lesion in it, is not counted.
- Hypodensity counts, swelling alone does not (Butcher et al., Stroke 2007, PMID 17272776). The
  engines measure density only, so swelling cannot deduct.
- Old, CSF-like infarct is not early change: it is never counted, and a region that is mostly old
  cannot be assessed.
- A region that cannot be assessed is not deducted; with fewer than 8 assessed there is no score.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId, Side
from strokecore.head.canonical import Head
from strokecore.result import AspectsScore, RegionFinding
from strokecore.scoring.engine import Lesion, RegionEvidence

# Two adjacent slices of the thinnest customary reading thickness (4 mm).
MIN_EXTENT_MM: Final = 8.0
# On thicker slices one slice alone would reach 8 mm; two adjacent slices span at least this many thicknesses.
MIN_EXTENT_SLICES: Final = 1.5
# A plane shows the finding when this much of it lies in the region; below it is speckle.
MIN_PLANE_AREA_MM2: Final = 20.0
# Decision point of every engine's calibrated region probability.
REGION_THRESHOLD: Final = 0.5
# Less of the region than this inside the scan: what is missing could hold the finding.
MIN_COVERED_FRACTION: Final = 0.7
# More of the region than this replaced by old infarct: nothing left to judge.
MAX_OLD_FRACTION: Final = 0.5
# In a region that holds this much old infarct, whatever else is CSF-like belongs to the cavity; the engine
# segments only its certain core, and what remains is its rim, dark by partial volume.
OLD_PRESENT_FRACTION: Final = 0.1
MIN_ASSESSED: Final = 8
FULL_SCORE: Final = 10

Box = tuple[slice, ...]
# The box of a region that this head does not have.
_NOWHERE: Final[Box] = (slice(0), slice(0), slice(0))


def find_regions(head: Head, lesion: Lesion) -> tuple[RegionFinding, ...]:
    """Judge each of the 20 regions, in ALL_REGIONS order."""
    boxes = ndimage.find_objects(head.regions, max_label=len(ALL_REGIONS))
    return tuple(
        _find_region(head, lesion, region, box or _NOWHERE)
        for region, box in zip(ALL_REGIONS, boxes, strict=True)
    )


def score_side(findings: tuple[RegionFinding, ...], side: Side) -> AspectsScore:
    """ASPECTS of one hemisphere; None when fewer than MIN_ASSESSED regions could be assessed."""
    mine = [f for f in findings if f.side == side]
    assessed = sum(f.assessable for f in mine)
    if assessed < MIN_ASSESSED:
        return AspectsScore(None, assessed)
    return AspectsScore(FULL_SCORE - sum(f.affected for f in mine if f.assessable), assessed)


def score_hemispheres(findings: tuple[RegionFinding, ...]) -> dict[Side, AspectsScore]:
    """ASPECTS of both hemispheres."""
    return {side: score_side(findings, side) for side in SIDES}


def affected_side(aspects: dict[Side, AspectsScore]) -> Literal["left", "right", "bilateral"] | None:
    """The side with the lower score; "bilateral" when equal and below 10; None when both are 10.

    None also when either side has no score: a comparison with an unknown is a guess, and a wrong
    side is worse than none.
    """
    left, right = aspects["left"].score, aspects["right"].score
    if left is None or right is None or left == right == FULL_SCORE:
        return None
    if left == right:
        return "bilateral"
    return "left" if left < right else "right"


def longest_run(shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Longest uninterrupted run of true values along the first axis of [planes, ...]; intp [...]."""
    longest = run = np.zeros(shown.shape[1:], np.intp)
    for plane in shown:
        run = np.where(plane, run + 1, 0)
        longest = np.maximum(longest, run)
    return longest


def spans_enough(
    planes: npt.NDArray[np.intp], plane_mm: float, slice_spacing_mm: float
) -> npt.NDArray[np.bool_]:
    """Whether runs of so many planes of ``plane_mm`` are on two adjacent slices of the source spacing."""
    # planes are counted whole, so an extent is known to half a plane at either end
    return np.asarray((planes + 1) * plane_mm >= minimum_extent_mm(slice_spacing_mm))


def minimum_extent_mm(slice_spacing_mm: float) -> float:
    """How tall a finding must be to be on two adjacent slices of this source spacing."""
    return max(MIN_EXTENT_MM, MIN_EXTENT_SLICES * slice_spacing_mm)


def _find_region(head: Head, lesion: Lesion, region: RegionId, box: Box) -> RegionFinding:
    mask = head.regions[box] == region.label
    evidence = lesion.evidence.get(region, RegionEvidence(None, None, None))
    size = int(mask.sum())
    acute = mask & lesion.acute[box]
    reason = _not_assessable(head, lesion, mask, box, evidence)
    assessable = reason is None
    fraction = float(acute.sum() / size) if size else 0.0
    positive = assessable and (evidence.probability or 0.0) >= REGION_THRESHOLD
    if positive and not _tall_enough(head, acute):
        positive, reason = False, "single_slice" if acute.any() else "not_outlined"
    return RegionFinding(
        name=region.name,
        side=region.side,
        affected=positive,
        probability=evidence.probability if assessable else None,
        involved_fraction=fraction,
        volume_ml=head.grid.ml(acute),
        mean_hu=evidence.mean_hu,
        contralateral_difference_hu=evidence.contralateral_difference_hu,
        assessable=assessable,
        reason=reason,
    )


def _not_assessable(
    head: Head, lesion: Lesion, mask: npt.NDArray[np.bool_], box: Box, evidence: RegionEvidence
) -> str | None:
    size = int(mask.sum())
    if size == 0 or (mask & head.covered[box]).sum() < MIN_COVERED_FRACTION * size:
        return "not_covered"
    old = mask & lesion.old[box]
    if old.sum() > OLD_PRESENT_FRACTION * size:
        old |= mask & head.brain.csf[box]
    if old.sum() > MAX_OLD_FRACTION * size:
        return "old_infarct"
    if evidence.probability is None:
        return "not_measurable"
    return None


def _tall_enough(head: Head, acute: npt.NDArray[np.bool_]) -> bool:
    z_mm, y_mm, x_mm = head.grid.spacing_mm
    shown = acute.sum(axis=(1, 2)) * y_mm * x_mm > MIN_PLANE_AREA_MM2
    return bool(spans_enough(longest_run(shown), z_mm, head.slice_thickness_mm))
