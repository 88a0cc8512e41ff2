"""A faithful miniature of AISD: its folders, its kinds of file and its defects, filled with a simulated head.

One head is simulated per test run (128 x 128 pixels of 1.8 mm, about 10 s) and written under many ids, each
with noise of its own so that no two scans are copies.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from strokecore.reading.series import read_series
from strokecore.simulate import SampleSpec, SimulatedHead, parse_affected, simulate
from strokecore.simulate.write import common_header, set_pixels, uid, write_dicom
from trainer.data.canonical import canonical_case
from trainer.data.cases import Case

# Official test ids, and ids that are not.
TEST_ID, OTHER_TEST_ID = "0073410", "0072723"
TRAIN_ID, OTHER_TRAIN_ID, VALIDATE_ID = "0019983", "0020106", "0020044"
FEWER_DICOM_ID, EMPTY_CT_ID = "0226134", "0073366"

WINDOW_HU = (-10.0, 90.0)
SPEC = SampleSpec(
    seed=41,
    affected=parse_affected("right:I,L,M1,M2,M4"),
    delta_hu=8.0,
    matrix=128,
    pixel_mm=1.8,
    tilt_deg=10.0,
    old_infarct=parse_affected("left:M6"),
)

SliceOrder = Literal["instance number", "reversed instance number"]


@functools.cache
def head() -> SimulatedHead:
    """The one simulated head: right MCA infarct, old infarct in left M6."""
    return simulate(SPEC)


@functools.cache
def dicom_case() -> Case:
    """The head through DICOM to the canonical grid with the simulator's truth (about 5 s, once)."""
    made = head()
    with tempfile.TemporaryDirectory() as folder:
        write_dicom(Path(folder), SPEC, made.hu, made.geometry)
        series = read_series(Path(folder))
    return canonical_case(series, made.infarct, made.infarct_regions, case_id="head", split="train")


def raw_mask(simulated: SimulatedHead) -> npt.NDArray[np.uint8]:
    """AISD's raw values [k, j, i]: 2, 3 and 5 in the infarct, 1 in an old one, 4 beside the infarct."""
    raw = np.zeros(simulated.hu.shape, np.uint8)
    region = simulated.infarct_regions
    raw[simulated.infarct] = 2
    raw[simulated.infarct & np.isin(region, [11 + 4, 11 + 5])] = 3  # M1, M2 of the right side
    raw[simulated.infarct & (region == 12)] = 5  # L
    raw[(simulated.regions == 10) & (raw == 0)] = 1  # left M6
    raw[(simulated.regions == 20) & (raw == 0)] = 4  # right M6, said to be invisible on CT
    return raw


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan as it is written: HU and raw mask [k, j, i], k upwards as the simulator has it."""

    hu: npt.NDArray[np.int16]
    raw: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, case_id: str, simulated: SimulatedHead | None = None) -> Scan:
        """The head with the id's own noise."""
        made = simulated or head()
        noise = np.random.default_rng(int(case_id)).integers(-1, 2, made.hu.shape)
        return cls((made.hu + noise).astype(np.int16), raw_mask(made))


def write_case(
    root: Path,
    case_id: str,
    scan: Scan | None = None,
    *,
    order: SliceOrder = "instance number",
    flip: tuple[int, ...] = (),
    folder_name: str | None = None,
    nested: bool = False,
    dicom: str | None = "dicom-0",
    image: bool = True,
    mask: bool = True,
    dicom_slices: int | None = None,
    window_hu: tuple[float, float] = WINDOW_HU,
) -> Scan:
    """Write one scan below ``root``.

    order: how the PNG numbers run against InstanceNumber. flip: axes (1 rows, 2 columns) that are mirrored in
    the PNG files. folder_name: instead of the id. nested: image/image and mask/mask. dicom: its archive, or
    None. dicom_slices: write only so many, from the first.
    """
    scan = scan or Scan.of(case_id)
    name = folder_name or case_id
    step = -1 if order == "reversed instance number" else 1
    low, high = window_hu
    grey = np.clip((scan.hu - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    for kind, volume, wanted in (("image", grey, image), ("mask", scan.raw, mask)):
        if wanted:
            folder = root / kind / kind / name if nested else root / kind / name
            write_png(folder, np.flip(volume, flip)[::step])
    if dicom is not None:
        write_dicom_folder(root / dicom / name, scan.hu, case_id, dicom_slices)
    return scan


def write_png(folder: Path, volume: npt.NDArray[np.uint8]) -> None:
    """000.png, 001.png ... of [n, j, i]."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(volume):
        Image.fromarray(one).save(folder / f"{number:03d}.png")


def write_dicom_folder(folder: Path, hu: npt.NDArray[np.int16], case_id: str, slices: int | None) -> None:
    """CT/*.dcm and DWI/*.dcm of one scan."""
    spec = replace(SPEC, seed=int(case_id) % 10_000)
    count = len(hu) if slices is None else slices
    write_dicom(folder / "CT", spec, hu[:count], head().geometry)
    _write_dwi(folder / "DWI", spec)


def _write_dwi(folder: Path, spec: SampleSpec) -> None:
    """Three slices of diffusion-weighted MR: what a reader of CT must pass over."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(3):
        ds = common_header(
            spec, MRImageStorage, uid("dwi", str(spec.seed), str(k)), uid("dwi", str(spec.seed))
        )
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.Modality = "MR"
        ds.SeriesDescription = "DWI b1000"
        ds.InstanceNumber = k + 1
        ds.SliceThickness = 5
        ds.ImagePositionPatient = [-100, -100, 6 * k]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [3.1, 3.1]
        set_pixels(ds, np.full((64, 64), 100 * k, np.int16))
        ds.save_as(folder / f"IM{k:04d}.dcm", enforce_file_format=True)


def write_miniature(root: Path) -> Path:
    """AISD with four sound scans (two to train, one to validate, one official test id) and known defects."""
    write_case(root, TRAIN_ID)
    write_case(root, OTHER_TRAIN_ID, order="reversed instance number", dicom="dicom-1")
    write_case(root, VALIDATE_ID, dicom="dicom-2")
    write_case(root, TEST_ID, dicom="dicom-3")
    (root / "dicom-0" / TEST_ID / "CT").mkdir(parents=True)  # the file is in dicom-3 instead
    write_case(root, FEWER_DICOM_ID, dicom_slices=16)
    write_case(root, EMPTY_CT_ID, dicom=None)
    (root / "dicom-0" / EMPTY_CT_ID / "CT").mkdir(parents=True)
    return root
