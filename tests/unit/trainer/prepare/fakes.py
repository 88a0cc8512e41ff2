"""A stand-in for ``canonical_case``: tests of what a reader reads need no registration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strokecore.head.grid import CANONICAL_GRID
from strokecore.reading.series import Series
from trainer.data.cases import Case, CaseRecord
from trainer.prepare.case_file import SOURCE_DIGEST


@dataclass(frozen=True, eq=False)
class Seen:
    """What a reader handed over for one case, on the series' voxels."""

    series: Series
    lesion: npt.NDArray[np.bool_]
    territory: npt.NDArray[np.uint8] | None


@dataclass
class FakeCanonical:
    """Called like ``canonical_case``; remembers what it was given and returns an all but empty case."""

    seen: dict[str, Seen] = field(default_factory=dict)
    calls: int = 0

    def __call__(
        self, series, lesion, territory, *, case_id, split, provenance, affected=(), not_judged=()
    ) -> Case:
        self.calls += 1
        self.seen[case_id] = Seen(series, lesion, territory)
        masks = {name: np.zeros(CANONICAL_GRID.shape, np.bool_) for name in ("brain", "inside", "lesion")}
        masks["inside"][40, 100, 60] = True
        masks["lesion"][40, 100, 60] = bool(lesion.any())
        labels = np.zeros(CANONICAL_GRID.shape, np.uint8)
        record = CaseRecord(
            id=case_id,
            split=split,
            labels="binary" if territory is None else "territory",
            group="outside" if lesion.any() else "lesion_free",
            level_plane_mm=10.0,
            slice_thickness_mm=series.slice_thickness_mm,
            lesion_ml=series.ml(lesion),
            affected=affected,
            digest="",
            provenance=provenance,
            not_judged=not_judged,
        )
        hu = np.full(CANONICAL_GRID.shape, -1024, np.float16)
        return Case(
            record, hu, np.zeros_like(hu), masks["brain"], masks["inside"], labels, masks["lesion"], labels
        )


def make_record(out: Path, job: str) -> CaseRecord | str:
    """A job for worker processes: "left out", "defect", "killed", or a record of that id."""
    if job == "left out":
        return "not usable"
    if job == "defect":
        raise ZeroDivisionError("a defect")
    if job == "killed":
        os._exit(9)
    record = CaseRecord(job, "train", "binary", "lesion_free", 10.0, 5.0, 0.0, (), "", {SOURCE_DIGEST: job})
    (out / "cases" / f"{job}.npz").touch()
    return record
