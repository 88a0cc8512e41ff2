"""From a specification to a scanned head: the simulator's steps in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.simulate.anatomy import BaseHead, average_head
from strokecore.simulate.face import AIR, FAT
from strokecore.simulate.field import added_density
from strokecore.simulate.infarct import LesionTruth, add_lesions
from strokecore.simulate.scanner import (
    SLICES_AT_ONCE,
    SliceGeometry,
    Window,
    acquire,
    patient_from_head,
    sample_labels,
    sample_slices,
    slice_geometry,
    whole,
    window_of,
)
from strokecore.simulate.shape import (
    Bending,
    FineGrid,
    Warp,
    brain_part,
    face_part,
    fine_grid,
    individual_warp,
    ventricle_widening,
)
from strokecore.simulate.spec import SIMULATOR_VERSION, STREAM_SHAPE, SampleSpec, simulator_sha256
from strokecore.simulate.tissue import BentBrain, BentInterior, BentSkull, Person, build_person
from strokecore.simulate.write import write_dicom, write_truth

FAR_MM: Final = 99.0  # distance fields outside the base head's box

# How far the ventricles' walls of a real head move: the people whose label maps there are have narrow ones as
# often as wide ones; 5 mm all around is what separates the two.
_NARROWEST_MM: Final = -0.8
_ATROPHY_MM: Final = 4.8
_WIDTH_SD_MM: Final = 0.6
_LEAN_SD: Final = 0.12  # share by which one side's moves more
# An observer measures where a voxel is almost only tissue and no skull blurs into it.
_OBSERVED_TISSUE: Final = 0.8
_CLEAR_OF_SKULL_MM: Final = 2.0


@dataclass(frozen=True, eq=False)
class SimulatedHead:
    """One simulated scan and its truth; arrays are [k, j, i] on the series' voxels.

    Attributes
    ----------
    spec: what was asked for.
    hu: int16, Hounsfield units.
    geometry: where the voxels lie (LPS).
    infarct: bool, acute infarct (at least half of the voxel).
    regions: uint8, RegionId.label of the person's own anatomy, before the infarct's boundary error.
    infarct_regions: uint8, RegionId.label of the displaced copy that the infarct follows.
    patient_from_head: float64 [4, 4], rigid, from the atlas-like head axes to the patient's.
    truth: JSON-ready content of truth.json.
    """

    spec: SampleSpec
    hu: npt.NDArray[np.int16]
    geometry: SliceGeometry
    infarct: BoolArray
    regions: UInt8Array
    infarct_regions: UInt8Array
    patient_from_head: Float64Array
    truth: dict[str, Any]


@dataclass(frozen=True, eq=False)
class BuiltHead:
    """A person with lesions, not yet scanned: several acquisitions of one head share it."""

    person: Person
    lesions: LesionTruth


def build_head(spec: SampleSpec, base: BaseHead | None = None) -> BuiltHead:
    """Build the person of ``spec`` with its lesions; fields of the acquisition are ignored.

    Parameters
    ----------
    base: the head to bend (people.load_person); None for the average head.

    Raises
    ------
    UsageError: ``base`` is not the anatomy that the specification names.
    """
    head = average_head() if base is None else base
    if head.anatomy != spec.anatomy:
        raise UsageError(
            f"the specification's anatomy is {spec.anatomy or 'the average head'!r} and the head given is "
            f"{head.anatomy or 'the average head'!r}; give the label map that the specification names."
        )
    person, bending = bend_person(spec, head)
    return BuiltHead(person, add_lesions(spec, head, person, bending))


def scan(spec: SampleSpec, built: BuiltHead) -> SimulatedHead:
    """Scan a built head as ``spec`` says; ``spec`` and the one it was built from must agree on the person."""
    person, lesions = built.person, built.lesions
    geometry = slice_geometry(spec)
    from_head = patient_from_head(spec)
    to_head = np.linalg.inv(from_head).astype(np.float64)
    brain = window_of(person.inside, person.brain_grid, from_head, geometry)
    infarct = np.zeros(whole(geometry).shape, np.bool_)
    if lesions.infarct.any():
        place = window_of(lesions.infarct > 0, person.brain_grid, from_head, geometry)
        infarct[place.index] = (
            sample_slices(
                lesions.infarct, person.brain_grid, to_head, geometry, outside=0.0, subslices=2, window=place
            )
            > 0.5
        )
    regions = sample_labels(lesions.own_regions, person.brain_grid, to_head, geometry, brain)
    infarct_regions = (
        regions
        if lesions.drawn_regions is lesions.own_regions
        else sample_labels(lesions.drawn_regions, person.brain_grid, to_head, geometry, brain)
    )
    field = added_density(spec, person.intracranial_mm, person.brain_grid)
    volume = person.hu.copy()
    volume[person.brain] += field
    hu = acquire(spec, volume, person.grid, geometry)
    truth = _truth(spec, lesions.numbers)
    clear = lesions.tissue * (person.intracranial_mm < -_CLEAR_OF_SKULL_MM)
    observed = _observed(hu, regions, field, clear, person.brain_grid, to_head, geometry, brain)
    for row, difference in zip(truth["regions"], observed, strict=True):
        row["observer_difference_hu"] = difference
    return SimulatedHead(spec, hu, geometry, infarct, regions, infarct_regions, from_head, truth)


def _observed(
    hu: npt.NDArray[np.int16],
    regions: UInt8Array,
    field: Float32Array,
    tissue: Float32Array,
    grid: FineGrid,
    to_head: Float64Array,
    geometry: SliceGeometry,
    brain: Window,
) -> list[float | None]:
    """What an observer measures who knows the true regions and the field that was added.

    Own minus mirror mean of each region's tissue in ``hu`` without ``field``, in ALL_REGIONS order; None
    where a region or its mirror has no tissue in the scan. ``tissue`` is 0 where the skull would show.
    """
    sums, counts = np.zeros(256), np.zeros(256)
    for first in range(brain.k.start, brain.k.stop, SLICES_AT_ONCE):
        window = Window(slice(first, min(first + SLICES_AT_ONCE, brain.k.stop)), brain.j, brain.i)
        added = sample_slices(field, grid, to_head, geometry, outside=0.0, subslices=1, window=window)
        solid = sample_slices(tissue, grid, to_head, geometry, outside=0.0, window=window)
        here = (regions[window.index] > 0) & (solid > _OBSERVED_TISSUE)
        labels = regions[window.index][here]
        sums += np.bincount(labels, (hu[window.index] - added)[here], minlength=256)
        counts += np.bincount(labels, minlength=256)

    def difference(region: RegionId) -> float | None:
        own, mirror = region.label, region.mirror.label
        if not counts[own] or not counts[mirror]:
            return None
        return round(float(sums[own] / counts[own] - sums[mirror] / counts[mirror]), 3)

    return [difference(region) for region in ALL_REGIONS]


def simulate(spec: SampleSpec, base: BaseHead | None = None) -> SimulatedHead:
    """Simulate one head CT; the same specification gives the same arrays.

    Raises
    ------
    UsageError: ``base`` (None: the average head) is not the anatomy that the specification names.
    """
    return scan(spec, build_head(spec, base))


def bend_person(spec: SampleSpec, head: BaseHead) -> tuple[Person, Bending]:
    """Bend a base head into the seed's person and give it tissue densities; and how its brain was bent."""
    grid = fine_grid()
    brain_grid, brain_place = brain_part(grid)
    face_grid, face_place = face_part(grid)
    rng = spec.rng(STREAM_SHAPE)
    warp = individual_warp(rng, spec.shape_spread, spec.midline_shift_mm)
    if head.interior is not None:
        warp = _with_own_ventricles(warp, head, spec, rng)
    whole_brain, coarse_brain = (Bending.of(warp.brain, brain_grid, smooth=s) for s in (False, True))
    coarse_skull = Bending.of(warp.skull, grid, smooth=True)

    def bent(bending: Bending, field: npt.NDArray[np.generic], outside: float) -> Float32Array:
        return np.asarray(bending.bend(field, head.origin_mm, head.spacing_mm, outside), np.float32)

    outer_hu = np.full(grid.shape, FAT, np.float32)
    outer_grid, outer_place = (face_grid, face_place) if head.skin_mm is not None else (grid, np.s_[:])
    outer_hu[outer_place] = bent(Bending.of(warp.skull, outer_grid), head.outer_hu, AIR)
    bent_skull = BentSkull(
        grid,
        intracranial_mm=bent(coarse_skull, head.intracranial_mm, FAR_MM),
        skin_mm=None if head.skin_mm is None else bent(coarse_skull, head.skin_mm, FAR_MM),
        calvarium_mm=None if head.calvarium_mm is None else bent(coarse_skull, head.calvarium_mm, 6.0),
        outer_hu=outer_hu,
    )
    inner = head.interior
    bent_brain = BentBrain(
        brain_grid,
        gm=bent(whole_brain, head.gm, 0.0),
        wm=bent(whole_brain, head.wm, 0.0),
        ventricle_mm=bent(coarse_brain, head.ventricle_mm, FAR_MM),
        deep_grey=bent(coarse_brain, head.deep_grey, 0.0),
        intracranial_mm=bent_skull.intracranial_mm[brain_place],
        interior=None
        if inner is None
        else BentInterior(
            bent(whole_brain, inner.dura, 0.0),
            bent(whole_brain, inner.sinuses, 0.0),
            bent(whole_brain, inner.structures, 0.0).astype(np.uint8),
        ),
    )
    return build_person(spec, bent_brain, brain_place, bent_skull), whole_brain


def _with_own_ventricles(warp: Warp, head: BaseHead, spec: SampleSpec, rng: np.random.Generator) -> Warp:
    """``warp`` with ventricles as wide as ``spec.atrophy`` says, and a little wider on one side."""
    width = _NARROWEST_MM + _ATROPHY_MM * spec.atrophy + rng.normal(0, _WIDTH_SD_MM)
    widening = ventricle_widening(
        head.ventricle_mm,
        head.intracranial_mm,
        head.origin_mm,
        head.spacing_mm,
        width,
        float(np.clip(rng.normal(0, _LEAN_SD), -3 * _LEAN_SD, 3 * _LEAN_SD)),
    )
    # The last transform of a composite is the first to move a point.
    return Warp(warp.skull, sitk.CompositeTransform([widening, warp.brain]))


def _truth(spec: SampleSpec, numbers: dict[str, Any]) -> dict[str, Any]:
    affected = [row for row in numbers["regions"] if row["affected"]]
    sides = {row["side"] for row in affected}
    side = None if not sides else "bilateral" if len(sides) == 2 else sides.pop()
    return {
        "schema": 1,
        "affected_side": side,
        "aspects": {s: 10 - sum(row["side"] == s for row in affected) for s in SIDES},
        "anatomy": spec.anatomy,
        "definition": spec.definition,
        **numbers,
        "spec": spec.to_dict(),
        "simulator": {"version": SIMULATOR_VERSION, "sha256": simulator_sha256()},
        "atlas_sha256": load_atlas().sha256,
    }


def write_sample(out: Path, spec: SampleSpec, base: BaseHead | None = None) -> Path:
    """Write the series to ``out``/*.dcm and the truth to ``out``/truth; returns ``out``.

    Raises
    ------
    UsageError: as ``simulate``.
    """
    head = simulate(spec, base)
    write_dicom(out, spec, head.hu, head.geometry)
    write_truth(out, head.truth, head.infarct, head.geometry)
    return out
