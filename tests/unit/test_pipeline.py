from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from strokecore.anatomy.regions import ALL_REGIONS, SIDES, RegionId
from strokecore.cli import main
from strokecore.config import WEIGHT_FREE, ScoringConfig
from strokecore.errors import UsageError
from strokecore.head.canonical import Head
from strokecore.learned import selection
from strokecore.learned.package import load_package
from strokecore.learned.shipped import SHIPPED
from strokecore.pipeline import score_folder
from strokecore.reports.outputs import failed_run
from strokecore.result import HAEMORRHAGE, INFARCT, Scored
from strokecore.scoring.asymmetry import AsymmetryEngine
from strokecore.scoring.decision import load_decision
from strokecore.scoring.engine import Lesion
from strokecore.simulate import SampleSpec, parse_affected, write_sample
from tests.enhanced_factory import enhanced, legacy_converted

PATIENT_WORDS = ("SIMULATED", "SIM-3")
STEPS = {"read", "frame", "brain", "register", "segment", "score", "dicom", "total"}


@pytest.fixture(scope="module")
def scored(sample_ct: Path) -> Scored:
    return score_folder(sample_ct)


@pytest.fixture(scope="module")
def written(sample_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written")
    assert main(["score", str(sample_ct), "--out", str(out)]) == 0
    return out


def copy_with(source: Path, target: Path, **tags: str) -> Path:
    """A copy of a CT folder with header values replaced."""
    target.mkdir()
    for file in source.glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(target / file.name)
    return target


def test_the_sample_is_scored_on_the_right_side(scored: Scored) -> None:
    result = scored.result
    assert result.status == "scored"
    assert result.affected_side == "right"
    assert result.aspects["left"].score == 10
    assert result.aspects["right"].score is not None
    assert 5 <= result.aspects["right"].score <= 8
    affected = {(f.name, f.side) for f in result.regions if f.affected}
    assert len(affected & {("I", "right"), ("M1", "right"), ("M2", "right")}) >= 2
    assert [(f.name, f.side) for f in result.regions] == [tuple(r) for r in ALL_REGIONS]
    assert result.infarct_volume_ml["right"] > 10 > result.infarct_volume_ml["left"]


def test_masks_lie_on_the_source_voxels_and_on_the_right_side(scored: Scored) -> None:
    series, masks = scored.series, scored.masks
    assert series is not None
    assert masks is not None
    assert masks.lesion.shape == masks.regions.shape == series.hu.shape
    assert (masks.lesion == 2).sum() > 20 * (masks.lesion == 1).sum()
    k, j, i = np.nonzero(masks.lesion == 2)
    dy, dx = series.pixel_spacing_mm
    points = series.positions_mm[k] + np.outer(j * dy, series.column_direction)
    points += np.outer(i * dx, series.row_direction)
    middle = series.positions_mm[:, 0].mean() + dx * (series.hu.shape[2] - 1) / 2 * series.row_direction[0]
    assert points[:, 0].mean() < middle - 20  # LPS: the patient's right is -x


def test_a_repeated_run_gives_the_same_result(scored: Scored, sample_ct: Path) -> None:
    again = score_folder(sample_ct, content_datetime=scored.result.content_datetime).result
    assert replace(again, timings_s={}) == replace(scored.result, timings_s={})


def test_score_writes_every_output(written: Path) -> None:
    record = json.loads((written / "result.json").read_text())
    assert record["status"] == "scored"
    assert record["affected_side"] == "right"
    assert set(record["timings_s"]) >= STEPS
    for name in ("seg.dcm", "regions.dcm", "sr.dcm", "report.html"):
        assert (written / name).stat().st_size > 1000
    assert list((written / "sc").glob("*.dcm"))


def test_no_patient_data_outside_the_dicom_outputs(written: Path, sample_ct: Path) -> None:
    dataset = pydicom.dcmread(next(sample_ct.glob("*.dcm")))
    assert str(dataset.PatientID) in PATIENT_WORDS  # or this test would look for the wrong words
    for name in ("result.json", "report.html"):
        text = (written / name).read_text()
        assert not [word for word in PATIENT_WORDS if word in text]


def test_a_second_run_into_the_same_folder_gives_the_same_bytes(written: Path, sample_ct: Path) -> None:
    before = {p.name: p.read_bytes() for p in written.rglob("*.dcm")}
    (written / "sc" / "stale.dcm").write_bytes(b"from another run")
    assert main(["score", str(sample_ct), "--out", str(written)]) == 0
    assert {p.name: p.read_bytes() for p in written.rglob("*.dcm")} == before


def test_a_bleeding_head_is_withheld_without_a_call_and_names_the_blood(tmp_path: Path) -> None:
    spec = SampleSpec(seed=3, affected=parse_affected("right:I,M1,M2"), blood_ml=12.0, blood_side="left")
    sample = write_sample(tmp_path / "ct", spec)
    withheld, despite = (
        score_folder(sample, ScoringConfig(withhold_on_blood=withhold)) for withhold in (True, False)
    )
    assert (withheld.result.status, despite.result.status) == ("withheld", "scored")
    for scored in (withheld, despite):
        assert scored.masks is not None
        blood = scored.result.haemorrhage
        assert blood is not None
        assert blood.side == "left"
        assert 9 < blood.ml < 15
        assert "left" in blood.place
        assert (scored.masks.lesion == HAEMORRHAGE).any()
    assert any(finding.affected for finding in despite.result.regions)
    assert withheld.masks is not None
    assert not np.isin(withheld.masks.lesion, list(INFARCT.values())).any()
    assert withheld.result.infarct_volume_ml == {"left": 0.0, "right": 0.0}
    assert all(score.score is score.range is None for score in withheld.result.aspects.values())
    for finding in withheld.result.regions:
        assert (finding.affected, finding.borderline, finding.probability) == (False, False, None)
    codes = {flag.code for flag in withheld.result.quality}
    assert "suspected_haemorrhage" in codes
    assert not codes & {"borderline", "single_slice", "not_outlined", "unconfirmed_infarct"}


def test_a_child_is_refused_with_a_picture(sample_ct: Path, tmp_path: Path) -> None:
    folder = copy_with(sample_ct, tmp_path / "child", PatientAge="009Y")
    assert main(["score", str(folder), "--out", str(tmp_path / "out")]) == 3
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["status"] == "refused"
    assert record["quality"][0]["code"] == "under_age"
    assert record["regions"] == []
    assert record["series"]["slices"] > 20  # what was refused is named
    assert len(list((tmp_path / "out" / "sc").glob("*.dcm"))) == 1
    assert not (tmp_path / "out" / "sr.dcm").exists()


def test_an_earlier_result_does_not_stay_beside_a_refusal(
    sample_ct: Path, tmp_path: Path, written: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(written, out)
    folder = copy_with(sample_ct, tmp_path / "child", PatientAge="009Y")
    assert main(["score", str(folder), "--out", str(out)]) == 3
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "result.json", "sc"]


def test_an_ineligible_folder_gets_no_dicom_output(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "note.txt").write_text("not DICOM")
    assert main(["score", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 3
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["status"] == "ineligible"
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_defect_is_a_failed_result_that_does_not_repeat_header_values(
    sample_ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: AsymmetryEngine, head: Head) -> Lesion:
        raise RuntimeError("SIMULATED^HEAD could not be processed")

    monkeypatch.setattr(AsymmetryEngine, "segment", broken)
    assert main(["score", str(sample_ct), "--out", str(tmp_path)]) == 1
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "failed"
    assert record["quality"][0]["code"] == "internal_error"
    assert "SIMULATED" not in (tmp_path / "result.json").read_text()
    assert len(list((tmp_path / "sc").glob("*.dcm"))) == 1


def test_to_say_that_a_run_failed_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that was asked for may be what fails."""
    monkeypatch.setattr(selection, "AsymmetryEngine", lambda: pytest.fail("an engine was made"))
    monkeypatch.setattr(selection, "_learned_engine", lambda *_: pytest.fail("an engine was made"))
    for engine in ("auto", "onnx"):
        result = failed_run(ScoringConfig(engine=engine), MemoryError("SIMULATED^HEAD")).result
        assert (result.status, result.model, result.regions) == ("failed", None, ())
        assert result.quality[0].code == "internal_error"
        assert "SIMULATED" not in str(result)


def test_a_head_cut_off_above_is_not_fully_assessed(sample_ct: Path, tmp_path: Path) -> None:
    """Without its upper third M6 is partly unseen: never ten of ten without a word."""
    headers = {f: pydicom.dcmread(f, stop_before_pixels=True) for f in sample_ct.glob("*.dcm")}
    upwards = sorted(headers, key=lambda f: float(headers[f].ImagePositionPatient[2]))
    for file in upwards[:-13]:
        shutil.copy(file, tmp_path)
    result = score_folder(tmp_path).result
    assert result.status == "scored"
    unseen = {(f.name, f.side) for f in result.regions if f.reason == "not_covered"}
    assert ("M6", "left") in unseen
    assert ("M6", "right") in unseen
    assert all(score.assessed < 10 for score in result.aspects.values())
    assert "not_covered" in [flag.code for flag in result.quality]


def test_an_unknown_series_is_a_usage_error(sample_ct: Path) -> None:
    with pytest.raises(UsageError):
        score_folder(sample_ct, series_uid="1.2.3")


def test_the_configuration_changes_the_key(scored: Scored, sample_ct: Path) -> None:
    other = score_folder(sample_ct, ScoringConfig(minimum_age_years=21)).result
    assert other.result_key != scored.result.result_key


def test_the_real_head_ct_is_scored(shared_data: Path, tmp_path: Path) -> None:
    assert main(["score", str(shared_data / "real_head_ct"), "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "scored"
    assert record["series"]["slices"] == 28
    assert record["series"]["tilt_deg"] == pytest.approx(18.5, abs=0.1)
    assert all(side["assessed"] == 10 for side in record["aspects"].values())


def test_a_sites_decision_point_holds_for_a_trained_model_too(sample_ct: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    cut = tmp_path / "cut.json"
    cut.write_text('{"schema": 1, "threshold": 0.999999}')
    model = ScoringConfig(model=Path("shipped"), engine="onnx")
    assert any(f.affected for f in score_folder(sample_ct, model).result.regions)
    strict = score_folder(sample_ct, replace(model, region_cut=cut)).result
    assert not any(f.affected for f in strict.regions)
    assert strict.software.region_cut is not None
    assert strict.software.region_cut.threshold == 0.999999


@pytest.mark.parametrize("engine", ["auto", WEIGHT_FREE])
def test_the_mirror_image_of_the_real_head_gives_the_mirror_result(
    shared_data: Path, tmp_path: Path, engine: str
) -> None:
    """Same header, columns reversed: a head that had its findings on the other side."""
    for file in (shared_data / "real_head_ct").glob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.PixelData = dataset.pixel_array[:, ::-1].tobytes()
        dataset.save_as(tmp_path / file.name)
    config = ScoringConfig(engine=engine)
    real = score_folder(shared_data / "real_head_ct", config).result
    mirrored = score_folder(tmp_path, config).result
    cut = load_decision().threshold if engine == WEIGHT_FREE else load_package(SHIPPED).region_threshold
    # left M2 is the darkest against its mirror; without such a region the comparison would say nothing
    assert min(f.contralateral_difference_hu for f in real.regions) < -1.5
    assert real.affected_side in (None, "left")
    assert mirrored.affected_side in (None, "right")
    for result in (real, mirrored):
        painted = any(result.aspects[s].score == 10 and result.infarct_volume_ml[s] > 0 for s in SIDES)
        assert painted == ("unconfirmed_infarct" in {flag.code for flag in result.quality})
    assert engine != WEIGHT_FREE or real.infarct_volume_ml["left"] > 1.0
    other = {(f.name, f.side): f for f in mirrored.regions}
    for finding in real.regions:
        twin = other[RegionId(finding.name, finding.side).mirror]
        # a probability near the decision point may fall on either side of it
        assert twin.affected == finding.affected or abs(finding.probability - cut) < 0.1
        assert twin.probability == pytest.approx(finding.probability, abs=0.15)
        assert twin.contralateral_difference_hu == pytest.approx(finding.contralateral_difference_hu, abs=0.5)


@pytest.mark.parametrize("convert", [enhanced, legacy_converted])
def test_a_multi_frame_image_is_scored_as_the_slices_it_was_made_of(
    convert: Callable[[Iterable[Path], Path], Path], sample_ct: Path, written: Path, tmp_path: Path
) -> None:
    image = pydicom.dcmread(convert(sample_ct.glob("*.dcm"), tmp_path / "ct" / "image.dcm"))
    out = tmp_path / "out"
    assert main(["score", str(tmp_path / "ct"), "--out", str(out)]) == 0
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (written, out))
    for same in ("aspects", "regions", "infarct_volume_ml", "outside_regions_volume_ml"):
        assert one[same] == other[same]
    for same in ("digest", "slices", "spacing_mm", "tilt_deg"):
        assert one["series"][same] == other["series"][same]

    places = [f.PlanePositionSequence[0].ImagePositionPatient for f in image.PerFrameFunctionalGroupsSequence]
    for name in ("seg.dcm", "regions.dcm"):
        classic, segmentation = pydicom.dcmread(written / name), pydicom.dcmread(out / name)
        assert segmentation.PixelData == classic.PixelData
        for item, before in zip(
            segmentation.PerFrameFunctionalGroupsSequence,
            classic.PerFrameFunctionalGroupsSequence,
            strict=True,
        ):
            place = item.PlanePositionSequence[0].ImagePositionPatient
            assert place == before.PlanePositionSequence[0].ImagePositionPatient
            (source,) = item.DerivationImageSequence[0].SourceImageSequence
            assert source.ReferencedSOPInstanceUID == image.SOPInstanceUID
            assert place == places[source.ReferencedFrameNumber - 1]


@pytest.mark.parametrize("name", ["S21570/S1000", "S21570/S2010", "S21570/S4010", "S21610/S2010"])
def test_the_phantoms_are_refused_by_code(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "head_phantom" / name
    assert main(["score", str(folder), "--out", str(tmp_path)]) == 3
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] in ("refused", "ineligible")
    expected = {"S1000": "localizer_only", "S2010": "no_brain", "S4010": "not_ct"}[Path(name).name]
    assert record["quality"][0]["code"] == expected
