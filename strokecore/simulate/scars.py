"""Old damage: cavities of earlier infarcts and lacunes, fluid with a rim of gliosis around it."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import Float32Array, UInt8Array
from strokecore.simulate.shape import FINE_MM, smooth_noise
from strokecore.simulate.spec import STREAM_SCARS, SampleSpec
from strokecore.simulate.tissue import OLD_CAVITY_HU, Person
from strokecore.simulate.vascular import infarct_profile

# A cavity takes a share of its territory between these; its border is sharper than a fresh infarct's.
_CAVITY_SHARE: Final = (0.3, 0.8)
_CAVITY_EDGE_MM: Final = 1.0
# Lacunes are 2-10 mm wide and lie in deep grey and white matter (head coordinates, mm).
_LACUNE_RADIUS_MM: Final = (1.0, 5.0)
_LACUNE_Z_MM: Final = (-8.0, 40.0)
_LACUNE_DEPTH_MM: Final = 22.0  # below the inner table
_LACUNE_WALL_MM: Final = 3.0  # from the ventricles
_LACUNE_RIM_MM: Final = 2.0


def cavity_profile(
    spec: SampleSpec, labels: UInt8Array, wanted: dict[Side, list[int]], person: Person
) -> Float32Array:
    """Share of each voxel that is the cavity of an earlier infarct; ``wanted`` are labels per side."""
    rng = spec.rng(STREAM_SCARS)
    shares = {
        side: {label: float(rng.uniform(*_CAVITY_SHARE)) for label in wanted.get(side, [])} for side in SIDES
    }
    tissue = person.grey + person.white
    profile = infarct_profile(rng, labels, tissue, person.brain_grid, shares, _CAVITY_EDGE_MM)
    return np.asarray(profile * person.inside, np.float32)


def dig(person: Person, old: Float32Array, rim_hu: float, rim_mm: float) -> None:
    """Replace tissue by old fluid where ``old`` is 1 and darken the tissue around it (in place)."""
    tissue = person.grey + person.white
    hu = person.hu[person.brain]
    if rim_hu > 0:
        outside = ndimage.distance_transform_edt(old < 0.5, sampling=FINE_MM).astype(np.float32)
        hu -= rim_hu * np.clip(1 - outside / rim_mm, 0, 1) * tissue * (old < 0.5)
    hu += old * tissue * (OLD_CAVITY_HU - hu)
    for fraction in (person.grey, person.white):
        np.multiply(fraction, 1 - old, out=fraction)


def lacune_profile(spec: SampleSpec, person: Person) -> Float32Array:
    """Share of each voxel that is an old lacunar infarct: small ragged holes around the ventricles."""
    rng = np.random.default_rng([spec.seed, STREAM_SCARS, 1])
    x, y, z = person.brain_grid.axes_mm
    found = np.zeros(person.inside.shape, np.float32)
    ragged = 1 + 0.15 * smooth_noise(rng, found.shape, FINE_MM, 3.0)
    place = (
        (person.grey + person.white > 0.95)
        & (person.intracranial_mm < -_LACUNE_DEPTH_MM)
        & (person.ventricle_mm > _LACUNE_WALL_MM)
        & ((z > _LACUNE_Z_MM[0]) & (z < _LACUNE_Z_MM[1]))[:, None, None]
    )
    candidates = np.argwhere(place)
    for _ in range(spec.lacunes):
        k, j, i = candidates[int(rng.integers(len(candidates)))]
        radii = rng.uniform(*_LACUNE_RADIUS_MM) * rng.uniform(0.7, 1.0, 3)
        reach = [int(np.ceil(1.4 * radii.max() / FINE_MM))] * 3
        box = tuple(slice(max(0, c - n), c + n + 1) for c, n in zip((k, j, i), reach, strict=True))
        zz, yy, xx = (
            (a[b] - a[c]).reshape([-1 if axis == n else 1 for n in range(3)])
            for axis, (a, b, c) in enumerate(zip((z, y, x), box, (k, j, i), strict=True))
        )
        radial = np.sqrt((zz / radii[0]) ** 2 + (yy / radii[1]) ** 2 + (xx / radii[2]) ** 2) * ragged[box]
        cover = np.clip((1 - radial) * radii.min() / FINE_MM + 0.5, 0, 1)
        found[box] = np.maximum(found[box], cover)
    return found


def add_lacunes(spec: SampleSpec, person: Person) -> Float32Array:
    """Dig ``spec.lacunes`` lacunes with thin rims (in place); returns where, 0-1."""
    found = lacune_profile(spec, person)
    dig(person, found, spec.rim_hu, min(spec.rim_mm, _LACUNE_RIM_MM))
    return found
