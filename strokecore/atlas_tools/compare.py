"""How far readers' regions differ: ``python -m strokecore.atlas_tools.compare [--masks FOLDER]``.

Prints the table of docs/atlas.md: volume, Dice and border distance of the atlas's two definitions and,
where a folder is given, of masks ``MNI152_<name>_L.nii.gz`` that others drew in the same space.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.arrays import BoolArray, Float64Array, dice

MASK_NAMES: Final = {"L": "LN", "IC": "InCa", "I": "IC"}
"""The masks call the lentiform nucleus LN, the internal capsule InCa and the insular cortex IC."""


@dataclass(frozen=True)
class Agreement:
    """Two outlines of one region: Dice, and the mean distance in mm from one's border to the other's."""

    dice: float
    border_mm: float


def agreement(one: BoolArray, other: BoolArray, spacing_mm: tuple[float, float, float]) -> Agreement:
    """Of two masks on one grid, bool [z, y, x], neither of them empty."""
    box = ndimage.find_objects((one | other).astype(np.int8))[0]
    a, b = (np.pad(mask[box], 1) for mask in (one, other))
    distances = [*_from_border(a, b, spacing_mm), *_from_border(b, a, spacing_mm)]
    return Agreement(dice(a, b), float(np.mean(distances)))


def _from_border(of: BoolArray, to: BoolArray, spacing_mm: tuple[float, float, float]) -> Float64Array:
    """Distances from the border voxels of one mask to the border of the other."""
    border, other = (mask & ~ndimage.binary_erosion(mask) for mask in (of, to))
    distances: Float64Array = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[border]
    return distances


def read_masks(folder: Path, atlas: Atlas) -> dict[str, BoolArray]:
    """Others' masks of the left hemisphere on the atlas's grid, by our region names; bool [z, y, x]."""
    grid = sitk.GetImageFromArray(atlas.regions)
    grid.SetSpacing(atlas.spacing_mm[::-1])
    grid.SetOrigin(atlas.origin_mm)
    masks = {}
    for name in REGION_NAMES:
        image = sitk.ReadImage(str(folder / f"MNI152_{MASK_NAMES.get(name, name)}_L.nii.gz"))
        placed = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        masks[name] = sitk.GetArrayFromImage(placed) > 0
    return masks


def table(atlas: Atlas, masks: dict[str, BoolArray] | None = None) -> str:
    """One row per region of the left hemisphere (the right one is its mirror image)."""
    drawn: dict[str, dict[str, BoolArray]] = {"first": _regions(atlas.regions)}
    if atlas.second_regions is not None:
        drawn["second"] = _regions(atlas.second_regions)
    if masks is not None:
        drawn["others"] = masks
    pairs = list(itertools.combinations(drawn, 2))
    columns = ["region", f"ml {' / '.join(drawn)}", *(f"{a} - {b}: Dice, border mm" for a, b in pairs)]
    rows = [columns, ["---"] * len(columns)]
    voxel_ml = float(np.prod(atlas.spacing_mm)) / 1000
    for name in REGION_NAMES:
        volumes = " / ".join(f"{regions[name].sum() * voxel_ml:.1f}" for regions in drawn.values())
        found = [agreement(drawn[a][name], drawn[b][name], atlas.spacing_mm) for a, b in pairs]
        rows.append([name, volumes, *(f"{pair.dice:.2f}, {pair.border_mm:.1f}" for pair in found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _regions(labels: np.typing.NDArray[np.uint8]) -> dict[str, BoolArray]:
    return {name: np.asarray(labels == RegionId(name, "left").label) for name in REGION_NAMES}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=Path, help="folder of the 20 masks of others in MNI152 space")
    arguments = parser.parse_args()
    shipped = load_atlas()
    print(table(shipped, arguments.masks and read_masks(arguments.masks, shipped)))
