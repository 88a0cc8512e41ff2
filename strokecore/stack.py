"""One series' files to one checked stack of slices; every refusal of a single series is raised here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from strokecore import tags
from strokecore.acquisition import CT_IMAGE_STORAGE
from strokecore.candidates import Candidate
from strokecore.dicom_files import DicomFile, read_with_pixels
from strokecore.errors import Refusal
from strokecore.geometry import (
    MAX_AXIAL_ANGLE_DEG,
    SAME_POSITION_MM,
    SlicePlane,
    missing_gaps,
    off_axial_deg,
    parallel,
    same_grid,
    slice_plane,
    tilt_deg,
)
from strokecore.headcheck import shows_brain
from strokecore.pixels import SlicePixels, UnreadablePixelsError, decode
from strokecore.quality import QualityFlag
from strokecore.stackflags import stack_flags

MIN_SLICES: Final = 8  # 10 mm slices, the thickest allowed, from ganglia to centrum semiovale and some
MAX_THICKNESS_MM: Final = 10.0  # thicker slices average the insular ribbon away
MAX_THICKNESS_ROUNDING_MM: Final = 0.05
# From the lower edge of the lentiform nucleus to the upper M4-M6 slice: about 55 mm in MNI152 space;
# 50 leaves room for small heads. Registration checks the levels themselves.
MIN_EXTENT_MM: Final = 50.0
MIN_BRAIN_EXTENT_MM: Final = 30.0  # below this the stack shows skull base or vertex only
HEAD_CHECK_SLICES: Final = 40  # looked at for brain; more add time, not certainty
TIME_SERIES_REPEATS: Final = 4  # perfusion and bolus tracking scan each position many times
AIR_PERCENTILE_HU: Final = -900.0  # a head CT is mostly air: 1st percentile near -1000 when it is in HU

_RESEND: Final = "Send the complete series again from the scanner or PACS."


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices of one series in order; fields as in ``Series``."""

    hu: npt.NDArray[np.float32]
    positions_mm: npt.NDArray[np.float64]
    row_direction: npt.NDArray[np.float64]
    column_direction: npt.NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    thickness_text: str
    tilt_deg: float
    datasets: tuple[Dataset, ...]
    digest: str
    flags: tuple[QualityFlag, ...]


@dataclass(frozen=True, eq=False)
class _Slice:
    header: Dataset
    plane: SlicePlane
    pixels: SlicePixels

    @property
    def offset_mm(self) -> float:
        return float(self.plane.position_mm @ self.plane.normal)


def read_stack(candidate: Candidate) -> Stack:
    """Decode, check and order the slices of one series. Raises Refusal."""
    _refuse_by_header(candidate)
    planes = [slice_plane(f.header) for f in candidate.files]
    _refuse_not_axial(planes)
    pixels = [_decode(f) for f in candidate.files]

    _refuse_not_hounsfield(pixels)
    brain_mm = _brain_extent_mm(candidate, pixels)
    _refuse_not_head(candidate, brain_mm)
    is_head = bool(candidate.summary.tags_say_head) or (brain_mm or 0) >= MIN_BRAIN_EXTENT_MM
    _refuse_damaged(candidate, planes, pixels, ineligible=not is_head)

    slices = [
        _Slice(f.header, plane, decoded)
        for f, plane, decoded in zip(candidate.files, planes, pixels, strict=True)
        if plane is not None and decoded is not None
    ]
    slices.sort(key=lambda s: s.offset_mm)
    slices, dropped = _without_duplicates(slices, ineligible=not is_head)
    _refuse_incomplete(slices, brain_mm, ineligible=not is_head)
    return _stack(candidate, slices, dropped)


def noise_hu(candidate: Candidate) -> float | None:
    """Noise of the middle slice: robust deviation between near pixels of soft tissue; None if unreadable."""
    planes = [(p, f) for f in candidate.files if (p := slice_plane(f.header)) is not None]
    if not planes:
        return None
    normal = planes[0][0].normal
    planes.sort(key=lambda pair: float(pair[0].position_mm @ normal))
    decoded = _decode(planes[len(planes) // 2][1])
    if decoded is None:
        return None
    soft = (decoded.hu > 0) & (decoded.hu < 80)
    pairs = soft[:, 2:] & soft[:, :-2]
    if not pairs.any():
        return None
    differences = (decoded.hu[:, 2:] - decoded.hu[:, :-2])[pairs]
    return float(1.4826 * np.median(np.abs(differences)) / np.sqrt(2))  # 1.4826: MAD to deviation


def _refuse_by_header(candidate: Candidate) -> None:
    if candidate.excluded is not None:
        code, reason = candidate.excluded
        raise Refusal(
            code,
            f"The series is not an axial non-contrast head CT: {reason}.",
            "Send the non-contrast head CT series.",
            ineligible=True,
        )
    for file in candidate.files:
        frames = tags.number(file.header, "NumberOfFrames") or 1
        if frames > 1 or tags.text(file.header, "SOPClassUID") != CT_IMAGE_STORAGE:
            raise Refusal(
                "enhanced_multiframe",
                "Found Enhanced (multi-frame) CT, expected one image per slice.",
                "Send the series as classic CT images, or convert it before.",
                ineligible=not candidate.summary.tags_say_head,
            )


def _refuse_not_axial(planes: Sequence[SlicePlane | None]) -> None:
    known = [p for p in planes if p is not None]
    if known and parallel(known) and off_axial_deg(known[0]) > MAX_AXIAL_ANGLE_DEG:
        raise Refusal(
            "not_axial",
            f"The slices lie {off_axial_deg(known[0]):.0f} degrees from axial: coronal or sagittal.",
            "Send the axial series.",
            ineligible=True,
        )


def _decode(file: DicomFile) -> SlicePixels | None:
    try:
        return decode(read_with_pixels(file))
    except UnreadablePixelsError:
        return None
    except Exception:  # the file changed, or is damaged behind the header
        return None


def _refuse_not_hounsfield(pixels: Sequence[SlicePixels | None]) -> None:
    bare = [p for p in pixels if p is not None and not p.rescaled]
    if bare and np.median([np.percentile(p.hu[::4, ::4], 1) for p in bare]) > AIR_PERCENTILE_HU:
        raise Refusal(
            "no_rescale",
            "RescaleSlope or RescaleIntercept is absent and the stored values are not Hounsfield units.",
            "Send the original images of the scanner.",
        )


def _brain_extent_mm(candidate: Candidate, pixels: Sequence[SlicePixels | None]) -> float | None:
    """Length of the stack that shows a brain; None when it cannot be told."""
    seen = []
    step = max(1, len(pixels) // HEAD_CHECK_SLICES)
    for file, decoded in list(zip(candidate.files, pixels, strict=True))[::step]:
        spacing = tags.numbers(file.header, "PixelSpacing", 2)
        if decoded is not None and spacing is not None and min(spacing) > 0:
            seen.append(shows_brain(decoded.hu, (spacing[0], spacing[1])))
    if not seen:
        return None
    extent = candidate.summary.extent_mm or len(pixels) * (candidate.summary.slice_thickness_mm or 1.0)
    return float(np.mean(seen)) * extent


def _refuse_not_head(candidate: Candidate, brain_mm: float | None) -> None:
    says_head = candidate.summary.tags_say_head
    if brain_mm == 0 and says_head:
        raise Refusal(
            "no_brain",
            "No slice shows brain tissue inside a skull, as a head CT does.",
            "Check that the series is a patient's head CT in Hounsfield units.",
            ineligible=True,
        )
    if not says_head and (brain_mm or 0) < MIN_BRAIN_EXTENT_MM and brain_mm is not None:
        raise Refusal(
            "not_head",
            "Neither the header nor the pixels show a head.",
            "Send the non-contrast head CT series.",
            ineligible=True,
        )


def _refuse_damaged(
    candidate: Candidate,
    planes: Sequence[SlicePlane | None],
    pixels: Sequence[SlicePixels | None],
    *,
    ineligible: bool,
) -> None:
    """What is wrong with single slices, before they can be put in order."""

    def refuse(code: str, message: str, remedy: str = _RESEND) -> Refusal:
        return Refusal(code, message, remedy, ineligible=ineligible)

    total = len(planes)
    if unreadable := sum(p is None for p in pixels):
        raise refuse("unreadable_pixels", f"The pixels of {unreadable} of {total} slices cannot be decoded.")
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


def _without_duplicates(slices: Sequence[_Slice], *, ineligible: bool) -> tuple[list[_Slice], int]:
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


def _differ(same_place: Sequence[_Slice]) -> bool:
    first = same_place[0]
    return any(
        s.pixels.digest != first.pixels.digest
        or np.abs(s.plane.position_mm - first.plane.position_mm).max() >= SAME_POSITION_MM
        for s in same_place
    )


def _refuse_incomplete(slices: Sequence[_Slice], brain_mm: float | None, *, ineligible: bool) -> None:
    """What is wrong with the stack as a whole."""

    def refuse(code: str, message: str, remedy: str = _RESEND) -> Refusal:
        return Refusal(code, message, remedy, ineligible=ineligible)

    if len(slices) < MIN_SLICES:
        raise refuse("too_few_slices", f"Found {len(slices)} slices, expected at least {MIN_SLICES}.")
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
        )
    extent = float(gaps.sum()) + (float(np.median(declared)) if declared else float(np.median(gaps)))
    if extent < MIN_EXTENT_MM or (brain_mm is not None and brain_mm < MIN_BRAIN_EXTENT_MM):
        raise refuse(
            "incomplete_coverage",
            f"The slices span {extent:.0f} mm, of which about {brain_mm or 0:.0f} mm show brain; "
            f"both ASPECTS levels need at least {MIN_EXTENT_MM:.0f} mm.",
            "Send the whole head.",
        )


def _stack(candidate: Candidate, slices: Sequence[_Slice], dropped: int) -> Stack:
    first = slices[0].plane
    positions = np.stack([s.plane.position_mm for s in slices])
    gaps = np.diff(positions @ first.normal)
    declared = [s.plane.thickness_mm for s in slices if s.plane.thickness_mm is not None]
    low, high = (min(declared), max(declared)) if declared else (float(gaps.min()), float(gaps.max()))
    digest = hashlib.sha256()
    for s in slices:
        digest.update(s.pixels.digest)
        vectors = (s.plane.position_mm, s.plane.row_direction, s.plane.column_direction)
        digest.update(
            repr(([v.tolist() for v in vectors], s.plane.pixel_spacing_mm, s.plane.thickness_mm)).encode()
        )
    tilt = tilt_deg(positions, first.normal)
    return Stack(
        hu=np.stack([s.pixels.hu for s in slices]),
        positions_mm=positions,
        row_direction=first.row_direction,
        column_direction=first.column_direction,
        pixel_spacing_mm=first.pixel_spacing_mm,
        slice_thickness_mm=float(np.median(declared)) if declared else float(np.median(gaps)),
        thickness_text=f"{low:.1f}" if round(low, 1) == round(high, 1) else f"{low:.1f}-{high:.1f}",
        tilt_deg=tilt,
        datasets=tuple(s.header for s in slices),
        digest=digest.hexdigest(),
        flags=stack_flags(
            candidate,
            [s.header for s in slices],
            [s.plane for s in slices],
            tilt,
            duplicates=dropped,
            rescaled=all(s.pixels.rescaled for s in slices),
        ),
    )
