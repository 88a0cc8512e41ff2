"""Haemorrhage: clot in the brain, under the dura, in the cisterns and sulci, or in the ventricles.

Every kind fills, of the places that it can take, those that come first until the volume asked for is
reached: from a centre outwards in the brain, from the inner table inwards under the dura, from the circle of
Willis onwards in the fluid, from behind forwards in the ventricles of a patient who lies on the back. Nothing
is pushed aside: a clot takes the place of what was there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import ndimage

from strokecore.anatomy.regions import SIDES, Side
from strokecore.arrays import BoolArray, Float32Array
from strokecore.head.grid import on_side, voxel_volume_ml
from strokecore.simulate.shape import FINE_MM, smooth_noise
from strokecore.simulate.spec import STREAM_BLOOD, SampleSpec
from strokecore.simulate.tissue import Person

# Acute clot measures 50-80 HU (haematocrit, age and clotting decide), acute subdural blood 55-75; mean of one
# bleeding is drawn from these, and it varies inside by a few HU.
_CLOT_HU: Final = (54.0, 76.0)
_SUBDURAL_HU: Final = (55.0, 75.0)
# Blood that mixes with cerebrospinal fluid is less dense.
_FLUID_BLOOD_HU: Final = (45.0, 65.0)
_UNEVEN_HU: Final = 3.0
_UNEVEN_MM: Final = 4.0

# Where clots form in the brain, with their share among spontaneous ones (Qureshi et al., N Engl J Med
# 2001;344:1450: basal ganglia, then lobes, thalamus and cerebellum) and centres in head coordinates
# (|x|, y, z).
_SITES: Final[dict[str, tuple[float, tuple[tuple[float, float, float], ...]]]] = {
    "basal_ganglia": (0.45, ((27.0, 4.0, 6.0),)),
    "lobar": (0.27, ((26.0, -38.0, 22.0), (32.0, 42.0, 36.0), (46.0, 22.0, -8.0), (26.0, 68.0, 10.0))),
    "thalamic": (0.18, ((12.0, 18.0, 8.0),)),
    "cerebellar": (0.10, ((20.0, 60.0, -38.0),)),
}
_SITE_JITTER_MM: Final = 4.0
_AXES_SD: Final = 0.2  # of the logarithm of a clot's half axes
_LUMPINESS: Final = 0.14  # of its radius
_LUMP_MM: Final = 6.0
_PIA_MM: Final = 4.0  # a clot's centre lies at least this deep in the brain
_EDGE_MM: Final = 2.0
_OEDEMA_MM: Final = (2.0, 7.0)
_OEDEMA_HU: Final = 7.0

# A subdural haematoma lies over the convexity; its greatest thickness is 3-15 mm and grows with its volume.
# The volume of a cap of parabolic section is half its area times its thickness (as in the ABC/2 rule).
_SUBDURAL_THICKNESS_MM: Final = 5.5  # of 10 ml
_SUBDURAL_GROWTH: Final = 0.4
_SUBDURAL_SPREAD: Final = (0.75, 1.35)
_SUBDURAL_LONG: Final = 1.5  # it reaches further from front to back than up and down
_FLOOR_MM: Final = -22.0  # the middle fossa's floor
_BESIDE_FALX_MM: Final = 5.0
_MOST_DEPTH_MM: Final = 30.0

_CIRCLE_OF_WILLIS_MM: Final = (0.0, -6.0, -17.0)
_SPREAD_MM: Final = 12.0  # unevenness of the border that subarachnoid blood reaches
_BLEND_MM: Final = 10.0

# A person's ventricles reach at most this far beyond the average wall, and the lateral ones lie away from the
# middle and above the fourth.
_VENTRICLE_WALL_MM: Final = 4.0
_LATERAL_MM: Final = 7.0
_ABOVE_MM: Final = -16.0
_MOST_OF_VENTRICLES: Final = 0.6


@dataclass(frozen=True, eq=False)
class Blood:
    """What was drawn, on the brain's part of the fine grid [z, y, x].

    Attributes
    ----------
    mask: bool, at least half blood.
    numbers: JSON-ready rows of truth.json: "blood_ml" per side and "blood": None, or its place, site, side
        and ml.
    """

    mask: BoolArray
    numbers: dict[str, Any]


def draw_blood(spec: SampleSpec, person: Person) -> Blood:
    """Paint the bleeding of ``spec`` into ``person.hu`` in place; nothing where ``spec.blood_ml`` is 0."""
    share, site = np.zeros(person.inside.shape, np.float32), None
    if spec.blood_ml > 0:
        rng = spec.rng(STREAM_BLOOD)
        if spec.blood_place == "parenchymal":
            share, site = _parenchymal(spec, person, rng)
        elif spec.blood_place == "ventricular":
            share = _ventricular(spec, person, rng)
        elif spec.blood_place == "subarachnoid":
            share = _subarachnoid(spec, person, rng)
        elif spec.blood_place == "subdural":
            share = _subdural(spec.blood_side, spec.blood_ml, person, rng)
        else:
            left = float(rng.uniform(0.35, 0.65)) * spec.blood_ml
            share = _subdural("left", left, person, rng)
            share = np.maximum(share, _subdural("right", spec.blood_ml - left, person, rng))
    mask = share > 0.5
    return Blood(mask, _numbers(spec, person, mask, site))


def _parenchymal(spec: SampleSpec, person: Person, rng: np.random.Generator) -> tuple[Float32Array, str]:
    """A lumpy ellipsoid with oedema around it; and the name of its site."""
    x, _, _ = person.brain_grid.axes_mm
    sign = 1.0 if spec.blood_side == "left" else -1.0
    site, place = _site(rng)
    side = on_side(x, spec.blood_side)[None, None, :] & person.inside
    wanted = np.array([sign * place[0], place[1], place[2]]) + rng.normal(0, _SITE_JITTER_MM, 3)
    axes = np.exp(rng.normal(0, _AXES_SD, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    offsets = _from_nearest(wanted, (person.grey + person.white > 0.9) & side, person)
    radial = np.zeros(person.inside.shape, np.float32)
    for direction, length in zip(turn, axes / np.prod(axes) ** (1 / 3), strict=True):
        radial += (sum(np.float32(d / length) * o for d, o in zip(direction, offsets, strict=True))) ** 2
    lumps = 1 + _LUMPINESS * smooth_noise(rng, radial.shape, FINE_MM, _LUMP_MM)
    radial = np.sqrt(radial) * np.clip(lumps, 0.5, 1.5)
    # A clot splits tissue rather than fill fluid, and it keeps to its side.
    radial += 6 * (1 - person.grey - person.white)
    edge = _filled(radial, side, spec.blood_ml)
    share = np.clip((edge - radial) / _EDGE_MM + 0.5, 0, 1) * side
    hu = person.hu[person.brain]
    rim = np.clip(1 - (radial - edge) / rng.uniform(*_OEDEMA_MM), 0, 1) * person.white
    hu -= (_OEDEMA_HU * rim * (1 - share)).astype(np.float32)
    _fill(person, share, rng.uniform(*_CLOT_HU), rng)
    return share.astype(np.float32), site


def _site(rng: np.random.Generator) -> tuple[str, tuple[float, float, float]]:
    names = list(_SITES)
    name = names[int(rng.choice(len(names), p=[_SITES[n][0] for n in names]))]
    places = _SITES[name][1]
    return name, places[int(rng.integers(len(places)))]


def _from_nearest(
    wanted: np.ndarray[Any, Any], tissue: BoolArray, person: Person
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Offsets (x, y, z), mm, from the point of ``tissue`` below the pia nearest to the one wanted."""
    x, y, z = (axis - np.float32(w) for axis, w in zip(person.brain_grid.axes_mm, wanted, strict=True))
    away = x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2
    deep = person.intracranial_mm < -_PIA_MM
    k, j, i = np.unravel_index(int(np.argmin(np.where(tissue & deep, away, np.inf))), away.shape)
    return (x - x[i])[None, None, :], (y - y[j])[None, :, None], (z - z[k])[:, None, None]


def _subdural(side: Side, ml: float, person: Person, rng: np.random.Generator) -> Float32Array:
    """A crescent along the inner table of one side's convexity, thickest in its middle."""
    x, y, z = person.brain_grid.axes_mm
    sign = np.float32(1.0 if side == "left" else -1.0)
    thickness_mm = _SUBDURAL_THICKNESS_MM * (ml / 10) ** _SUBDURAL_GROWTH * rng.uniform(*_SUBDURAL_SPREAD)
    radius_mm = np.sqrt(2000 * ml / (np.pi * thickness_mm * _SUBDURAL_LONG))
    middle_y, middle_z = rng.uniform(-25, 35), rng.uniform(15, 40)
    along = np.sqrt(
        ((y - middle_y)[None, :, None] / np.float32(_SUBDURAL_LONG)) ** 2 + (z - middle_z)[:, None, None] ** 2
    )
    uneven = 1 + 0.12 * smooth_noise(rng, person.inside.shape, FINE_MM, 15.0)
    profile = np.clip(1 - (along / radius_mm) ** 2, 1e-3, 1) * np.clip(uneven, 0.6, 1.4)
    here = person.inside & (sign * x > _BESIDE_FALX_MM)[None, None, :] & (z > _FLOOR_MM)[:, None, None]
    depth_mm = -person.intracranial_mm
    here &= depth_mm < _MOST_DEPTH_MM
    greatest = _filled(depth_mm / profile, here, ml)
    share = np.clip((greatest * profile - depth_mm) / FINE_MM + 0.5, 0, 1) * here
    _fill(person, share, rng.uniform(*_SUBDURAL_HU), rng)
    return np.asarray(share, np.float32)


def _subarachnoid(spec: SampleSpec, person: Person, rng: np.random.Generator) -> Float32Array:
    """Blood in the fluid outside the ventricles, in proportion to each voxel's share of fluid."""
    offsets = (
        axis - np.float32(c) for axis, c in zip(person.brain_grid.axes_mm, _CIRCLE_OF_WILLIS_MM, strict=True)
    )
    x, y, z = offsets
    away = np.sqrt(x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2)
    away = away + _SPREAD_MM * smooth_noise(rng, away.shape, FINE_MM, 20.0)
    fluid = np.where(person.inside & ~_ventricles(person), 1 - person.grey - person.white, 0)
    edge = _filled(away, fluid > 0.5, spec.blood_ml)
    share = np.clip((edge - away) / _BLEND_MM + 0.5, 0, 1) * np.clip(fluid, 0, 1)
    _fill(person, share, rng.uniform(*_FLUID_BLOOD_HU), rng)
    return np.asarray(share, np.float32)


def _ventricular(spec: SampleSpec, person: Person, rng: np.random.Generator) -> Float32Array:
    """Blood that has settled in the back of both lateral ventricles, with a level."""
    x, y, z = person.brain_grid.axes_mm
    room = _ventricles(person) & (np.abs(x) > _LATERAL_MM)[None, None, :] & (z > _ABOVE_MM)[:, None, None]
    forward = -y[None, :, None] + 0.7 * smooth_noise(rng, room.shape, FINE_MM, 6.0)
    ml = min(spec.blood_ml, _MOST_OF_VENTRICLES * float(room.sum()) * FINE_MM**3 / 1000)
    edge = _filled(forward, room, ml)
    fluid = np.clip(1 - person.grey - person.white, 0, 1)
    near = ndimage.binary_dilation(room)
    share = np.clip((edge - forward) / _EDGE_MM + 0.5, 0, 1) * fluid * near
    _fill(person, share, rng.uniform(*_FLUID_BLOOD_HU), rng)
    return np.asarray(share, np.float32)


def _ventricles(person: Person) -> BoolArray:
    fluid = person.grey + person.white < 0.5
    return np.asarray(person.inside & fluid & (person.ventricle_mm < _VENTRICLE_WALL_MM))


def _filled(order: Float32Array, room: BoolArray, ml: float) -> float:
    """The value of ``order`` up to which ``room`` must be filled to hold ``ml``."""
    values = order[room]
    if values.size == 0:
        return -np.inf
    count = min(round(ml / voxel_volume_ml((FINE_MM,) * 3)), values.size - 1)
    return float(np.partition(values, count)[count])


def _fill(person: Person, share: Float32Array, mean_hu: float, rng: np.random.Generator) -> None:
    """Mix blood into the head's densities (in place)."""
    hu = person.hu[person.brain]
    blood = np.float32(mean_hu) + np.float32(_UNEVEN_HU) * smooth_noise(rng, share.shape, FINE_MM, _UNEVEN_MM)
    hu += (share * (blood - hu)).astype(np.float32)


def _numbers(spec: SampleSpec, person: Person, mask: BoolArray, site: str | None) -> dict[str, Any]:
    x, _, _ = person.brain_grid.axes_mm
    voxel_ml = voxel_volume_ml((FINE_MM,) * 3)
    ml = {side: round(float(mask[:, :, on_side(x, side)].sum() * voxel_ml), 2) for side in SIDES}
    if not mask.any():
        return {"blood_ml": ml, "blood": None}
    one_sided = spec.blood_place in ("parenchymal", "subdural")
    place = "subdural" if spec.blood_place == "bilateral_subdural" else spec.blood_place
    found = {
        "place": place,
        "site": site,
        "side": spec.blood_side if one_sided else "both",
        "ml": round(float(mask.sum()) * voxel_ml, 2),
    }
    return {"blood_ml": ml, "blood": found}
