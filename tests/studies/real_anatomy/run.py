"""One case: simulated, scored by the command, and what is kept of it."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from scipy import ndimage

from strokecore.anatomy.regions import ALL_REGIONS, SIDES
from strokecore.arrays import BoolArray, UInt8Array, dice
from strokecore.cli import main
from strokecore.evaluate.outcomes import Outcome, lost_outcome, outcome_of_json
from strokecore.evaluate.truth import TRUTH_FILE, read_truth
from strokecore.evaluate.workers import Lost
from strokecore.files import write_atomically
from strokecore.reports.palette import MARKS
from strokecore.result import INFARCT
from strokecore.simulate import simulate
from strokecore.simulate.people import load_person
from strokecore.simulate.write import TRUTH_FOLDER, write_dicom, write_truth
from tests.studies.real_anatomy.cases import StudyCase

INFARCT_LABELS: Final = frozenset(MARKS[INFARCT[side]].label for side in SIDES)
RESULT: Final = "result.json"
PICTURE: Final = "summary.jpg"
FIT: Final = "fit.json"
_PICTURE_SIZE: Final = 720
# Borders are compared on every second pixel of a slice, about 1 mm.
_STEP: Final = 2


def run_case(case: StudyCase, out: Path, second_atlas: Path, engine: Sequence[str] = ()) -> None:
    """Simulate and score ``case``; result.json, written last, says that all of it is there.

    ``engine``: more words of ``strokecore score``, such as "--model", "shipped".
    """
    if case.person is None:
        spec = case.spec
        head = simulate(spec)
    else:
        base = load_person(case.person, second_atlas)
        spec = replace(case.spec, anatomy=base.anatomy)
        head = simulate(spec, base)
    folder = out / case.name
    shutil.rmtree(folder, ignore_errors=True)
    truth = head.truth if case.confounder is None else head.truth | {"confounder": case.confounder}
    write_truth(folder, truth, head.infarct, head.geometry)

    def images(to: Path) -> None:
        write_dicom(to, spec, head.hu, head.geometry)

    spacing_mm = (head.geometry.thickness_mm, head.geometry.pixel_mm, head.geometry.pixel_mm)
    positions_mm = head.geometry.positions_mm

    def measure(found: Path) -> dict[str, Any]:
        outline = outlined_infarct(found / "seg.dcm", head.infarct.shape, positions_mm)
        overlap = dice(outline, head.infarct) if head.infarct.any() else np.nan
        measured = fit(found, head.regions, positions_mm, spacing_mm)
        return measured | {"infarct_dice": None if np.isnan(overlap) else round(float(overlap), 4)}

    score_and_keep(images, folder, engine, measure)


def score_and_keep(
    write_images: Callable[[Path], None],
    folder: Path,
    engine: Sequence[str] = (),
    measure: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Write images to scratch, run ``strokecore score`` on them, and keep result, picture and ``measure``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="real-anatomy-") as scratch:
        images, results = Path(scratch) / "images", Path(scratch) / "results"
        images.mkdir()
        write_images(images)
        with redirect_stdout(io.StringIO()):
            main(["score", str(images), "--out", str(results), *engine])
        pages = sorted((results / "sc").glob("*.dcm"))
        if pages:
            picture = Image.fromarray(pydicom.dcmread(pages[0]).pixel_array)
            picture.thumbnail((_PICTURE_SIZE, _PICTURE_SIZE))
            picture.save(folder / PICTURE, quality=75)
        if measure is not None and (results / "regions.dcm").exists():
            write_atomically(folder / FIT, json.dumps(measure(results)).encode())
        write_atomically(folder / RESULT, (results / RESULT).read_bytes())


def is_done(folder: Path) -> bool:
    return (folder / RESULT).exists()


def read_outcome(case: StudyCase, out: Path, lost: Lost | None = None) -> Outcome:
    """What was kept of ``case``."""
    folder = out / case.name
    if lost is not None or not is_done(folder):
        drawn = (folder / TRUTH_FOLDER / TRUTH_FILE).exists()
        return lost_outcome(case.name, read_truth(folder) if drawn else case.truth, lost or Lost("died"))
    record = json.loads((folder / RESULT).read_text("utf-8"))
    return outcome_of_json(case.name, read_truth(folder), record)


def read_fit(name: str, out: Path) -> dict[str, Any] | None:
    path = out / name / FIT
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def fit(
    results: Path,
    regions: UInt8Array,
    positions_mm: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float, float],
) -> dict[str, Any]:
    """How the node's regions lie on the person's own ones: Dice and mean distance of the borders, mm."""
    placed = placed_regions(results / "regions.dcm", regions.shape, positions_mm)
    found: dict[str, dict[str, float | None]] = {"dice": {}, "border_mm": {}}
    for region in ALL_REGIONS:
        key = f"{region.side}:{region.name}"
        mine, true = placed == region.label, regions == region.label
        value = dice(mine, true)
        found["dice"][key] = None if np.isnan(value) else round(value, 3)
        found["border_mm"][key] = border_error_mm(mine, true, spacing_mm)
    return found


def placed_regions(path: Path, shape: tuple[int, ...], positions_mm: npt.NDArray[np.float64]) -> UInt8Array:
    """The node's regions.dcm on the voxels of the scan, RegionId.label; uint8 [k, j, i]."""
    segmentation = pydicom.dcmread(path)
    labels = {f"{region.name} {region.side}": region.label for region in ALL_REGIONS}
    of_segment = {s.SegmentNumber: labels[s.SegmentLabel] for s in segmentation.SegmentSequence}
    volume = np.zeros(shape, np.uint8)
    for frame, segment, k in _frames(segmentation, positions_mm):
        volume[k][frame > 0] = of_segment[segment]
    return volume


def outlined_infarct(path: Path, shape: tuple[int, ...], positions_mm: npt.NDArray[np.float64]) -> BoolArray:
    """The early infarct of both sides in the node's seg.dcm on the voxels of the scan; bool [k, j, i].

    All False where there is no such file: nothing was segmented.
    """
    volume = np.zeros(shape, np.bool_)
    if not path.exists():
        return volume
    segmentation = pydicom.dcmread(path)
    acute = {s.SegmentNumber for s in segmentation.SegmentSequence if s.SegmentLabel in INFARCT_LABELS}
    for frame, segment, k in _frames(segmentation, positions_mm):
        if segment in acute:
            volume[k] |= frame > 0
    return volume


def _frames(
    segmentation: pydicom.Dataset, positions_mm: npt.NDArray[np.float64]
) -> Iterator[tuple[UInt8Array, int, int]]:
    """Each frame, its segment's number and its slice; what all frames share stands in the shared groups."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for frame, group in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        identity, plane = (
            (group if name in group else shared)[name].value[0]
            for name in ("SegmentIdentificationSequence", "PlanePositionSequence")
        )
        place = np.array(plane.ImagePositionPatient, float)
        k = int(np.argmin(((positions_mm - place) ** 2).sum(axis=1)))
        yield frame, int(identity.ReferencedSegmentNumber), k


def border_error_mm(mine: BoolArray, true: BoolArray, spacing_mm: tuple[float, float, float]) -> float | None:
    """Mean distance between two borders, both ways; None when one mask is empty."""
    if not mine.any() or not true.any():
        return None
    (box,) = ndimage.find_objects((mine | true).astype(np.uint8))
    cut = tuple(slice(max(part.start - 2, 0), part.stop + 2) for part in box)
    thinned = (slice(None), slice(None, None, _STEP), slice(None, None, _STEP))
    first, second = (np.pad(mask[cut][thinned], 1) for mask in (mine, true))
    step_mm = (spacing_mm[0], spacing_mm[1] * _STEP, spacing_mm[2] * _STEP)
    if not first.any() or not second.any():
        return None
    distances = []
    for mask, other in ((first, second), (second, first)):
        edge = mask & ~ndimage.binary_erosion(mask)
        border = other & ~ndimage.binary_erosion(other)
        distances.append(ndimage.distance_transform_edt(~border, sampling=step_mm)[edge])
    return round(float(np.concatenate(distances).mean()), 2)
