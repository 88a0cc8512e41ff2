"""DICOM files in, one checked CT series out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from strokecore.arrays import BoolArray, Float32Array, Float64Array
from strokecore.errors import Refusal, UsageError
from strokecore.flags import QualityFlag
from strokecore.reading.candidates import (
    Candidate,
    find_candidates,
    one_patient_a_series,
    one_study,
    why_chosen,
    why_not,
)
from strokecore.reading.files import DicomFile, Folder, find_dicom, headers_in_memory
from strokecore.reading.geometry import slice_normal
from strokecore.reading.stack import Stack, noise_hu, read_stack, refuse_wrongly_excluded
from strokecore.reading.tags import quiet_pydicom

if TYPE_CHECKING:
    from pydicom import Dataset

_log = logging.getLogger(__name__)

# When nothing could be read, the reason told is the one that says most about what was sent.
_TELLING: Final = ("contrast_agent", "not_hounsfield", "not_head", "localizer_only", "not_ct")


@dataclass(frozen=True, eq=False)
class Series:
    """One axial CT series, ordered and in Hounsfield units.

    Attributes
    ----------
    hu: float32 [k, j, i] (slice, row, column), clamped to >= -1024; padding is -1024.
        k increases along ``normal`` (row_direction x column_direction), not necessarily upwards.
    positions_mm: float64 [k, 3], ImagePositionPatient (LPS) of each slice.
    row_direction: float64 [3], unit vector (LPS) of increasing column index i.
    column_direction: float64 [3], unit vector (LPS) of increasing row index j.
    pixel_spacing_mm: (spacing along j, spacing along i), as in DICOM PixelSpacing.
    slice_thickness_mm: declared SliceThickness (the median, where it changes within the series), or the
        median gap when it is absent.
    tilt_deg: signed angle between the stacking direction and the slice normal; 0 = no shear. Positive
        when the upward normal leans to posterior from the stacking direction.
    datasets: headers without PixelData, in k order.
    chosen_because: plain sentence saying why this series was taken among its acquisition's.
    digest: sha256 hex of geometry, rescale and pixels of every slice, in order.
    not_selected: (SeriesInstanceUID, reason) of the study's other series.
    flags: warnings and information found while reading.
    study_datasets: header of one instance of every other series in the same folder and study.
    """

    hu: Float32Array
    positions_mm: Float64Array
    row_direction: Float64Array
    column_direction: Float64Array
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    tilt_deg: float
    datasets: tuple[Dataset, ...]
    chosen_because: str
    digest: str
    not_selected: tuple[tuple[str, str], ...] = ()
    flags: tuple[QualityFlag, ...] = field(default=())
    study_datasets: tuple[Dataset, ...] = ()

    @property
    def normal(self) -> Float64Array:
        """Unit slice normal (LPS), row_direction x column_direction; float64 [3]."""
        return slice_normal(self.row_direction, self.column_direction)

    @property
    def slice_offsets_mm(self) -> Float64Array:
        """Strictly increasing position of each slice along ``normal``; float64 [k]."""
        return self.positions_mm @ self.normal

    def ml(self, mask: BoolArray) -> float:
        """Volume of a mask [k, j, i], millilitres; slices reach half-way to their neighbours."""
        offsets = self.slice_offsets_mm
        heights = np.gradient(offsets) if len(offsets) > 1 else np.array([self.slice_thickness_mm])
        area = mask.sum(axis=(1, 2)) * float(np.prod(self.pixel_spacing_mm))
        return float((area * heights).sum() / 1000.0)

    @property
    def series_instance_uid(self) -> str:
        return str(self.datasets[0].SeriesInstanceUID)


def read_series(folder: Path, series_uid: str | None = None) -> Series:
    """Find and read the head NCCT in ``folder``, whatever else lies there.

    ``series_uid`` forces one series (the folder may then hold several patients or studies; the others
    are passed over). Otherwise series are tried in the order of their rank, and the first that can be
    scored is taken. Raises Refusal (codes: docs/codes.md) and UsageError, nothing else.
    """
    with quiet_pydicom():
        return _read_series(folder, series_uid)


def read_candidate_header(folder: Path, series_uid: str | None = None) -> Dataset | None:
    """Header (no PixelData) of the series that looks most like a head NCCT, after a Refusal.

    For the outputs that tell the study's readers why nothing was scored: they inherit patient and study
    from it. None when there is no such series, or when it is not certain whose it is.
    """

    with quiet_pydicom():
        try:
            _, candidates = _study(folder, series_uid)
        except (Refusal, UsageError):
            return None
        asked = [c for c in candidates if series_uid in (None, c.uid)]
        usable = [c for c in asked if c.excluded is None] or [c for c in asked if _wrongly_excluded(c)]
        return _most_like_a_head(usable)


def candidate_header_in_memory(contents: Iterable[bytes]) -> Dataset | None:
    """The same of encoded instances, one or more of each series of a study; no pixel is looked at."""
    with quiet_pydicom():
        files = headers_in_memory(contents)
        try:
            one_study(files)
            one_patient_a_series(files)
            candidates = find_candidates(files, lambda candidate: None)
        except Refusal:
            return None
        # without a look at the pixels an excluded series may be anything
        return _most_like_a_head([c for c in candidates if c.excluded is None])


def _most_like_a_head(candidates: Sequence[Candidate]) -> Dataset | None:
    # stable sort: within each kind the order of rank stays
    ordered = sorted(candidates, key=lambda c: not c.summary.tags_say_head)
    return ordered[0].files[0].header if ordered else None


def _read_series(folder: Path, series_uid: str | None) -> Series:
    found, candidates = _study(folder, series_uid)
    tried = [c for c in candidates if c.uid == series_uid] if series_uid else candidates
    refusals: list[tuple[Candidate, Refusal]] = []
    for candidate in tried:
        try:
            stack = read_stack(candidate)
        except Refusal as refusal:
            _log.info("a series was not usable: %s", refusal.code)
            refusals.append((candidate, refusal))
            continue
        return _series(candidate, stack, candidates, refusals, found, forced=series_uid is not None)
    telling = _most_telling([refusal for _, refusal in refusals])
    if telling.ineligible:  # nothing of the study is a native head by its header
        for candidate in tried:
            refuse_wrongly_excluded(candidate)
    raise telling


def _wrongly_excluded(candidate: Candidate) -> bool:
    try:
        refuse_wrongly_excluded(candidate)
    except Refusal:
        return True
    return False


def _study(folder: Path, series_uid: str | None) -> tuple[Folder, list[Candidate]]:
    """The folder's files and the candidates of its one study, best first. Raises Refusal, UsageError."""
    found = find_dicom(folder)
    files: Sequence[DicomFile] = found.files
    if series_uid is not None:
        forced = [f for f in files if f.series_uid == series_uid]
        if not forced:
            raise UsageError("No image in the folder belongs to the series asked for; check its UID.")
        one_study(forced)
        one_patient_a_series(forced)
        files = [f for f in files if f.patient_and_study == forced[0].patient_and_study]
    if not files:
        raise Refusal(
            "no_dicom",
            f"No readable DICOM image in the folder ({found.damaged} damaged or unreadable files).",
            _unpack(found) or "Check the folder and the permissions of its files.",
            ineligible=True,
        )
    one_study(files)
    if series_uid is None:
        one_patient_a_series(files)
    return found, find_candidates(files, noise_hu)


def _unpack(found: Folder) -> str:
    """The remedy for a folder of archives; "" when it holds none. File names can be patients' names."""
    kinds = sorted(set(found.archives))
    what = "an archive" if len(found.archives) == 1 else f"{len(found.archives)} archives"
    return (
        f"The folder holds {what} ({', '.join(kinds)}): unpack it and name the new folder." if kinds else ""
    )


def _series(
    chosen: Candidate,
    stack: Stack,
    candidates: Sequence[Candidate],
    refusals: Sequence[tuple[Candidate, Refusal]],
    found: Folder,
    *,
    forced: bool,
) -> Series:
    refused = {c.uid: r for c, r in refusals}
    others = [c for c in candidates if c.uid != chosen.uid]
    reasons = tuple(
        (c.uid, refused[c.uid].message if c.uid in refused else why_not(c, chosen)) for c in others
    )
    because = (
        "it was asked for by its UID." if forced else why_chosen(chosen, candidates, stack.thickness_text)
    )
    return Series(
        hu=stack.hu,
        positions_mm=stack.positions_mm,
        row_direction=stack.row_direction,
        column_direction=stack.column_direction,
        pixel_spacing_mm=stack.pixel_spacing_mm,
        slice_thickness_mm=stack.slice_thickness_mm,
        tilt_deg=stack.tilt_deg,
        datasets=stack.datasets,
        chosen_because=because,
        digest=stack.digest,
        not_selected=reasons,
        flags=(*stack.flags, *_folder_flags(refusals, found)),
        study_datasets=tuple(c.files[0].header for c in others),
    )


def _folder_flags(refusals: Sequence[tuple[Candidate, Refusal]], found: Folder) -> list[QualityFlag]:
    flags = []
    head = [
        refusal for candidate, refusal in refusals if candidate.excluded is None and not refusal.ineligible
    ]
    if head:
        flags.append(
            QualityFlag(
                "better_series_refused",
                "warning",
                f"A series of higher rank could not be scored ({head[0].code}); another one was taken.",
                head[0].remedy,
            )
        )
    if found.damaged:
        flags.append(
            QualityFlag(
                "damaged_files",
                "warning",
                f"{found.damaged} files or folders could not be read and were skipped.",
                "Check that the whole series arrived.",
            )
        )
    return flags


def _most_telling(refusals: Sequence[Refusal]) -> Refusal:
    """A head CT that cannot be scored first, then what looked like one, then what the headers say."""
    return min(
        refusals,
        key=lambda r: (r.ineligible, _TELLING.index(r.code) + 1 if r.code in _TELLING else 0),
    )
