"""What a reader of the result should know about a series that was read: warnings and information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom import Dataset

from strokecore.flags import QualityFlag
from strokecore.reading import tags
from strokecore.reading.acquisition import kernel_kind
from strokecore.reading.candidates import Candidate
from strokecore.reading.geometry import SlicePlane, even, off_line_mm, unscanned_gaps

THIN_MM: Final = 2.5  # noisier than the slices ASPECTS was defined on; the regions are averaged
THICK_MM: Final = 6.0  # partial volume dilutes small findings
TILT_DEG: Final = 0.5  # below, positions are rounded
OFF_LINE_MM: Final = 1.0  # slices of one scan lie on one line; more means the table or patient moved


def stack_flags(
    candidate: Candidate,
    headers: Sequence[Dataset],
    planes: Sequence[SlicePlane],
    tilt_deg: float,
    *,
    duplicates: int,
    rescaled: bool,
) -> tuple[QualityFlag, ...]:
    """Flags of one ordered stack (severity "warning" or "info")."""
    positions = np.stack([p.position_mm for p in planes])
    gaps = np.diff(positions @ planes[0].normal)
    declared = [p.thickness_mm for p in planes]
    thicknesses = [t for t in declared if t is not None] or list(gaps)
    summary = candidate.summary
    flags: list[QualityFlag] = []

    def warn(code: str, message: str, remedy: str) -> None:
        flags.append(QualityFlag(code, "warning", message, remedy))

    def inform(code: str, message: str) -> None:
        flags.append(QualityFlag(code, "info", message))

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
    if any(tags.text(h, "ImageType").upper().startswith("DERIVED") for h in headers):
        inform("derived_images", "The images are declared as derived (reformatted or processed).")
    if any(tags.text(h, "LossyImageCompression") == "01" for h in headers):
        warn(
            "lossy_compression",
            "The images were compressed with loss, which can hide early ischaemic change.",
            "Send the images as the scanner made them.",
        )
    if not rescaled:
        warn(
            "rescale_missing",
            "The rescale is absent; stored values look like Hounsfield units and were used as such.",
            "Check the series on a viewer; send the original images of the scanner.",
        )
    return tuple(flags)
