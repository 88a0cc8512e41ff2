"""Prepared cases as the slices that the model sees, held in memory for the whole training.

The slices are made by strokecore.learned.preprocessing, as on the node. About 6 bytes per pixel are kept:
2.5 MB per case of 27 slices of 136 x 112 pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import BoolArray, Float64Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import COUPLED, Arm, arm_target, sg_share
from strokecore.learned.preprocessing import InputSpec, hu_slices, label_slices, mask_slices, slice_centres_mm
from trainer.data.cases import Case, CaseRecord, Dataset

log = logging.getLogger(__name__)

# A slice is drawn when it holds this much brain: a disc 36 mm across. What has less is the tip of the vertex
# or of the temporal poles and the cerebellum, where an infarct is not told from partial volume.
MIN_BRAIN_MM2: Final = 1000.0
# A slice is of an ASPECTS level when this much of the level's six M territories lies in it: a third of what
# the middle of either level shows (60-90 cm2 in simulated heads), so that gate and coupling see territories.
MIN_LEVEL_MM2: Final = 2000.0
# Two cores unpack twice as fast; more threads than this wait for memory.
_THREADS: Final = 4

_LEVEL_NAMES: Final[dict[Arm, frozenset[str]]] = {
    "bg": frozenset(pair[0] for pair in COUPLED),
    "sg": frozenset(pair[1] for pair in COUPLED),
}


@dataclass(frozen=True, eq=False)
class CaseSlices:
    """One case's model slices, from below to above; arrays are [n, rows, columns].

    Attributes
    ----------
    record: of the case.
    pixel_mm: in-plane spacing.
    hu: float16, slab means, -1024 outside the scan. Rounding moves the density of brain by at most 1/64 HU.
    bg_target, sg_target: uint8, class index of each arm (learned.arms); 0 or 1 where labels are binary.
    brain: bool, parenchyma.
    territories: uint8, RegionId.label of the person's atlas, 0 elsewhere.
    z_mm: float64 [n], head z of the slices' centres.
    """

    record: CaseRecord
    pixel_mm: float
    hu: npt.NDArray[np.float16]
    bg_target: UInt8Array
    sg_target: UInt8Array
    brain: BoolArray
    territories: UInt8Array
    z_mm: Float64Array

    @property
    def binary(self) -> bool:
        """Only infarct yes or no is known, not the class."""
        return self.record.labels == "binary"

    def target(self, arm: Arm) -> UInt8Array:
        """The class indices of one arm."""
        return self.bg_target if arm == "bg" else self.sg_target

    @cached_property
    def lesion_rows(self) -> BoolArray:
        """bool [n]: the slice shows infarct."""
        return np.asarray(self.bg_target.any(axis=(1, 2)))

    @cached_property
    def bg_rows(self) -> npt.NDArray[np.intp]:
        """Indices of the slices with brain in which the BG arm weighs more (share of the SG arm < 1/2)."""
        return np.flatnonzero(self._holds_brain & ~self._above)

    @cached_property
    def sg_rows(self) -> npt.NDArray[np.intp]:
        """Indices of the slices with brain in which the SG arm weighs at least as much."""
        return np.flatnonzero(self._holds_brain & self._above)

    def arm_rows(self, arm: Arm) -> npt.NDArray[np.intp]:
        """``bg_rows`` or ``sg_rows``."""
        return self.bg_rows if arm == "bg" else self.sg_rows

    def level_rows(self, arm: Arm) -> npt.NDArray[np.intp]:
        """Those of the arm's slices that show its ASPECTS level: enough of M1-M3, or of M4-M6."""
        return self._level_rows[arm]

    @cached_property
    def _level_rows(self) -> dict[Arm, npt.NDArray[np.intp]]:
        found: dict[Arm, npt.NDArray[np.intp]] = {}
        for arm, names in _LEVEL_NAMES.items():
            labels = [region.label for region in ALL_REGIONS if region.name in names]
            shown_px = np.isin(self.territories, labels).sum(axis=(1, 2))
            rows = self.arm_rows(arm)
            found[arm] = rows[shown_px[rows] * self.pixel_mm**2 >= MIN_LEVEL_MM2]
        return found

    @cached_property
    def _holds_brain(self) -> BoolArray:
        return np.asarray(self.brain.sum(axis=(1, 2)) * self.pixel_mm**2 >= MIN_BRAIN_MM2)

    @cached_property
    def _above(self) -> BoolArray:
        return np.asarray(sg_share(self.z_mm, self.record.level_plane_mm) >= 0.5)


def case_slices(case: Case, spec: InputSpec) -> CaseSlices:
    """The model's slices of one case.

    Raises UsageError when densities are not finite or no slice holds enough brain.
    """
    grid = CANONICAL_GRID
    hu = case.density(spec)
    if not np.isfinite(hu).all():
        raise UsageError(f"case {case.record.id} has densities that are not finite; prepare the data again.")
    lesion = mask_slices(case.lesion, grid, spec)
    if case.record.labels == "binary":
        targets = {arm: lesion.astype(np.uint8) for arm in ("bg", "sg")}
    else:
        truth = label_slices(case.territory, grid, spec)
        targets = {
            "bg": arm_target(lesion, truth, "bg").astype(np.uint8),
            "sg": arm_target(lesion, truth, "sg").astype(np.uint8),
        }
    slices = CaseSlices(
        record=case.record,
        pixel_mm=spec.pixel_mm,
        hu=hu_slices(hu, grid, spec).astype(np.float16),
        bg_target=targets["bg"],
        sg_target=targets["sg"],
        brain=mask_slices(case.brain, grid, spec),
        territories=label_slices(case.regions, grid, spec),
        z_mm=slice_centres_mm(grid, spec),
    )
    if not len(slices.bg_rows) and not len(slices.sg_rows):
        raise UsageError(f"case {case.record.id} has no slice with brain; leave it out.")
    return slices


def load_slices(
    dataset: Dataset,
    records: Sequence[CaseRecord],
    spec: InputSpec,
    *,
    strict: bool = False,
    skipped: dict[str, str] | None = None,
) -> list[CaseSlices]:
    """Load cases into memory, in the order of ``records``.

    Parameters
    ----------
    strict: stop at a case that cannot be used, instead of leaving it out with a warning.
    skipped: filled with the ids of the cases that were left out, and why; for the run's record.

    Raises
    ------
    UsageError: no case, or with ``strict`` any case, could be used.
    """

    def load(record: CaseRecord) -> CaseSlices | UsageError:
        try:
            return case_slices(dataset.load(record), spec)
        except UsageError as error:
            return error

    slices: list[CaseSlices] = []
    left_out: dict[str, str] = {}
    # threads: unpacking, hashing and matrix products all leave the interpreter free
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for record, loaded in zip(records, pool.map(load, records), strict=True):
            if isinstance(loaded, CaseSlices):
                slices.append(loaded)
            elif strict:
                pool.shutdown(cancel_futures=True)
                raise loaded
            else:
                left_out[record.id] = str(loaded)
                log.warning("case %s is left out: %s", record.id, loaded)
    if skipped is not None:
        skipped.update(left_out)
    if not slices:
        raise UsageError(
            f"none of {len(records)} cases of {dataset.folder} can be used; "
            f"{next(iter(left_out.values()), 'the split is empty')}"
        )
    log.info("%d cases, %d slices in memory, %d left out", len(slices), _count(slices), len(left_out))
    return slices


def _count(slices: Sequence[CaseSlices]) -> int:
    return sum(len(case.bg_rows) + len(case.sg_rows) for case in slices)
