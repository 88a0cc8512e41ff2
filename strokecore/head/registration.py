"""Lay the atlas onto one head: template to canonical head coordinates, with a check that refuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage
from scipy.linalg import polar
from scipy.spatial.transform import Rotation

from strokecore.anatomy.atlas import Atlas
from strokecore.anatomy.regions import ALL_REGIONS, GANGLIONIC, SUPRAGANGLIONIC, RegionId
from strokecore.arrays import BoolArray, Float32Array, Float64Array, dice
from strokecore.errors import Refusal
from strokecore.head.alignment import Image, align
from strokecore.head.brain import Brain
from strokecore.head.frame import HEAD_ORIGIN_IN_TEMPLATE_MM, TYPICAL_SCALE
from strokecore.head.grid import Grid
from strokecore.head.image import brain_image, clearly_seen, template_image
from strokecore.head.warp import Warp, fit_warp

log = logging.getLogger(__name__)

# For images of which only the place matters.
_NOTHING: Final = np.zeros((0, 0, 0), np.float32)

# Both images are compared on grids of about this spacing, after this smoothing.
_GRID_MM: Final = 3.0
_SMOOTHING_MM: Final = 2.5
_HUBER_HU: Final = 8.0

# The template's brain stem ends with the MNI volume, a head's with the scan: overlap is judged above this.
_OVERLAP_FLOOR_MM: Final = -45.0
# Refused is what overlaps badly or lies turned: sound heads of any shape (0.8 to 1.2 of the usual along each
# axis, wide ventricles, 15 degrees off) leave an overlap of 0.94 and more; heads upside down, mirrored in
# height, turned by 90 degrees, and halves of heads reach 0.79-0.87, and a front that lies behind or a plain
# ball of tissue turns by 29 degrees and more. Stretches only bound what an affine map may invent.
_LEAST_DICE: Final = 0.9
_SCALES: Final = (0.55, 1.5)
_MOST_ANISOTROPY: Final = 1.9
_MOST_TURN_DEG: Final = 25.0
_MOST_RESIDUAL_HU: Final = 13.0
_LEAST_LEVEL_COVERED: Final = 0.5


@dataclass(frozen=True, eq=False)
class Registration:
    """The atlas in one head.

    Attributes
    ----------
    head_from_template: float64 [4, 4], affine, millimetres (x, y, z).
    residual_hu: root of the mean robust squared difference between template and head.
    dice: overlap of the intracranial spaces, of what was scanned.
    region_coverage: share of each atlas region that lies inside the scan, 0-1.
    warp: the person-specific refinement, applied to head points before the inverse of the affine map.
    """

    head_from_template: Float64Array
    residual_hu: float
    dice: float
    region_coverage: Mapping[RegionId, float]
    warp: Warp | None = None

    def template_points(self, points: Float64Array) -> Float64Array:
        """Template coordinates of head points [n, 3], refinement included."""
        template_from_head = np.linalg.inv(self.head_from_template)
        moved = points if self.warp is None else self.warp.moved(points)
        return np.asarray(moved @ template_from_head[:3, :3].T + template_from_head[:3, 3])


def register_atlas(
    hu: Float32Array, brain: Brain, frame_grid: Grid, covered: BoolArray, atlas: Atlas
) -> Registration:
    """Fit an affine map from the template to this head, then a smooth refinement.

    Parameters
    ----------
    hu, covered: [z, y, x] on ``frame_grid``.

    Raises
    ------
    Refusal: "registration_failed", or "incomplete_coverage" when an ASPECTS level was not scanned.
    """
    spacing_mm, origin_mm = frame_grid.spacing_mm, frame_grid.origin_mm
    moving = brain_image(hu, brain.intracranial, spacing_mm, origin_mm, _SMOOTHING_MM, _GRID_MM)
    scanned = clearly_seen(covered, spacing_mm, _SMOOTHING_MM, _GRID_MM)
    template, template_mask = template_image(atlas, _GRID_MM, _SMOOTHING_MM)
    start = np.diag([TYPICAL_SCALE, TYPICAL_SCALE, TYPICAL_SCALE, 1.0])
    start[:3, 3] = -start[:3, :3] @ HEAD_ORIGIN_IN_TEMPLATE_MM
    fitted = align(template, template_mask, moving, scanned, start, "affine", _HUBER_HU)
    registration = Registration(
        head_from_template=fitted.moving_from_fixed,
        residual_hu=fitted.residual,
        dice=_dice(fitted.moving_from_fixed, brain, frame_grid, covered, atlas),
        region_coverage=_region_coverage(fitted.moving_from_fixed, frame_grid, covered, atlas),
        warp=fit_warp(hu, brain.intracranial, frame_grid, covered, atlas, fitted.moving_from_fixed),
    )
    _check(registration)
    _check_coverage(registration)
    return registration


def _dice(
    head_from_template: Float64Array, brain: Brain, grid: Grid, covered: BoolArray, atlas: Atlas
) -> float:
    """Overlap of the intracranial spaces on a coarse grid, where scanned and above the floor."""
    every = tuple(slice(None, None, max(1, round(_GRID_MM / step))) for step in grid.spacing_mm)
    z, y, x = np.meshgrid(*(axis[s] for axis, s in zip(grid.axes_mm, every, strict=True)), indexing="ij")
    points = np.stack([x, y, z, np.ones_like(x)], axis=-1).reshape(-1, 4)
    template = Image(atlas.intracranial.astype(np.float32), atlas.spacing_mm, atlas.origin_mm)
    indices = template.indices((points @ np.linalg.inv(head_from_template).T)[:, :3])
    theirs = ndimage.map_coordinates(template.values, indices, output=np.float32, order=1) > 0.5
    seen = (covered[every] & (z > _OVERLAP_FLOOR_MM)).ravel()
    ours = brain.intracranial[every].ravel()
    return dice(ours & seen, theirs & seen, empty=0.0)


def _region_coverage(
    head_from_template: Float64Array, grid: Grid, covered: BoolArray, atlas: Atlas
) -> dict[RegionId, float]:
    points = Image(_NOTHING, atlas.spacing_mm, atlas.origin_mm).points(atlas.regions > 0)
    labels = atlas.regions[atlas.regions > 0]
    in_head = points @ head_from_template[:3, :3].T + head_from_template[:3, 3]
    indices = Image(_NOTHING, grid.spacing_mm, grid.origin_mm).indices(in_head)
    seen = ndimage.map_coordinates(covered, indices, output=np.uint8, order=0, mode="constant", cval=0)
    inside = np.bincount(labels, weights=seen, minlength=len(ALL_REGIONS) + 1)
    total = np.bincount(labels, minlength=len(ALL_REGIONS) + 1)
    return {region: float(inside[region.label] / total[region.label]) for region in ALL_REGIONS}


def _check(registration: Registration) -> None:
    linear = registration.head_from_template[:3, :3]
    stretches = np.linalg.svd(linear, compute_uv=False)
    turn, _ = polar(linear)
    turn_deg = float(np.degrees(Rotation.from_matrix(turn).magnitude())) if np.linalg.det(turn) > 0 else 180.0
    good = (
        registration.dice >= _LEAST_DICE
        and _SCALES[0] <= stretches[-1]
        and stretches[0] <= _SCALES[1]
        and stretches[0] / stretches[-1] <= _MOST_ANISOTROPY
        and turn_deg <= _MOST_TURN_DEG
        and registration.residual_hu <= _MOST_RESIDUAL_HU
    )
    log.info(
        "registration: dice %.3f, stretches %.2f-%.2f, turn %.1f deg, residual %.1f HU",
        registration.dice,
        stretches[-1],
        stretches[0],
        turn_deg,
        registration.residual_hu,
    )
    if not good:
        raise Refusal(
            "registration_failed",
            f"The atlas does not fit this head: overlap {registration.dice:.2f}, stretch {stretches[-1]:.2f} "
            f"to {stretches[0]:.2f}, turn {turn_deg:.0f} degrees, left {registration.residual_hu:.0f} HU. "
            f"Expected: at least {_LEAST_DICE}, {_SCALES[0]} to {_SCALES[1]}, at most {_MOST_TURN_DEG:.0f} "
            f"degrees and {_MOST_RESIDUAL_HU:.0f} HU.",
            "Score this scan by eye; large defects of skull or brain, or motion, can be the reason.",
        )


def _check_coverage(registration: Registration) -> None:
    for level, names in (("ganglionic", GANGLIONIC), ("supraganglionic", SUPRAGANGLIONIC)):
        shares = [share for region, share in registration.region_coverage.items() if region.name in names]
        share = float(np.mean(shares))
        if share < _LEAST_LEVEL_COVERED:
            raise Refusal(
                "incomplete_coverage",
                f"Only {share:.0%} of the {level} level was scanned; ASPECTS needs the ganglionic and the "
                f"supraganglionic level, at least {_LEAST_LEVEL_COVERED:.0%} of each.",
                "Send the series that covers the head from the skull base to the vertex.",
            )
