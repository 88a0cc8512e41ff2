"""What one series holds beside the stack to score: a scout in another plane, an earlier pass over the head,
the ends of slabs that overlap.

Headers only. Nothing is taken apart that does not fall apart by itself: whole stacks over the same range, or
slabs of other slices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from itertools import pairwise
from typing import Final

import numpy as np

from strokecore.reading import tags
from strokecore.reading.acquisition import DAY_S, rank, summary_from_tags
from strokecore.reading.files import DicomFile
from strokecore.reading.geometry import (
    HOLE_RATIO,
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
MAX_SLABS: Final = 3  # kinds of slices in one series; more are numbers that count slices
MAX_OVERLAP: Final = 0.5  # of like slabs, in the length of the shorter; as much is a repeated scan
SAME_THICKNESS: Final = 1.1  # thicknesses of one slab are written alike
_MOMENT: Final = ("AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")


_BY_QUALITY: Final = 2  # rank(): kernel and thickness

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


def without_overlap(files: Sequence[DicomFile]) -> tuple[list[DicomFile], int]:
    """The files without those slices of a slab that another slab shows too, and how many those are.

    Only where a series cannot be read as it is, since positions are held twice or the slices are woven
    together. Slabs are told apart by thickness; where thickness does not tell, by AcquisitionNumber or the
    time of acquisition, and then only slabs of which each goes on where the other ends: a second scan of a
    part may be a repeat, and which of the two to read is not for us to say. Nothing is left out where the
    rest would have a gap.
    """
    known = [(f, p) for f in files if (p := slice_plane(f.header)) is not None]
    if len(known) < len(files) or not known:
        return list(files), 0
    normal = known[0][1].normal
    places = sorted(((float(p.position_mm @ normal), f, p) for f, p in known), key=lambda place: place[0])
    if not _tangled(places):
        return list(files), 0
    kept = _untangled(_slabs(places, _thickness_classes(places))) or _joined(
        _slabs(places, lambda place: tags.number(place[1].header, "AcquisitionNumber"))
        or _slabs(places, lambda place: _moment_s(place[1]))
    )
    if not kept or _hides_a_gap(sorted(kept, key=lambda place: place[0])):
        return list(files), 0
    return [f for _, f, _ in kept], len(files) - len(kept)


def _tangled(places: Sequence[_Place]) -> bool:
    gaps = np.diff([place[0] for place in places])
    return bool(gaps.size) and bool(
        gaps.min() < SAME_POSITION_MM or missing_gaps(gaps, [place[2].thickness_mm for place in places])
    )


def _hides_a_gap(places: Sequence[_Place]) -> bool:
    """Whether places in order, copies of one slice aside, leave tissue out and would be read all the same."""
    once = [p for n, p in enumerate(places) if not n or p[0] - places[n - 1][0] >= SAME_POSITION_MM]
    gaps, thicknesses = np.diff([place[0] for place in once]), [place[2].thickness_mm for place in once]
    return bool(unscanned_gaps(gaps, thicknesses)) and not missing_gaps(gaps, thicknesses)


def _thickness_classes(places: Sequence[_Place]) -> Callable[[_Place], float | None]:
    """To each place the thinnest thickness that is written like its own."""
    declared = sorted({t for place in places if (t := place[2].thickness_mm) is not None})
    classes: dict[float, float] = {}
    for thickness in declared:
        near = [c for c in classes.values() if thickness <= c * SAME_THICKNESS]
        classes[thickness] = near[0] if near else thickness
    return lambda place: classes.get(place[2].thickness_mm or 0.0)


def _slabs(places: Sequence[_Place], kind: Callable[[_Place], float | None]) -> list[list[_Place]]:
    """Stretches of slices of one kind, each without a hole; [] when there is one kind, or one is unknown."""
    groups: dict[float | None, list[_Place]] = defaultdict(list)
    for place in places:
        groups[kind(place)].append(place)
    if None in groups or not 2 <= len(groups) <= MAX_SLABS:
        return []
    return [slab for group in groups.values() for slab in _without_holes(group)]


def _without_holes(group: Sequence[_Place]) -> list[list[_Place]]:
    """Cut where another slab may lie between; copies of one slice stay together."""
    gaps = np.diff([place[0] for place in group])
    apart = gaps[gaps >= SAME_POSITION_MM]
    widest = HOLE_RATIO * float(np.median(apart)) if apart.size else 0.0
    pieces = [[group[0]]]
    for place, gap in zip(group[1:], gaps, strict=True):
        if gap > max(widest, SAME_POSITION_MM):
            pieces.append([])
        pieces[-1].append(place)
    return pieces


def _untangled(slabs: Sequence[list[_Place]]) -> list[_Place]:
    """Of each slab what no better one shows: first what spans the whole series, then thick before thin.

    At a joint the thick slices stay, since a thin one in their place would leave the rest of their tissue
    unread.
    """
    if not slabs:
        return []
    low, high = min(s[0][0] for s in slabs), max(s[-1][0] for s in slabs)

    def order(slab: list[_Place]) -> tuple[object, ...]:
        thickness = slab[0][2].thickness_mm or 0.0
        slack = max(thickness, 2 * SAME_POSITION_MM)
        whole = slab[0][0] - low < slack and high - slab[-1][0] < slack
        quality = rank(summary_from_tags(tags.summary_tags(slab[0][1].header)))[:_BY_QUALITY]
        return (not whole, *(quality if whole else ()), -thickness, slab[0][0])

    return _outside_each_other(sorted(slabs, key=order))


def _joined(slabs: Sequence[list[_Place]]) -> list[_Place]:
    """Slabs of like slices, the later scan first; [] where two lie more over each other than side by side."""
    upwards = sorted(slabs, key=lambda slab: (slab[0][0], slab[-1][0]))
    for below, above in pairwise(upwards):
        shorter = min(slab[-1][0] - slab[0][0] for slab in (below, above))
        if min(below[-1][0], above[-1][0]) - above[0][0] >= MAX_OVERLAP * shorter:
            return []

    def order(slab: list[_Place]) -> tuple[float, float, float]:
        number = tags.number(slab[0][1].header, "AcquisitionNumber")
        return -(_moment_s(slab[0][1]) or 0.0), -(number or 0.0), slab[0][0]

    return _outside_each_other(sorted(slabs, key=order))


def _outside_each_other(slabs: Sequence[list[_Place]]) -> list[_Place]:
    """What of each slab lies outside all before it."""
    kept: list[_Place] = []
    spans: list[tuple[float, float]] = []
    for slab in slabs:
        kept += [
            place
            for place in slab
            if not any(a - SAME_POSITION_MM < place[0] < b + SAME_POSITION_MM for a, b in spans)
        ]
        spans.append((slab[0][0], slab[-1][0]))
    return kept


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
