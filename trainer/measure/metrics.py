"""What is measured in one patient, on the canonical grid (2 x 1 x 1 mm voxels, [z, y, x]).

Every number is defined from the truth's side: where the truth holds no lesion there is no Dice, and what was
predicted there is a false-positive volume. A Dice of 1 for "nothing there, nothing found" would let the
lesion-free patients decide the mean; a Dice of 0 for a single false voxel would let noise decide it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, REGION_NAMES
from strokecore.arrays import BoolArray, Int64Array, UInt8Array, dice_of_counts
from strokecore.head.grid import CANONICAL_GRID, Grid
from strokecore.learned.arms import CLASSES, Arm, arm_target, sg_share
from trainer.data.cases import Case, Group, Labels

Names = UInt8Array

# Classes of both arms under one numbering: what a voxel is called, whichever arm answered.
CLASS_NAMES: Final = ("background", *REGION_NAMES, "other")
# A territory counts as infarcted when this share of its voxels in one hemisphere is; the coupling's own rule
# (docs/tagl.md). Less is a neighbour's infarct that reaches over a border drawn a voxel elsewhere.
POSITIVE_SHARE: Final = 0.10
# A level counts as infarcted when it holds this share of the patient's infarct: less is the end of the other
# level's lesion (in simulated heads with infarct of one level only, 0.1-9 % lie beyond the blend).
LEVEL_SHARE: Final = 0.10
# HD95 is the larger of the two directed 95th percentiles of surface distances, as MONAI defines it.
HAUSDORFF_PERCENTILE: Final = 95.0
_NEIGHBOURS: Final = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a prediction against the truth: in both, predicted, true."""

    both: int = 0
    predicted: int = 0
    true: int = 0

    @property
    def dice(self) -> float:
        """NaN without true voxels."""
        return float(dice_of_counts(self.both, self.predicted + self.true)) if self.true else float("nan")

    @property
    def sensitivity(self) -> float:
        """Share of the true voxels that was found; NaN without true voxels."""
        return self.both / self.true if self.true else float("nan")

    @classmethod
    def of(cls, predicted: BoolArray, truth: BoolArray) -> Overlap:
        """Count two masks of the same shape."""
        return cls(*(int(np.count_nonzero(mask)) for mask in (predicted & truth, predicted, truth)))


@dataclass(frozen=True)
class LesionMatch:
    """Connected lesions: true ones found and missed, predicted ones that touch no true one.

    Two voxels hang together when they share a face, an edge or a corner. A true lesion is found when one
    voxel of it is predicted; a predicted lesion is false when none of its voxels is true. No lesion is too
    small to count. This is the rule of ISLES 2022 (Hernandez Petzsche et al., Sci Data 2022;9:762, and the
    challenge's published evaluation code).
    """

    found: int = 0
    missed: int = 0
    false: int = 0

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false); NaN without true lesions."""
        if self.found + self.missed == 0:
            return float("nan")
        return 2 * self.found / (2 * self.found + self.missed + self.false)

    @classmethod
    def of(cls, predicted: BoolArray, truth: BoolArray) -> LesionMatch:
        """Match the connected lesions of two masks [z, y, x]."""
        true_labels, true_count = ndimage.label(truth, _NEIGHBOURS)
        predicted_labels, predicted_count = ndimage.label(predicted, _NEIGHBOURS)
        both = predicted & truth
        found = len(np.unique(true_labels[both]))
        matched = len(np.unique(predicted_labels[both]))
        return cls(found, true_count - found, predicted_count - matched)


@dataclass(frozen=True)
class PatientFigures:
    """One patient's measurements.

    Attributes
    ----------
    infarct: the whole head.
    bg, sg: below and above the planes in which both arms answer (within BLEND_MM of the level plane, where a
        voxel belongs to neither level).
    territories: by region name, class channels against the true territory, each in the planes of its own
        arm, both hemispheres together. Empty when only the infarct's outline is known.
    inside: by region name, infarct against infarct inside the atlas regions as the node places them.
    counted, counted_inside: the names in which the truth reaches POSITIVE_SHARE.
    hd95_mm: NaN when either mask is empty.
    """

    id: str
    group: Group
    labels: Labels
    infarct: Overlap
    bg: Overlap
    sg: Overlap
    lesions: LesionMatch
    hd95_mm: float
    territories: Mapping[str, Overlap]
    counted: frozenset[str]
    inside: Mapping[str, Overlap]
    counted_inside: frozenset[str]

    @property
    def lesion_free(self) -> bool:
        """The truth holds no infarct."""
        return self.infarct.true == 0

    @property
    def lesion_ml(self) -> float:
        """True volume."""
        return self.infarct.true * CANONICAL_GRID.voxel_ml

    @property
    def predicted_ml(self) -> float:
        """Predicted volume; all of it false when there is no infarct."""
        return self.infarct.predicted * CANONICAL_GRID.voxel_ml

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus true volume."""
        return self.predicted_ml - self.lesion_ml

    def level_dice(self, arm: Arm) -> float:
        """Dice of one level; NaN when it holds less than LEVEL_SHARE of the infarct."""
        level = self._level(arm)
        return level.dice if level is not None else float("nan")

    @property
    def sg_sensitivity(self) -> float:
        """Share of the infarct above the ganglionic level that was found; NaN below LEVEL_SHARE."""
        level = self._level("sg")
        return level.sensitivity if level is not None else float("nan")

    def territory_dice(self, name: str, how: Literal["class", "inside"]) -> float:
        """Dice of one territory; NaN when it is not infarcted or its truth is not known."""
        counted = self.counted if how == "class" else self.counted_inside
        overlaps = self.territories if how == "class" else self.inside
        return overlaps[name].dice if name in counted else float("nan")

    def _level(self, arm: Arm) -> Overlap | None:
        level = self.bg if arm == "bg" else self.sg
        return level if level.true >= LEVEL_SHARE * self.infarct.true else None


def measure(case: Case, predicted: BoolArray, names: Names) -> PatientFigures:
    """Compare one patient's prediction with the truth.

    Parameters
    ----------
    predicted: [z, y, x], where the model sees infarct.
    names: uint8 [z, y, x], index in CLASS_NAMES of the most probable class other than background; read only
        where ``predicted``.
    """
    plane_mm = case.record.level_plane_mm
    share = sg_share(CANONICAL_GRID.axes_mm[0], plane_mm)
    territories, counted = _by_territory(case, np.where(predicted, names, 0), share >= 0.5)
    inside, counted_inside = _inside_regions(case, predicted)
    return PatientFigures(
        id=case.record.id,
        group=case.record.group,
        labels=case.record.labels,
        infarct=Overlap.of(predicted, case.lesion),
        bg=Overlap.of(predicted[share == 0], case.lesion[share == 0]),
        sg=Overlap.of(predicted[share == 1], case.lesion[share == 1]),
        lesions=LesionMatch.of(*_cropped(predicted, case.lesion)),
        hd95_mm=hd95_mm(predicted, case.lesion, CANONICAL_GRID),
        territories=territories,
        counted=counted,
        inside=inside,
        counted_inside=counted_inside,
    )


def hd95_mm(predicted: BoolArray, truth: BoolArray, grid: Grid) -> float:
    """95th percentile Hausdorff distance between the surfaces of two masks [z, y, x]; NaN if one is empty.

    Surface voxels and distances are MONAI's (monai.metrics); the percentile is taken in each direction and
    the larger one counts (MONAI, compute_hausdorff_distance).
    """
    if not predicted.any() or not truth.any():
        return float("nan")
    from monai.metrics.utils import get_mask_edges, get_surface_distance

    # the border of the cut must be outside both masks, else a mask that touches it has no surface there
    edges = get_mask_edges(*_cropped(predicted, truth), crop=False)
    spacing = list(grid.spacing_mm)
    there = get_surface_distance(edges[0], edges[1], spacing=spacing)
    back = get_surface_distance(edges[1], edges[0], spacing=spacing)
    return float(max(np.percentile(there, HAUSDORFF_PERCENTILE), np.percentile(back, HAUSDORFF_PERCENTILE)))


def class_names(classes: Int64Array, arm: Arm) -> Names:
    """Class indices of one arm to indices in CLASS_NAMES; any shape."""
    table = np.array([CLASS_NAMES.index(name) for name in CLASSES[arm]], np.uint8)
    return table[classes]


def _by_territory(
    case: Case, predicted: Names, upper: BoolArray
) -> tuple[dict[str, Overlap], frozenset[str]]:
    """Class channels against true territories; ``upper``: bool [z], the planes of the SG arm."""
    if case.record.labels == "binary":
        return {}, frozenset()
    truth = np.zeros_like(predicted)
    planes, rows, columns = np.nonzero(case.lesion)
    infarcted = case.territory[planes, rows, columns]
    voxels = np.zeros(256, np.int64)
    lesions = np.zeros(256, np.int64)
    arms: tuple[tuple[Arm, BoolArray], ...] = (("bg", ~upper), ("sg", upper))
    for arm, own in arms:
        mine = own[planes]
        target = arm_target(np.ones(int(mine.sum()), bool), infarcted[mine], arm)
        truth[planes[mine], rows[mine], columns[mine]] = class_names(target, arm)
        # a territory's voxels in the other arm's planes are "other" to that arm
        known = [region.label for region in ALL_REGIONS if region.name in CLASSES[arm]]
        voxels[known] += np.bincount(case.territory[own].ravel(), minlength=256)[known]
        lesions[known] += np.bincount(infarcted[mine], minlength=256)[known]
    shares: dict[str, float] = dict.fromkeys(REGION_NAMES, 0.0)
    for region in ALL_REGIONS:
        share = lesions[region.label] / max(voxels[region.label], 1)
        shares[region.name] = max(shares[region.name], float(share))
    table = _joint(predicted, truth, len(CLASS_NAMES))
    found = {
        name: Overlap(int(table[i, i]), int(table[i].sum()), int(table[:, i].sum()))
        for i, name in enumerate(CLASS_NAMES)
        if name in REGION_NAMES
    }
    return found, frozenset(name for name, share in shares.items() if share >= POSITIVE_SHARE)


def _inside_regions(case: Case, predicted: BoolArray) -> tuple[dict[str, Overlap], frozenset[str]]:
    voxels, true, called, both = (
        np.bincount(case.regions[mask], minlength=256)
        for mask in (case.regions > 0, case.lesion, predicted, predicted & case.lesion)
    )
    found: dict[str, Overlap] = {}
    counted: set[str] = set()
    for name in REGION_NAMES:
        sides = [region.label for region in ALL_REGIONS if region.name == name]
        found[name] = Overlap(int(both[sides].sum()), int(called[sides].sum()), int(true[sides].sum()))
        if (true[sides] >= POSITIVE_SHARE * np.maximum(voxels[sides], 1)).any():
            counted.add(name)
    return found, frozenset(counted)


def _joint(first: Names, second: Names, count: int) -> Int64Array:
    """[count, count]: how many voxels carry each pair of labels."""
    some = (first > 0) | (second > 0)
    pairs = first[some].astype(np.int64) * count + second[some]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def _cropped(predicted: BoolArray, truth: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Both masks cut to what holds either, with one empty voxel around; small masks are measured fast."""
    either = predicted | truth
    if not either.any():
        nothing = np.zeros((1, 1, 1), bool)
        return nothing, nothing
    spans = []
    for axis in range(3):
        held = np.flatnonzero(either.any(axis=tuple(a for a in range(3) if a != axis)))
        spans.append(slice(held[0], held[-1] + 1))
    box = tuple(spans)
    return np.pad(predicted[box], 1), np.pad(truth[box], 1)
