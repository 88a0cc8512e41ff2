"""The template head and its 20 ASPECTS regions, as read from a folder."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from strokecore.anatomy.head_model import HeadClass
from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import BoolArray, Float32Array, UInt8Array
from strokecore.errors import ModelPackageError

SHIPPED_FOLDER: Final = Path(__file__).parent / "data"
ATLAS_FILES: Final = {
    "template": "template.nii.gz",
    "regions": "regions.nii.gz",
    "grey": "grey.nii.gz",
    "white": "white.nii.gz",
    "head": "head.nii.gz",
}
SECOND_REGIONS: Final = "second_regions"
SECOND_REGIONS_FILE: Final = f"{SECOND_REGIONS}.nii.gz"
"""The only file that a site's own atlas may lack."""
DESCRIPTION_FILE: Final = "atlas.json"
GRID_TOLERANCE_MM: Final = 1e-3
"""NIfTI stores positions as float32."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Template head in MNI152 space. All arrays are [z, y, x], LPS: x increases to the patient's left.

    Attributes
    ----------
    name, version: from the folder's atlas.json.
    template_hu: int16, CT-like, HU; air -1000.
    regions: uint8, 0 or RegionId.label.
    second_regions: uint8, the same regions as another reader draws them; None where the folder has no
        such file.
    intracranial: bool, brain and CSF inside the skull.
    grey, white, csf: float32, shares 0-1 inside ``intracranial`` (their sum is 1 there), 0 elsewhere.
        ``csf`` holds ventricles, cisterns and sulci.
    head: uint8, HeadClass values.
    spacing_mm: (z, y, x). origin_mm: template coordinates (x, y, z) of voxel [0, 0, 0]'s centre.
    sha256: hex digest over grid and content of all volumes.
    """

    name: str
    version: str
    template_hu: npt.NDArray[np.int16]
    regions: UInt8Array
    intracranial: BoolArray
    grey: Float32Array
    white: Float32Array
    csf: Float32Array
    head: UInt8Array
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    sha256: str
    second_regions: UInt8Array | None = None


def load_atlas(folder: Path | None = None) -> Atlas:
    """Read the shipped atlas (None) or a site's own folder; the result is cached and read-only.

    Raises
    ------
    ModelPackageError: a file is missing or unreadable, grids differ, labels are not the 20 of
        RegionId, or left and right are swapped.
    """
    return _load((SHIPPED_FOLDER if folder is None else folder).resolve())


@functools.lru_cache(maxsize=2)
def _load(folder: Path) -> Atlas:
    name, version = _description(folder)
    images = {key: _read_image(folder / file) for key, file in ATLAS_FILES.items()}
    if (folder / SECOND_REGIONS_FILE).exists():
        images[SECOND_REGIONS] = _read_image(folder / SECOND_REGIONS_FILE)
    spacing_mm, origin_mm = _common_grid(folder, images)
    arrays = {key: sitk.GetArrayFromImage(image) for key, image in images.items()}
    _check_labels(folder / ATLAS_FILES["regions"], arrays["regions"], origin_mm[0], spacing_mm[2])
    if SECOND_REGIONS in arrays:
        _check_labels(folder / SECOND_REGIONS_FILE, arrays[SECOND_REGIONS], origin_mm[0], spacing_mm[2])

    intracranial = arrays["head"] == HeadClass.INTRACRANIAL
    grey, white = (arrays[key].astype(np.float32) / 100 for key in ("grey", "white"))
    csf = np.where(intracranial, np.clip(1 - grey - white, 0, 1), 0).astype(np.float32)
    atlas = Atlas(
        name=name,
        version=version,
        template_hu=arrays["template"].astype(np.int16),
        regions=arrays["regions"].astype(np.uint8),
        intracranial=intracranial,
        grey=grey,
        white=white,
        csf=csf,
        head=arrays["head"].astype(np.uint8),
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        sha256=_digest(arrays, spacing_mm, origin_mm),
        second_regions=arrays[SECOND_REGIONS].astype(np.uint8) if SECOND_REGIONS in arrays else None,
    )
    volumes = (atlas.template_hu, atlas.regions, intracranial, grey, white, csf, atlas.head)
    for volume in volumes if atlas.second_regions is None else (*volumes, atlas.second_regions):
        volume.flags.writeable = False  # one cached instance is shared by all callers
    return atlas


def _description(folder: Path) -> tuple[str, str]:
    path = folder / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return str(description["name"]), str(description["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelPackageError(
            f"Atlas folder {folder}: {DESCRIPTION_FILE} with name and version could not be read ({error}). "
            "Copy the shipped atlas folder and replace the volumes, keeping all files."
        ) from error


def _read_image(path: Path) -> sitk.Image:
    if not path.is_file():
        raise ModelPackageError(
            f"Atlas folder {path.parent}: {path.name} is missing; expected "
            f"{', '.join(ATLAS_FILES.values())}. "
            "Copy the shipped atlas folder and replace the volumes, keeping all files."
        )
    try:
        return sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    except RuntimeError as error:
        raise ModelPackageError(
            f"Atlas volume {path} could not be read as a 3D NIfTI file. "
            "Export it again from the segmentation tool."
        ) from error


def _common_grid(
    folder: Path, images: dict[str, sitk.Image]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(spacing z, y, x) and origin (x, y, z) shared by all volumes."""
    reference = images["template"]
    for key, image in images.items():
        same = image.GetSize() == reference.GetSize() and all(
            np.allclose(getter(image), getter(reference), atol=GRID_TOLERANCE_MM)
            for getter in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection)
        )
        if not same:
            raise ModelPackageError(
                f"Atlas folder {folder}: {key}.nii.gz and {ATLAS_FILES['template']} lie on different "
                "grids. "
                "Resample all volumes onto the template's grid (labels with nearest neighbour)."
            )
    if not np.allclose(reference.GetDirection(), np.eye(3).ravel(), atol=GRID_TOLERANCE_MM):
        raise ModelPackageError(
            f"Atlas folder {folder}: the volumes are oblique. Resample them onto an axis-aligned grid."
        )
    x_mm, y_mm, z_mm = reference.GetSpacing()
    x0_mm, y0_mm, z0_mm = reference.GetOrigin()
    return (z_mm, y_mm, x_mm), (x0_mm, y0_mm, z0_mm)


def _check_labels(path: Path, regions: npt.NDArray[np.generic], x0_mm: float, dx_mm: float) -> None:
    expected = {region.label for region in ALL_REGIONS}
    found = {int(value) for value in np.unique(regions)} - {0}
    if found != expected:
        missing, unknown = sorted(expected - found), sorted(found - expected)
        raise ModelPackageError(
            f"Atlas folder {path.parent}: {path.name} lacks labels {missing} and has unknown labels "
            f"{unknown}. Use labels 1-10 (left) and 11-20 (right) in the order of strokecore.anatomy.regions."
        )
    for region in ALL_REGIONS:
        if _centroid_x_mm(regions, region, x0_mm, dx_mm) * (1 if region.side == "left" else -1) <= 0:
            raise ModelPackageError(
                f"Atlas folder {path.parent}: {path.name}: label {region.label} "
                f"({region.side} {region.name}) lies on the other side. "
                "Left and right are the patient's; check the file's orientation and the label numbers."
            )


def _centroid_x_mm(regions: npt.NDArray[np.generic], region: RegionId, x0_mm: float, dx_mm: float) -> float:
    return float(np.nonzero(regions == region.label)[2].mean()) * dx_mm + x0_mm


def _digest(
    arrays: dict[str, npt.NDArray[np.generic]],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
) -> str:
    """Over the content, so that another compression of the same volumes is the same atlas."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        volume = np.ascontiguousarray(arrays[key], dtype="<i2")
        grid = [key, list(volume.shape), *(round(v, 3) for v in (*spacing_mm, *origin_mm))]
        digest.update(json.dumps(grid).encode())
        digest.update(volume.tobytes())
    return digest.hexdigest()
