"""A CT series and its truth to a case: the node's own steps, in the node's order."""

from __future__ import annotations

from typing import Final

import numpy as np

from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, UInt8Array
from strokecore.errors import Refusal
from strokecore.head.canonical import align_series
from strokecore.head.resampling import to_canonical
from strokecore.learned.arms import COUPLED, level_plane_mm
from strokecore.reading.series import Series
from trainer.data.cases import Case, CaseRecord, Group, Labels, Split

# A region counts as affected in a case's record when this share of it is infarct; the same share makes a
# territory positive for the coupling term (docs/tagl.md: 10 % of its pixels).
AFFECTED_SHARE: Final = 0.10


def canonical_case(
    series: Series,
    lesion: BoolArray,
    territory: UInt8Array | None,
    *,
    case_id: str,
    split: Split,
    affected: tuple[str, ...] | None = None,
    not_judged: tuple[str, ...] = (),
    provenance: dict[str, str] | None = None,
    atlas: Atlas | None = None,
) -> Case:
    """Bring one series and its truth into the canonical frame.

    Parameters
    ----------
    series: as strokecore reads it.
    lesion: bool [k, j, i] on the series' voxels.
    territory: uint8 [k, j, i], RegionId.label of the truth; None when only the infarct's outline is known.
    affected: the regions with infarct, such as "left:M1", where the truth says so; else they are derived.
    not_judged: as in CaseRecord.

    Raises
    ------
    Refusal: the node would refuse this series; its code says why.
    """
    aligned = align_series(series, atlas or load_atlas())
    frame, head = aligned.frame, aligned.head
    hu, brain, regions = head.hu, head.brain, head.regions
    try:
        plane_mm = level_plane_mm(regions, frame.grid)
    except ValueError as error:
        raise Refusal(
            "regions_not_found",
            f"The ASPECTS regions could not be placed: {error}.",
            "Leave this case out, or send a scan that covers the brain.",
        ) from error
    mask = to_canonical(series, frame, lesion.astype(np.float32), fill=0.0) >= 0.5
    labels: Labels = "binary" if territory is None else "territory"
    if territory is None:
        own = np.zeros(frame.grid.shape, np.uint8)
    else:
        own = to_canonical(series, frame, territory.astype(np.float32), order=0, fill=0.0).astype(np.uint8)
    if affected is None:
        affected = affected_regions(mask, regions if territory is None else own)
    record = CaseRecord(
        id=case_id,
        split=split,
        labels=labels,
        group=pattern(affected, bool(mask.any())),
        level_plane_mm=round(plane_mm, 3),
        slice_thickness_mm=series.slice_thickness_mm,
        lesion_ml=round(frame.grid.ml(mask), 3),
        affected=affected,
        digest="",
        provenance=provenance or {},
        not_judged=not_judged,
    )
    return Case(
        record,
        hu.astype(np.float16),
        head.field.astype(np.float16),
        brain.parenchyma,
        brain.intracranial,
        regions,
        mask,
        own,
    )


def affected_regions(lesion: BoolArray, regions: UInt8Array) -> tuple[str, ...]:
    """Regions of which at least AFFECTED_SHARE is lesion, such as "left:M1"."""
    size = np.bincount(regions.ravel(), minlength=256)
    hit = np.bincount(regions[lesion], minlength=256)
    return tuple(
        f"{region.side}:{region.name}"
        for region in ALL_REGIONS
        if size[region.label] and hit[region.label] >= AFFECTED_SHARE * size[region.label]
    )


def pattern(affected: tuple[str, ...], has_lesion: bool) -> Group:
    """Which coupling pattern a case shows.

    coupled: every affected M territory is affected at both levels; bg_only, sg_only: M territories at one
    level only; mixed: some of each; outside: infarct without any of the ten regions. Deep regions alone are
    bg_only.
    """
    if not affected:
        return "outside" if has_lesion else "lesion_free"
    both = lower_only = upper_only = 0
    for side in ("left", "right"):
        for lower, upper in COUPLED:
            here = (f"{side}:{lower}" in affected, f"{side}:{upper}" in affected)
            both += here == (True, True)
            lower_only += here == (True, False)
            upper_only += here == (False, True)
    if both and not lower_only and not upper_only:
        return "coupled"
    if not both and not upper_only:
        return "bg_only"
    if not both and not lower_only and not _deep(affected):
        return "sg_only"
    return "mixed"


def _deep(affected: tuple[str, ...]) -> bool:
    return any(name.split(":")[1] in ("C", "L", "IC", "I") for name in affected)
