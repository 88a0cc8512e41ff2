"""Three worlds to simulate in: one that models are trained in, one outside it, and a population of persons.

Domain randomisation (Tobin et al., IROS 2017; for brain images Billot et al., SynthSeg, Med Image Anal
2023;86:102789): a model that has seen contrast, noise, kernels and anatomy vary by more than scanners and
people do should take a real scan for one more variation. Whether it does is tested in a world whose
contrast, noise and texture lie outside everything that training drew: ``unseen_fields``.

``random_person_spec`` is the population in which the node is tested on heads made from real people: what
anatomy, scanner, age and old disease do to a head CT, at the rates in which they are met.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from strokecore.anatomy.regions import CORTICAL, REGION_NAMES, SIDES, RegionId
from strokecore.errors import UsageError
from strokecore.simulate.spec import NEIGHBOURS, SampleSpec

# Ranges of the training world: around the simulator's usual value of 1 (noise: 3.0-4.2 HU of a 5 mm slice).
CONTRAST: Final = (0.75, 1.25)
NOISE_HU: Final = (2.0, 5.5)
TEXTURE: Final = (0.5, 1.5)
TEXTURE_MM: Final = (1.8, 4.0)
SHARPNESS: Final = (0.75, 1.35)
ASYMMETRY: Final = (0.5, 1.4)
CUPPING: Final = (0.3, 1.4)
SHAPE_SPREAD: Final = (0.7, 1.3)
BRAIN_SHIFT_HU: Final = (-3.0, 3.0)
_CALCIUM_SHARE: Final = 0.25
_CALCIUM: Final = (0.1, 1.0)

# The unseen world: on either side of the training world, as (low range, high range). Very low contrast is
# left out: no reader would read such a scan.
UNSEEN_CONTRAST: Final = ((0.6, 0.72), (1.3, 1.5))
UNSEEN_NOISE_HU: Final = ((1.2, 1.9), (5.7, 7.0))
UNSEEN_TEXTURE: Final = ((0.0, 0.4), (1.6, 2.2))
UNSEEN_TEXTURE_MM: Final = ((4.5, 7.0),)
UNSEEN_SHARPNESS: Final = ((0.6, 0.72), (1.4, 1.6))

# Streams apart from the simulator's own (1-7) and the trainer's (101).
_TRAINING_STREAM: Final = 102
_UNSEEN_STREAM: Final = 103


def training_fields(seed: int) -> dict[str, Any]:
    """Fields of SampleSpec from the training world: contrast, noise, texture, kernel, shape, calcium."""
    rng = np.random.default_rng([seed, _TRAINING_STREAM])
    drawn = {
        "contrast": rng.uniform(*CONTRAST),
        "noise_hu": rng.uniform(*NOISE_HU),
        "texture": rng.uniform(*TEXTURE),
        "texture_mm": rng.uniform(*TEXTURE_MM),
        "sharpness": rng.uniform(*SHARPNESS),
        "asymmetry": rng.uniform(*ASYMMETRY),
        "cupping": rng.uniform(*CUPPING),
        "shape_spread": rng.uniform(*SHAPE_SPREAD),
        "brain_shift_hu": rng.uniform(*BRAIN_SHIFT_HU),
        "basal_ganglia_calcium": rng.uniform(*_CALCIUM) if rng.random() < _CALCIUM_SHARE else 0.0,
    }
    return {name: round(float(value), 3) for name, value in drawn.items()}


def unseen_fields(seed: int) -> dict[str, Any]:
    """Fields of SampleSpec with contrast, noise, texture and kernel that no training head has."""
    rng = np.random.default_rng([seed, _UNSEEN_STREAM])
    ranges = {
        "contrast": UNSEEN_CONTRAST,
        "noise_hu": UNSEEN_NOISE_HU,
        "texture": UNSEEN_TEXTURE,
        "texture_mm": UNSEEN_TEXTURE_MM,
        "sharpness": UNSEEN_SHARPNESS,
    }
    return {
        name: round(float(rng.uniform(*parts[int(rng.integers(len(parts)))])), 3)
        for name, parts in ranges.items()
    }


# The population of persons (docs/simulator.md has it as a table).
_PERSON_STREAM: Final = 104
GREY_HU: Final = (37.0, 1.2)  # mean, sd between people
WHITE_HU: Final = (29.0, 1.0)
GREY_WHITE_HU: Final = (6.5, 9.5)  # range of the difference
CSF_HU: Final = (8.0, 2.0)
DEEP_GREY_EXTRA_HU: Final = (1.5, 0.7)
PERSON_SHIFT_HU: Final = (-2.0, 2.0)
DURA_HU: Final = (50.0, 70.0)  # falx, tentorium and, drawn apart, sinuses
PERSON_NOISE_HU: Final = (2.0, 5.0)  # of a 5 mm slice
MOST_NOISE_HU: Final = 9.0  # of any slice of a soft kernel
THICK_MM: Final = (6.0, 7.0)
MIDDLE_MM: Final = (3.0, 3.75, 4.0)
THIN_MM: Final = (0.625, 0.75, 1.0, 1.25, 2.0, 2.5)
THICKNESS_SHARES: Final = (0.50, 0.20, 0.25, 0.05)  # 5 mm, middle, thin, thick
KERNEL_SHARES: Final = (0.75, 0.15, 0.10)  # soft, sharp, iterative
SHARP_NOISE: Final = 1.5  # a sharp head kernel's noise relative to the soft one's
PLASTIC_NOISE: Final = 0.6  # iterative reconstruction's noise relative to filtered back-projection's
CUPPING_MEAN_HU: Final = 3.0
OLD_SCANNER_SHARE: Final = 0.05
OLD_SCANNER_HU: Final = (10.0, 27.0)
CUPPING_DEPTH_MM: Final = (5.0, 20.0)
CUPPING_HEIGHT: Final = (-0.5, 0.5)
SHADING_HU: Final = (-1.5, 1.5)
PERSON_TEXTURE_HU: Final = (1.0, 2.0)
PERSON_TEXTURE_MM: Final = (3.0, 8.0)  # full width at half maximum
RATES: Final[dict[str, float]] = {
    "leukoaraiosis": 0.40,
    "lacunes": 0.15,
    "cavity": 0.08,
    "calcified_pallidum": 0.15,
    "calcification": 0.70,
    "streaks": 0.30,
    "motion": 0.05,
    "midline_shift": 0.03,
}
_ASYMMETRIC_LEUKOARAIOSIS: Final = 1 / 3
_TEXTURE_UNIT_HU: Final = 0.7  # rms of SampleSpec.texture 1
_FWHM_PER_SIGMA: Final = 2.355

# What may trouble a reader, each to be put alone on an otherwise plain head.
CONFOUNDERS: Final = (
    "cupping",
    "sharp_kernel",
    "plastic_noise",
    "shading",
    "texture",
    "leukoaraiosis",
    "lacunes",
    "cavity",
    "calcified_pallidum",
    "streaks",
    "motion",
    "thin_slices",
    "thick_slices",
    "tilt_rotation",
    "wide_ventricles",
    "midline_shift",
    "dense_sinuses",
)

# Infarcts by the vessel that is closed: share among them, where it begins, regions in reach, and the
# probability that a region in reach is taken. Regions are taken from neighbour to neighbour.
_VESSELS: Final[dict[str, tuple[float, tuple[str, ...], tuple[str, ...], float]]] = {
    "trunk of M1": (0.20, ("L",), ("C", "IC", "I", "M1", "M2", "M3", "M4", "M5", "M6"), 0.65),
    "M1 behind the perforators": (0.15, ("I",), ("M1", "M2", "M3", "M4", "M5", "M6"), 0.65),
    "superior division": (0.20, ("I", "M1"), ("I", "M1", "M2", "M4", "M5"), 0.5),
    "inferior division": (0.15, ("M3", "M2"), ("M2", "M3", "M5", "M6"), 0.5),
    "lenticulostriate arteries": (0.15, ("L", "C"), ("L", "C", "IC"), 0.5),
    "one branch": (0.10, CORTICAL, (), 0.0),
    "insular branch": (0.05, ("I",), (), 0.0),
}
_MOST_AFFECTED: Final = 9
DEPTHS_HU: Final = (2.0, 3.0, 5.0, 8.0)
# A region is affected from 0.30 of it; what is asked for stays above, because what is drawn differs a little.
INVOLVEMENT: Final = (0.33, 1.0)
EDGE_MM: Final = (1.5, 4.0)
PERSON_WHITE_SHARE: Final = (0.5, 0.7)
SWELLING: Final = (0.2, 0.8)


def vascular_pattern(rng: np.random.Generator) -> tuple[RegionId, ...]:
    """1-9 connected regions of one side, as the closure of one vessel takes them."""
    shares = [share for share, _, _, _ in _VESSELS.values()]
    _, starts, reach, p = list(_VESSELS.values())[int(rng.choice(len(shares), p=shares))]
    side = SIDES[int(rng.integers(2))]
    chosen = [str(rng.choice(starts))]
    count = min(_MOST_AFFECTED, 1 + int(rng.binomial(len(set(reach) - set(chosen)), p)))
    while len(chosen) < count:
        border = sorted({n for c in chosen for n in NEIGHBOURS[c] if n in reach} - set(chosen))
        chosen.append(str(rng.choice(border)))
    return tuple(RegionId(name, side) for name in REGION_NAMES if name in chosen)


def random_person_spec(
    seed: int,
    anatomy: str,
    *,
    affected: tuple[RegionId, ...] | None = None,
    delta_hu: float | None = None,
    confounder: str | None = None,
    **changes: Any,
) -> SampleSpec:
    """One scan of the committed population: person, scanner, old disease and infarct, drawn from the seed.

    Parameters
    ----------
    seed: decides every draw; none of the following changes what else is drawn.
    anatomy: SampleSpec.anatomy, "" for the average head.
    affected: the infarct's regions; None draws a vascular pattern, () is a head without infarct. The
        involvement of each region is drawn.
    delta_hu: its depth in grey matter; None draws one of 2, 3, 5 and 8 HU.
    confounder: one of CONFOUNDERS alone on an otherwise plain head, "plain" for the plain head; None draws
        all of them at the population's rates.
    changes: fields of SampleSpec set instead of drawn.

    Raises
    ------
    UsageError: unknown confounder.
    """
    if confounder is not None and confounder not in (*CONFOUNDERS, "plain"):
        raise UsageError(
            f"confounder is {confounder!r}, expected 'plain' or one of {', '.join(CONFOUNDERS)}; "
            "name one of them, or none for the whole population."
        )

    def rng(part: int) -> np.random.Generator:
        return np.random.default_rng([seed, _PERSON_STREAM, part])

    fields = _person(rng(0))
    drawn = {name: _confounder(name, rng(10 + k)) for k, name in enumerate(CONFOUNDERS)}
    if confounder is None:
        for part in (_scanner(rng(1)), *_diseases(rng(2), drawn)):
            fields |= part
    else:
        fields |= _plain(rng(3)) | drawn.get(confounder, {})
    return SampleSpec(
        seed=seed,
        anatomy=anatomy,
        **(_rounded(fields | _infarct(rng(4), affected, delta_hu, fields)) | changes),
    )


def _person(rng: np.random.Generator) -> dict[str, Any]:
    """Densities, shape and age: what every person has."""
    grey = white = 0.0
    while not GREY_WHITE_HU[0] <= grey - white <= GREY_WHITE_HU[1]:
        grey, white = rng.normal(*GREY_HU), rng.normal(*WHITE_HU)
    age = int(np.clip(rng.normal(70, 12), 30, 95))
    return {
        "grey_hu": grey,
        "white_hu": white,
        "csf_hu": np.clip(rng.normal(*CSF_HU), 3, 13),
        "deep_grey_extra_hu": np.clip(rng.normal(*DEEP_GREY_EXTRA_HU), 0, 3),
        "brain_shift_hu": rng.uniform(*PERSON_SHIFT_HU),
        "dura_hu": rng.uniform(*DURA_HU),
        "sinus_hu": rng.uniform(*DURA_HU),
        "age_years": age,
        "atrophy": np.clip(rng.normal((age - 40) / 60, 0.2), 0, 1),
        "shape_spread": rng.uniform(0.8, 1.3),
        "asymmetry": rng.uniform(0.5, 1.2),
        "calcification": bool(rng.random() < RATES["calcification"]),
        "definition": str(rng.choice(["atlas", "second", "between"])),
        "cupping": 0.0,  # cupping_hu says it
    }


def _scanner(rng: np.random.Generator) -> dict[str, Any]:
    """An acquisition at the population's rates."""
    kind = int(rng.choice(4, p=THICKNESS_SHARES))
    thickness = [5.0, *(float(rng.choice(group)) for group in (MIDDLE_MM, THIN_MM, THICK_MM))][kind]
    noise = min(rng.uniform(*PERSON_NOISE_HU), MOST_NOISE_HU * np.sqrt(thickness / 5.0))
    kernel = int(rng.choice(3, p=KERNEL_SHARES))
    shape = [{"sharpness": rng.uniform(0.8, 1.2)}, _sharp_kernel(rng), _plastic(rng)][kernel]
    noise *= [1.0, SHARP_NOISE, PLASTIC_NOISE][kernel]
    old = rng.random() < OLD_SCANNER_SHARE
    cupping = (
        rng.uniform(*OLD_SCANNER_HU) if old else min(rng.exponential(CUPPING_MEAN_HU), OLD_SCANNER_HU[1])
    )
    tilt = rng.uniform(-20, 20) if rng.random() < 0.7 else 0.0
    return {
        "thickness_mm": thickness,
        "noise_hu": noise,
        **shape,
        "cupping_hu": cupping,
        "cupping_depth_mm": rng.uniform(*CUPPING_DEPTH_MM),
        "cupping_height": rng.uniform(*CUPPING_HEIGHT),
        "left_right_shading_hu": rng.uniform(*SHADING_HU),
        "front_back_shading_hu": rng.uniform(*SHADING_HU),
        **_texture(rng),
        **_position(rng, tilt, 4.0),
    }


def _plain(rng: np.random.Generator) -> dict[str, Any]:
    """A young and slim brain on a good scanner: the head that one confounder is put on."""
    return {
        "thickness_mm": 5.0,
        "noise_hu": rng.uniform(2.5, 3.5),
        "cupping_hu": rng.uniform(0, 2),
        "texture": 1.0,
        "atrophy": rng.uniform(0.1, 0.3),
        "dura_hu": rng.uniform(50, 58),
        "sinus_hu": rng.uniform(50, 58),
        **_position(rng, 0.0, 1.5),
    }


def _position(rng: np.random.Generator, tilt: float, sd_deg: float) -> dict[str, Any]:
    """Gantry and head. Slices lie near the orbitomeatal line: the chin does what the gantry does not."""
    turn = np.clip(rng.normal(0, sd_deg, 2), -15, 15)
    return {
        "tilt_deg": tilt,
        "pitch_deg": np.clip(tilt - rng.normal(6, 4), -30, 30),
        "yaw_deg": turn[0],
        "roll_deg": turn[1],
        "shift_mm": tuple(round(float(v), 1) for v in rng.normal(0, [4, 3, 4])),
        "pixel_mm": rng.choice([0.449, 0.469, 0.488]),
    }


def _texture(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "texture": rng.uniform(*PERSON_TEXTURE_HU) / _TEXTURE_UNIT_HU,
        "texture_mm": rng.uniform(*PERSON_TEXTURE_MM) / _FWHM_PER_SIGMA,
    }


def _sharp_kernel(rng: np.random.Generator) -> dict[str, Any]:
    return {"sharpness": rng.uniform(1.4, 1.8), "edge_enhancement": rng.uniform(0.3, 1.0)}


def _plastic(rng: np.random.Generator) -> dict[str, Any]:
    return {"plastic": rng.uniform(0.5, 1.0), "sharpness": rng.uniform(0.7, 1.0)}


def _diseases(rng: np.random.Generator, drawn: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Fields of the confounders of person and scan that this head has, at their rates."""
    names = ("leukoaraiosis", "lacunes", "cavity", "calcified_pallidum", "streaks", "motion", "midline_shift")
    return [drawn[name] for name in names if rng.random() < RATES[name]]


def _confounder(name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Fields that put one confounder on a head."""
    sign = rng.choice([-1.0, 1.0])
    uniform = rng.uniform
    match name:
        case "cupping":
            depth, height = uniform(*CUPPING_DEPTH_MM), uniform(*CUPPING_HEIGHT)
            return {
                "cupping_hu": uniform(*OLD_SCANNER_HU),
                "cupping_depth_mm": depth,
                "cupping_height": height,
            }
        case "sharp_kernel":
            return {"noise_hu": SHARP_NOISE * uniform(*PERSON_NOISE_HU), **_sharp_kernel(rng)}
        case "plastic_noise":
            return {"noise_hu": PLASTIC_NOISE * uniform(*PERSON_NOISE_HU), **_plastic(rng)}
        case "shading":
            other = uniform(*SHADING_HU)
            return {"left_right_shading_hu": sign * uniform(0.8, 1.5), "front_back_shading_hu": other}
        case "texture":
            return {**_texture(rng), "texture": uniform(1.5, 2.0) / _TEXTURE_UNIT_HU}
        case "leukoaraiosis":
            lean = sign * uniform(0.2, 0.6) if uniform() < _ASYMMETRIC_LEUKOARAIOSIS else uniform(-0.1, 0.1)
            return {"leukoaraiosis": uniform(0.3, 1.0), "leukoaraiosis_asymmetry": lean}
        case "lacunes":
            return {"lacunes": int(rng.integers(1, 5)), "rim_hu": uniform(5, 15), "rim_mm": uniform(3, 10)}
        case "cavity":
            side = SIDES[int(rng.integers(2))]
            rim = {"rim_hu": uniform(5, 15), "rim_mm": uniform(3, 10)}
            if uniform() < 0.5:
                return {"old_territory": ((str(rng.choice(["ACA", "PCA"])), side),), **rim}
            return {"old_infarct": (RegionId(str(rng.choice(CORTICAL)), side),), **rim}
        case "calcified_pallidum":
            return {"basal_ganglia_calcium": uniform(0.3, 1.0)}
        case "streaks":
            return {"streaks": uniform(0.5, 1.5)}
        case "motion":
            return {"motion_mm": uniform(1.5, 5.0)}
        case "thin_slices":
            thickness = float(rng.choice(THIN_MM))
            most = MOST_NOISE_HU * np.sqrt(thickness / 5.0)
            return {"thickness_mm": thickness, "noise_hu": min(uniform(*PERSON_NOISE_HU), most)}
        case "thick_slices":
            return {"thickness_mm": float(rng.choice(THICK_MM))}
        case "tilt_rotation":
            other = rng.choice([-1.0, 1.0])
            turned = {"yaw_deg": sign * uniform(7, 15), "roll_deg": other * uniform(4, 12)}
            tilt = uniform(-20, 20)
            return {"tilt_deg": tilt, "pitch_deg": tilt - uniform(-6, 16), **turned}
        case "wide_ventricles":
            return {"atrophy": uniform(0.8, 1.0)}
        case "midline_shift":
            return {"midline_shift_mm": sign * uniform(2, 6)}
        case "dense_sinuses":
            return {"dura_hu": uniform(64, 70), "sinus_hu": uniform(64, 70)}
    raise AssertionError(name)


def _infarct(
    rng: np.random.Generator,
    affected: tuple[RegionId, ...] | None,
    delta_hu: float | None,
    fields: dict[str, Any],
) -> dict[str, Any]:
    """The infarct's fields; an old cavity in a region leaves no room for a new infarct in it."""
    pattern = vascular_pattern(rng)
    depth = float(rng.choice(DEPTHS_HU))
    shares = {region: rng.uniform(*INVOLVEMENT) for region in REGION_NAMES}
    regions = pattern if affected is None else affected
    return {
        "affected": regions,
        "involvement": tuple(round(float(shares[r.name]), 3) for r in regions),
        "delta_hu": depth if delta_hu is None else delta_hu,
        "white_share": rng.uniform(*PERSON_WHITE_SHARE),
        "edge_mm": rng.uniform(*EDGE_MM),
        "swelling": rng.uniform(*SWELLING),
        "old_infarct": tuple(r for r in fields.get("old_infarct", ()) if r not in regions),
    }


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Numbers as short decimals, so that a specification reads well and has one spelling."""
    return {
        name: round(float(value), 3) if isinstance(value, float | np.floating) else value
        for name, value in fields.items()
    }
