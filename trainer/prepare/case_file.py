"""A scan and its truth, read, to one case's file: what every reader of real data shares."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.arrays import BoolArray, UInt8Array
from strokecore.reading.series import Series
from trainer.data.canonical import canonical_case
from trainer.data.cases import Case, CaseRecord, Split, made_case, write_case

# Name of the scan's hash in a case's provenance: two cases that share it are one scan.
SOURCE_DIGEST: Final = "source_sha256"

# Half of an infarct outside the skull, or lost on the way to the canonical grid, is no rounding: the truth is
# shifted, mirrored or upside down. Below this volume single voxels decide, and nothing is said.
_LEAST_SHARE: Final = 0.5
_LEAST_ML: Final = 0.5


class UnusableError(Exception):
    """Why one case cannot be used, in a sentence; the case is left out and the sentence kept with its id."""


def make_case(
    out: Path,
    series: Series,
    lesion: BoolArray,
    territory: UInt8Array | None,
    *,
    case_id: str,
    split: Split,
    provenance: dict[str, str],
) -> CaseRecord | str:
    """Write one case below ``out``; returns its record, or why the truth cannot belong to this head.

    A case that a stopped run has made from the same scan, truth and choices is taken as it is.
    Arguments as of ``canonical_case``. Raises Refusal where the node would refuse the scan.
    """
    provenance = {**provenance, SOURCE_DIGEST: series.digest}
    made_from = {**provenance, "split": split, "truth_sha256": _truth_sha256(lesion, territory)}
    made = made_case(out, case_id, made_from)
    if made is not None:
        return made
    case = canonical_case(series, lesion, territory, case_id=case_id, split=split, provenance=provenance)
    return misfit(case, series, lesion) or write_case(out, case, made_from)


def misfit(case: Case, series: Series, lesion: BoolArray) -> str | None:
    """Why ``lesion`` (bool [k, j, i] on the series' voxels) cannot belong to this head; None when it can."""
    source_ml = series.ml(lesion)
    if source_ml < _LEAST_ML:
        return None
    if case.record.lesion_ml < _LEAST_SHARE * source_ml:
        return (
            f"{source_ml:.1f} ml of infarct are given and {case.record.lesion_ml:.1f} ml lie in the head's "
            "box: the truth does not fit the scan"
        )
    inside = float(case.inside[case.lesion].mean())
    if inside < _LEAST_SHARE:
        return f"only {inside:.0%} of the infarct lie inside the skull: the truth does not fit the scan"
    return None


def dimensions(volume: npt.NDArray[Any]) -> str:
    """Such as "32 x 512 x 512", for the sentence that says why two volumes do not fit."""
    return " x ".join(str(n) for n in volume.shape)


def _truth_sha256(lesion: BoolArray, territory: UInt8Array | None) -> str:
    digest = hashlib.sha256(np.packbits(lesion).tobytes())
    if territory is not None:
        digest.update(np.ascontiguousarray(territory).tobytes())
    return digest.hexdigest()
