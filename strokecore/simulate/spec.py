"""What a simulated head CT is made of: the specification, its parser and the random draws of the studies.

Seed ranges of the studies (disjoint, so that nothing is tuned on what it is judged by):
tune 0-9999, validate 10000-19999, test 20000-29999.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from strokecore.anatomy.regions import REGION_NAMES, SIDES, RegionId, Side
from strokecore.errors import UsageError

SIMULATOR_VERSION: Final = "2.1.0"

TUNE_SEEDS: Final = range(10_000)
VALIDATE_SEEDS: Final = range(10_000, 20_000)
TEST_SEEDS: Final = range(20_000, 30_000)

Position = Literal["HFS", "HFP", "FFS", "FFP"]
Kernel = Literal["SOFT", "BONE"]
Territory = Literal["ACA", "PCA"]
Definition = Literal["atlas", "second", "between"]
BloodPlace = Literal["parenchymal", "subdural", "subarachnoid", "ventricular", "bilateral_subdural"]

# Streams of random numbers: each part of the head has its own, so that the same seed gives the same head
# whatever infarct, thickness or kernel is asked for.
STREAM_SHAPE: Final = 1
STREAM_TISSUE: Final = 2
STREAM_INFARCT: Final = 3
STREAM_NOISE: Final = 4
STREAM_SPEC: Final = 5
STREAM_PATTERN: Final = 6
STREAM_CALCIUM: Final = 7
STREAM_SCARS: Final = 8  # lacunes, and the rims of old cavities
STREAM_ARTEFACT: Final = 10  # streaks and motion
STREAM_OUTLINE: Final = 11  # of an infarct that follows no region
STREAM_LEUKOARAIOSIS: Final = 12
STREAM_DEFINITION: Final = 13  # borders between two definitions
STREAM_BLOOD: Final = 14


_LIMITS: Final[dict[str, tuple[float, float, str]]] = {
    "delta_hu": (0, 30, " HU"),
    "thickness_mm": (0.5, 10, " mm"),
    "tilt_deg": (-30, 30, " degrees"),
    **dict.fromkeys(("pitch_deg", "yaw_deg", "roll_deg"), (-45, 45, " degrees")),
    "brain_shift_hu": (-8, 8, " HU"),
    "texture_mm": (1, 20, " mm"),
    "sharpness": (0.5, 2, ""),
    **dict.fromkeys(("contrast", "texture", "asymmetry", "cupping", "shape_spread", "streaks"), (0, 3, "")),
    **dict.fromkeys(
        ("atrophy", "leukoaraiosis", "supraganglionic_share", "basal_ganglia_calcium"), (0, 1, "")
    ),
    **dict.fromkeys(("white_share", "swelling", "plastic"), (0, 1, "")),
    **dict.fromkeys(("leukoaraiosis_asymmetry", "cupping_height"), (-1, 1, "")),
    "noise_hu": (0, 30, " HU"),
    "pixel_mm": (0.2, 4, " mm"),
    "blood_ml": (0, 150, " ml"),
    "edge_mm": (0.5, 6, " mm"),
    "rim_hu": (0, 20, " HU"),
    "rim_mm": (1, 15, " mm"),
    "grey_hu": (28, 48, " HU"),
    "white_hu": (20, 40, " HU"),
    "csf_hu": (-5, 20, " HU"),
    "deep_grey_extra_hu": (-2, 6, " HU"),
    **dict.fromkeys(("dura_hu", "sinus_hu"), (40, 90, " HU")),
    "cupping_hu": (0, 30, " HU"),
    "cupping_depth_mm": (2, 40, " mm"),
    **dict.fromkeys(("left_right_shading_hu", "front_back_shading_hu"), (-5, 5, " HU")),
    "edge_enhancement": (0, 2, ""),
    "motion_mm": (0, 15, " mm"),
    "midline_shift_mm": (-12, 12, " mm"),
    "lacunes": (0, 20, ""),
}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "patient_position": get_args(Position),
    "kernel": get_args(Kernel),
    "definition": get_args(Definition),
    "blood_place": get_args(BloodPlace),
}


@dataclass(frozen=True)
class SampleSpec:
    """One simulated head CT. The same specification gives the same bytes.

    Attributes
    ----------
    seed: >= 0; decides the individual (shape, sulci, densities, noise) and the infarct's own boundary error.
    affected: regions with acute infarct.
    delta_hu: mean darkening of grey matter in the infarct's core, HU; white matter darkens less.
    thickness_mm: slice thickness, 0.5-10; slices are contiguous.
    tilt_deg: gantry tilt; positive lifts the front of the slice.
    pitch_deg, yaw_deg, roll_deg: head rotation about LPS x (chin up), z (face to the patient's left), y
        (vertex to the patient's left).
    shift_mm: where the head's origin lies relative to the isocentre, (x, y, z) LPS.
    age_years: written as PatientAge.
    atrophy: 0-1, width of sulci and ventricles.
    leukoaraiosis: 0-1, bilateral periventricular white-matter darkening.
    leukoaraiosis_asymmetry: -1 to 1, how much more of it the left side has, as a share.
    calcification: pineal and choroid-plexus calcium present.
    noise_hu: noise of a 5 mm slice, standard deviation in brain.
    patient_position: DICOM PatientPosition.
    flip_rows, flip_columns: store rows or columns in reverse (with the orientation that says so).
    kernel: SOFT or BONE (sharper, noisier).
    pixel_mm: pixel spacing; matrix: rows = columns.
    blood_ml: volume of one haemorrhage, 0 for none. blood_place: where it lies (the site of a parenchymal
        one follows from the seed); blood_side: its side, where it has one.
    old_infarct: regions that are an old, CSF-like cavity.
    old_territory: old cavities outside the ASPECTS regions, (territory, side) pairs.
    rim_hu, rim_mm: gliosis around old cavities and lacunes: how far below tissue, and how wide.
    other_territory: acute infarct outside the ASPECTS regions, (territory, side) pairs.
    supraganglionic_share: darkening in M4-M6 relative to ``delta_hu``; below 1 their infarct is fainter.
    contrast: difference between grey and white matter relative to the usual one; their mean stays.
    brain_shift_hu: added to grey and white matter, as another tube voltage or calibration does.
    texture: small-scale inhomogeneity of tissue relative to the usual one; texture_mm: its length.
    asymmetry: smooth natural density differences, left and right among them, relative to the usual ones.
    sharpness: cut-off frequency of the kernel relative to the usual one: finer and noisier above 1.
    cupping: residual beam hardening under the vault and between the petrous bones, relative.
    shape_spread: how far people differ in shape, relative.
    basal_ganglia_calcium: 0-1, calcium in the pallidum of both sides, more in one than in the other.
    series_number: SeriesNumber.
    anatomy: "" for the average head, otherwise the label map that the person is made from, as
        "<stem>:<first 12 hex digits of the sha256 of its labels>".
    definition: whose borders the true regions of such a person have.
    involvement: share of each affected region that is infarcted, 0-1, parallel to ``affected``. () draws
        whole regions; otherwise the infarct is one smooth shape whose borders follow no region.
    white_share: darkening of white matter relative to grey matter's.
    edge_mm: blur of the infarct's border, Gaussian sigma.
    swelling: 0-1, share of the fluid in the infarct's sulci that swollen tissue has replaced.
    grey_hu, white_hu, csf_hu: the person's tissue densities; None draws them from the seed.
    deep_grey_extra_hu: how much denser the deep nuclei are.
    dura_hu, sinus_hu: falx and tentorium, venous sinuses.
    cupping_hu: 0-30, brightening at the inner table that decays towards the centre over ``cupping_depth_mm``:
        beam hardening that the scanner's correction leaves.
    cupping_height: -1 to 1, its relative gain 60 mm higher up.
    left_right_shading_hu: smooth density added at the left side and taken away at the right one.
    front_back_shading_hu: smooth density added at the front and taken away at the back.
    edge_enhancement: 0-2, overshoot of a sharp head kernel (unsharp mask).
    plastic: 0-1, share of the noise that is iterative reconstruction's: blotchy, of low frequency.
    streaks: 0-3, from teeth and petrous bones, relative to the usual.
    motion_mm: how far the head moves while one slice is taken.
    midline_shift_mm: of the deep midline, to the patient's left; the skull stays.
    lacunes: number of old lacunar infarcts.
    """

    seed: int
    affected: tuple[RegionId, ...] = ()
    delta_hu: float = 6.0
    thickness_mm: float = 5.0
    tilt_deg: float = 0.0
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    age_years: int = 65
    atrophy: float = 0.3
    leukoaraiosis: float = 0.0
    calcification: bool = True
    noise_hu: float = 3.5
    patient_position: Position = "HFS"
    flip_rows: bool = False
    flip_columns: bool = False
    kernel: Kernel = "SOFT"
    pixel_mm: float = 0.45
    matrix: int = 512
    blood_ml: float = 0.0
    blood_side: Side = "left"
    blood_place: BloodPlace = "parenchymal"
    old_infarct: tuple[RegionId, ...] = ()
    old_territory: tuple[tuple[Territory, Side], ...] = ()
    rim_hu: float = 0.0
    rim_mm: float = 6.0
    other_territory: tuple[tuple[Territory, Side], ...] = ()
    supraganglionic_share: float = 1.0
    contrast: float = 1.0
    brain_shift_hu: float = 0.0
    texture: float = 1.0
    texture_mm: float = 2.5
    asymmetry: float = 1.0
    sharpness: float = 1.0
    cupping: float = 1.0
    shape_spread: float = 1.0
    basal_ganglia_calcium: float = 0.0
    series_number: int = 2
    anatomy: str = ""
    definition: Definition = "atlas"
    involvement: tuple[float, ...] = ()
    white_share: float = 0.7
    edge_mm: float = 1.4
    swelling: float = 0.0
    leukoaraiosis_asymmetry: float = 0.0
    grey_hu: float | None = None
    white_hu: float | None = None
    csf_hu: float | None = None
    deep_grey_extra_hu: float = 1.5
    dura_hu: float = 55.0
    sinus_hu: float = 54.0
    cupping_hu: float = 0.0
    cupping_depth_mm: float = 12.0
    cupping_height: float = 0.0
    left_right_shading_hu: float = 0.0
    front_back_shading_hu: float = 0.0
    edge_enhancement: float = 0.0
    plastic: float = 0.0
    streaks: float = 0.0
    motion_mm: float = 0.0
    midline_shift_mm: float = 0.0
    lacunes: int = 0

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, ">= 0")
        _require(18 <= self.age_years <= 120, "age_years", self.age_years, "18 to 120")
        _require(64 <= self.matrix <= 1024, "matrix", self.matrix, "64 to 1024")
        for name, (low, high, unit) in _LIMITS.items():
            value = getattr(self, name)
            if value is not None:
                _require(low <= value <= high, name, value, f"{low:g} to {high:g}{unit}")
        for name, choices in _CHOICES.items():
            _require(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        both = set(self.affected) & set(self.old_infarct)
        _require(not both, "old_infarct", sorted(both), "no region that is also affected")
        if self.involvement:
            fit = len(self.involvement) == len(self.affected)
            _require(
                fit,
                "involvement",
                self.involvement,
                f"one share for each of {len(self.affected)} affected regions",
            )
            _require(
                all(0 < v <= 1 for v in self.involvement),
                "involvement",
                self.involvement,
                "shares above 0, at most 1",
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; regions as {"name", "side"}."""
        values = dataclasses.asdict(self)
        for name in ("affected", "old_infarct"):
            values[name] = [{"name": r.name, "side": r.side} for r in getattr(self, name)]
        values["shift_mm"] = list(self.shift_mm)
        values["involvement"] = list(self.involvement)
        for name in ("other_territory", "old_territory"):
            values[name] = [list(pair) for pair in getattr(self, name)]
        return values

    def rng(self, stream: int) -> np.random.Generator:
        """The generator of one stream; independent of every other field of the specification."""
        return np.random.default_rng([self.seed, stream])


def _require(condition: bool, name: str, found: object, expected: str) -> None:
    if not condition:
        raise UsageError(f"{name} is {found!r}, expected {expected}; change the sample's {name}.")


def parse_affected(text: str) -> tuple[RegionId, ...]:
    """Regions of "right:I,M1,M2;left:M4", in the order given, without duplicates; "" and "none" give ().

    Raises UsageError when a side or region is unknown.
    """
    found: dict[RegionId, None] = {}
    if text.strip().lower() in ("", "none"):
        return ()
    known = {name.upper(): name for name in REGION_NAMES}
    for part in text.split(";"):
        side_text, colon, names = part.partition(":")
        side = next((s for s in SIDES if s == side_text.strip().lower()), None)
        if side is None or not colon or not names.strip():
            raise UsageError(
                f"affected regions {text!r}: cannot read {part.strip()!r}; "
                "write for example right:I,M1,M2;left:M4."
            )
        for name in names.split(","):
            region = known.get(name.strip().upper())
            if region is None:
                raise UsageError(
                    f"affected regions {text!r}: unknown region {name.strip()!r}; "
                    f"known are {', '.join(REGION_NAMES)}."
                )
            found[RegionId(region, side)] = None
    return tuple(found)


# A pattern grows from one region to its neighbours, as a proximal or a branch occlusion takes part of the MCA
# territory (our simplification: affected regions hang together).
NEIGHBOURS: Final[dict[str, tuple[str, ...]]] = {
    "C": ("L", "IC"),
    "L": ("C", "IC", "I"),
    "IC": ("L", "C"),
    "I": ("L", "M1", "M2"),
    "M1": ("I", "M2", "M4"),
    "M2": ("I", "M1", "M3", "M5"),
    "M3": ("M2", "M6"),
    "M4": ("M1", "M5"),
    "M5": ("M2", "M4", "M6"),
    "M6": ("M3", "M5"),
}
_MOST_REGIONS: Final = 8


def random_affected(seed: int) -> tuple[RegionId, ...]:
    """1-8 neighbouring regions of one hemisphere, drawn from the seed: a plausible MCA pattern."""
    rng = np.random.default_rng([seed, STREAM_PATTERN])
    side = SIDES[int(rng.integers(2))]
    # Small patterns are more frequent than large ones among patients who reach a CT early.
    count = int(min(_MOST_REGIONS, 1 + rng.binomial(_MOST_REGIONS - 1, rng.uniform(0.1, 0.7))))
    # The insula and lentiform are the regions most often affected.
    start = str(
        rng.choice(
            ["I", "L", "M2", "M1", "M3", "M5", "M4", "M6"], p=[0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.05]
        )
    )
    chosen = [start]
    while len(chosen) < count:
        border = sorted({n for c in chosen for n in NEIGHBOURS[c]} - set(chosen))
        chosen.append(str(rng.choice(border)))
    return tuple(RegionId(name, side) for name in REGION_NAMES if name in chosen)


def random_spec(
    seed: int, affected: tuple[RegionId, ...] = (), delta_hu: float = 6.0, **overrides: Any
) -> SampleSpec:
    """A specification whose acquisition and patient are drawn from the seed.

    Tilt -20..20 degrees, thickness mostly 3-6 mm, head rotation of a few degrees, age, atrophy, leukoaraiosis
    and noise vary. ``overrides`` are fields of SampleSpec set instead of drawn; they do not change the rest.
    """
    rng = np.random.default_rng([seed, STREAM_SPEC])
    tilt = float(rng.uniform(-20, 20)) if rng.random() < 0.7 else 0.0
    thick = float(rng.choice([3.0, 3.75, 4.0, 5.0, 6.0], p=[0.15, 0.1, 0.2, 0.45, 0.1]))
    thin = float(rng.choice([1.25, 2.0, 2.5]))
    thickness = thin if rng.random() < 0.15 else thick
    # Slices are planned nearly parallel to the orbitomeatal line; the chin does what the gantry does not.
    slice_angle = float(rng.normal(6.0, 4.0))
    age = int(np.clip(rng.normal(70, 12), 30, 95))
    drawn: dict[str, Any] = {
        "tilt_deg": round(tilt, 1),
        "thickness_mm": thickness,
        "pitch_deg": round(float(np.clip(tilt - slice_angle, -30, 30)), 2),
        "yaw_deg": round(float(np.clip(rng.normal(0, 3), -9, 9)), 2),
        "roll_deg": round(float(np.clip(rng.normal(0, 2.5), -8, 8)), 2),
        "shift_mm": tuple(round(float(v), 1) for v in rng.normal(0, [4, 3, 4])),
        "age_years": age,
        "atrophy": round(float(np.clip(rng.normal((age - 40) / 60, 0.15), 0, 1)), 2),
        "leukoaraiosis": round(float(np.clip(rng.normal((age - 65) / 50, 0.25), 0, 1)), 2),
        "calcification": bool(rng.random() < 0.75),
        "noise_hu": round(float(rng.uniform(3.0, 4.2)), 2),
        "pixel_mm": round(float(rng.choice([0.449, 0.469, 0.488])), 4),
    }
    return SampleSpec(seed=seed, affected=affected, delta_hu=delta_hu, **(drawn | overrides))


def canonical_json(values: dict[str, Any]) -> str:
    """The one spelling of a specification that UIDs are derived from."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


@cache
def simulator_sha256() -> str:
    """sha256 hex of the simulator's own sources: a study's figures name the simulator that made its cases."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
