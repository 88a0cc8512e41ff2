"""The series of one study, summarised and in the order in which they should be tried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from strokecore.errors import Refusal
from strokecore.reading import tags
from strokecore.reading.acquisition import (
    SeriesSummary,
    exclusion,
    group_acquisitions,
    kernel_kind,
    rank,
    summary_from_tags,
)
from strokecore.reading.files import DicomFile
from strokecore.reading.geometry import slice_plane
from strokecore.reading.header_words import contrast_attributes
from strokecore.reading.passes import latest_pass, without_odd_images, without_overlap
from strokecore.reading.patient import one_person

_BEFORE_NOISE: Final = 3  # rank() without noise and UID


@dataclass(frozen=True, eq=False)
class Candidate:
    """One series of the folder.

    Attributes
    ----------
    summary: what its headers say.
    files: its image slices; localizers and pictures filed under the same series are left out.
    left_out: number of those.
    odd: image numbers of one or two that lie in another plane than the others; they are left out too.
    passes: how many times the series scans the head; ``files`` are the last.
    overlapping: number of slices left out because slices of another slab of the series show their tissue.
    acquisition: index of its acquisition, 0 the one tried first; -1 for a series without CT images.
    excluded: (code, reason) when the headers alone rule it out.
    """

    summary: SeriesSummary
    files: tuple[DicomFile, ...]
    left_out: int = 0
    odd: tuple[str, ...] = ()
    passes: int = 1
    overlapping: int = 0
    acquisition: int = -1
    excluded: tuple[str, str] | None = None

    @property
    def uid(self) -> str:
        return self.summary.series_instance_uid


def one_study(files: Sequence[DicomFile]) -> None:
    """Raises Refusal("mixed_patients" or "mixed_studies"): a result in the wrong study is worse than none."""
    remedy = "Give each study its own folder, or name the series to score with --series."
    patients = {tags.text(f.header, "PatientID") for f in files}
    if len(patients) > 1:
        raise Refusal(
            "mixed_patients", f"The images belong to {len(patients)} patients, expected one.", remedy
        )
    studies = {tags.text(f.header, "StudyInstanceUID") for f in files}
    if len(studies) > 1:
        raise Refusal("mixed_studies", f"The images belong to {len(studies)} studies, expected one.", remedy)


def one_patient_a_series(files: Sequence[DicomFile]) -> None:
    """Raises Refusal("mixed_patients") when one series holds two persons under one PatientID."""
    mixed = sum(not one_person([f.header for f in group]) for group in _by_series(files).values())
    if mixed:
        raise Refusal(
            "mixed_patients",
            f"Name, birth date or sex differ between the images of one series ({mixed} such series), "
            "expected one patient.",
            "Find out whose images these are, and send them again under one patient.",
        )


def _by_series(files: Sequence[DicomFile]) -> dict[str, list[DicomFile]]:
    series: dict[str, list[DicomFile]] = defaultdict(list)
    for file in files:
        series[file.series_uid].append(file)
    return series


def find_candidates(
    files: Sequence[DicomFile], noise_hu: Callable[[Candidate], float | None]
) -> list[Candidate]:
    """All series of one study, best first; those that the headers rule out come last.

    ``noise_hu`` measures a series' noise; it is called only where kernel, thickness and coverage tie.
    """
    candidates = [_candidate(group) for group in _by_series(files).values()]
    candidates = _with_noise(candidates, noise_hu)

    order: dict[str, int] = {}
    for number, group in enumerate(sorted(_acquisitions(candidates), key=_acquisition_key)):
        order |= {series.series_instance_uid: number for series in group}
    candidates = [replace(c, acquisition=order.get(c.uid, -1)) for c in candidates]
    return sorted(candidates, key=lambda c: (c.excluded is not None, c.acquisition, rank(c.summary)))


def why_chosen(chosen: Candidate, candidates: Sequence[Candidate], thickness: str) -> str:
    """Plain sentence for Series.chosen_because; ``thickness`` is "5.0" or "4.0-7.0"."""
    kernel = {"soft": "soft-tissue kernel", "sharp": "sharp kernel", "unknown": "kernel not named"}[
        kernel_kind(chosen.summary.kernel, chosen.summary.description)
    ]
    rivals = sum(c.excluded is None for c in candidates)
    against = (
        "the only axial CT image series" if rivals <= 1 else f"the best ranked of {rivals} CT image series"
    )
    return f"{kernel}, {thickness} mm slices, {len(chosen.files)} images: {against}."


def why_not(other: Candidate, chosen: Candidate) -> str:
    """Reason for Series.not_selected of a series that was not tried."""
    if other.excluded:
        return other.excluded[1]
    if other.acquisition != chosen.acquisition:
        return "another acquisition of the same study"
    names = ("sharper kernel", "slices further from 3-6 mm", "less coverage", "more noise")
    pairs = zip(names, rank(other.summary), rank(chosen.summary), strict=False)
    return next((name for name, mine, best in pairs if mine != best), "equal; the other was taken")


def _candidate(files: Sequence[DicomFile]) -> Candidate:
    images = [f for f in files if _is_image(f)] or list(files)
    left_out = len(files) - len(images)
    contrast = {k for f in images for k in contrast_attributes(tags.contrast_tags(f.header))}
    images, odd = without_odd_images(images)
    images, passes = latest_pass(images)
    images, overlapping = without_overlap(images)
    first = images[0].header
    values = summary_from_tags(tags.summary_tags(first), slices=len(images))
    numbers = {tags.number(f.header, "AcquisitionNumber") for f in images}
    planes = [p for f in images if (p := slice_plane(f.header)) is not None]
    offsets = [float(p.position_mm @ planes[0].normal) for p in planes]
    thicknesses = [p.thickness_mm for p in planes if p.thickness_mm is not None]
    times = [t for f in images if (t := _acquisition_time(f)) is not None]
    summary = replace(
        values,
        acquisition_number=values.acquisition_number if len(numbers) == 1 else None,
        acquisition_time_s=min(times, default=None),
        contrast_given=bool(contrast),
        contrast_attributes=tuple(sorted(contrast)),
        slice_thickness_mm=float(np.median(thicknesses)) if thicknesses else None,
        extent_mm=max(offsets) - min(offsets) + max(thicknesses, default=0.0) if offsets else None,
    )
    odd_numbers = (tags.number(f.header, "InstanceNumber") for f in odd)
    numbers_of_odd = tuple("unknown" if n is None else str(int(n)) for n in odd_numbers)
    return Candidate(
        summary,
        tuple(images),
        left_out,
        numbers_of_odd,
        passes,
        overlapping,
        excluded=exclusion(summary),
    )


def _is_image(file: DicomFile) -> bool:
    summary = summary_from_tags(tags.summary_tags(file.header))
    return summary.is_ct and not summary.is_localizer


def _acquisition_time(file: DicomFile) -> float | None:
    keywords = ("AcquisitionDateTime", "AcquisitionTime", "AcquisitionDate")
    return summary_from_tags({k: tags.text(file.header, k) for k in keywords}).acquisition_time_s


def _with_noise(
    candidates: list[Candidate], noise_hu: Callable[[Candidate], float | None]
) -> list[Candidate]:
    tied: dict[tuple[object, ...], list[Candidate]] = defaultdict(list)
    for c in candidates:
        if c.excluded is None:
            tied[rank(c.summary)[:_BEFORE_NOISE]].append(c)
    noisy = {c.uid: noise_hu(c) for group in tied.values() if len(group) > 1 for c in group}
    return [
        replace(c, summary=replace(c.summary, noise_hu=noisy[c.uid])) if c.uid in noisy else c
        for c in candidates
    ]


def _acquisitions(candidates: Sequence[Candidate]) -> list[tuple[SeriesSummary, ...]]:
    return group_acquisitions(c.summary for c in candidates)


def _acquisition_key(group: tuple[SeriesSummary, ...]) -> tuple[object, ...]:
    """Best usable series first; among equals the latest scan (an earlier one was repeated for a reason)."""
    usable = [s for s in group if exclusion(s) is None]
    best = min((rank(s)[:_BEFORE_NOISE] for s in usable), default=(9,))
    date = int(group[0].acquisition_date or 0)
    return not usable, best, -date, -(group[0].acquisition_time_s or 0.0), group[0].series_instance_uid
