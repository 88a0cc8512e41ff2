"""One series' files to one checked stack of slices in order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np
from pydicom import Dataset

from strokecore.arrays import Float32Array, Float64Array
from strokecore.errors import Refusal
from strokecore.flags import QualityFlag
from strokecore.reading import hounsfield, tags
from strokecore.reading.acquisition import doubtful_exclusion, kernel_kind
from strokecore.reading.candidates import Candidate
from strokecore.reading.files import DicomFile, of_frame, read_with_pixels
from strokecore.reading.geometry import even, off_line_mm, slice_plane, tilt_deg, unscanned_gaps
from strokecore.reading.head_check import shows_brain, shows_opacified_vessels
from strokecore.reading.pixels import AS_DECLARED, Override, SlicePixels, UnreadablePixelsError, decode
from strokecore.reading.refusals import (
    MIN_BRAIN_EXTENT_MM,
    MIN_BRAIN_SHARE,
    MIN_SLICES,
    Slice,
    refuse_by_header,
    refuse_damaged,
    refuse_incomplete,
    refuse_not_axial,
    refuse_not_head,
    refuse_not_hounsfield,
    without_duplicates,
)

HEAD_CHECK_SLICES: Final = 40  # looked at for brain; more add time, not certainty
# Calcium makes native heads look opacified on a sixth of the slices; after contrast most show vessels or
# sinuses
MIN_OPACIFIED_SHARE: Final = 0.33
COVERAGE_STEP_MM: Final = 3.0
THIN_MM: Final = 2.5  # noisier than the slices ASPECTS was defined on; the regions are averaged
THICK_MM: Final = 6.0  # partial volume dilutes small findings
TILT_DEG: Final = 0.5  # below, positions are rounded
DOUBT_SLICES: Final = 8  # read in every other way that could be right, where the declared one looks wrong
_OF_STORED_VALUES: Final = ("PixelRepresentation", "BitsAllocated", "BitsStored", "HighBit")
_RESCALE: Final = ("RescaleSlope", "RescaleIntercept")
_MEASURES: Final = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
)
OFF_LINE_MM: Final = 1.0  # slices of one scan lie on one line; more means the table or patient moved


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices of one series in order; fields as in ``Series``."""

    hu: Float32Array
    positions_mm: Float64Array
    row_direction: Float64Array
    column_direction: Float64Array
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    thickness_text: str
    tilt_deg: float
    datasets: tuple[Dataset, ...]
    digest: str
    flags: tuple[QualityFlag, ...]


def read_stack(candidate: Candidate) -> Stack:
    """Decode, check and order the slices of one series. Raises Refusal."""
    refuse_by_header(candidate)
    planes = [slice_plane(f.header) for f in candidate.files]
    refuse_not_axial(planes)
    pixels, corrected = _in_hounsfield(candidate, _decode(candidate.files))
    brain_mm = _brain_extent_mm(candidate, pixels)
    refuse_not_hounsfield(candidate, pixels, brain_mm)
    refuse_not_head(candidate, brain_mm)
    is_head = bool(candidate.summary.tags_say_head) or (brain_mm or 0) >= MIN_BRAIN_EXTENT_MM
    refuse_damaged(candidate, planes, pixels, ineligible=not is_head)

    normal = next(p.normal for p in planes if p is not None)
    slices = [
        Slice(f.header, plane, decoded, float(plane.position_mm @ normal))
        for f, plane, decoded in zip(candidate.files, planes, pixels, strict=True)
        if plane is not None and decoded is not None
    ]
    slices.sort(key=lambda s: s.offset_mm)
    slices, dropped = without_duplicates(slices, ineligible=not is_head)
    refuse_incomplete(slices, brain_mm, ineligible=not is_head)
    stack = _stack(candidate, slices, dropped)
    return stack if corrected is None else replace(stack, flags=(*stack.flags, corrected))


def refuse_wrongly_excluded(candidate: Candidate) -> None:
    """Raises Refusal, with the exclusion's code, for a native head by its pixels that one attribute excludes.

    Not scored, since the attribute may be right, but said: a head that is passed over in silence looks like
    one that never arrived.
    """
    keyword = doubtful_exclusion(candidate.summary)
    if keyword is None or candidate.excluded is None or not _native_head(candidate):
        return
    code, reason = candidate.excluded
    raise Refusal(
        code,
        f"One attribute of the header excludes the series ({keyword}: {reason}); all else says that it is a "
        "non-contrast head CT.",
        f"Look at the images; let {keyword} be corrected at the scanner, and send the series again.",
    )


def _native_head(candidate: Candidate) -> bool:
    """Whether the pixels show a head without contrast, looked at on every few slices."""
    if len(candidate.files) < MIN_SLICES:
        return False
    seen: list[SlicePixels] = []
    opacified: list[bool] = []
    step = max(1, len(candidate.files) // HEAD_CHECK_SLICES)
    some = candidate.files[::step]
    for file, decoded in zip(some, _decode(some), strict=True):
        spacing = tags.numbers(file.header, "PixelSpacing", 2)
        if decoded is None or spacing is None or min(spacing) <= 0:
            continue
        seen.append(decoded)
        vessels = shows_opacified_vessels(decoded.hu, (spacing[0], spacing[1]))
        opacified += [] if vessels is None else [vessels]
    if not seen or not opacified or not hounsfield.plausible(seen):
        return False
    summary = candidate.summary
    extent = summary.extent_mm or len(candidate.files) * (summary.slice_thickness_mm or 1.0)
    brain_mm = len(opacified) / len(seen) * extent
    return (
        brain_mm >= max(MIN_BRAIN_EXTENT_MM, MIN_BRAIN_SHARE * extent)
        and float(np.mean(opacified)) < MIN_OPACIFIED_SHARE
    )


def noise_hu(candidate: Candidate) -> float | None:
    """Noise of the middle slice: robust deviation between near pixels of soft tissue; None if unreadable."""
    planes = [(p, f) for f in candidate.files if (p := slice_plane(f.header)) is not None]
    if not planes:
        return None
    normal = planes[0][0].normal
    planes.sort(key=lambda pair: float(pair[0].position_mm @ normal))
    (decoded,) = _decode([planes[len(planes) // 2][1]])
    if decoded is None:
        return None
    soft = (decoded.hu > 0) & (decoded.hu < 80)
    pairs = soft[:, 2:] & soft[:, :-2]
    if not pairs.any():
        return None
    differences = (decoded.hu[:, 2:] - decoded.hu[:, :-2])[pairs]
    return float(1.4826 * np.median(np.abs(differences)) / np.sqrt(2))  # 1.4826: MAD to deviation


def _decode(files: Sequence[DicomFile], override: Override = AS_DECLARED) -> list[SlicePixels | None]:
    """None where the pixels cannot be decoded. An image is read once for all of its frames that follow."""
    decoded: list[SlicePixels | None] = []
    for path, slices in groupby(files, key=lambda f: f.path):
        image = None
        with suppress(Exception):  # the file changed, or is damaged behind the header
            image = read_with_pixels(path)
        decoded += [None if image is None else _slice(image, file, override) for file in slices]
    return decoded


def _slice(image: Dataset, file: DicomFile, override: Override) -> SlicePixels | None:
    try:
        return decode(of_frame(image, file), frame=file.frame, override=override)
    except UnreadablePixelsError:
        return None


def _in_hounsfield(
    candidate: Candidate, pixels: list[SlicePixels | None]
) -> tuple[list[SlicePixels | None], QualityFlag | None]:
    """``pixels``, or read again in the one way that makes them Hounsfield units, and what is said of it.

    Some converters write PixelRepresentation 0 over signed values: air at -1000 then reads as 64536. Others
    lose the offset or the number of bits. Of two ways that fit and differ, neither is taken unless it alone
    leaves no jumps.
    """
    header = candidate.files[0].header
    sound = hounsfield.plausible(pixels) and hounsfield.shows_soft_tissue(pixels)
    if not _same(candidate, _OF_STORED_VALUES):
        return pixels, None
    one_rescale = _same(candidate, _RESCALE)
    step = max(1, len(pixels) // DOUBT_SLICES)
    declared = pixels[::step]
    fitting: list[tuple[hounsfield.Correction, list[SlicePixels | None]]] = []
    for correction in hounsfield.corrections(header, sound=sound):
        if correction.override.rescale is not None and not one_rescale:
            continue
        read = _decode(candidate.files[::step], correction.override)
        if hounsfield.fits(correction, read) and (not sound or hounsfield.smoother(read, declared)):
            fitting.append((correction, read))
    for chosen, read in fitting:
        if all(_alike(read, other) or hounsfield.smoother(read, other) for _, other in fitting):
            again = _decode(candidate.files, chosen.override)
            return (again, chosen.flag) if hounsfield.fits(chosen, again) else (pixels, None)
    return pixels, None


def _same(candidate: Candidate, keywords: Sequence[str]) -> bool:
    return len({tuple(tags.number(f.header, k) for k in keywords) for f in candidate.files}) == 1


def _alike(a: Sequence[SlicePixels | None], b: Sequence[SlicePixels | None]) -> bool:
    return all(
        p is not None and q is not None and np.array_equal(p.hu, q.hu) for p, q in zip(a, b, strict=True)
    )


def _brain_extent_mm(candidate: Candidate, pixels: Sequence[SlicePixels | None]) -> float | None:
    """Length of the stack that shows a brain; None when it cannot be told."""
    seen = []
    declared = bool(candidate.summary.tags_say_head)
    step = max(1, len(pixels) // HEAD_CHECK_SLICES)
    for file, decoded in list(zip(candidate.files, pixels, strict=True))[::step]:
        spacing = tags.numbers(file.header, "PixelSpacing", 2)
        if decoded is not None and spacing is not None and min(spacing) > 0:
            seen.append(shows_brain(decoded.hu, (spacing[0], spacing[1]), open_skull=declared))
    if not seen:
        return None
    extent = candidate.summary.extent_mm or len(pixels) * (candidate.summary.slice_thickness_mm or 1.0)
    return float(np.mean(seen)) * extent


def _stack(candidate: Candidate, slices: Sequence[Slice], dropped: int) -> Stack:
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
        flags=_flags(candidate, slices, tilt, dropped),
    )


def _coverage(slices: Sequence[Slice]) -> tuple[float, float] | None:
    """Millimetres scanned below the lowest and above the highest slice that shows brain; None when none does.

    0 means that the scan ends inside the brain.
    """
    upwards = slices if slices[0].plane.normal[2] >= 0 else slices[::-1]
    below, above = (_beside_brain_mm(end) for end in (upwards, upwards[::-1]))
    return None if below is None or above is None else (below, above)


def _beside_brain_mm(from_the_end: Sequence[Slice]) -> float | None:
    """From the first slice to the first that shows brain, looked for every few millimetres."""
    looked_at = -COVERAGE_STEP_MM
    for s in from_the_end:
        distance = abs(s.offset_mm - from_the_end[0].offset_mm)
        if distance - looked_at < COVERAGE_STEP_MM:
            continue
        looked_at = distance
        if shows_brain(s.pixels.hu, s.plane.pixel_spacing_mm):
            return distance
    return None


def _flags(
    candidate: Candidate, slices: Sequence[Slice], tilt_deg: float, duplicates: int
) -> tuple[QualityFlag, ...]:
    """What a reader of the result should know about an ordered stack: warnings and information."""
    positions = np.stack([s.plane.position_mm for s in slices])
    gaps = np.diff(positions @ slices[0].plane.normal)
    declared = [s.plane.thickness_mm for s in slices]
    thicknesses = [t for t in declared if t is not None] or list(gaps)
    summary = candidate.summary
    flags: list[QualityFlag] = []

    def warn(code: str, message: str, remedy: str) -> None:
        flags.append(QualityFlag(code, "warning", message, remedy))

    def inform(code: str, message: str) -> None:
        flags.append(QualityFlag(code, "info", message))

    covered = _coverage(slices)
    if covered is not None:
        scan = f"{len(slices)} slices over {float(gaps.sum()):.0f} mm"
        below, above = covered
        whole = "Check that all slices arrived; send the whole head."
        if below == 0:
            warn(
                "base_cut",
                f"The lowest slice still shows brain: the head is cut at the base ({scan}).",
                whole,
            )
        if above == 0:
            warn(
                "vertex_cut", f"The highest slice still shows brain: it is cut at the vertex ({scan}).", whole
            )
        inform(
            "coverage",
            f"{scan}: {below:.0f} mm below and {above:.0f} mm above those that show brain.",
        )
    if kernel_kind(summary.kernel, summary.description) == "sharp":
        warn(
            "sharp_kernel",
            "The series is a bone or other sharp reconstruction; noise hides early ischaemic change.",
            "Send the soft-tissue (brain) reconstruction as well.",
        )
    if max(thicknesses) > THICK_MM + 0.01:
        warn(
            "thick_slices",
            f"Slices up to {max(thicknesses):.1f} mm, best are 3 to 6 mm: small findings may be lost.",
            "Send a reconstruction of 3 to 6 mm.",
        )
    if max(thicknesses) < THIN_MM:
        inform("thin_slices", f"Slices of {max(thicknesses):.1f} mm: noisier than those of 3 to 6 mm.")
    if not any(declared):
        inform("no_slice_thickness", "SliceThickness is absent; the distance between slices was taken.")
    if unscanned := unscanned_gaps(gaps, declared):
        warn(
            "slice_gaps",
            f"Tissue between slices was not scanned in {len(unscanned)} places "
            f"(gap up to {max(gaps[g] for g in unscanned):.1f} mm).",
            "Send contiguous slices.",
        )
    if not even(gaps):
        inform(
            "uneven_slices",
            f"Slices lie {gaps.min():.1f} to {gaps.max():.1f} mm apart; each is used where it is.",
        )
    if abs(tilt_deg) > TILT_DEG:
        inform("gantry_tilt", f"The gantry was tilted by {abs(tilt_deg):.1f} degrees; positions are exact.")
    if off_line_mm(positions) > OFF_LINE_MM:
        warn(
            "irregular_positions",
            f"Slices lie up to {off_line_mm(positions):.1f} mm beside the line of the stack.",
            "Check that the series is one scan of one patient position.",
        )
    if duplicates:
        inform("duplicate_slices", f"{duplicates} identical copies of slices were left out.")
    if candidate.left_out:
        inform("other_images_left_out", f"{candidate.left_out} images of the series are no axial CT slices.")
    if candidate.odd:
        inform(
            "odd_images_left_out",
            f"{len(candidate.odd)} images in another plane than the rest of the series were left out "
            f"(image number {', '.join(candidate.odd)}).",
        )
    if candidate.passes > 1:
        warn(
            "several_passes",
            f"The series scans the head {candidate.passes} times; the last pass was read.",
            "Look at the earlier pass as well; send each scan as a series of its own.",
        )
    if candidate.overlapping:
        inform(
            "overlapping_slabs",
            f"The series is made of slabs that overlap; {candidate.overlapping} slices were left out where "
            "others show the same tissue.",
        )
    if any(tags.text(s.header, "ImageType").upper().startswith("DERIVED") for s in slices):
        inform("derived_images", "The images are declared as derived (reformatted or processed).")
    if any(tags.text(s.header, "LossyImageCompression") == "01" for s in slices):
        warn(
            "lossy_compression",
            "The images were compressed with loss, which can hide early ischaemic change.",
            "Send the images as the scanner made them.",
        )
    if any(tags.has_decimal_comma(s.header, keyword) for s in slices for keyword in _MEASURES):
        warn(
            "decimal_comma",
            "Numbers of the header have a decimal comma, which DICOM does not know; it was read as a point.",
            "Check distances on a viewer; let the software that wrote the files be corrected.",
        )
    if not all(s.pixels.rescaled for s in slices):
        warn(
            "rescale_missing",
            "The rescale is absent; stored values look like Hounsfield units and were used as such.",
            "Check the series on a viewer; send the original images of the scanner.",
        )
    return tuple(flags)
