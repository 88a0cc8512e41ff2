"""When a series must not be scored: each refusal of a single series, with its code and remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from pydicom import Dataset

from strokecore.errors import Refusal
from strokecore.reading import hounsfield, tags
from strokecore.reading.acquisition import CT_IMAGE_STORAGE
from strokecore.reading.candidates import Candidate
from strokecore.reading.geometry import (
    MAX_AXIAL_ANGLE_DEG,
    SAME_POSITION_MM,
    SlicePlane,
    missing_gaps,
    off_axial_deg,
    parallel,
    same_grid,
)
from strokecore.reading.pixels import SlicePixels

MIN_SLICES: Final = 8  # 10 mm slices, the thickest allowed, from ganglia to centrum semiovale and some
MAX_THICKNESS_MM: Final = 10.0  # thicker slices average the insular ribbon away
MAX_THICKNESS_ROUNDING_MM: Final = 0.05
# From the lower edge of the lentiform nucleus to the upper M4-M6 slice: about 55 mm in MNI152 space;
# 50 leaves room for small heads. Registration checks the levels themselves.
MIN_EXTENT_MM: Final = 50.0
MIN_BRAIN_EXTENT_MM: Final = 30.0  # below this the stack shows skull base or vertex only
# Of a stack that nothing declares a head: head and neck have a third, a trunk with the head on top less.
MIN_BRAIN_SHARE: Final = 0.25
TIME_SERIES_REPEATS: Final = 4  # perfusion and bolus tracking scan each position many times

_RESEND: Final = "Send the complete series again from the scanner or PACS."


@dataclass(frozen=True, eq=False)
class Slice:
    """One readable slice; ``offset_mm`` is its position along the common slice normal."""

    header: Dataset
    plane: SlicePlane
    pixels: SlicePixels
    offset_mm: float


def refuse_by_header(candidate: Candidate) -> None:
    if candidate.excluded is not None:
        code, reason = candidate.excluded
        raise Refusal(
            code,
            f"The series is not an axial non-contrast head CT: {reason}.",
            "Send the non-contrast head CT series.",
            ineligible=True,
        )
    for file in candidate.files:
        frames = 1 if file.frame is not None else tags.number(file.header, "NumberOfFrames") or 1
        sop_class = tags.text(file.header, "SOPClassUID")
        if not sop_class:
            raise Refusal(
                "no_sop_class",
                "SOPClassUID is absent from the images, and their files have no file meta that says it.",
                "Send the original images of the scanner, or write their class (CT Image Storage) into them.",
                ineligible=not candidate.summary.tags_say_head,
            )
        if frames > 1 or (file.frame is None and sop_class != CT_IMAGE_STORAGE):
            raise Refusal(
                "enhanced_multiframe",
                "Found multi-frame CT whose frames have no functional groups that say where they lie.",
                "Send the series as classic CT images, or convert it before.",
                ineligible=not candidate.summary.tags_say_head,
            )


def refuse_not_axial(planes: Sequence[SlicePlane | None]) -> None:
    known = [p for p in planes if p is not None]
    if known and parallel(known) and off_axial_deg(known[0]) > MAX_AXIAL_ANGLE_DEG:
        raise Refusal(
            "not_axial",
            f"The slices lie {off_axial_deg(known[0]):.0f} degrees from axial: coronal or sagittal.",
            "Send the axial series.",
            ineligible=True,
        )


def refuse_not_hounsfield(
    candidate: Candidate, pixels: Sequence[SlicePixels | None], brain_mm: float | None
) -> None:
    wrong = hounsfield.implausible(pixels, bone=bool(brain_mm))
    refuse = partial(Refusal, ineligible=not candidate.summary.tags_say_head)
    if wrong is None:
        return
    if any(p is not None and not p.rescaled for p in pixels):
        raise refuse(
            "no_rescale",
            "RescaleSlope or RescaleIntercept is absent and the stored values are not Hounsfield units.",
            "Send the original images of the scanner.",
        )
    raise refuse(
        "implausible_hounsfield",
        f"The pixels are no Hounsfield units of a head: {wrong}.",
        "Check rescale and PixelRepresentation; send the original images of the scanner.",
    )


def refuse_not_head(candidate: Candidate, brain_mm: float | None) -> None:
    says_head = candidate.summary.tags_say_head
    # the first slices of a head to arrive may show neck or vertex only: those are too few, not no brain
    if brain_mm == 0 and says_head and len(candidate.files) >= MIN_SLICES:
        raise Refusal(
            "no_brain",
            "No slice shows brain tissue inside a skull, as a head CT does.",
            "Check that the series is a patient's head CT in Hounsfield units.",
            ineligible=True,
        )
    needed_mm = max(MIN_BRAIN_EXTENT_MM, MIN_BRAIN_SHARE * (candidate.summary.extent_mm or 0.0))
    if not says_head and brain_mm is not None and brain_mm < needed_mm:
        raise Refusal(
            "not_head",
            "Neither the header nor the pixels show a head.",
            "Send the non-contrast head CT series.",
            ineligible=True,
        )


def refuse_damaged(
    candidate: Candidate,
    planes: Sequence[SlicePlane | None],
    pixels: Sequence[SlicePixels | None],
    *,
    ineligible: bool,
) -> None:
    """What is wrong with single slices, before they can be put in order."""
    refuse = partial(Refusal, ineligible=ineligible)
    total = len(planes)
    if unreadable := sum(p is None for p in pixels):
        raise refuse(
            "unreadable_pixels",
            f"The pixels of {unreadable} of {total} slices cannot be decoded.",
            _RESEND,
        )
    known = [p for p in planes if p is not None]
    if len(known) < total:
        raise refuse(
            "no_geometry",
            f"{total - len(known)} of {total} slices have no usable position, orientation or pixel spacing.",
            "Send the original images of the scanner, not secondary captures or exports.",
        )
    if not parallel(known):
        raise refuse(
            "mixed_orientation",
            "The slices of the series are not parallel.",
            "Send the axial slices as a series of their own.",
        )
    if not same_grid(known):
        raise refuse(
            "mixed_matrix",
            "The slices of the series differ in matrix or pixel spacing.",
            "Send slices of one reconstruction as a series of their own.",
        )
    if not tags.text(candidate.files[0].header, "StudyInstanceUID"):
        raise refuse(
            "no_study_uid",
            "The images do not say to which study they belong: no result could be filed with them.",
            "Send the original images of the scanner or PACS.",
        )
    frames = {tags.text(f.header, "FrameOfReferenceUID") for f in candidate.files}
    if "" in frames:
        raise refuse(
            "no_frame_of_reference",
            "The frame of reference of the positions is absent.",
            "Send the original images of the scanner.",
        )
    if len(frames) > 1:
        raise refuse(
            "mixed_frame_of_reference",
            f"The slices lie in {len(frames)} frames of reference, expected one.",
            "Send slices of one scan as a series of their own.",
        )


def without_duplicates(slices: Sequence[Slice], *, ineligible: bool) -> tuple[list[Slice], int]:
    """``slices`` in order, without copies of the same slice, and how many there were."""
    positions = [[slices[0]]]
    for this in slices[1:]:
        if this.offset_mm - positions[-1][0].offset_mm < SAME_POSITION_MM:
            positions[-1].append(this)
        else:
            positions.append([this])
    if len(slices) >= TIME_SERIES_REPEATS * len(positions) and any(_differ(p) for p in positions):
        raise Refusal(
            "time_series",
            f"Each of {len(positions)} positions was scanned about {len(slices) // len(positions)} times.",
            "Send the non-contrast head CT, not a perfusion or bolus series.",
            ineligible=True,
        )
    if differing := sum(_differ(p) for p in positions):
        raise Refusal(
            "duplicate_position",
            f"{differing} positions hold several slices with different pixels, expected one slice each.",
            "Send one reconstruction of one scan per series.",
            ineligible=ineligible,
        )
    return [p[0] for p in positions], len(slices) - len(positions)


def _differ(same_place: Sequence[Slice]) -> bool:
    first = same_place[0]
    return any(
        s.pixels.digest != first.pixels.digest
        or np.abs(s.plane.position_mm - first.plane.position_mm).max() >= SAME_POSITION_MM
        for s in same_place
    )


def refuse_incomplete(slices: Sequence[Slice], brain_mm: float | None, *, ineligible: bool) -> None:
    """What is wrong with the stack as a whole."""
    refuse = partial(Refusal, ineligible=ineligible)
    if len(slices) < MIN_SLICES:
        raise refuse(
            "too_few_slices", f"Found {len(slices)} slices, expected at least {MIN_SLICES}.", _RESEND
        )
    gaps = np.diff([s.offset_mm for s in slices])
    thicknesses = [s.plane.thickness_mm for s in slices]
    declared = [t for t in thicknesses if t is not None]
    thickest = max(float(np.median(gaps)), float(np.median(declared)) if declared else 0.0)
    if thickest > MAX_THICKNESS_MM + MAX_THICKNESS_ROUNDING_MM:
        raise refuse(
            "slice_too_thick",
            f"Slices of {thickest:.1f} mm, expected at most {MAX_THICKNESS_MM:.0f} mm.",
            "Send a thinner reconstruction, best 3 to 6 mm.",
        )
    if missing := missing_gaps(gaps, thicknesses):
        raise refuse(
            "missing_slice",
            f"A gap of {gaps[missing[0]]:.1f} mm among slices {np.median(gaps):.1f} mm apart: "
            f"slices are missing in {len(missing)} places.",
            _RESEND,
        )
    extent = float(gaps.sum()) + (float(np.median(declared)) if declared else float(np.median(gaps)))
    if extent < MIN_EXTENT_MM or (brain_mm is not None and brain_mm < MIN_BRAIN_EXTENT_MM):
        raise refuse(
            "incomplete_coverage",
            f"The slices span {extent:.0f} mm, of which about {brain_mm or 0:.0f} mm show brain; "
            f"both ASPECTS levels need at least {MIN_EXTENT_MM:.0f} mm.",
            "Send the whole head.",
        )
