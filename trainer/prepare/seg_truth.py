"""The infarct of a DICOM Segmentation, as StrokeCore writes it and a radiologist corrects it.

StrokeCore's seg.dcm (reports/dicom/seg.py) is BINARY on the CT's own voxels with up to three segments of the
type infarct (SCT 55641003): left and right, told apart by the laterality among the type's modifiers, and
old infarct, whose modifier is chronic. Old infarct, other hypodensity and suspected haemorrhage, which have
segments too, are no part of the truth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset

from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import BoolArray, Float64Array
from strokecore.reading.geometry import SAME_POSITION_MM
from strokecore.reading.series import Series
from strokecore.reports.dicom import codes
from trainer.prepare.case_file import UnusableError

SEGMENTATION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_SAME_DIRECTION: Final = 1e-3
_SAME_SPACING: Final = 1e-3  # relative; decimal strings are rounded
# Bone is symmetric about the midline; brain and skin are displaced by what is ill.
_BONE_HU: Final = 300.0
_OLD_WORDS: Final = ("old", "chronic", "remote")


def is_infarct_segmentation(dataset: Dataset) -> bool:
    """Whether a Segmentation holds an infarct, of any age (StrokeCore's regions.dcm holds anatomy)."""
    return any(_is_infarct(segment) for segment in dataset.get("SegmentSequence") or ())


def read_infarct(path: Path, series: Series, *, reviewed: bool) -> BoolArray:
    """The acute infarct on the series' voxels, bool [k, j, i].

    Parameters
    ----------
    reviewed: someone vouches for segments that are still marked AUTOMATIC.

    Raises
    ------
    UnusableError: not a binary segmentation of this series, a segment of unknown meaning, a side that does
        not agree with the voxels, no acute segment at all, or the node's own uncorrected finding.
    """
    try:
        dataset = pydicom.dcmread(path)
        frames = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
        _check_grid(dataset, series)
        lesion, old = np.zeros(series.hu.shape, np.bool_), False
        acute = False
        for segment in dataset.SegmentSequence:
            number = int(segment.SegmentNumber)
            if _is_old(segment):
                old = True
                continue
            if _is_marked_beside_infarct(segment):
                continue
            if not _is_infarct(segment):
                raise UnusableError(f"segment {number} of the SEG is neither infarct nor old infarct")
            if str(segment.get("SegmentAlgorithmType", "")) == "AUTOMATIC" and not reviewed:
                raise UnusableError(
                    f"segment {number} of the SEG is AUTOMATIC, a finding of the node and no truth; correct "
                    "it, or put an empty file named reviewed into the folder when a reader has confirmed it"
                )
            acute = True
            mask = _segment_voxels(dataset, frames, number, series)
            _check_side(mask, _side(segment), number, series)
            lesion |= mask
    except UnusableError:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged or incomplete objects
        raise UnusableError(f"the SEG cannot be read ({type(error).__name__})") from error
    if not acute:
        found = "only an old infarct" if old else "no segment"
        raise UnusableError(
            f"the SEG holds {found}; put an empty file named no_infarct into the folder if there is none"
        )
    return lesion


def share_on(side: Side, mask: BoolArray, series: Series) -> float:
    """Share of a mask's voxels on the patient's ``side`` of the skull's middle; bool [k, j, i], not empty.

    Raises UnusableError when there is no bone.
    """
    bone = _x_mm(series.hu > _BONE_HU, series)
    if not len(bone):
        raise UnusableError("the CT shows no bone, so that the middle of the head cannot be found")
    right = float((_x_mm(mask, series) < np.median(bone)).mean())
    return right if side == "right" else 1 - right


def _x_mm(mask: BoolArray, series: Series) -> Float64Array:
    """LPS x of the voxels of a mask; x rises to the patient's left."""
    k, j, i = np.nonzero(mask)
    return np.asarray(
        series.positions_mm[k, 0]
        + j * series.pixel_spacing_mm[0] * series.column_direction[0]
        + i * series.pixel_spacing_mm[1] * series.row_direction[0]
    )


def _check_grid(dataset: Dataset, series: Series) -> None:
    if str(dataset.SegmentationType) != "BINARY":
        raise UnusableError(f"the SEG is {dataset.SegmentationType}, expected BINARY; export it as BINARY")
    if not series.datasets:
        raise UnusableError("a SEG needs the DICOM CT that it was drawn on; this case's CT is NIfTI")
    if dataset.FrameOfReferenceUID != series.datasets[0].FrameOfReferenceUID:
        raise UnusableError("the SEG belongs to another scan (its frame of reference is not the CT's)")
    shape = (int(dataset.Rows), int(dataset.Columns))
    if shape != series.hu.shape[1:]:
        raise UnusableError(
            f"the SEG has {shape[0]} x {shape[1]} pixels and the CT "
            f"{series.hu.shape[1]} x {series.hu.shape[2]}"
        )


def _segment_voxels(dataset: Dataset, frames: npt.NDArray[Any], number: int, series: Series) -> BoolArray:
    """Frames of one segment laid on the slices at their positions."""
    mask = np.zeros(series.hu.shape, np.bool_)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, own in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if int(_macro(own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber) != number:
            continue
        orientation = _macro(own, shared, "PlaneOrientationSequence").ImageOrientationPatient
        wanted = np.concatenate([series.row_direction, series.column_direction])
        spacing = _macro(own, shared, "PixelMeasuresSequence").PixelSpacing
        if np.abs(np.array(orientation, float) - wanted).max() > _SAME_DIRECTION or not np.allclose(
            np.array(spacing, float), series.pixel_spacing_mm, rtol=_SAME_SPACING
        ):
            raise UnusableError("the SEG's frames are turned or scaled against the CT's slices")
        position = np.array(_macro(own, shared, "PlanePositionSequence").ImagePositionPatient, float)
        away = np.linalg.norm(series.positions_mm - position, axis=1)
        k = int(np.argmin(away))
        if away[k] > SAME_POSITION_MM:
            raise UnusableError(f"a frame of the SEG lies {away[k]:.1f} mm from the nearest slice of the CT")
        mask[k] |= frame > 0
    return mask


def _macro(own: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group of one frame; what all frames share may stand apart."""
    groups = own if name in own else shared
    return groups[name].value[0]


def _check_side(mask: BoolArray, side: Side | None, number: int, series: Series) -> None:
    if side is None or not mask.any():
        return
    share = share_on(side, mask, series)
    if share < 0.5:
        raise UnusableError(
            f"segment {number} of the SEG says {side} and {1 - share:.0%} of its voxels lie on the other side"
        )


def _is_infarct(segment: Dataset) -> bool:
    return _has_code(segment, "SegmentedPropertyTypeCodeSequence", codes.INFARCT.value) or (
        "infarct" in str(segment.get("SegmentLabel", "")).lower()
    )


def _is_old(segment: Dataset) -> bool:
    label = str(segment.get("SegmentLabel", "")).lower()
    chronic = any(item.get("CodeValue") == codes.CHRONIC.value for item in _modifiers(segment))
    return _is_infarct(segment) and (chronic or any(word in label.split() for word in _OLD_WORDS))


def _is_marked_beside_infarct(segment: Dataset) -> bool:
    """What the node segments and no infarct is: suspected haemorrhage and other hypodensity."""
    kinds = "SegmentedPropertyTypeCodeSequence"
    label = str(segment.get("SegmentLabel", "")).lower()
    return _has_code(segment, kinds, codes.HEMORRHAGE.value) or (
        _has_code(segment, kinds, codes.LESION.value) and "hypodensity" in label
    )


def _side(segment: Dataset) -> Side | None:
    """The side that the segment claims: by its code, else by a word of its label."""
    modifiers = [item.get("CodeValue") for item in _modifiers(segment)]
    words = str(segment.get("SegmentLabel", "")).lower().split()
    for side in SIDES:
        if codes.LATERALITY[side].value in modifiers:
            return side
    return next((side for side in SIDES if side in words), None)


def _modifiers(segment: Dataset) -> list[Dataset]:
    types = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    return [m for item in types for m in item.get("SegmentedPropertyTypeModifierCodeSequence") or ()]


def _has_code(segment: Dataset, sequence: str, value: str) -> bool:
    return any(item.get("CodeValue") == value for item in segment.get(sequence) or ())
