"""Draw the pictures of docs/simulator.md: python -m strokecore.simulate.draw docs/simulator [LABELS]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from strokecore.anatomy.regions import RegionId
from strokecore.arrays import UInt8Array
from strokecore.simulate.domain import random_person_spec
from strokecore.simulate.head import SimulatedHead, simulate
from strokecore.simulate.people import load_person
from strokecore.simulate.spec import SampleSpec, parse_affected, random_spec

_BRAIN_WINDOW: Final = (40.0, 80.0)  # centre, width
_STROKE_WINDOW: Final = (35.0, 50.0)
_BONE_WINDOW: Final = (500.0, 2500.0)
_TILE: Final = 200
_CAPTION_HEIGHT: Final = 16
_COLUMNS: Final = 7
_LEVELS: Final = (0.13, 0.22, 0.36, 0.44, 0.52, 0.62, 0.76)  # of the stack, for the picture of variants

_PATIENT: Final = random_spec(5, affected=parse_affected("right:I,M1,M2"), thickness_mm=5.0)
_LESION: Final = parse_affected("left:I,L,M2,M5")
_OLD: Final = (RegionId("M3", "left"), RegionId("M6", "left"))
_ACUTE: Final = parse_affected("right:M1,M4,I")
_VARIANTS: Final[tuple[tuple[str, SampleSpec, tuple[float, float]], ...]] = (
    ("young", random_spec(26, atrophy=0.0, leukoaraiosis=0.0, age_years=35), _BRAIN_WINDOW),
    ("old, white-matter disease", random_spec(25, atrophy=1.0, leukoaraiosis=1.0), _BRAIN_WINDOW),
    ("left I L M2 M5, 8 HU, 1.25 mm", random_spec(21, _LESION, 8.0, thickness_mm=1.25), _STROKE_WINDOW),
    ("left I L M2 M5, 8 HU, 5 mm", random_spec(21, _LESION, 8.0, thickness_mm=5.0), _STROKE_WINDOW),
    ("right I M2, 5 HU", random_spec(33, parse_affected("right:I,M2"), 5.0), _STROKE_WINDOW),
    ("old left M3 M6, acute right M1 M4 I", random_spec(23, _ACUTE, old_infarct=_OLD), _BRAIN_WINDOW),
    ("haemorrhage 30 ml right", random_spec(22, blood_ml=30.0, blood_side="right"), _BRAIN_WINDOW),
    ("bone kernel 1.25 mm", random_spec(21, thickness_mm=1.25, kernel="BONE"), _BONE_WINDOW),
)
# Confounder, seed, affected regions, window.
_PERSON_HEADS: Final = (
    ("plain", 3, parse_affected("left:I,M1,M2,M4"), _STROKE_WINDOW),
    ("cupping", 3, (), _BRAIN_WINDOW),
    ("sharp_kernel", 3, (), _BRAIN_WINDOW),
    ("plastic_noise", 3, (), _STROKE_WINDOW),
    ("wide_ventricles", 3, (), _BRAIN_WINDOW),
    ("cavity", 4, (), _BRAIN_WINDOW),
    ("calcified_pallidum", 5, (), _BRAIN_WINDOW),
    ("tilt_rotation", 3, (), _BRAIN_WINDOW),
)


def main(folder: Path, labels: Path | None = None) -> None:
    """Write montage.png and variants.png and, from a person's label map, persons.png."""
    folder.mkdir(parents=True, exist_ok=True)
    patient = simulate(_PATIENT)
    tiles = [_tile(patient, k, _BRAIN_WINDOW) for k in range(len(patient.hu))]
    tiles += [np.zeros((_TILE, _TILE), np.uint8)] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(folder / "montage.png", optimize=True)
    strips = [_strip(caption, simulate(spec), window) for caption, spec, window in _VARIANTS]
    Image.fromarray(np.vstack(strips)).save(folder / "variants.png", optimize=True)
    if labels is not None:
        base = load_person(labels)
        strips = []
        for confounder, seed, affected, window in _PERSON_HEADS:
            spec = random_person_spec(
                seed, base.anatomy, affected=affected, delta_hu=8.0, confounder=confounder, definition="atlas"
            )
            caption = confounder.replace("_", " ")
            strips.append(_strip(caption, simulate(spec, base), window))
        Image.fromarray(np.vstack(strips)).save(folder / "persons.png", optimize=True)


def _strip(caption: str, head: SimulatedHead, window: tuple[float, float]) -> UInt8Array:
    """Some levels of one head side by side under a caption."""
    tiles = [_tile(head, int(f * len(head.hu)), window) for f in _LEVELS]
    bar = Image.new("L", (_TILE * len(_LEVELS), _CAPTION_HEIGHT), 40)
    ImageDraw.Draw(bar).text((6, 2), caption, fill=255)
    return np.vstack([np.asarray(bar), np.hstack(tiles)])


def _tile(head: SimulatedHead, k: int, window: tuple[float, float]) -> UInt8Array:
    centre, width = window
    grey = np.clip((head.hu[k].astype(np.float32) - centre + width / 2) / width, 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize((_TILE, _TILE), Image.Resampling.BILINEAR)
    return np.asarray(picture)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:3]))
