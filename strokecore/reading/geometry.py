"""Where the slices of one series lie: order, gaps, tilt, from position and orientation alone.

All vectors are LPS (x, y, z), millimetres. File names and InstanceNumber are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset

from strokecore.arrays import Float64Array
from strokecore.reading import tags

Vector = Float64Array

UNIT_TOLERANCE: Final = 1e-2  # direction cosines written with few digits are still directions
PARALLEL_TOLERANCE_DEG: Final = 0.1  # slices of one stack differ by rounding only
MAX_AXIAL_ANGLE_DEG: Final = 40.0  # gantries tilt to 30 degrees; coronal and sagittal lie at 90
SAME_POSITION_MM: Final = 0.1  # CT slices are never reconstructed this close
GAP_TOLERANCE: Final = 0.05  # positions are rounded to 0.1-0.01 mm: gaps within 5 % are equal
MAX_PIXEL_SPACING_MM: Final = 3.0  # the largest field of view of a CT is 1 m over 512 pixels
MAX_SLICE_THICKNESS_MM: Final = 100.0  # anything above is a slip of the keyboard, not a slice
MAX_POSITION_MM: Final = 1e5

# Neighbouring slices are contiguous when their gap is about their mean thickness. A hole is clearly
# more; in between (real scanners change thickness within a scan) is a warning only.
HOLE_RATIO: Final = 1.8
GAP_RATIO: Final = 1.25


@dataclass(frozen=True, eq=False)
class SlicePlane:
    """Plane and pixel grid of one slice.

    Attributes
    ----------
    position_mm: float64 [3], centre of the first pixel.
    row_direction, column_direction: float64 [3], unit vectors of increasing column and row index.
    pixel_spacing_mm: (along j, along i).
    shape: (rows, columns).
    thickness_mm: declared, or None.
    """

    position_mm: Vector
    row_direction: Vector
    column_direction: Vector
    pixel_spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float | None

    @property
    def normal(self) -> Vector:
        """Unit normal, ``slice_normal``."""
        return slice_normal(self.row_direction, self.column_direction)


def slice_normal(row_direction: Vector, column_direction: Vector) -> Vector:
    """Unit normal (LPS) of slices with these directions of increasing column and row index: row x column."""
    return np.cross(row_direction, column_direction)


def slice_plane(header: Dataset) -> SlicePlane | None:
    """Geometry of one instance; None when an attribute is absent or no geometry (nothing is guessed)."""
    position = tags.numbers(header, "ImagePositionPatient", 3)
    orientation = tags.numbers(header, "ImageOrientationPatient", 6)
    spacing = tags.numbers(header, "PixelSpacing", 2)
    rows, columns = tags.number(header, "Rows"), tags.number(header, "Columns")
    if position is None or orientation is None or spacing is None or not rows or not columns:
        return None
    if not all(0 < s <= MAX_PIXEL_SPACING_MM for s in spacing):
        return None
    if max(abs(p) for p in position) > MAX_POSITION_MM:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if any(abs(length - 1) > UNIT_TOLERANCE for length in lengths) or abs(row @ column) > UNIT_TOLERANCE:
        return None
    row = row / lengths[0]
    column = column - row * (row @ column)  # exactly perpendicular
    column = column / np.linalg.norm(column)
    return SlicePlane(
        np.array(position),
        row,
        column,
        (spacing[0], spacing[1]),
        (int(rows), int(columns)),
        thickness_mm(header),
    )


def thickness_mm(header: Dataset) -> float | None:
    """Declared SliceThickness when it can be one."""
    value = tags.number(header, "SliceThickness")
    return value if value is not None and 0 < value <= MAX_SLICE_THICKNESS_MM else None


def angle_deg(a: Vector, b: Vector) -> float:
    """Angle between two directions, degrees 0-180."""
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(a, b))), float(a @ b)))


def off_axial_deg(plane: SlicePlane) -> float:
    """Angle between the slice and the patient's transverse plane, 0-90 degrees."""
    return math.degrees(math.acos(min(1.0, abs(float(plane.normal[2])))))


def parallel(planes: Sequence[SlicePlane]) -> bool:
    """Whether all slices share both directions (not only the normal)."""
    first = planes[0]
    return all(
        angle_deg(p.row_direction, first.row_direction) <= PARALLEL_TOLERANCE_DEG
        and angle_deg(p.column_direction, first.column_direction) <= PARALLEL_TOLERANCE_DEG
        for p in planes
    )


def same_grid(planes: Sequence[SlicePlane]) -> bool:
    """Whether all slices share matrix and pixel spacing."""
    first = planes[0]
    return all(
        p.shape == first.shape and np.allclose(p.pixel_spacing_mm, first.pixel_spacing_mm, rtol=1e-3)
        for p in planes
    )


def tilt_deg(positions_mm: Vector, normal: Vector) -> float:
    """Signed angle between the stacking direction and the slice normal; 0 = no shear.

    Positive when the normal, seen as pointing upwards, leans to posterior from the stacking direction
    (to the patient's left, if the shear is sideways). The sign does not depend on the order of slices
    or on flipped rows and columns. Manufacturers disagree on the sign of GantryDetectorTilt.

    positions_mm: float64 [k, 3] in order along ``normal``, k >= 2.
    """
    stacking = positions_mm[-1] - positions_mm[0]
    stacking = stacking / np.linalg.norm(stacking)
    lean = (normal - stacking * (normal @ stacking)) * (1.0 if normal[2] >= 0 else -1.0)
    main = lean[1] if abs(lean[1]) >= abs(lean[0]) else lean[0]
    return math.copysign(angle_deg(stacking, normal), float(main)) if main else 0.0


def off_line_mm(positions_mm: Vector) -> float:
    """Largest distance of a slice's origin from the straight line through first and last origin."""
    line = positions_mm[-1] - positions_mm[0]
    line = line / np.linalg.norm(line)
    rest = positions_mm - positions_mm[0]
    return float(np.linalg.norm(rest - np.outer(rest @ line, line), axis=1).max())


def missing_gaps(gaps_mm: Vector, thicknesses_mm: Sequence[float | None]) -> list[int]:
    """Indices of gaps in which at least one slice is missing; ``gaps_mm`` [k-1], ``thicknesses_mm`` [k].

    A gap counts when it is a multiple of the regular spacing beside it and does not go on as a regular
    spacing of its own: it lies between two stretches of the same regular spacing, or it is a single gap
    clearly wider than its slices are thick. A protocol that changes from thin to thick slices on the way
    up is no missing slice.
    """
    runs = _runs(gaps_mm)
    missing: list[int] = []
    for r, (start, stop) in enumerate(runs):
        value = float(gaps_mm[start])
        before = _regular(gaps_mm, runs, r - 1)
        after = _regular(gaps_mm, runs, r + 1)
        multiple_before = before is not None and _is_multiple(value, before)
        multiple_after = after is not None and _is_multiple(value, after)
        hole = (
            stop - start == 1 and _gap_ratio(value, thicknesses_mm[start], thicknesses_mm[stop]) > HOLE_RATIO
        )
        unknown_thickness = thicknesses_mm[start] is None or thicknesses_mm[stop] is None
        flanked = (
            before is not None and after is not None and math.isclose(before, after, rel_tol=GAP_TOLERANCE)
        )
        of_slabs = _meeting(value, stop - start, before, after) or _thick_slab(
            list(thicknesses_mm), start, stop, value
        )
        if not of_slabs and (
            (flanked and multiple_before)
            or (hole and (multiple_before or multiple_after or len(runs) > 1))
            or (stop - start == 1 and unknown_thickness and (multiple_before or multiple_after))
        ):
            missing.extend(range(start, stop))
    return missing


def unscanned_gaps(gaps_mm: Vector, thicknesses_mm: Sequence[float | None]) -> list[int]:
    """Indices of gaps wider than the slices beside them are thick: tissue that was not scanned."""
    return [
        g
        for g, gap in enumerate(gaps_mm)
        if _gap_ratio(float(gap), thicknesses_mm[g], thicknesses_mm[g + 1]) > GAP_RATIO
    ]


def even(gaps_mm: Vector) -> bool:
    return bool(np.allclose(gaps_mm, np.median(gaps_mm), rtol=GAP_TOLERANCE))


def _runs(gaps_mm: Vector) -> list[tuple[int, int]]:
    """Stretches [start, stop) of equal gaps."""
    edges = [0]
    for g in range(1, len(gaps_mm)):
        if not math.isclose(float(gaps_mm[g]), float(gaps_mm[edges[-1]]), rel_tol=GAP_TOLERANCE):
            edges.append(g)
    return list(zip(edges, [*edges[1:], len(gaps_mm)], strict=True))


def _regular(gaps_mm: Vector, runs: list[tuple[int, int]], r: int) -> float | None:
    """The spacing of run ``r``; None where there is no such run or it is a single odd gap."""
    if not 0 <= r < len(runs):
        return None
    start, stop = runs[r]
    value = float(np.mean(gaps_mm[start:stop]))
    elsewhere = any(
        math.isclose(float(gaps_mm[a]), value, rel_tol=GAP_TOLERANCE) and (a, b) != (start, stop)
        for a, b in runs
    )
    return value if stop - start > 1 or elsewhere else None


def _thick_slab(thicknesses_mm: list[float | None], start: int, stop: int, gap: float) -> bool:
    """Whether gaps [start, stop) are wide because their slices are thicker than those below and above."""
    inside = [t for t in thicknesses_mm[start + 1 : stop] if t is not None]
    flanks = thicknesses_mm[max(0, start - 1) : start] + thicknesses_mm[stop + 1 : stop + 2]
    beside = [t for t in flanks if t is not None]
    if not inside or not beside:
        return False
    return gap <= GAP_RATIO * min(inside) and min(inside) > GAP_RATIO * max(beside)


def _meeting(gap: float, count: int, before: float | None, after: float | None) -> bool:
    """Whether one gap joins two spacings and is wider than neither: what a protocol does between two slabs.

    Told without thicknesses, since some scanners write those of the first slab into all slices.
    """
    if count > 1 or before is None or after is None or math.isclose(before, after, rel_tol=GAP_TOLERANCE):
        return False
    return gap <= max(before, after) * (1 + GAP_TOLERANCE)


def _is_multiple(gap: float, spacing: float) -> bool:
    times = round(gap / spacing)
    return times >= 2 and abs(gap / spacing - times) <= GAP_TOLERANCE * times


def _gap_ratio(gap: float, below: float | None, above: float | None) -> float:
    """Gap over the mean thickness of the slices beside it; 1 where a thickness is not known."""
    return 1.0 if below is None or above is None else gap / ((below + above) / 2)
