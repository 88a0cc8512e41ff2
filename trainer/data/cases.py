"""The prepared data folder: every case once, in the node's own canonical form.

``trainer prepare`` writes it, everything else reads it:

    OUT/dataset.json     what the data is and where it came from
    OUT/cases.json       one record per case
    OUT/cases/<id>.npz   the case's arrays on the canonical grid
    OUT/cases/<id>.json  its record and what it was made from, so that a stopped run goes on where it was

The arrays come from the steps that the node takes (frame, brain, registration), so that training sees the
voxels that the node will show the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from strokecore import __version__
from strokecore.anatomy.atlas import load_atlas
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.errors import UsageError
from strokecore.files import write_atomically
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.preprocessing import OUTSIDE_HU, PREPROCESS_VERSION, InputSpec

Split = Literal["train", "validate", "test"]
Labels = Literal["territory", "binary"]
Group = Literal["coupled", "bg_only", "sg_only", "lesion_free", "outside", "mixed"]

SPLITS: Final[tuple[Split, ...]] = get_args(Split)
DATASET_SCHEMA: Final = 2
ARRAYS: Final = {
    "hu": np.float16,  # 1/32 HU at the density of brain
    "field": np.float16,
    "brain": np.bool_,
    "inside": np.bool_,
    "regions": np.uint8,
    "lesion": np.bool_,
    "territory": np.uint8,
}


@dataclass(frozen=True)
class CaseRecord:
    """What is known of a case without its arrays.

    Attributes
    ----------
    id: file name of the case; holds no patient identity.
    split: train, validate or test; fixed when the data is prepared.
    labels: "territory" when each lesion voxel's region is known, else "binary".
    group: pattern of the infarct (trainer.prepare.patterns).
    level_plane_mm: head z between the two ASPECTS levels (strokecore.learned.arms).
    slice_thickness_mm: of the source.
    lesion_ml: volume of the infarct.
    affected: regions with infarct, such as "left:M1"; empty when only the infarct's outline is known.
    digest: sha256 hex of the arrays.
    provenance: where the case came from; no patient data.
    not_judged: regions that are neither affected nor free of infarct by the truth, such as one of which a
        tenth is infarct; nothing is fitted or measured on them.
    """

    id: str
    split: Split
    labels: Labels
    group: Group
    level_plane_mm: float
    slice_thickness_mm: float
    lesion_ml: float
    affected: tuple[str, ...]
    digest: str
    provenance: dict[str, str] = field(default_factory=dict)
    not_judged: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseRecord:
        """The inverse of ``asdict``. Raises TypeError on unknown or missing keys."""
        return replace(
            cls(**values),
            affected=tuple(values["affected"]),
            not_judged=tuple(values.get("not_judged", ())),
        )


@dataclass(frozen=True, eq=False)
class Case:
    """One case; arrays are [z, y, x] on CANONICAL_GRID.

    Attributes
    ----------
    hu: float16, Hounsfield units; -1024 outside the scan.
    field: float16, HU, the scanner's slow density (strokecore.head.density_field); ``hu - field`` is flat.
    brain: bool, parenchyma; inside: bool, intracranial space.
    regions: uint8, RegionId.label of the atlas as the node places it.
    lesion: bool, the true infarct.
    territory: uint8, RegionId.label of the truth, 0 elsewhere or when unknown.
    """

    record: CaseRecord
    hu: npt.NDArray[np.float16]
    field: npt.NDArray[np.float16]
    brain: BoolArray
    inside: BoolArray
    regions: UInt8Array
    lesion: BoolArray
    territory: UInt8Array

    def density(self, spec: InputSpec) -> Float32Array:
        """HU as ``spec`` wants them: as scanned, or without the slow field; float32 [z, y, x]."""
        hu = self.hu.astype(np.float32)
        if not spec.flat:
            return hu
        # what is outside the scan stays recognisable, and nothing else becomes it
        flat = np.maximum(hu - self.field.astype(np.float32), OUTSIDE_HU + 1)
        return np.where(hu > OUTSIDE_HU, flat, hu)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, in the order of ARRAYS."""
        return {name: getattr(self, name) for name in ARRAYS}

    def digest(self) -> str:
        """sha256 hex of the arrays' bytes, in the order of ARRAYS."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class DatasetWriter:
    """Collects cases into a prepared folder; nothing is readable as a dataset before ``close``.

    Case files are written under a temporary name and renamed, so that a killed run leaves no half case.
    """

    def __init__(self, out: Path) -> None:
        """Raises UsageError when ``out`` already holds a finished dataset."""
        if (out / "dataset.json").exists():
            raise UsageError(f"{out} already holds a prepared dataset; give another folder or remove it.")
        self.out = out
        self.records: list[CaseRecord] = []
        self.skipped: list[dict[str, str]] = []
        (out / "cases").mkdir(parents=True, exist_ok=True)

    def add(self, case: Case, made_from: Mapping[str, str] | None = None) -> None:
        """Write one case. Raises UsageError when its id is taken."""
        self.add_record(write_case(self.out, case, made_from or {}))

    def add_record(self, record: CaseRecord) -> None:
        """Add a case whose file a worker process has written with ``write_case``."""
        if any(record.id == other.id for other in self.records):
            raise UsageError(f"case {record.id} is there twice; give every case its own id.")
        self.records.append(record)

    def skip(self, case_id: str, reason: str) -> None:
        """Remember a case that could not be used."""
        self.skipped.append({"id": case_id, "reason": reason})

    def close(self, kind: str, labels: Labels, **details: Any) -> Dataset:
        """Write the two indices. Raises UsageError when no case was added."""
        if not self.records:
            reasons = "; ".join(f"{s['id']}: {s['reason']}" for s in self.skipped[:3])
            raise UsageError(f"no case could be prepared ({reasons or 'none was found'}).")
        self.records.sort(key=lambda record: record.id)
        _write_json(self.out / "cases.json", [asdict(record) for record in self.records])
        about = {
            "schema": DATASET_SCHEMA,
            "kind": kind,
            "labels": labels,
            "cases": {split: sum(r.split == split for r in self.records) for split in SPLITS},
            "skipped": sorted(self.skipped, key=lambda s: s["id"]),
            "strokecore": __version__,
            "preprocess": PREPROCESS_VERSION,
            "atlas_sha256": load_atlas().sha256,
            **details,
        }
        _write_json(self.out / "dataset.json", about)
        return Dataset(self.out)


class Dataset:
    """A prepared folder, read."""

    def __init__(self, folder: Path) -> None:
        """Raises UsageError when ``folder`` is no prepared dataset, or of another atlas or preprocessing."""
        try:
            self.about: dict[str, Any] = json.loads((folder / "dataset.json").read_text("utf-8"))
            listed = json.loads((folder / "cases.json").read_text("utf-8"))
            self.records = tuple(CaseRecord.from_dict(values) for values in listed)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(
                f"{folder} is not a finished dataset ({type(error).__name__}); make one with trainer prepare."
            ) from error
        self.folder = folder
        for name, found, expected in (
            ("schema", self.about.get("schema"), DATASET_SCHEMA),
            ("preprocessing", self.about.get("preprocess"), PREPROCESS_VERSION),
            ("atlas", self.about.get("atlas_sha256"), load_atlas().sha256),
        ):
            if found != expected:
                raise UsageError(
                    f"{folder} was prepared with {name} {found}, this version has {expected}; "
                    "prepare the data again."
                )

    @cached_property
    def sha256(self) -> str:
        """Hash of the cases' digests, splits and patterns: which data a run saw."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(f"{record.id} {record.split} {record.group} {record.digest}\n".encode())
        return digest.hexdigest()

    def split(self, split: Split) -> tuple[CaseRecord, ...]:
        """Records of one split, by id."""
        return tuple(record for record in self.records if record.split == split)

    def load(self, record: CaseRecord) -> Case:
        """A case's arrays. Raises UsageError when its file is missing, damaged or not the one recorded."""
        path = self.folder / "cases" / f"{record.id}.npz"
        try:
            # numpy leaves the file open when it cannot read it
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays: dict[str, Any] = {name: file[name].astype(kind) for name, kind in ARRAYS.items()}
        except Exception as error:  # zip, zlib and numpy each raise their own on a damaged file
            raise UsageError(
                f"{path} cannot be read ({type(error).__name__}); prepare the data again."
            ) from error
        case = Case(record, **arrays)
        if case.digest() != record.digest or case.hu.shape != CANONICAL_GRID.shape:
            raise UsageError(
                f"{path} is not the file that was prepared (digest differs); prepare the data again."
            )
        return case


def write_case(out: Path, case: Case, made_from: Mapping[str, str]) -> CaseRecord:
    """Write one case below ``out`` and return its record with the digest filled in.

    ``made_from`` names everything that decides the case; ``made_case`` finds it again by that.
    """
    path = out / "cases" / f"{case.record.id}.npz"
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **case.arrays())
    write_atomically(path, content.getvalue())
    record = replace(case.record, digest=case.digest())
    _write_json(path.with_suffix(".json"), {"record": asdict(record), "made_from": _made_from(made_from)})
    return record


def made_case(out: Path, case_id: str, made_from: Mapping[str, str]) -> CaseRecord | None:
    """The record of a case that an earlier, stopped run made from the same; None when there is none."""
    path = out / "cases" / f"{case_id}.json"
    try:
        made = json.loads(path.read_text("utf-8"))
        found = CaseRecord.from_dict(made["record"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    same = made.get("made_from") == _made_from(made_from) and path.with_suffix(".npz").exists()
    return found if same else None


def _made_from(given: Mapping[str, str]) -> dict[str, str]:
    return {
        "preprocess": PREPROCESS_VERSION,
        "atlas": load_atlas().sha256,
        "strokecore": __version__,
        **given,
    }


def _write_json(path: Path, content: object) -> None:
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
