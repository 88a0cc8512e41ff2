"""Heads of real people: from a whole-head label map to a base head in atlas-like axes, with region truth.

Labels are FreeSurfer's inside the brain and SimNIBS CHARM's outside it, as SynthSeg is trained on (Billot et
al., Med Image Anal 2023;86:102789; Puonti et al., NeuroImage 2020;219:117044). A person's own size and folds
are kept: the axes are turned and shifted to the atlas's, nothing is scaled.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import logging
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.arrays import UInt8Array
from strokecore.errors import EngineError, UsageError
from strokecore.files import cache_folder, keep_newest, read_own, write_own
from strokecore.simulate.anatomy import BaseHead, Interior
from strokecore.simulate.label_map import LabelMap, base_fields
from strokecore.simulate.sectors import atlas_sectors, head_axes_of, second_sectors, sector_distances, warp_to
from strokecore.simulate.true_regions import cut_sectors

log = logging.getLogger(__name__)

Stored = dict[str, npt.NDArray[Any]]

_SECOND_FILES: Final = {"I": "IC", **{f"M{n}": f"M{n}" for n in range(1, 7)}}
"""Sector and the name of its two masks (left, right) in a second atlas's folder, whose IC is the insula."""
_CHUNK: Final = 1 << 20
# From 1000 on FreeSurfer numbers parcels of the cortex, which are not told apart here.
_MOST_LABEL: Final = 999
_MOST_CACHED: Final = 64
_FOLDER: Final = "people"
_COMPRESSION: Final = 1  # the fastest: 170 MB become about 25
_LEAST_BRAIN_ML: Final = 600.0


def load_person(path: Path, second_atlas: Path | None = None) -> BaseHead:
    """The base head of a label map; the first time takes about a minute, later ones a second.

    What was made is kept in the node's cache, by the hashes of labels, atlases and this code.

    Parameters
    ----------
    path: NIfTI label map of a whole head, about 1 mm.
    second_atlas: folder of 14 masks in the atlas's space, MNI152_<region>_<L|R>.nii.gz (regions IC for the
        insula, M1-M6): the second definition of the regions. None: the atlas's own second one, if it has one.

    Raises
    ------
    UsageError: a file cannot be read, or is no label map of a whole head.
    """
    return _load(path.resolve(), None if second_atlas is None else second_atlas.resolve())


@functools.lru_cache(maxsize=1)
def _load(path: Path, second_folder: Path | None) -> BaseHead:
    labels = read_label_map(path)
    atlas = load_atlas()
    second = _second_sectors(atlas, second_folder)
    key = hashlib.sha256()
    second_sha256 = "" if second is None else _digest(second)
    parts = (labels.sha256, atlas.sha256, second_sha256, _code_sha256())
    key.update("|".join(parts).encode())
    name = f"{key.hexdigest()}.npz.gz"
    stored = _remembered(name)
    if stored is None:
        stored = _made(labels, atlas, second)
        _remember(name, stored)
    return _base_head(labels.identity, second_sha256, stored)


def read_label_map(path: Path) -> LabelMap:
    """Read a label map as it is stored. Raises UsageError."""
    try:
        if path.suffix == ".gz":  # ITK reads a file that ends too early without a word
            with gzip.open(path) as file:
                while file.read(_CHUNK):
                    pass
        if not path.is_file():
            raise FileNotFoundError(path.name)
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"the label map {path.name} cannot be read as a 3D NIfTI file; give one with FreeSurfer's labels."
        ) from error
    values = sitk.GetArrayFromImage(image)
    whole = np.rint(values).astype(np.int16)
    if values.ndim != 3 or not np.array_equal(whole, values) or whole.min() < 0 or whole.max() > _MOST_LABEL:
        raise UsageError(
            f"{path.name} is no volume of labels 0 to {_MOST_LABEL}; expected FreeSurfer's whole numbers."
        )
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    brain_ml = float(np.isin(whole, (2, 3, 41, 42)).sum()) * voxel_ml
    if brain_ml < _LEAST_BRAIN_ML or not (whole == 515).any():
        raise UsageError(
            f"{path.name} has {brain_ml:.0f} ml of cerebrum (labels 2, 3, 41, 42) and "
            f"{int((whole == 515).sum())} voxels of skull (515); expected a whole head, more than "
            f"{_LEAST_BRAIN_ML:.0f} ml of cerebrum and a skull."
        )
    left, right = (float(np.isin(whole, numbers).nonzero()[2].mean()) for numbers in ((2, 3), (41, 42)))
    if not left > right:  # the axes are LPS: x grows towards the patient's left
        raise UsageError(
            f"{path.name} has the left hemisphere (labels 2, 3) on the patient's right; mend the file's axes."
        )
    labels = sitk.GetImageFromArray(whole)
    labels.CopyInformation(image)
    digest = hashlib.sha256()
    grid = (labels.GetSize(), labels.GetSpacing(), labels.GetOrigin(), labels.GetDirection())
    digest.update(repr([[round(float(v), 3) for v in part] for part in grid]).encode())
    digest.update(np.ascontiguousarray(whole, "<i2").tobytes())
    stem = path.name.split(".")[0]
    return LabelMap(f"{stem}:{digest.hexdigest()[:12]}", digest.hexdigest(), labels)


def _made(labels: LabelMap, atlas: Atlas, second: UInt8Array | None) -> Stored:
    """Everything that is stored of a person."""
    log.info("making a head from label map %s", labels.identity)
    axes = head_axes_of(labels, atlas)
    fields = base_fields(labels, axes.native_from_head, axes.atlas_from_head)
    atlas_from_head = warp_to(fields.labels, fields.origin_mm, axes.atlas_from_head, atlas)
    definitions = [atlas_sectors(atlas), *([] if second is None else [second])]
    halves = np.stack(
        [
            sector_distances(sectors, atlas, atlas_from_head, fields.origin_mm, fields.labels.shape)
            for sectors in definitions
        ]
    )
    stored = fields.stored()
    stored["sector_halves_mm"] = halves
    stored["regions"] = cut_sectors(fields.cut, halves[0].astype(np.float32) / 2)
    return stored


def _base_head(identity: str, second_sha256: str, stored: Stored) -> BaseHead:
    def share(name: str) -> npt.NDArray[np.float32]:
        return stored[name].astype(np.float32) / np.float32(200)

    x, y, z = (float(v) for v in stored["origin_mm"])
    return BaseHead(
        origin_mm=(x, y, z),
        gm=share("gm"),
        wm=share("wm"),
        intracranial_mm=stored["intracranial_mm"].astype(np.float32),
        ventricle_mm=stored["ventricle_mm"].astype(np.float32),
        deep_grey=share("deep_grey"),
        skin_mm=None,
        calvarium_mm=None,
        outer_hu=stored["outer_hu"].astype(np.float32),
        labels=stored["regions"],
        spacing_mm=1.0,
        anatomy=identity,
        second_sha256=second_sha256,
        interior=Interior(
            dura=share("dura"),
            sinuses=share("sinuses"),
            structures=stored["structures"],
            cut=stored["cut"],
            sector_halves_mm=stored["sector_halves_mm"],
        ),
    )


def _second_sectors(atlas: Atlas, folder: Path | None) -> UInt8Array | None:
    """Sectors of the second definition on the atlas's grid; None where there is none."""
    if folder is None:
        return None if atlas.second_regions is None else second_sectors(atlas, atlas.second_regions)
    masks = {}
    for sector, name in _SECOND_FILES.items():
        for side in "LR":
            path = folder / f"MNI152_{name}_{side}.nii.gz"
            try:
                masks[sector, side] = sitk.ReadImage(str(path))
            except RuntimeError as error:
                raise UsageError(
                    f"the second atlas has no readable {path.name}; expected two masks, L and R, for each of "
                    f"{', '.join(_SECOND_FILES.values())}."
                ) from error
    return second_sectors(atlas, masks)


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@functools.cache
def _code_sha256() -> str:
    digest = hashlib.sha256()
    for name in ("label_map.py", "people.py", "sectors.py", "true_regions.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def _remembered(name: str) -> Stored | None:
    try:
        content = read_own(cache_folder(_FOLDER) / name)
        with np.load(io.BytesIO(gzip.decompress(content)), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        return None
    except (EngineError, OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        log.warning("a person's head in the cache cannot be read (%s); it is made again", error)
        return None


def _remember(name: str, stored: Stored) -> None:
    file = io.BytesIO()
    arrays: dict[str, Any] = dict(stored)
    np.savez(file, **arrays)
    try:
        folder = cache_folder(_FOLDER)
        write_own(folder / name, gzip.compress(file.getvalue(), _COMPRESSION, mtime=0))
        keep_newest(folder, "*.npz.gz", _MOST_CACHED, keep=folder / name)
    except (EngineError, OSError) as error:
        log.warning("a person's head cannot be kept in the cache (%s); it is made again next time", error)
