"""What is true of one case: its regions in truth.json, and the infarct as it was outlined in truth.nii.gz.

truth.json is checked against its schema and against itself, the outline against the scan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId, Side
from strokecore.arrays import BoolArray, Float64Array
from strokecore.errors import UsageError
from strokecore.reading.series import Series
from strokecore.result import AspectsScore
from strokecore.scoring.aspects import FULL_SCORE, affected_side
from strokecore.simulate.spec import TEST_SEEDS, TUNE_SEEDS, VALIDATE_SEEDS
from strokecore.simulate.write import TRUTH_FOLDER

Split = Literal["tune", "validate", "test"]
SPLIT_SEEDS: Final[dict[Split, range]] = {
    "tune": TUNE_SEEDS,
    "validate": VALIDATE_SEEDS,
    "test": TEST_SEEDS,
}
TRUTH_FILE: Final = "truth.json"
MASK_FILE: Final = "truth.nii.gz"
_LONGEST: Final = 200  # characters of a schema's message: it can quote the whole file
_HELP: Final = (
    'Write for example {"schema": 1, "affected": {"left": ["I", "M1"], "right": []}}; '
    "docs/evaluation.md has the whole form."
)

# NIfTI axes are right, anterior, superior; DICOM's are left, posterior, superior.
_RAS_FROM_LPS: Final = np.array([-1.0, -1.0, 1.0])
# How far the volume may be off after the outline was carried to the scan's voxels, for its edges' sake.
_VOLUME_TOLERANCE: Final = 0.2
_VOLUME_SLACK_ML: Final = 1.0


class MaskError(Exception):
    """The outline is damaged or was not drawn on this scan."""


@dataclass(frozen=True)
class Simulator:
    """The simulator that made a case: version and sha256 of its sources."""

    version: str
    sha256: str


@dataclass(frozen=True)
class Blood:
    """A haemorrhage that was drawn: where ("parenchymal", "subdural", ..) and how much, ml."""

    place: str
    ml: float


@dataclass(frozen=True)
class Truth:
    """What is true of one head.

    Attributes
    ----------
    affected: regions with early ischaemic change; all others are normal.
    infarct_ml: volume of the acute infarct by side; None when not known.
    split: what the case may be used for; None when not said.
    seed, simulator: of a simulated case.
    unjudged: regions of which so little is involved that neither answer is wrong; part of no region figure.
    person: whose anatomy a simulated case has; None for the average head and for a hospital's cases.
    delta_hu: depth of the simulated infarct; None without infarct or where it is not known.
    observer_hu: this side minus the other in the true region, HU, as an observer who knows the region, the
        density field and the noise would measure it, in ALL_REGIONS order; () when not known.
    confounder: what in this head imitates or hides an infarct, "plain" for nothing; None when not said.
    blood: None where none was drawn.
    """

    affected: frozenset[RegionId]
    infarct_ml: dict[Side, float] | None = None
    split: Split | None = None
    seed: int | None = None
    simulator: Simulator | None = None
    unjudged: frozenset[RegionId] = frozenset()
    person: str | None = None
    delta_hu: float | None = None
    observer_hu: tuple[float | None, ...] = ()
    confounder: str | None = None
    blood: Blood | None = None

    @property
    def regions(self) -> tuple[bool, ...]:
        """Whether each region is affected, in ALL_REGIONS order."""
        return tuple(region in self.affected for region in ALL_REGIONS)

    @property
    def judged(self) -> tuple[bool, ...]:
        """Whether each region counts in the figures, in ALL_REGIONS order."""
        return tuple(region not in self.unjudged for region in ALL_REGIONS)

    @property
    def clean_sides(self) -> tuple[Side, ...]:
        """The hemispheres without any infarct, counted or not, of a head without blood."""
        touched = {region.side for region in self.affected | self.unjudged}
        touched |= {side for side, ml in (self.infarct_ml or {}).items() if ml > 0}
        return () if self.blood else tuple(side for side in SIDES if side not in touched)

    @property
    def clean(self) -> bool:
        """Whether the head has neither infarct nor blood."""
        return len(self.clean_sides) == len(SIDES)

    @property
    def scores(self) -> dict[Side, int]:
        """True ASPECTS of each hemisphere."""
        return {side: FULL_SCORE - sum(r.side == side for r in self.affected) for side in SIDES}

    @property
    def side(self) -> str | None:
        """The truly affected side, by the rule that the node follows."""
        return affected_side({side: AspectsScore(score, 10) for side, score in self.scores.items()})


def split_of(seed: int) -> Split | None:
    """The split that a simulated case's seed belongs to; None outside all of them."""
    return next((split for split, seeds in SPLIT_SEEDS.items() if seed in seeds), None)


def read_truth(case: Path) -> Truth:
    """Read ``case``/truth/truth.json.

    Raises
    ------
    UsageError: missing, not JSON, against the schema, or contradicting itself; names the case.
    """
    path = case / TRUTH_FOLDER / TRUTH_FILE
    where = f"case {case.name}: {TRUTH_FOLDER}/{TRUTH_FILE}"
    try:
        # utf-8-sig: some editors begin a file with a byte order mark
        record = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_not_a_number)
    except FileNotFoundError:
        raise UsageError(f"{where} is missing; every case needs one. {_HELP}") from None
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise UsageError(f"{where} cannot be read ({type(error).__name__}). {_HELP}") from None
    problem = _against_schema(record) or _contradiction(record)
    if problem:
        raise UsageError(f"{where}: {problem}. {_HELP}")
    return _truth(record)


def read_mask(case: Path, series: Series) -> BoolArray | None:
    """``case``/truth/truth.nii.gz on the voxels of ``series``, bool [k, j, i]; None where there is none.

    Every value above 0 is acute infarct. Raises MaskError when it cannot be read or lies outside the scan.
    """
    path = case / TRUTH_FOLDER / MASK_FILE
    if not path.exists():
        return None
    import nibabel

    try:
        image = nibabel.load(path)
        drawn = np.asarray(image.dataobj).squeeze() > 0
        voxel_from_ras = np.linalg.inv(image.affine)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise MaskError(type(error).__name__) from None
    if drawn.ndim != 3:
        raise MaskError(f"{drawn.ndim} dimensions")
    found = _on_series(drawn, voxel_from_ras, series)
    drawn_ml = float(drawn.sum() / abs(np.linalg.det(voxel_from_ras[:3, :3])) / 1000)
    if abs(series.ml(found) - drawn_ml) > _VOLUME_SLACK_ML + _VOLUME_TOLERANCE * drawn_ml:
        raise MaskError("it does not lie in the scan")
    return found


def person_of(anatomy: str) -> str | None:
    """The person of an anatomy: "person_07" of "person_07:1f0c.." and of "person_07.nii.gz"; None for ""."""
    return anatomy.partition(":")[0].partition(".")[0] or None


def _truth(record: dict[str, Any]) -> Truth:
    spec = record.get("spec", {})
    seed = spec.get("seed")
    made_by = record.get("simulator")
    affected = frozenset(_affected(record))
    rows = {RegionId(row["name"], row["side"]): row for row in record.get("regions", ())}
    observer = tuple(rows[region].get("observer_difference_hu") for region in ALL_REGIONS if region in rows)
    blood_ml = spec.get("blood_ml", 0.0)
    return Truth(
        affected=affected,
        infarct_ml={s: float(record["infarct_ml"][s]) for s in SIDES} if "infarct_ml" in record else None,
        split=record.get("split") or (split_of(seed) if seed is not None else None),
        seed=seed,
        simulator=Simulator(made_by["version"], made_by["sha256"]) if made_by else None,
        unjudged=frozenset(region for region, row in rows.items() if not row.get("judged", True)),
        person=person_of(spec.get("anatomy", "")),
        delta_hu=spec.get("delta_hu") if affected else None,
        observer_hu=observer if any(value is not None for value in observer) else (),
        confounder=record.get("confounder"),
        blood=Blood(spec.get("blood_place", "parenchymal"), blood_ml) if blood_ml else None,
    )


def _affected(record: dict[str, Any]) -> set[RegionId]:
    if "regions" in record:
        return {RegionId(row["name"], row["side"]) for row in record["regions"] if row["affected"]}
    return {RegionId(name, side) for side in SIDES for name in record["affected"][side]}


def _against_schema(record: object) -> str | None:
    """The schema's most telling objection, with its place; None when there is none."""
    import jsonschema

    errors = jsonschema.Draft202012Validator(_schema()).iter_errors(record)
    worst = jsonschema.exceptions.best_match(errors)
    if worst is None:
        return None
    if worst.validator == "anyOf":
        return "neither affected nor regions is given"
    place = ".".join(str(part) for part in worst.absolute_path)
    message = worst.message if len(worst.message) <= _LONGEST else f"{worst.message[:_LONGEST]} .."
    return f"{place}: {message}" if place else message


def _contradiction(record: dict[str, Any]) -> str | None:
    """Two statements that cannot both be true: most likely a side or a region was mixed up."""
    affected = _affected(record)
    if "regions" in record:
        if len({(row["name"], row["side"]) for row in record["regions"]}) < len(ALL_REGIONS):
            return "regions must list each of the 20 regions once"
        named = {RegionId(name, side) for side in SIDES for name in record.get("affected", {}).get(side, ())}
        if "affected" in record and named != affected:
            return "affected and regions name different regions"
    for side, stated in record.get("aspects", {}).items():
        counted = FULL_SCORE - sum(region.side == side for region in affected)
        if stated != counted:
            return f"aspects.{side} is {stated}, but the affected regions make it {counted}"
    stated, sides = record.get("affected_side"), {region.side for region in affected}
    if stated in SIDES and sides and stated not in sides:
        return f"affected_side is {stated}, but every affected region is on the other side"
    return None


def _not_a_number(name: str) -> float:
    """JSON has no NaN or Infinity; Python's reader would take them."""
    raise ValueError(name)


def _on_series(drawn: BoolArray, voxel_from_ras: Float64Array, series: Series) -> BoolArray:
    """``drawn`` [i, j, k] of its own grid, nearest neighbour at each voxel of the series; slice by slice."""
    out = np.zeros(series.hu.shape, np.bool_)
    along_j, along_i = series.pixel_spacing_mm
    down = np.arange(series.hu.shape[1])[:, None, None] * along_j * series.column_direction
    across = np.arange(series.hu.shape[2])[None, :, None] * along_i * series.row_direction
    for k, corner in enumerate(series.positions_mm):
        points = (corner + down + across) * _RAS_FROM_LPS
        index = np.rint(points @ voxel_from_ras[:3, :3].T + voxel_from_ras[:3, 3]).astype(int)
        inside = ((index >= 0) & (index < drawn.shape)).all(axis=-1)
        out[k][inside] = drawn[tuple(index[inside].T)]
    return out


@cache
def _schema() -> dict[str, Any]:
    text = resources.files("strokecore.evaluate").joinpath("truth.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
