"""What one series holds beside the stack to score: a scout in another plane, an earlier pass over the head.

Headers only. Nothing is taken apart that does not fall apart by itself: whole stacks over the same range.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Final

import numpy as np

from strokecore.reading import tags
from strokecore.reading.acquisition import DAY_S, summary_from_tags
from strokecore.reading.files import DicomFile
from strokecore.reading.geometry import (
    SAME_POSITION_MM,
    SlicePlane,
    angle_deg,
    missing_gaps,
    slice_plane,
    unscanned_gaps,
)

MAX_ODD_IMAGES: Final = 2  # a lateral and a frontal scout; more are a stack of their own
ODD_ANGLE_DEG: Final = 20.0  # of another plane; slices turned within theirs are a fault of the stack
MIN_SLICES: Final = 8  # of a pass, and of the stack that odd images are left out of
MAX_PASSES: Final = 3  # more are a perfusion or bolus series
_MOMENT: Final = ("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")


_Place = tuple[float, DicomFile, SlicePlane]  # offset along the normal, millimetres


def without_odd_images(files: Sequence[DicomFile]) -> tuple[list[DicomFile], list[DicomFile]]:
    """``files`` without one or two that lie in another plane than all the others, and those."""
    known = [(f, p) for f in files if (p := slice_plane(f.header)) is not None]
    for _, main in known[: MAX_ODD_IMAGES + 1]:
        odd = [f for f, p in known if _angle_deg(p, main) > ODD_ANGLE_DEG]
        if len(odd) <= MAX_ODD_IMAGES:
            break
    else:
        return list(files), []
    if len(files) - len(odd) < MIN_SLICES:
        return list(files), []
    return [f for f in files if f not in odd], odd


def latest_pass(files: Sequence[DicomFile]) -> tuple[list[DicomFile], int]:
    """The files of the last complete pass, and how many passes there are; all files when there is one.

    Passes are told apart by AcquisitionNumber, else by the acquisition time at each position. Where they are
    not all complete, or neither tells them apart, nothing is left out.
    """
    known = [(f, p) for f in files if (p := slice_plane(f.header)) is not None]
    if len(known) < max(len(files), 2 * MIN_SLICES):
        return list(files), 1
    normal = known[0][1].normal
    places = sorted(((float(p.position_mm @ normal), f, p) for f, p in known), key=lambda place: place[0])
    passes = _by_number(places) or _by_time(places)
    return ([f for _, f, _ in passes[-1]], len(passes)) if passes else (list(files), 1)


def _by_number(places: Sequence[_Place]) -> list[list[_Place]]:
    """Passes in the order of their time, or of their number where that is not known; [] when there is one."""
    groups: dict[float | None, list[_Place]] = defaultdict(list)
    for place in places:
        groups[tags.number(place[1].header, "AcquisitionNumber")].append(place)
    if None in groups or not 2 <= len(groups) <= MAX_PASSES:
        return []
    if not all(_complete(group, places) for group in groups.values()):
        return []
    began = {n: [_moment_s(f) for _, f, _ in group] for n, group in groups.items()}
    if any(None in moments for moments in began.values()):
        return [groups[n] for n in sorted(n for n in groups if n is not None)]
    return [groups[n] for n in sorted(groups, key=lambda n: (min(m for m in began[n] if m is not None), n))]


def _by_time(places: Sequence[_Place]) -> list[list[_Place]]:
    """Passes when each position was scanned as often, and one pass was over before the next began."""
    positions = [[places[0]]]
    for place in places[1:]:
        if place[0] - positions[-1][0][0] < SAME_POSITION_MM:
            positions[-1].append(place)
        else:
            positions.append([place])
    times = len(positions[0])
    if not 2 <= times <= MAX_PASSES or any(len(here) != times for here in positions):
        return []
    moments = {id(f): _moment_s(f) for _, f, _ in places}
    if None in moments.values():
        return []
    ordered = [sorted(here, key=lambda place: moments[id(place[1])] or 0.0) for here in positions]
    passes = [[here[n] for here in ordered] for n in range(times)]
    spans = [[moments[id(f)] or 0.0 for _, f, _ in one] for one in passes]
    if any(max(earlier) >= min(later) for earlier, later in pairwise(spans)):
        return []
    return passes if all(_complete(one, places) for one in passes) else []


def _complete(group: Sequence[_Place], everything: Sequence[_Place]) -> bool:
    """Whether ``group`` alone scans the whole range of the series, each place once and without a gap."""
    if len(group) < MIN_SLICES:
        return False
    offsets = np.array([place[0] for place in group])
    gaps = np.diff(offsets)
    thicknesses = [place[2].thickness_mm for place in group]
    slack = float(np.median(gaps))
    whole = offsets[0] - everything[0][0] <= slack and everything[-1][0] - offsets[-1] <= slack
    return bool(
        whole
        and gaps.min() >= SAME_POSITION_MM
        and not missing_gaps(gaps, thicknesses)
        and not unscanned_gaps(gaps, thicknesses)
    )


def _angle_deg(plane: SlicePlane, main: SlicePlane) -> float:
    angle = angle_deg(plane.normal, main.normal)
    return min(angle, 180.0 - angle)


def _moment_s(file: DicomFile) -> float | None:
    """Seconds of the acquisition since some day long ago; None when the header does not say."""
    said = summary_from_tags({keyword: tags.text(file.header, keyword) for keyword in _MOMENT})
    if said.acquisition_time_s is None:
        return None
    try:
        day = date.fromisoformat(said.acquisition_date).toordinal() if said.acquisition_date else 0
    except ValueError:
        return None
    return day * DAY_S + said.acquisition_time_s
