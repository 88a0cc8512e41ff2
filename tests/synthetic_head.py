"""A head CT series made from the atlas's own template: known pose, known tissue, no anatomy of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from strokecore.anatomy.atlas import Atlas
from strokecore.head.alignment import Image
from strokecore.reading.series import Series

Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pose(pitch: float = 0.0, roll: float = 0.0, yaw: float = 0.0, scale: float = 0.92) -> np.ndarray:
    """patient_from_template [4, 4]: rotations about x, y and z in degrees, with a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("xyz", (pitch, roll, yaw), degrees=True).as_matrix()
    matrix[:3, 3] = (6.0, -11.0, 35.0)
    return matrix


def head_series(
    atlas: Atlas,
    patient_from_template: np.ndarray,
    *,
    tilt_deg: float = 0.0,
    step_mm: float = 5.0,
    noise_hu: float = 4.0,
    flip: tuple[int, int] = (1, 1),
    z_range_mm: tuple[float, float] = (-60.0, 130.0),
    paint: Paint | None = None,
) -> Series:
    """Sample the template's HU on a (tilted, sheared) stack of thick slices.

    paint: gets template points [n, 3] and HU [n] and returns the HU to use (lesions, markers).
    """
    size, pixel = 140, 1.6
    angle = np.radians(tilt_deg)
    row = np.array([flip[0], 0.0, 0.0])
    column = flip[1] * np.array([0.0, np.cos(angle), -np.sin(angle)])
    up = float(np.sign(np.cross(row, column)[2]))
    table = np.arange(*z_range_mm, step_mm / np.cos(angle))[:: int(up)]
    centre = patient_from_template[:3, 3] + (0.0, 10.0, 0.0)
    corner = -(size - 1) / 2 * pixel * (row + column) + centre * (1, 1, 0)
    positions = corner + table[:, None] * np.array([0.0, 0.0, 1.0])
    template = Image(np.asarray(atlas.template_hu, np.float32), atlas.spacing_mm, atlas.origin_mm)
    back = np.linalg.inv(patient_from_template)
    j, i = np.meshgrid(np.arange(size) * pixel, np.arange(size) * pixel, indexing="ij")
    plane = (j[..., None] * column + i[..., None] * row).reshape(-1, 3)
    normal = np.cross(row, column)
    rng = np.random.default_rng(7)
    slices = []
    for position in positions:
        total = np.zeros(size * size)
        for part in (-0.25, 0.25):  # a slice is the mean over its thickness
            points = (position + plane + part * step_mm * normal) @ back[:3, :3].T + back[:3, 3]
            hu = ndimage.map_coordinates(
                template.values, template.indices(points), order=1, mode="constant", cval=-1000.0
            )
            total += hu if paint is None else paint(points, hu)
        slices.append((total / 2).reshape(size, size))
    hu = np.stack(slices) + rng.normal(0, noise_hu, (len(positions), size, size))
    return Series(
        hu=np.maximum(hu, -1024).astype(np.float32),
        positions_mm=positions,
        row_direction=row,
        column_direction=column,
        pixel_spacing_mm=(pixel, pixel),
        slice_thickness_mm=step_mm,
        tilt_deg=tilt_deg,
        datasets=(),
        chosen_because="",
        digest="",
    )


def ball(centre: tuple[float, float, float], radius_mm: float, value: float, *, add: bool = False) -> Paint:
    """Paint a ball (template millimetres) with a density, or add to what is there, inside the skull."""

    def paint(points: np.ndarray, hu: np.ndarray) -> np.ndarray:
        inside = np.linalg.norm(points - np.array(centre), axis=1) < radius_mm
        return np.where(inside, hu + value if add else value, hu)

    return paint
