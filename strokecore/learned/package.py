"""The model package: the one artefact that passes from the trainer to the node.

A folder with a manifest, model.json, and the files that it names with their hashes. The sha256 of
model.json's bytes is the hash of the package: it pins everything else. docs/model-package.md lists the
fields; model.schema.json beside this file checks them. Nothing here reads a pickle or needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from strokecore._version import __version__
from strokecore.anatomy.regions import REGION_NAMES
from strokecore.errors import ModelPackageError, UsageError
from strokecore.learned.arms import BLEND_MM, CLASSES, Arm
from strokecore.learned.combination import Combination, VoxelWeights
from strokecore.learned.preprocessing import PREPROCESS_VERSION, InputSpec
from strokecore.scoring.engine import REGION_THRESHOLD

MANIFEST: Final = "model.json"
ONNX: Final = "model.onnx"
TYPED_ONNX: Final = "model.{}.onnx"
TYPED_PRECISIONS: Final = ("bf16", "fp16")
"""Precisions that need a graph of their own; in TF32 and fp32 model.onnx runs."""
WEIGHTS: Final = "weights.safetensors"
GOLDEN: Final = "golden.npz"
CARD: Final = "MODEL_CARD.md"
LICENCE: Final = "LICENSE"

INPUT_NAME: Final = "slices"
OUTPUT_NAMES: Final[dict[Arm, str]] = {"bg": "bg_probability", "sg": "sg_probability"}

# A manifest is a few kilobytes; more than this is not one.
_MANIFEST_BYTES: Final = 4_000_000
_SCHEMA: Final = Path(__file__).with_name("model.schema.json")
_CHUNK: Final = 1 << 20
_TRAIN_AGAIN: Final = "its network holds for its own only: train and export it again."
_REFIT: Final = (
    "its thresholds and weights hold for its own only: fit them anew with trainer refit, or train and export "
    "it again."
)
_INSTEAD: Final = "To score without a model, leave --model out and use --engine auto or asymmetry."


@dataclass(frozen=True)
class Calibration:
    """How one region's evidence becomes a probability: 1 / (1 + exp(-(slope * x + asymmetry * a + offset))).

    ``slope`` > 0 and ``asymmetry`` >= 0: more infarct never lowers the probability. ``asymmetry`` is 0
    unless the package joins the weight-free engine's opinion (strokecore.learned.combination).
    """

    slope: float
    offset: float
    asymmetry: float = 0.0

    def log_odds(self, x: float, a: float = 0.0) -> float:
        """``x``: the aggregated evidence (strokecore.learned.engine); ``a``: the weight-free log-odds."""
        return self.slope * x + self.asymmetry * a + self.offset

    def probability(self, x: float, a: float = 0.0) -> float:
        """As ``log_odds``."""
        z = self.log_odds(x, a)
        # the form whose exponential cannot overflow
        return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


@dataclass(frozen=True, eq=False)
class ModelPackage:
    """A package whose files and fit to this version have been checked.

    Attributes
    ----------
    folder: where it lies.
    sha256: of model.json, and so of everything it names.
    name, version, licence: of the model.
    spec: its input.
    lesion_threshold: infarct probability from which a voxel is outlined.
    minimum_component_ml: smaller connected lesions are dropped.
    calibration: by region name; the same for left and right.
    region_threshold: probability from which a region is called affected.
    mirror_weight: of the partner's evidence, which is taken off a region's own (engine.against_mirror).
    combination: how the weight-free engine's opinion is joined; None when the network stands alone.
    manifest: the whole of model.json.
    """

    folder: Path
    sha256: str
    name: str
    version: str
    licence: str
    spec: InputSpec
    lesion_threshold: float
    minimum_component_ml: float
    calibration: Mapping[str, Calibration]
    region_threshold: float
    mirror_weight: float
    combination: Combination | None
    manifest: Mapping[str, Any]

    @property
    def onnx(self) -> Path:
        """The network in fp32."""
        return self.folder / ONNX

    @property
    def golden(self) -> Path:
        """Inputs and fp32 outputs for the parity gate; read with ``allow_pickle=False``."""
        return self.folder / GOLDEN

    @property
    def typed_precisions(self) -> tuple[str, ...]:
        """Those of TYPED_PRECISIONS that the package has a graph for."""
        return tuple(p for p in TYPED_PRECISIONS if TYPED_ONNX.format(p) in self.manifest["files"])

    def has_graph(self, precision: str) -> bool:
        """Whether there is a graph for an engine that takes its types from it; TF32 takes that of fp32."""
        return precision not in TYPED_PRECISIONS or precision in self.typed_precisions

    def typed(self, precision: str) -> bytes:
        """The network as a strongly typed ONNX graph in "bf16" or mixed "fp16".

        Raises ModelPackageError when the package has no such graph, or it cannot be read.
        """
        if precision not in self.typed_precisions:
            raise ModelPackageError(
                f"model package {self.folder} has no {precision} graph; make one with "
                "trainer export --typed, or use fp32 or tf32."
            )
        try:
            return (self.folder / TYPED_ONNX.format(precision)).read_bytes()
        except OSError as error:
            raise _damaged(
                self.folder, f"has a {precision} graph that cannot be read ({type(error).__name__})"
            ) from error


def load_package(folder: Path, *, atlas_sha256: str | None = None, to_refit: bool = False) -> ModelPackage:
    """Read and check a package.

    Parameters
    ----------
    folder: as ``trainer export`` wrote it.
    atlas_sha256: of the atlas that this run uses; the shipped atlas's when None.
    to_refit: only the network is wanted: thresholds and weights may hold for another atlas or another
        weight-free engine. Never for scoring.

    Raises
    ------
    ModelPackageError: it is no package, damaged, or made for another version, preprocessing or atlas.
    """
    if not folder.is_dir():
        raise ModelPackageError(
            f"model package {folder} is not a folder; expected the one that trainer export wrote. {_INSTEAD}"
        )
    content = _read_manifest(folder)
    manifest = _parsed(folder, content)
    _check_fit(folder, manifest, None if to_refit else atlas_sha256 or _shipped_atlas())
    spec = _checked_input(folder, manifest)
    _check_files(folder, manifest["files"])
    calibration = manifest["regions"]["calibration"]
    return ModelPackage(
        folder=folder,
        sha256=hashlib.sha256(content).hexdigest(),
        name=manifest["name"],
        version=manifest["version"],
        licence=manifest["licence"],
        spec=spec,
        lesion_threshold=float(manifest["lesion"]["threshold"]),
        minimum_component_ml=float(manifest["lesion"]["minimum_component_ml"]),
        calibration=MappingProxyType(
            {
                name: Calibration(float(c["slope"]), float(c["offset"]), float(c.get("asymmetry", 0.0)))
                for name, c in sorted(calibration.items())
            }
        ),
        region_threshold=float(manifest["regions"].get("threshold", REGION_THRESHOLD)),
        mirror_weight=float(manifest["regions"].get("mirror_weight", 0.0)),
        combination=None if to_refit else _combination(folder, manifest.get("combination")),
        manifest=MappingProxyType(manifest),
    )


def file_sha256(path: Path) -> str:
    """sha256 hex of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def output_shapes(size: tuple[int, int]) -> dict[Arm, list[Any]]:
    """Shape of each arm's output for slices of ``size``; "n" is the number of slices."""
    return {arm: ["n", len(classes), *size] for arm, classes in CLASSES.items()}


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise _damaged(folder, f"has no file {MANIFEST}")
    if path.stat().st_size > _MANIFEST_BYTES:
        raise _damaged(folder, f"has a {MANIFEST} of more than {_MANIFEST_BYTES} bytes")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(folder, f"cannot be read ({type(error).__name__})") from error


def _parsed(folder: Path, content: bytes) -> dict[str, Any]:
    from jsonschema import Draft202012Validator

    try:
        manifest = json.loads(content.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"has a {MANIFEST} that is not JSON") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != 1:
        raise ModelPackageError(
            f"model package {folder} has schema {schema!r}, this version reads 1; export the model again "
            "with this version's trainer, or update strokecore."
        )
    validator = Draft202012Validator(json.loads(_SCHEMA.read_text("utf-8")))
    errors = sorted(validator.iter_errors(manifest), key=lambda e: [str(p) for p in e.absolute_path])
    if errors:
        where = "/".join(str(part) for part in errors[0].absolute_path) or "its top level"
        raise _damaged(folder, f"has a wrong {MANIFEST}: at {where}, {errors[0].message[:200]}")
    return dict(manifest)


def _finite(text: str) -> float:
    """Python reads NaN, Infinity and 1e999 too; none of them is a setting."""
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is not finite")
    return value


def _check_fit(folder: Path, manifest: Mapping[str, Any], atlas_sha256: str | None) -> None:
    minimum = manifest["minimum_strokecore"]
    if _numbers(minimum) > _numbers(__version__):
        raise ModelPackageError(
            f"model package {folder} needs strokecore {minimum} or newer, this is {__version__}; "
            "update strokecore, or export the model with this version's trainer."
        )
    for what, found, expected, instead in (
        ("preprocessing", manifest["preprocess_version"], PREPROCESS_VERSION, _TRAIN_AGAIN),
        ("arm blend (mm)", float(manifest["arms"]["blend_mm"]), BLEND_MM, _TRAIN_AGAIN),
        ("atlas", manifest["atlas_sha256"], atlas_sha256 or manifest["atlas_sha256"], _REFIT),
    ):
        if found != expected:
            raise ModelPackageError(
                f"model package {folder} was made for {what} {found}, this run has {expected}; {instead}"
            )
    for arm, output in zip(CLASSES, manifest["outputs"], strict=True):
        if tuple(output["classes"]) != CLASSES[arm]:
            raise ModelPackageError(
                f"model package {folder} has the {arm} classes {', '.join(output['classes'])}, expected "
                f"{', '.join(CLASSES[arm])}; train and export it again."
            )
    found_regions = set(manifest["regions"]["calibration"])
    if found_regions != set(REGION_NAMES):
        wrong = ", ".join(sorted(found_regions ^ set(REGION_NAMES)))
        raise _damaged(folder, f"has missing or unknown regions in its calibration ({wrong})")


def _combination(folder: Path, values: Mapping[str, Any] | None) -> Combination | None:
    if values is None:
        return None
    from strokecore.scoring.asymmetry import AsymmetryEngine

    found, expected = values["asymmetry_sha256"], AsymmetryEngine().sha256
    if found != expected:
        raise ModelPackageError(
            f"model package {folder} joins the weight-free engine {found[:12]}…, this version "
            f"has {expected[:12]}…; {_REFIT}"
        )
    return Combination(found, VoxelWeights(**values["inside"]), VoxelWeights(**values["outside"]))


def _checked_input(folder: Path, manifest: Mapping[str, Any]) -> InputSpec:
    try:
        spec = InputSpec.from_dict(manifest["input"])
    except UsageError as error:
        raise _damaged(folder, f"has an impossible input: {error}") from error
    shape = ["n", spec.channel_count, *spec.size]
    if manifest["input"]["shape"] != shape:
        raise _damaged(
            folder, f"says input shape {manifest['input']['shape']} where its channels and size give {shape}"
        )
    for output, expected in zip(manifest["outputs"], output_shapes(spec.size).values(), strict=True):
        if output["shape"] != expected:
            raise _damaged(folder, f"says {output['name']} has shape {output['shape']}, expected {expected}")
    return spec


def _check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Every named file is there, unaltered and a plain file; nothing else is."""
    extra = sorted({path.name for path in folder.iterdir()} - set(files) - {MANIFEST})
    if extra:
        raise _damaged(folder, f"holds what {MANIFEST} does not name ({', '.join(extra)[:200]})")
    for name, expected in files.items():
        path = folder / name  # the schema lets no other than the contracted names through
        if path.is_symlink() or not path.is_file():
            raise _damaged(folder, f"lacks {name} as a plain file")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise _damaged(folder, f"has a {name} that cannot be read ({type(error).__name__})") from error
        if found != expected:
            raise _damaged(folder, f"has an altered {name}: sha256 {found[:12]}…, expected {expected[:12]}…")


def _numbers(version: str) -> tuple[int, ...]:
    """1.2.0 as (1, 2); a version's trailing zeros and what follows its numbers say nothing here."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _shipped_atlas() -> str:
    from strokecore.anatomy.atlas import load_atlas

    return load_atlas().sha256


def _damaged(folder: Path, what: str) -> ModelPackageError:
    return ModelPackageError(
        f"model package {folder} {what}; expected a folder as trainer export wrote it. "
        f"Copy it again or export the model again. {_INSTEAD}"
    )
