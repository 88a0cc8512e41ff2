"""Draw the atlas: ``python -m strokecore.atlas_tools.draw [FOLDER] [--ct DICOM_DIR]`` (docs/atlas)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from strokecore.anatomy.atlas import Atlas, load_atlas
from strokecore.anatomy.regions import ALL_REGIONS, RegionId
from strokecore.arrays import BoolArray, Float64Array, UInt8Array
from strokecore.head.canonical import align_series
from strokecore.reading.series import read_series

# Ten hues that stay apart for most colour-blind readers, neighbours far from each other.
COLOURS: Final = {
    "C": (230, 159, 0),
    "L": (86, 180, 233),
    "IC": (240, 228, 66),
    "I": (213, 94, 0),
    "M1": (0, 158, 115),
    "M2": (204, 121, 167),
    "M3": (60, 120, 220),
    "M4": (150, 200, 60),
    "M5": (190, 90, 220),
    "M6": (70, 200, 200),
}
GANGLIONIC_PLANES_MM: Final = (-9.0, -4.5, 0.0, 4.5, 9.0, 13.5, 18.0)
BOTH_PLANES_MM: Final = (-6.0, 0.0, 6.0, 12.0, 18.0, 24.0, 36.0, 54.0)
SUPRAGANGLIONIC_PLANES_MM: Final = (22.5, 28.5, 34.5, 40.5, 46.5, 52.5)
CORONAL_PLANES_MM: Final = (-24.0, 0.0, 12.0)  # LPS y: frontal horn, commissure, thalamus
SAGITTAL_PLANES_MM: Final = (28.5, 39.0)  # LPS x: lentiform, insula
WINDOW_HU: Final = (0.0, 60.0)
SCALE: Final = 4
TINT: Final = 0.22
REAL_SLICES: Final = 12
HEAD_MARGIN: Final = 12  # voxels around the brain on a real head

Plane = npt.NDArray[Any]


def draw_plane(
    hu: Plane,
    labels: Plane,
    title: str,
    marks: tuple[str, str],
    *,
    second: Plane | None = None,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Image.Image:
    """One slice with tinted, outlined and named regions.

    ``hu`` and ``labels`` are [row, column]; ``marks`` are the letters at the left and right image
    edge; of the labels in ``second`` only the borders are drawn, in white; ``stretch`` multiplies SCALE for
    rows and columns that are not 1.5 mm apart.
    """
    low, high = WINDOW_HU
    grey = np.clip((_enlarged(hu, stretch, 1) - low) / (high - low), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, axis=2)
    big = _enlarged(labels, stretch, 0).astype(int)
    for region in ALL_REGIONS:
        inside = big == region.label
        edge = inside & ~ndimage.binary_erosion(inside)
        picture[inside] = (1 - TINT) * picture[inside] + TINT * np.array(COLOURS[region.name])
        picture[edge] = COLOURS[region.name]
    if second is not None:
        other = _enlarged(second, stretch, 0).astype(int)
        picture[(ndimage.grey_erosion(other, (3, 3)) != other)] = 255
    image = Image.fromarray(picture.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for region in ALL_REGIONS:
        _write_name(draw, region, big == region.label)
    font = ImageFont.load_default(20)
    width, height = image.size
    draw.text((6, 4), title, fill="white", font=font)
    draw.text((6, height // 2), marks[0], fill="white", font=font)
    draw.text((width - 6, height // 2), marks[1], fill="white", font=font, anchor="ra")
    return image


def _enlarged(plane: Plane, stretch: tuple[float, float], order: Literal[0, 1]) -> Float64Array:
    """SCALE times larger (times ``stretch``): labels by nearest neighbour (order 0), densities linear."""
    rows, columns = (round(n * SCALE * f) for n, f in zip(plane.shape, stretch, strict=True))
    method = Image.Resampling.NEAREST if order == 0 else Image.Resampling.BILINEAR
    return np.asarray(
        Image.fromarray(plane.astype(np.float32)).resize((columns, rows), method), dtype=np.float64
    )


def _write_name(draw: ImageDraw.ImageDraw, region: RegionId, mask: BoolArray) -> None:
    """At the innermost point of the largest part, so that the name lies on the region."""
    parts, count = ndimage.label(mask)
    if not count:
        return
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    depth = ndimage.distance_transform_edt(parts == 1 + int(np.argmax(sizes)))
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    draw.text(
        (int(column), int(row)), region.name, fill="white", font=ImageFont.load_default(15), anchor="mm",
        stroke_width=2, stroke_fill="black",
    )  # fmt: skip


def draw_atlas(atlas: Atlas) -> dict[str, Image.Image]:
    """Named sheets: the two levels, coronal and sagittal planes, and both definitions where there are two.

    Axial slices as radiologists see them.
    """
    z, y, x = (
        np.arange(n) * step + start
        for n, step, start in zip(atlas.regions.shape, atlas.spacing_mm, atlas.origin_mm[::-1], strict=True)
    )

    def axial(z_mm: float) -> Image.Image:
        k = int(np.abs(z - z_mm).argmin())
        return draw_plane(atlas.template_hu[k], atlas.regions[k], f"z {z[k]:+.1f} mm", ("R", "L"))

    def coronal(y_mm: float) -> Image.Image:
        j = int(np.abs(y - y_mm).argmin())
        planes = (atlas.template_hu[::-1, j], atlas.regions[::-1, j])
        return draw_plane(*planes, f"MNI y {-y[j]:+.1f} mm", ("R", "L"))

    def sagittal(x_mm: float) -> Image.Image:
        i = int(np.abs(x - x_mm).argmin())
        planes = (atlas.template_hu[::-1, :, i], atlas.regions[::-1, :, i])
        return draw_plane(*planes, f"left, {x[i]:.1f} mm from midline", ("A", "P"))

    def both(z_mm: float, second: UInt8Array) -> Image.Image:
        k = int(np.abs(z - z_mm).argmin())
        planes = (atlas.template_hu[k], atlas.regions[k])
        return draw_plane(*planes, f"z {z[k]:+.1f} mm", ("R", "L"), second=second[k])

    sheets = {
        "ganglionic": sheet([axial(z_mm) for z_mm in GANGLIONIC_PLANES_MM], columns=4),
        "supraganglionic": sheet([axial(z_mm) for z_mm in SUPRAGANGLIONIC_PLANES_MM], columns=3),
        "coronal_sagittal": sheet(
            [coronal(y_mm) for y_mm in CORONAL_PLANES_MM] + [sagittal(x_mm) for x_mm in SAGITTAL_PLANES_MM],
            columns=3,
        ),
    }
    if (second := atlas.second_regions) is not None:
        sheets["both_definitions"] = sheet([both(z_mm, second) for z_mm in BOTH_PLANES_MM], columns=4)
    return sheets


def draw_on_head(dicom_folder: Path, atlas: Atlas) -> Image.Image:
    """The registered atlas on axial slices of a real head CT, in the canonical frame."""
    head = align_series(read_series(dicom_folder), atlas).head
    hu, grid, labels = head.hu, head.grid, head.regions
    rows, columns = (
        slice(max(0, low - HEAD_MARGIN), high + HEAD_MARGIN)
        for low, high in (_extent(head.brain.intracranial, axis) for axis in (1, 2))
    )
    stretch = (grid.spacing_mm[1] / atlas.spacing_mm[1], grid.spacing_mm[2] / atlas.spacing_mm[2])
    z = np.arange(hu.shape[0]) * grid.spacing_mm[0] + grid.origin_mm[2]
    named = np.nonzero((labels > 0).any(axis=(1, 2)))[0]
    chosen = np.linspace(named[0], named[-1], REAL_SLICES + 2).round().astype(int)[1:-1]
    pictures = [
        draw_plane(
            hu[k, rows, columns], labels[k, rows, columns], f"z {z[k]:+.0f} mm", ("R", "L"), stretch=stretch
        )
        for k in chosen
    ]
    return sheet(pictures, columns=4)


def _extent(mask: BoolArray, axis: int) -> tuple[int, int]:
    others = tuple(a for a in range(3) if a != axis)
    places = np.nonzero(mask.any(axis=others))[0]
    return int(places[0]), int(places[-1])


def sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows on black."""
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    rows = -(-len(pictures) // columns)
    result = Image.new("RGB", (width * columns, height * rows))
    for n, picture in enumerate(pictures):
        result.paste(picture, (width * (n % columns), height * (n // columns)))
    return result


def write_atlas_pictures(folder: Path, dicom_folder: Path | None = None) -> None:
    """Write the sheets of the shipped atlas as PNG, with few colours to keep them small."""
    folder.mkdir(parents=True, exist_ok=True)
    atlas = load_atlas()
    sheets = draw_atlas(atlas)
    if dicom_folder is not None:
        sheets["real_ct"] = draw_on_head(dicom_folder, atlas)
    for name, picture in sheets.items():
        few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/atlas"))
    parser.add_argument("--ct", type=Path, help="DICOM folder of a head CT to draw the atlas on as well")
    arguments = parser.parse_args()
    write_atlas_pictures(arguments.folder, arguments.ct)
