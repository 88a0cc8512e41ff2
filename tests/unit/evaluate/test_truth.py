"""Outlines of the infarct find their way to the voxels of the scan, whatever grid they were drawn on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from strokecore.config import ScoringConfig
from strokecore.evaluate.cases import Case
from strokecore.evaluate.figures import summarise
from strokecore.evaluate.outcomes import run_case
from strokecore.evaluate.truth import MaskError, read_mask
from strokecore.reading.series import Series, read_series
from strokecore.result import Scored, SourceMasks
from tests.unit.evaluate.cases import affected, result_of, truth_of, write_case
from tests.unit.reports.output_cases import small_series

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine_of(series: Series) -> np.ndarray:
    """NIfTI affine of evenly spaced slices; voxels are [i, j, k]."""
    along_j, along_i = series.pixel_spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = series.row_direction * along_i
    affine[:3, 1] = series.column_direction * along_j
    affine[:3, 2] = series.positions_mm[1] - series.positions_mm[0]
    affine[:3, 3] = series.positions_mm[0]
    return FLIP @ affine


def even_series() -> Series:
    return small_series(gaps_mm=(5.0,) * 7)


def drawn_on(series: Series) -> np.ndarray:
    """A block in the patient's left front, bool [k, j, i]."""
    mask = np.zeros(series.hu.shape, bool)
    mask[3:6, 18:30, 40:52] = True
    return mask


def write_mask(case: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    (case / "truth").mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), case / "truth" / "truth.nii.gz")


def test_the_simulator_s_outline_comes_back_on_a_tilted_scan(sample_ct: Path) -> None:
    series = read_series(sample_ct)
    found = read_mask(sample_ct, series)
    assert found is not None
    stored = nibabel.load(sample_ct / "truth" / "truth.nii.gz")
    assert (found == np.asarray(stored.dataobj).T.astype(bool)).all()
    columns = np.flatnonzero(found.any(axis=(0, 1)))
    assert series.row_direction[0] > 0
    assert columns.max() < found.shape[2] / 2  # the infarct is on the right: low x


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_storage_order_of_the_outline_does_not_matter(axis: int, tmp_path: Path) -> None:
    series = even_series()
    mask, affine = drawn_on(series), affine_of(series)
    turned = affine.copy()
    turned[:3, 3] += affine[:3, axis] * (mask.T.shape[axis] - 1)
    turned[:3, axis] *= -1
    write_mask(tmp_path, np.flip(mask.T, axis), turned)
    assert (read_mask(tmp_path, series) == mask).all()


def test_a_finer_outline_keeps_its_place_and_volume(tmp_path: Path) -> None:
    series = even_series()
    mask, affine = drawn_on(series), affine_of(series)
    fine = affine.copy()
    fine[:3, :3] /= 2
    fine[:3, 3] -= 0.25 * affine[:3, :3].sum(axis=1)  # voxel centres of the halves
    write_mask(tmp_path, mask.T.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine)
    assert (read_mask(tmp_path, series) == mask).all()


def test_an_outline_of_another_scan_is_not_used(tmp_path: Path) -> None:
    series = even_series()
    elsewhere = affine_of(series)
    elsewhere[0, 3] += 500.0
    write_mask(tmp_path, drawn_on(series).T, elsewhere)
    with pytest.raises(MaskError, match="does not lie in the scan"):
        read_mask(tmp_path, series)


def test_a_damaged_outline_is_said(tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "truth.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(MaskError, match="Error"):
        read_mask(tmp_path, even_series())


def test_no_outline_is_none(tmp_path: Path) -> None:
    assert read_mask(tmp_path, even_series()) is None


def score_outlined(folder: Path, config: ScoringConfig) -> Scored:
    """Find the block and as much again on the other side, and an old infarct that must not count."""
    series = even_series()
    lesion = np.where(drawn_on(series), 1, 0).astype(np.uint8)
    lesion[np.flip(drawn_on(series), axis=2)] = 2
    lesion[0] = 3
    return Scored(result_of("left:M1"), series, SourceMasks(lesion, np.zeros_like(lesion)))


def test_the_study_measures_the_overlap(tmp_path: Path) -> None:
    folder = write_case(tmp_path / "a", affected(left=("M1",)))
    case = Case("a", truth_of("left:M1"), folder=folder)
    without = run_case(case, ScoringConfig(), score_outlined)
    series = even_series()
    write_mask(folder, drawn_on(series).T, affine_of(series))
    outlined = run_case(case, ScoringConfig(), score_outlined)
    assert (without.dice, without.mask_error) == (None, "")
    assert outlined.dice == pytest.approx(2 / 3)
    (folder / "truth" / "truth.nii.gz").write_bytes(b"")
    damaged = run_case(case, ScoringConfig(), score_outlined)
    assert damaged.dice is None
    assert damaged.mask_error
    assert damaged.status == "scored"  # the regions still count
    found = summarise([without, outlined, damaged, replace(outlined, dice=1.0)], draws=50)["infarct_dice"]
    assert (found["cases"], found["unusable_masks"]) == (2, 1)
    assert found["mean"]["value"] == found["median"] == pytest.approx(5 / 6)
