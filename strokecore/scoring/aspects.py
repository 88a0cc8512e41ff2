"""From a lesion and the person's regions to findings and ASPECTS. Pure functions.

Rules and their sources:

- Ten regions a side, one point deducted for each with early ischaemic change; 10 is normal
  (Barber et al., Lancet 2000;355:1670).
- All slices are read, and a finding counts only when it is seen on two adjacent slices
  (Pexman et al., AJNR 2001;22:1534; read on slices of 4-6 mm, hence the 8 mm below).
- A finding must be outlined: a region that is darker as a whole, without a lesion in it, is borderline and
  not counted.
- A score carries its doubt: the interval that holds nine in ten of the scores that the regions' probabilities
  leave open (a sum of independent trials), and the score itself.
- Hypodensity counts, swelling alone does not (Butcher et al., Stroke 2007, PMID 17272776). The
  engines measure density only, so swelling cannot deduct.
- Old, CSF-like infarct is not early change: it is never counted, and a region that is mostly old
  cannot be assessed.
- A region that cannot be assessed is not deducted; with fewer than 8 assessed there is no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId, Side
from strokecore.arrays import BoolArray
from strokecore.head.canonical import Head
from strokecore.result import AspectsScore, RegionFinding
from strokecore.scoring.engine import Lesion, RegionEvidence

# Two adjacent slices of the thinnest customary reading thickness (4 mm).
MIN_EXTENT_MM: Final = 8.0
# On thicker slices one slice alone would reach 8 mm; two adjacent slices span at least this many thicknesses.
MIN_EXTENT_SLICES: Final = 1.5
# A plane shows the finding when this much of it lies in the region; below it is speckle.
MIN_PLANE_AREA_MM2: Final = 20.0
# A region this much darker than its mirror is never simply normal: healthy sides differ by 0.5 to 1.1 HU
# (standard deviation), and 2.0 HU agreed best with the final infarct (Mokin et al., Stroke 2017;48:1574).
CLEAR_DIFFERENCE_HU: Final = -3.5
# Of the scores that are possible, the lowest and the highest twentieth are left out of the range.
RANGE_TAIL: Final = 0.05
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


def find_regions(head: Head, lesion: Lesion, threshold: float | None = None) -> tuple[RegionFinding, ...]:
    """Judge each of the 20 regions, in ALL_REGIONS order.

    ``threshold``: a site's own decision point; the engine's when None.
    """
    boxes = ndimage.find_objects(head.regions, max_label=len(ALL_REGIONS))
    cut = lesion.threshold if threshold is None else threshold
    return tuple(
        _find_region(head, lesion, region, box or _NOWHERE, cut)
        for region, box in zip(ALL_REGIONS, boxes, strict=True)
    )


def score_side(findings: tuple[RegionFinding, ...], side: Side) -> AspectsScore:
    """ASPECTS of one hemisphere; None when fewer than MIN_ASSESSED regions could be assessed."""
    mine = [f for f in findings if f.side == side]
    assessed = sum(f.assessable for f in mine)
    if assessed < MIN_ASSESSED:
        return AspectsScore(None, assessed)
    score = FULL_SCORE - sum(f.affected for f in mine if f.assessable)
    return AspectsScore(score, assessed, score_range(score, [f.probability for f in mine if f.assessable]))


def score_range(score: int, probabilities: Sequence[float | None]) -> tuple[int, int] | None:
    """The scores between the two tails of what independent regions of these probabilities leave open.

    None where a probability is not known.
    """
    chance = np.ones(1)  # of so many affected regions
    for probability in probabilities:
        if probability is None:
            return None
        chance = np.convolve(chance, [1.0 - probability, probability])
    at_most = np.cumsum(chance)
    fewest, most = (int(np.searchsorted(at_most, tail)) for tail in (RANGE_TAIL, 1.0 - RANGE_TAIL))
    return min(score, FULL_SCORE - most), max(score, FULL_SCORE - fewest)


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


def longest_run(shown: BoolArray) -> npt.NDArray[np.intp]:
    """Longest uninterrupted run of true values along the first axis of [planes, ...]; intp [...]."""
    longest = run = np.zeros(shown.shape[1:], np.intp)
    for plane in shown:
        run = np.where(plane, run + 1, 0)
        longest = np.maximum(longest, run)
    return longest


def spans_enough(planes: npt.NDArray[np.intp], plane_mm: float, slice_spacing_mm: float) -> BoolArray:
    """Whether runs of so many planes of ``plane_mm`` are on two adjacent slices of the source spacing."""
    # planes are counted whole, so an extent is known to half a plane at either end
    return np.asarray((planes + 1) * plane_mm >= minimum_extent_mm(slice_spacing_mm))


def minimum_extent_mm(slice_spacing_mm: float) -> float:
    """How tall a finding must be to be on two adjacent slices of this source spacing."""
    return max(MIN_EXTENT_MM, MIN_EXTENT_SLICES * slice_spacing_mm)


def _find_region(head: Head, lesion: Lesion, region: RegionId, box: Box, threshold: float) -> RegionFinding:
    mask = head.regions[box] == region.label
    evidence = lesion.evidence.get(region, RegionEvidence(None, None, None))
    size = int(mask.sum())
    acute = mask & lesion.acute[box]
    reason = _not_assessable(head, lesion, mask, box, evidence)
    assessable = reason is None
    fraction = float(acute.sum() / size) if size else 0.0
    positive = assessable and (evidence.probability or 0.0) >= threshold
    difference = evidence.contralateral_difference_hu
    borderline = evidence.borderline
    if positive and not _tall_enough(head, acute):
        positive, borderline, reason = False, True, "single_slice" if acute.any() else "not_outlined"
    elif not positive and difference is not None and difference <= CLEAR_DIFFERENCE_HU:
        borderline = True
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
        borderline=assessable and borderline,
    )


def _not_assessable(
    head: Head, lesion: Lesion, mask: BoolArray, box: Box, evidence: RegionEvidence
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


def _tall_enough(head: Head, acute: BoolArray) -> bool:
    z_mm, y_mm, x_mm = head.grid.spacing_mm
    shown = acute.sum(axis=(1, 2)) * y_mm * x_mm > MIN_PLANE_AREA_MM2
    return bool(spans_enough(longest_run(shown), z_mm, head.slice_thickness_mm))
