"""A native head that one attribute excludes is refused with a picture, not passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokecore.cli import main
from strokecore.errors import Refusal
from strokecore.reading.acquisition import SeriesSummary, doubtful_exclusion
from strokecore.reading.series import read_candidate_header, read_series
from tests.ct_factory import Array, body_hu, head_hu, write_series

HEAD = {"SeriesDescription": "Head 5.0", "StudyDescription": "CT brain", "BodyPartExamined": "HEAD"}
ONE_WORD: list[dict[str, Any]] = [
    {"BodyPartExamined": "CHEST", "SeriesDescription": "5.0 H31s"},
    {"BodyPartExamined": "ABDOMEN", "SeriesDescription": "5 mm", "ProtocolName": "HeadRoutine"},
    {"ContrastBolusAgent": "OMNIPAQUE 350"},
    {"ContrastBolusAgent": "yes"},
    {"ContrastBolusVolume": "80"},
    {"ContrastBolusRoute": "IV"},
    {"RescaleType": "US"},
]
MORE: list[dict[str, Any]] = [
    {"ContrastBolusAgent": "OMNIPAQUE 350", "ContrastBolusVolume": "80"},
    {"ContrastBolusAgent": "OMNIPAQUE 350", "SeriesDescription": "CTA head"},
    {"SeriesDescription": "Head with contrast"},
    {"BodyPartExamined": "CHEST", "ContrastBolusVolume": "80"},
    {"BodyPartExamined": "CHEST", "SeriesDescription": "5 mm", "StudyDescription": "Trauma"},
]


def with_vessels(points_mm: Array) -> Array:
    """The head of ct_factory with three vertical vessels of 180 HU in its brain."""
    hu = head_hu(points_mm)
    x, y = points_mm[..., 0], points_mm[..., 1]
    for cx, cy in ((-25, -20), (25, -20), (0, 45)):
        hu = np.where(((x - cx) ** 2 + (y - cy) ** 2 < 25) & (hu > 0) & (hu < 80), 180.0, hu)
    return hu


def refusal(folder: Path, **tags: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_series(write_series(folder, **tags)[0].parent)
    return caught.value


@pytest.mark.parametrize("tags", ONE_WORD, ids=str)
def test_one_attribute_against_all_else_is_refused(tags: dict[str, Any], tmp_path: Path) -> None:
    found = refusal(tmp_path / "ct", tags={**HEAD, **tags})
    assert not found.ineligible
    assert found.code in ("contrast_agent", "not_head", "not_hounsfield")
    wrong = next(k for k in tags if k not in ("SeriesDescription", "ProtocolName"))
    assert wrong in found.message
    assert str(tags[wrong]) not in f"{found.message} {found.remedy}".replace("head CT", "")
    header = read_candidate_header(tmp_path / "ct")
    assert header is not None


def test_the_refused_head_gets_its_picture(tmp_path: Path) -> None:
    write_series(tmp_path / "in", tags={**HEAD, "BodyPartExamined": "CHEST", "SeriesDescription": "5 mm"})
    assert main(["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 3
    assert [path.name for path in (tmp_path / "out" / "sc").iterdir()] == ["01.dcm"]
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (record["status"], record["quality"][0]["code"]) == ("refused", "not_head")
    assert "BodyPartExamined" in record["quality"][0]["message"]


@pytest.mark.parametrize("tags", MORE, ids=str)
def test_what_more_than_one_attribute_says_stays_silent(tags: dict[str, Any], tmp_path: Path) -> None:
    found = refusal(tmp_path, tags={**HEAD, **tags})
    assert found.ineligible
    assert found.code in ("contrast_agent", "not_head")


@pytest.mark.parametrize("hu_at", [with_vessels, body_hu])
def test_enhanced_vessels_and_other_bodies_stay_silent(hu_at: Any, tmp_path: Path) -> None:
    found = refusal(tmp_path, hu_at=hu_at, tags={**HEAD, "ContrastBolusAgent": "OMNIPAQUE"})
    assert found.ineligible
    assert read_candidate_header(tmp_path) is None


def test_beside_a_native_head_it_stays_silent(tmp_path: Path) -> None:
    write_series(tmp_path, series="contrast", tags={**HEAD, "ContrastBolusAgent": "OMNIPAQUE"})
    write_series(tmp_path, series="native", tags=HEAD)
    assert read_series(tmp_path).not_selected[0][1] == "contrast agent declared"


def test_beside_a_native_head_that_is_refused_that_one_is_said(tmp_path: Path) -> None:
    write_series(tmp_path, series="contrast", tags={**HEAD, "ContrastBolusAgent": "OMNIPAQUE"})
    write_series(tmp_path, series="native", slices=5, tags=HEAD)
    with pytest.raises(Refusal) as caught:
        read_series(tmp_path)
    assert caught.value.code == "too_few_slices"


def test_the_real_head_is_native_by_its_pixels(shared_data: Path, tmp_path: Path) -> None:
    """Calcified plexus and pineal body on three slices."""
    import pydicom

    for path in (shared_data / "real_head_ct").glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.BodyPartExamined = "HEAD"
        dataset.ContrastBolusAgent = "ULTRAVIST"
        dataset.save_as(tmp_path / path.name)
    with pytest.raises(Refusal) as caught:
        read_series(tmp_path)
    assert (caught.value.code, caught.value.ineligible) == ("contrast_agent", False)


def test_an_ordinary_head_is_not_excluded_at_all() -> None:
    summary = SeriesSummary("1", modality="CT", body_part="HEAD")
    assert doubtful_exclusion(summary) is None
