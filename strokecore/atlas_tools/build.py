"""Build the shipped atlas: ``python -m strokecore.atlas_tools.build [FOLDER]``.

Sources: the symmetric ICBM152 2009a tissue maps inside the nilearn package, and our own
definitions (definitions.py). Needs nilearn; the node never runs it. Same inputs, same bytes.
"""

from __future__ import annotations

import gzip
import importlib.resources
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.atlas import ATLAS_FILES, SECOND_REGIONS_FILE, SHIPPED_FOLDER
from strokecore.anatomy.head_model import HeadClass, head_classes, hounsfield
from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import Float64Array, UInt8Array
from strokecore.atlas_tools import definitions as d
from strokecore.atlas_tools.labelling import Hemisphere, inside_outline, label_hemisphere

log = logging.getLogger(__name__)

SOURCE_NAME = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
SPACING_MM = 1.5
"""Fine enough for the 3 mm insular ribbon, small enough to ship."""
HALF_WIDTH_MM = 90.0
POSTERIOR_RANGE_MM = (-105.0, 126.0)  # LPS y
HEIGHT_RANGE_MM = (-78.0, 105.0)
SHARE_STEP_PERCENT = 5
"""Tissue shares are stored in steps of 5 %: under 1.5 HU, and a third of the file size."""
RIGHT_LABEL_OFFSET = len(REGION_NAMES)
LENTIFORM_GREY_SHARE = 0.8
THALAMUS_GREY_SHARE = 0.65
"""T1 maps call pallidum and lateral thalamus white (myelin, iron); on CT they are grey."""


def build(folder: Path) -> None:
    """Write the atlas volumes into ``folder``."""
    hemisphere, brain = _read_sources()
    grey, white = _as_ct_sees(hemisphere)

    half_grey, half_white, half_brain = (_to_half_grid(v) for v in (grey, white, brain))
    first, second = (
        _mirrored_labels(_labels_to_half_grid(label_hemisphere(hemisphere, definition)))
        for definition in (d.FIRST, d.SECOND)
    )
    grey_percent, white_percent = (_percent(_mirrored(v)) for v in (half_grey, half_white))
    classes = head_classes(_mirrored(half_brain) >= 0.5, (SPACING_MM,) * 3)
    for share in (grey_percent, white_percent):
        share[classes != HeadClass.INTRACRANIAL] = 0

    folder.mkdir(parents=True, exist_ok=True)
    volumes: dict[str, UInt8Array | npt.NDArray[np.int16]] = {
        "template": hounsfield(grey_percent / 100, white_percent / 100, classes),
        "regions": first,
        "grey": grey_percent,
        "white": white_percent,
        "head": classes,
    }
    for name, volume in volumes.items():
        _write_nifti(folder / ATLAS_FILES[name], volume)
    _write_nifti(folder / SECOND_REGIONS_FILE, second)


def _read_sources() -> tuple[Hemisphere, Float64Array]:
    """The left half of the sources at 1 mm: tissue shares, and the brain mask (0 or 1)."""
    t1, grey, white = (_left_half(_read(kind)) for kind in ("t1", "gm", "wm"))
    nz, ny, nx = grey.shape
    hemisphere = Hemisphere(
        grey=grey / 255.0,
        white=white / 255.0,
        height=np.arange(nz, dtype=float).reshape(-1, 1, 1) - 72.0,
        anterior=98.0 - np.arange(ny, dtype=float).reshape(1, -1, 1),
        lateral=np.arange(nx, dtype=float).reshape(1, 1, -1),
    )
    return hemisphere, (t1 > 0).astype(float)


def _read(kind: str) -> sitk.Image:
    source = importlib.resources.files("nilearn.datasets") / "data" / SOURCE_NAME.format(kind)
    with importlib.resources.as_file(source) as path:
        return sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")


def _left_half(image: sitk.Image) -> Float64Array:
    """Voxels with LPS x >= 0 (the patient's left); float64 [z, y, x]."""
    if image.GetOrigin() != (-98.0, -98.0, -72.0) or image.GetSpacing() != (1.0, 1.0, 1.0):
        raise ValueError("the ICBM152 2009a volumes have an unexpected grid")
    volume: Float64Array = sitk.GetArrayFromImage(image).astype(float)
    if not np.array_equal(volume, volume[:, :, ::-1]):
        raise ValueError("the ICBM152 2009a volumes are not the symmetric ones")
    return volume[:, :, 98:]


def _as_ct_sees(hemisphere: Hemisphere) -> tuple[Float64Array, Float64Array]:
    """Grey and white shares with the deep nuclei as grey as they are on CT."""
    total = hemisphere.grey + hemisphere.white
    grey = hemisphere.grey
    for outline, share in ((d.LENTIFORM, LENTIFORM_GREY_SHARE), (d.THALAMUS, THALAMUS_GREY_SHARE)):
        inside = ndimage.gaussian_filter(
            inside_outline(hemisphere, outline).astype(float), 0.7, mode="nearest"
        )
        grey = np.maximum(grey, inside * share * total)
    return grey, total - grey


def _half_axes() -> tuple[Float64Array, ...]:
    """LPS z, y, x of the half grid's voxel centres."""
    z, y = (
        np.arange(lo, hi + SPACING_MM / 2, SPACING_MM) for lo, hi in (HEIGHT_RANGE_MM, POSTERIOR_RANGE_MM)
    )
    return z, y, np.arange(0.0, HALF_WIDTH_MM + SPACING_MM / 2, SPACING_MM)


def _to_half_grid(volume: Float64Array) -> Float64Array:
    """Smoothed against aliasing and sampled on the half grid."""
    z, y, x = _half_axes()
    # reflect at the midline: the other hemisphere continues as the mirror image
    smooth = ndimage.gaussian_filter(volume, 0.5, mode=("constant", "constant", "mirror"))
    points = np.meshgrid(z + 72.0, y + 98.0, x, indexing="ij")
    sampled: Float64Array = ndimage.map_coordinates(smooth, points, order=1, mode="constant")
    return sampled


def _labels_to_half_grid(labels: UInt8Array) -> UInt8Array:
    """The label that fills the voxel most, 0 included."""
    shares = np.stack(
        [_to_half_grid((labels == value).astype(float)) for value in range(RIGHT_LABEL_OFFSET + 1)]
    )
    shares[0] = 1.0 - shares[1:].sum(axis=0)  # outside the source's box there is nothing either
    best: UInt8Array = shares.argmax(axis=0).astype(np.uint8)
    return best


def _mirrored(half: Float64Array) -> Float64Array:
    return np.concatenate([half[:, :, :0:-1], half], axis=2)


def _mirrored_labels(half: UInt8Array) -> UInt8Array:
    """Left hemisphere as built (x >= 0), right hemisphere its mirror image with the right labels."""
    right = np.where(half > 0, half + RIGHT_LABEL_OFFSET, 0).astype(np.uint8)
    return np.concatenate([right[:, :, :0:-1], half], axis=2)


def _percent(share: Float64Array) -> UInt8Array:
    steps = np.rint(np.clip(share, 0.0, 1.0) * 100 / SHARE_STEP_PERCENT)
    percent: UInt8Array = (steps * SHARE_STEP_PERCENT).astype(np.uint8)
    return percent


def _write_nifti(path: Path, volume: UInt8Array | npt.NDArray[np.int16]) -> None:
    """A NIfTI-1 file with fixed bytes: own header, gzip without time or name.

    NIfTI is RAS: the affine negates our LPS x and y.
    """
    code, bits = {"uint8": (2, 8), "int16": (4, 16)}[volume.dtype.name]
    nz, ny, nx = volume.shape
    z, y, _ = _half_axes()
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, nx, ny, nz, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, 1.0, *(SPACING_MM,) * 3, 0.0, 0.0, 0.0, 0.0)
    struct.pack_into("<2f", header, 108, 352.0, 1.0)
    struct.pack_into("<B", header, 123, 2)  # millimetres
    struct.pack_into("<2h", header, 252, 4, 4)  # qform and sform: MNI152
    struct.pack_into(
        "<6f", header, 256, 0.0, 0.0, 1.0, HALF_WIDTH_MM, -y[0], z[0]
    )  # rotation by 180 deg about z
    struct.pack_into("<4f", header, 280, -SPACING_MM, 0.0, 0.0, HALF_WIDTH_MM)
    struct.pack_into("<4f", header, 296, 0.0, -SPACING_MM, 0.0, -y[0])
    struct.pack_into("<4f", header, 312, 0.0, 0.0, SPACING_MM, z[0])
    header[344:348] = b"n+1\0"
    data = np.ascontiguousarray(volume, dtype=volume.dtype.newbyteorder("<")).tobytes()
    path.write_bytes(gzip.compress(bytes(header) + data, compresslevel=9, mtime=0))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED_FOLDER)
