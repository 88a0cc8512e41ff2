"""Haemorrhage in a head of one density with ventricles: kinds, sides, and what only looks like blood."""

from __future__ import annotations

import numpy as np
import pytest

from strokecore.head.blood import Haemorrhage, find_haemorrhage
from strokecore.head.brain import segment_tissue
from strokecore.head.cranium import depth
from strokecore.head.grid import Grid

GRID = Grid((76, 92, 75), (2.0, 2.0, 2.0), (-74.0, -88.0, -60.0))
Z, Y, X = np.meshgrid(*GRID.axes_mm, indexing="ij")
BRAIN, FLUID, BLOOD = 33.0, 7.0, 60.0


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Below 1 inside; x, y, z."""
    return np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip((X, Y, Z), centre, radii, strict=True)))


SKULL = ellipsoid((0, 4, 14), (66, 82, 68)) < 1
DEPTH = depth(SKULL, GRID.spacing_mm)
VENTRICLES = (ellipsoid((18, 6, 12), (8, 44, 10)) < 1) | (ellipsoid((-18, 6, 12), (8, 44, 10)) < 1)
BASE = np.where(VENTRICLES, FLUID, BRAIN)


def found(hu: np.ndarray, noise_hu: float = 2.0) -> Haemorrhage | None:
    noisy = hu + np.random.default_rng(3).normal(0, noise_hu, hu.shape)
    flat = np.where(SKULL, noisy, 900.0).astype(np.float32)
    return find_haemorrhage(flat, segment_tissue(flat, SKULL, GRID), GRID)


def painted(where: np.ndarray, hu: float = BLOOD) -> np.ndarray:
    return np.where(where & SKULL, hu, BASE)


def crescent(sign: float, thickness_mm: float = 7.0) -> np.ndarray:
    reach = np.hypot((Y - 10) / 55, (Z - 30) / 35)
    return SKULL & (np.sign(X) == sign) & (thickness_mm * (1 - reach**2) > DEPTH)


@pytest.mark.parametrize("noise_hu", [2.0, 9.0])
def test_a_head_without_blood(noise_hu: float) -> None:
    assert found(BASE, noise_hu) is None


@pytest.mark.parametrize(("sign", "side"), [(1, "left"), (-1, "right")])
def test_a_clot(sign: int, side: str) -> None:
    clot = ellipsoid((sign * 40, 0, 20), (10, 10, 10)) < 1
    blood = found(painted(clot))
    assert blood is not None
    assert (blood.place, blood.side, blood.certain) == ("parenchymal", side, True)
    assert blood.ml == pytest.approx(GRID.ml(clot), rel=0.25)
    assert (blood.mask & clot).sum() > 0.75 * blood.mask.sum()


@pytest.mark.parametrize(("sign", "side"), [(1, "left"), (-1, "right")])
def test_a_layer_under_the_skull(sign: int, side: str) -> None:
    blood = found(painted(crescent(sign)))
    assert blood is not None
    assert (blood.place, blood.side, blood.certain) == ("subdural", side, True)
    assert blood.ml == pytest.approx(GRID.ml(crescent(sign)), rel=0.4)


def test_layers_on_both_sides_are_blood_too() -> None:
    blood = found(painted(crescent(1) | crescent(-1)))
    assert blood is not None
    assert (blood.place, blood.side, blood.certain) == ("subdural", "both", True)


@pytest.mark.parametrize("reach_mm", [8.0, 12.0, 20.0])
def test_density_that_falls_off_slowly_is_not_certain(reach_mm: float) -> None:
    blood = found(BASE + 24 * np.exp(-DEPTH / reach_mm))
    assert blood is None or not blood.certain


def test_blood_in_cisterns_and_fissures() -> None:
    cistern = ellipsoid((0, -8, -14), (20, 16, 8)) < 1
    fissures = (np.abs(np.abs(X) - 44) < 4) & (np.abs(Y + 4) < 24) & (np.abs(Z) < 8)
    blood = found(painted(cistern | fissures, 52.0))
    assert blood is not None
    assert (blood.side, blood.certain) == ("both", True)
    assert found(painted(cistern | fissures, FLUID)) is None


def strands(x_mm: float) -> np.ndarray:
    """1.5 ml in a cistern at this distance from the midline, both sides."""
    return np.asarray(((np.abs(X) - x_mm) / 3) ** 2 + ((Y + 12) / 14) ** 2 + ((Z + 22) / 3) ** 2 < 1)


def test_little_blood_in_the_cisterns_is_certain_away_from_the_midline_only() -> None:
    aside = found(painted(strands(24.0)))
    assert aside is not None
    assert (aside.place, aside.certain) == ("subarachnoid", True)
    middle = found(painted(strands(3.0)))
    assert middle is None or not middle.certain


def test_little_blood_in_the_cisterns_beside_calcium_is_not_certain() -> None:
    where = strands(24.0)
    hu = painted(where)
    hu[where & (np.abs(Y + 12) < 3)] = 160.0
    blood = found(hu)
    assert blood is None or not blood.certain


def test_a_bright_nucleus_that_hangs_out_of_its_place_is_no_strand() -> None:
    """Faint calcium of both pallida whose lower end reaches the height of the cisterns."""
    below = strands(24.0)
    nuclei = ((np.abs(X) - 24) / 4) ** 2 + ((Y + 8) / 10) ** 2 + ((Z + 12) / 9) ** 2 < 1
    alone, hanging = found(painted(below)), found(painted(below | nuclei))
    assert alone is not None
    assert alone.certain
    assert hanging is None or not hanging.certain


def test_a_small_layer_is_certain_where_no_veins_are() -> None:
    def spot(x: float, z: float) -> np.ndarray:
        return SKULL & (DEPTH < 5) & (np.sqrt((X - x) ** 2 + (Y - 4) ** 2 + (Z - z) ** 2) < 10.5)

    lateral, upper = found(painted(spot(66, 14))), found(painted(spot(36, 71)))
    assert lateral is not None
    assert lateral.certain
    assert upper is not None
    assert not upper.certain


def test_blood_that_has_settled_in_the_ventricles() -> None:
    blood = found(painted(VENTRICLES & (Y > 26), 55.0))
    assert blood is not None
    assert (blood.place, blood.side) == ("ventricular", "both")


def test_falx_and_sinuses_are_not_blood() -> None:
    falx = (np.abs(X) < 1.5) & ((Z > 4) | (Y < -34))
    sinus = (DEPTH < 8) & ((np.abs(X) < 7) & ((Y > 40) | (Z > 20)) | ((np.abs(Z + 22) < 6) & (Y > 40)))
    assert found(painted(falx | sinus)) is None


def test_the_same_density_in_both_pallida_is_only_possible() -> None:
    def pallidum(sign: int) -> np.ndarray:
        return ellipsoid((sign * 21, 0, -4), (6, 8, 6)) < 1

    both = found(painted(pallidum(1) | pallidum(-1)))
    assert both is not None
    assert not both.certain
    one = found(painted(pallidum(1)))
    assert one is not None
    assert one.certain


def test_specks_are_not_blood() -> None:
    rng = np.random.default_rng(0)
    specks = np.zeros(GRID.shape, bool)
    for _ in range(60):
        x, y, z = rng.uniform(-45, 45), rng.uniform(-50, 50), rng.uniform(-10, 45)
        specks |= ellipsoid((x, y, z), (3, 3, 3)) < 1
    assert found(painted(specks)) is None


def test_a_small_lump_at_the_midline_is_only_possible_and_a_large_one_is_blood() -> None:
    """Basilar artery, deep veins and the falx's root make small ones in everybody."""

    def lump(x: float, radius: float) -> np.ndarray:
        return ellipsoid((x, -10, 6), (radius, radius, radius)) < 1

    small, large = found(painted(lump(0, 8))), found(painted(lump(0, 12)))
    assert small is not None
    assert not small.certain
    assert large is not None
    assert large.certain
    aside = found(painted(ellipsoid((45, -30, 24), (7, 7, 7)) < 1))
    assert aside is not None
    assert aside.certain
