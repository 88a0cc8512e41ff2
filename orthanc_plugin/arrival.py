"""Whether a series that is still arriving looks like a whole head already.

Orthanc calls a series complete when nothing has come for StableAge, a minute by default and most of the way
from the scan to the score. A head's slices tell earlier: they are evenly spaced, none is missing between
them, and they reach from the skull base to the vertex. What is scored then is provisional: slices that come
after all make another acquisition of it, whose result replaces the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orthanc_plugin.orthanc_api import OrthancApi, parse_orthanc_time
from strokecore.reading.acquisition import SeriesSummary, kernel_kind, rank, thickness_class

if TYPE_CHECKING:
    from orthanc_plugin.study import Acquisition, Member

# From the foramen magnum to the vertex it is 130 mm and more in adults. A scan whose vertex has not come yet
# can be as long; the scorer knows it by its pixels (vertex_cut).
WHOLE_HEAD_MM: Final = 120.0
FEWEST_SLICES: Final = 12
FEWEST_OF_A_SLAB: Final = 3  # equal gaps; the head may be scanned in two slabs of different slices
_SPACING_TOLERANCE: Final = 0.1  # of a gap; positions are often rounded to 0.1 mm
_SAME_DIRECTION: Final = 1e-3
# A pause that is this many times as long as the sender's mean one is the end, not a hiccup.
PACES: Final = 5.0
PACE_SAMPLE: Final = 8  # slices whose arrival tells how fast the sender is
# A scored result that says this was made too early.
CUT_CODES: Final = frozenset({"base_cut", "vertex_cut", "base_not_scanned"})


def looks_whole(slices: Sequence[Mapping[str, str]], declared: int | None = None) -> bool:
    """Whether slices are a gapless stack as long as a head.

    Parameters
    ----------
    slices: Orthanc's main tags of each instance: ImagePositionPatient, ImageOrientationPatient,
        InstanceNumber.
    declared: how many images the sender says there are; None: it does not say.
    """
    if len(slices) < max(FEWEST_SLICES, declared or 0):
        return False
    places = [_offset_mm(tags) for tags in slices]
    normals = [normal for _, normal in places]
    if any(normal is None or math.dist(normal, normals[0] or ()) > _SAME_DIRECTION for normal in normals):
        return False  # a scout among them, or no geometry: the scorer looks at it when everything is there
    offsets = sorted(offset for offset, _ in places)
    gaps = [b - a for a, b in itertools.pairwise(offsets)]
    if offsets[-1] - offsets[0] < WHOLE_HEAD_MM or min(gaps) <= 0:
        return False
    return _even(gaps) and _numbers_follow([tags.get("InstanceNumber", "") for tags in slices])


def _even(gaps_mm: Sequence[float]) -> bool:
    """Whether a stack has one spacing, or two of them one after the other, and no hole."""
    runs: list[list[float]] = []
    for gap in gaps_mm:
        if runs and abs(gap - runs[-1][-1]) <= _SPACING_TOLERANCE * min(gap, runs[-1][-1]):
            runs[-1].append(gap)
        else:
            runs.append([gap])
    match runs:
        case [_]:
            return True
        case [below, above]:
            return min(len(below), len(above)) >= FEWEST_OF_A_SLAB
        case [below, [joint], above]:
            within = min(below[-1], above[0]) <= joint <= max(below[-1], above[0])
            return within and min(len(below), len(above)) >= FEWEST_OF_A_SLAB
    return False


def preferred(series: SeriesSummary) -> bool:
    """Whether no better reconstruction of the same scan is to be expected: a soft kernel, 3 to 6 mm."""
    soft = kernel_kind(series.kernel, series.description) == "soft"
    return soft and thickness_class(series.slice_thickness_mm) == 0


def pause_left_s(api: OrthancApi, acquisition: Acquisition, quiet_s: float, longest_s: float) -> float:
    """Seconds until the next look at an acquisition that is arriving; 0 or less: whole, and its sender ended.

    Parameters
    ----------
    quiet_s: the pause that ends a fast sender. longest_s: nothing waits longer, whatever the clocks say.

    Raises NotFound, OrthancError.
    """
    best = min(acquisition.candidates, key=lambda m: rank(m.summary))
    if not preferred(best.summary) or not all(m.whole or m.stable for m in acquisition.candidates):
        return quiet_s
    now = datetime.now(UTC)
    left = []
    for member in (m for m in acquisition.candidates if not m.stable):
        if member.last_update is None:
            return quiet_s
        pause = pause_s(_first_arrival(api, member), member.last_update, len(member.instances), quiet_s)
        left.append(min(pause - (now - member.last_update).total_seconds(), longest_s))
    return max(left, default=0.0)


def pause_s(first: datetime | None, last: datetime, count: int, least_s: float) -> float:
    """Seconds without a slice after which the sender has ended, by its own pace.

    ``first``, ``last``: when the first and the last of ``count`` slices came.
    """
    if first is None or count < 2:
        return least_s
    return max(least_s, PACES * max(0.0, (last - first).total_seconds()) / (count - 1))


def _first_arrival(api: OrthancApi, member: Member) -> datetime | None:
    """About when the first slice came: identifiers are hashes, so a few are from anywhere in the stack."""
    sample = [identifier for identifier, _ in member.instances[:PACE_SAMPLE]]
    texts = [
        api.get_bytes(f"/instances/{i}/metadata/ReceptionDate").decode("ascii", "replace") for i in sample
    ]
    return min((t for t in map(parse_orthanc_time, texts) if t is not None), default=None)


def _offset_mm(tags: Mapping[str, str]) -> tuple[float, tuple[float, float, float] | None]:
    """Place along the slice's normal, and the normal; (0, None) where the tags do not tell."""
    position, rows = (
        _values(tags.get("ImagePositionPatient", "")),
        _values(tags.get("ImageOrientationPatient", "")),
    )
    if len(position) != 3 or len(rows) != 6:
        return 0.0, None
    (a, b, c), (d, e, f) = rows[:3], rows[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return sum(x * n for x, n in zip(position, normal, strict=True)), normal


def _values(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split("\\")]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def _numbers_follow(texts: Sequence[str]) -> bool:
    """Whether the slices are numbered without a hole; they need not be numbered one by one at all."""
    numbers = sorted({int(text) for text in texts if text.strip().isdecimal()})
    return len(numbers) < len(texts) or numbers[-1] - numbers[0] + 1 == len(numbers)
