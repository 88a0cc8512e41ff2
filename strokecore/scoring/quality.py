"""What the canonical head and the findings say about how far a scan can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, Side
from strokecore.flags import QualityFlag
from strokecore.head.blood import Haemorrhage
from strokecore.head.canonical import Head
from strokecore.result import AspectsScore, HaemorrhageInfo, ModelInfo, RegionFinding
from strokecore.scoring.aspects import FULL_SCORE

# Metal (clips, coils, dental work) saturates CT; cortical bone stays below this.
METAL_HU: Final = 2500.0
METAL_ML: Final = 0.2
# Residual beam hardening that a reader sees in a brain window; good scanners leave 3 HU.
CUPPING_HU: Final = 8.0
# The registration holds on to the skull base; without it the atlas is squeezed into what was scanned. Whole
# heads have 30 mm and more below the lowest region.
MIN_BELOW_REGIONS_MM: Final = 10.0
# Noise on the canonical grid, which averages: 5 mm slices of a soft kernel measure 2 to 2.5 HU there (the
# real scan of the tests 2.1), 0.6 mm slices 3.4, a bone kernel 4. At 8 (14 in the slice) small regions err.
NOISY_HU: Final = 5.0
# A region is named when it holds at least this much of a haemorrhage.
_REGION_SHARE: Final = 0.2


def scan_flags(head: Head, findings: tuple[RegionFinding, ...]) -> tuple[QualityFlag, ...]:
    """What the canonical head and the region findings say about the scan."""
    flags = []
    if head.brain.noise_hu > NOISY_HU:
        flags.append(
            QualityFlag(
                "noisy",
                "warning",
                f"Brain noise is {head.brain.noise_hu:.1f} HU; up to {NOISY_HU:.0f} HU is expected.",
                "Reconstruct 5 mm slices with a soft-tissue kernel and send them.",
            )
        )
    metal_ml = head.grid.ml(head.hu > METAL_HU)
    if metal_ml > METAL_ML:
        flags.append(
            QualityFlag(
                "metal",
                "warning",
                f"{metal_ml:.1f} ml of metal-like density; streaks from it can look like infarct.",
                "Read the slices that show metal yourself.",
            )
        )
    cupping_hu = _cupping_hu(head)
    if cupping_hu > CUPPING_HU:
        flags.append(
            QualityFlag(
                "cupping",
                "warning",
                f"The scanner draws brain under the skull up to {cupping_hu:.0f} HU too bright; it was taken "
                "off before anything was measured.",
                "Read the cortex under the skull yourself; ask the service for the scanner's water "
                "calibration.",
            )
        )
    if _below_regions_mm(head) < MIN_BELOW_REGIONS_MM:
        flags.append(
            QualityFlag(
                "base_not_scanned",
                "warning",
                "The scan begins close to the lowest ASPECTS region; the regions may lie too high.",
                "Look at the region outlines, and send the whole head if it was scanned.",
            )
        )
    # a region with a reason of its own stands in that reason's warning, not in two
    doubtful = [f"{f.side} {f.name}" for f in findings if f.borderline and f.reason is None]
    if doubtful:
        flags.append(
            QualityFlag(
                "borderline", "warning", f"Borderline: {', '.join(doubtful)}.", "Look at these yourself."
            )
        )
    for reason, text in _UNCERTAIN.items():
        named = [f"{f.side} {f.name}" for f in findings if f.reason == reason]
        if named:
            flags.append(QualityFlag(reason, "warning", text.format(", ".join(named)), "Read them yourself."))
    return tuple(flags)


_UNCERTAIN: Final = {
    "single_slice": "Borderline, seen on a single slice and therefore not counted: {}.",
    "not_outlined": "Borderline, too dark as a whole, with no lesion to outline, and not counted: {}.",
    "not_covered": "Outside the scanned volume and not assessed: {}.",
    "old_infarct": "Mostly replaced by old infarct and not assessed: {}.",
    "not_measurable": "Too little measurable brain tissue, not assessed: {}.",
}


def _cupping_hu(head: Head) -> float:
    """What the density field adds to the brain's brightest twentieth, HU."""
    inside = head.brain.intracranial & head.covered
    return float(np.quantile(head.field[inside], 0.95)) if inside.any() else 0.0


def _below_regions_mm(head: Head) -> float:
    """How much was scanned of the brain below the lowest region, mm."""
    labelled = np.flatnonzero((head.regions > 0).any(axis=(1, 2)))
    scanned = np.flatnonzero((head.brain.intracranial & head.covered).any(axis=(1, 2)))
    if labelled.size == 0 or scanned.size == 0:
        return 0.0
    return float(labelled[0] - scanned[0]) * head.grid.spacing_mm[0]


def unconfirmed_flags(
    aspects: Mapping[Side, AspectsScore], infarct_ml: Mapping[Side, float]
) -> tuple[QualityFlag, ...]:
    """A warning where hypodensity is marked on a side whose score is a full 10; empty otherwise."""
    painted = [
        f"{side} {infarct_ml[side]:.1f} ml"
        for side in SIDES
        if aspects[side].score == FULL_SCORE and infarct_ml[side] > 0
    ]
    if not painted:
        return ()
    return (
        QualityFlag(
            "unconfirmed_infarct",
            "warning",
            f"Hypodensity is marked although no region of its side counts as affected: {', '.join(painted)}.",
            "Look at the marked tissue yourself.",
        ),
    )


def haemorrhage_info(head: Head) -> HaemorrhageInfo | None:
    """Side, volume and place of a suspected haemorrhage; None where there is none that is certain enough."""
    blood = head.haemorrhage
    if blood is None or not blood.certain:
        return None
    return HaemorrhageInfo(blood.side, round(blood.ml, 3), _place(head, blood))


def blood_flags(head: Head) -> tuple[QualityFlag, ...]:
    """A warning that names place and volume where haemorrhage is suspected or possible; empty otherwise."""
    blood = head.haemorrhage
    if blood is None:
        return ()
    found = f"{blood.ml:.1f} ml of blood-like density, {_place(head, blood)}."
    if blood.certain:
        advice = "Read the scan for haemorrhage; ASPECTS is not meant for bleeding."
        return (QualityFlag("suspected_haemorrhage", "warning", found, advice),)
    advice = "Read the scan for haemorrhage before the score."
    return (QualityFlag("possible_haemorrhage", "warning", f"Possibly {found}", advice),)


def engine_flags(model: ModelInfo) -> tuple[QualityFlag, ...]:
    """A note where another engine than the preferred one segmented; empty otherwise.

    Not a warning: what served has passed the parity gate. The log warns, and the administrator is meant.
    """
    if not model.fallbacks:
        return ()
    return (
        QualityFlag(
            "engine_fallback",
            "info",
            f"{model.engine} {model.precision} segmented in place of a preferred engine "
            f"({'; '.join(model.fallbacks)}).",
            "Nothing for the reader; an administrator finds the cause with strokecore engines --check.",
        ),
    )


def _place(head: Head, blood: Haemorrhage) -> str:
    """Kind and side, and the ASPECTS region that holds most of it where one does."""
    where = "on both sides" if blood.side == "both" else blood.side
    inside = {region: int((blood.mask & (head.regions == region.label)).sum()) for region in ALL_REGIONS}
    region, most = max(inside.items(), key=lambda item: item[1])
    if most < _REGION_SHARE * int(blood.mask.sum()):
        return f"{blood.place}, {where}"
    return f"{blood.place}, {where}, most of it in {region.side} {region.name}"
