from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from uuid import uuid4

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.coding import Code

from strokecore._version import __version__
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.config import RegionCut
from strokecore.reports.dicom import codes, seg, sr
from strokecore.reports.dicom.instance import Stamp, write
from strokecore.reports.marks import Volumes
from strokecore.result import HAEMORRHAGE, AspectsScore, SourceMasks
from tests.unit.reports import output_cases as cases


def build(series, result, masks, captures=()):
    stamp = Stamp.of(result)
    return sr.build(
        series,
        result,
        masks,
        result.model,
        stamp,
        lesion=seg.build_lesion(series, masks, result.model, stamp),
        segments=seg.lesion_segments(masks),
        regions=seg.build_regions(series, masks, result.model, stamp),
        captures=captures,
    )


@pytest.fixture(scope="module")
def path(series, result, masks, tmp_path_factory):
    return write(build(series, result, masks), tmp_path_factory.mktemp("sr") / "sr.dcm")


@pytest.fixture(scope="module")
def report(path):
    return hd.sr.srread(path)


@pytest.fixture
def read(tmp_path):
    """Build a report, write it and read it again."""
    return lambda *parts: hd.sr.srread(write(build(*parts), tmp_path / "sr.dcm"))


def measurements(group) -> dict[str, float]:
    return {m.name.meaning: m.value for m in group.get_measurements()}


def early_right(series, masks) -> float:
    return pytest.approx(Volumes.of(series, masks).early["right"], abs=1e-3)


def tracked(groups) -> dict[str, object]:
    return {group.tracking_identifier: group for group in groups}


def container(report, meaning):
    return next(
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    )


def texts(report, meaning=None) -> list[tuple[str, str]]:
    """Of the summary and the qualitative evaluations, or of one of them."""
    return [
        (item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue)
        for name in ([meaning] if meaning else ["Summary", "Qualitative Evaluations"])
        for item in container(report, name).ContentSequence
        if item.ValueType == "TEXT"
    ]


def measurement_groups(report):
    """The content of each measurement group, as OHIF's getMeasurements walks them."""
    return [
        item.ContentSequence
        for item in container(report, "Imaging Measurements").ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "125007"
    ]


def test_document_is_preliminary_and_unverified(report):
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


@pytest.mark.parametrize("kind", ["scored", "normal", "withheld", "uncovered"])
def test_every_group_has_coordinates_as_ohif_needs(kind, read, series, masks, result):
    """OHIF 3.13.2 walks the groups from the last and shows black where one has no contour of one image."""
    empty = np.zeros_like(masks.lesion)
    if kind == "normal":
        masks = SourceMasks(empty, masks.regions)
        result = cases.made_up_result(series, masks, affected=False)
    if kind == "withheld":
        masks = SourceMasks(np.where(masks.lesion == 2, HAEMORRHAGE, 0).astype(np.uint8), masks.regions)
        result = cases.withheld(result)
    if kind == "uncovered":  # one region has no voxel in the scan
        masks = SourceMasks(masks.lesion, np.where(masks.regions == 1, 0, masks.regions).astype(np.uint8))
    report = read(series, result, masks)
    groups = measurement_groups(report)
    assert len(groups) >= 21
    for content in groups:
        kinds = [item.ValueType for item in content]
        assert "UIDREF" in kinds
        assert kinds.count("SCOORD") == 1
        scoord = next(item for item in content if item.ValueType == "SCOORD")
        assert scoord.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID in {
            header.SOPInstanceUID for header in series.datasets
        }
    uids = [next(i.UID for i in content if i.ValueType == "UIDREF") for content in groups]
    assert len(set(uids)) == len(uids)
    if kind == "uncovered":
        assert any("Region C left" in words for _, words in texts(report, "Qualitative Evaluations"))


def test_the_summary_stands_before_images_and_measurements(report, result):
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence]
    assert names.index("Summary") < names.index("Image Library") < names.index("Imaging Measurements")
    said = texts(report, "Summary")
    assert said[0] == ("ASPECTS summary", "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)")
    assert ("Affected regions", "right I, M1, M2") in said
    assert any(name == "Quality flag" and "noisy" in words for name, words in said)
    assert any("adults with suspected stroke" in words for _, words in said)


def test_hemispheres_carry_score_count_and_volume(report, series, masks):
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    right, left = groups["ASPECTS right"], groups["ASPECTS left"]
    assert measurements(right) == {
        "Alberta Stroke Program Early CT Score": 7,
        "Number of ASPECTS regions assessed": 10,
        "Volume of early ischemic change in affected regions": early_right(series, masks),
    }
    assert measurements(left)["Number of ASPECTS regions assessed"] == 9
    assert right.get_measurements()[0].name == Code("1290002002", "SCT", "ASPECTS")
    for side, group in (("right", right), ("left", left)):
        assert group.finding_sites[0].laterality == codes.LATERALITY[side]


def test_each_region_has_a_group_of_its_own_side(report, result):
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    assert len(groups) == 2 + 20 + 1  # and the old infarct
    for finding in result.regions:
        group = groups[f"Region {finding.name} {finding.side}"]
        site = group.finding_sites[0]
        assert site.laterality == codes.LATERALITY[finding.side]
        assert site.value == codes.REGION_SITE[finding.name]
        values = measurements(group)
        assert values.get("Probability of early ischemic change") == finding.probability
        assert (
            values.get("Attenuation difference to contralateral region")
            == finding.contralateral_difference_hu
        )
        evaluation, *doubts = group.get_qualitative_evaluations()
        expected = codes.PRESENT if finding.affected else codes.ABSENT
        if not finding.assessable:
            expected = codes.INDETERMINATE
        elif finding.borderline and not finding.affected:
            expected = codes.EQUIVOCAL
        assert evaluation.value == expected
        assert ("Area" in values) == finding.affected
        assert [(doubt.name, doubt.value) for doubt in doubts] == (
            [(codes.BORDERLINE, codes.YES)] if finding.borderline else []
        )


def test_the_score_carries_its_range_as_measurement_uncertainty(report):
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    for side, below, above in (("right", 1, 1), ("left", 1, 0)):
        score = groups[f"ASPECTS {side}"].get_measurements()[0]
        found = {
            item.ConceptNameCodeSequence[0].CodeValue: item.MeasuredValueSequence[0].NumericValue
            for item in score[0].ContentSequence
            if item.RelationshipType == "HAS PROPERTIES"
        }
        assert found == {"371885007": below, "371886008": above}


def test_a_region_not_assessed_says_why(report):
    group = tracked(report.content.get_planar_roi_measurement_groups())["Region M6 left"]
    reasons = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert "old_infarct" in reasons


def test_affected_regions_are_outlined_on_their_largest_slice(report, series, masks):
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    region = next(r for r in ALL_REGIONS if r == ("M2", "right"))
    marked = (masks.regions == region.label) & (masks.lesion == 2)
    k = int(marked.sum(axis=(1, 2)).argmax())
    item = groups["Region M2 right"].roi
    assert item.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    image = item.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == series.datasets[k].SOPInstanceUID
    polygon = np.asarray(item.value)
    assert np.array_equal(polygon[0], polygon[-1])
    rows, columns = np.nonzero(marked[k])
    assert polygon.min(axis=0) == pytest.approx([columns.min(), rows.min()], abs=6)
    assert polygon.max(axis=0) == pytest.approx([columns.max() + 1, rows.max() + 1], abs=6)


def test_the_summary_refers_to_segments_and_pictures(series, result, masks):
    stamp = Stamp.of(result)
    captures = [picture_of(stamp, index) for index in range(2)]
    report = build(series, result, masks, captures)
    images = [i for i in container(report, "Summary").ContentSequence if i.ValueType == "IMAGE"]
    referred = [(i.ConceptNameCodeSequence[0].CodeMeaning, i.ReferencedSOPSequence[0]) for i in images]
    segments = [sop for meaning, sop in referred if meaning == "Referenced Segment"]
    assert {sop.ReferencedSOPInstanceUID for sop in segments} == {stamp.instance_uid("seg")}
    assert [sop.ReferencedSegmentNumber for sop in segments] == list(seg.lesion_segments(masks).values())
    shown = [sop for meaning, sop in referred if meaning == "Best illustration of finding"]
    assert [sop.ReferencedSOPInstanceUID for sop in shown] == [stamp.instance_uid("sc", n) for n in range(2)]


def picture_of(stamp, index):
    image = Dataset()
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    image.SOPInstanceUID = stamp.instance_uid("sc", index)
    image.SeriesInstanceUID = stamp.series_uid("sc")
    image.StudyInstanceUID = "1.2.3.4"
    return image


def test_what_is_not_counted_has_its_own_group(report, series, masks):
    group = tracked(report.content.get_planar_roi_measurement_groups())["Old infarct, not counted"]
    assert group.finding_type == codes.INFARCT
    assert [e.value for e in group.get_qualitative_evaluations(name=codes.INFARCT)] == [codes.CHRONIC]
    assert measurements(group)["Volume"] == pytest.approx(Volumes.of(series, masks).old, abs=1e-3)


def test_evidence_names_source_and_segmentations(report, series, result):
    stamp = Stamp.of(result)
    expected = {str(header.SOPInstanceUID) for header in series.datasets}
    expected |= {stamp.instance_uid("seg"), stamp.instance_uid("regions")}
    assert {str(uid) for _, _, uid, _ in report.get_evidence()} == expected


def test_the_content_refers_to_nothing_but_the_evidence(report):
    evidence = {str(uid) for _, _, uid, _ in report.get_evidence()}
    referred = {str(e.value) for e in report.content[0].iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert len(referred) > 4
    assert referred <= evidence


def test_statements(report):
    said = texts(report)
    assert ("ASPECTS summary", "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)") in said
    assert any(name == "Intended use" and "RESEARCH USE ONLY" in words for name, words in said)
    assert any(name == "Quality flag" and "noisy" in words and "Send 5 mm" in words for name, words in said)
    engine = next(words for name, words in said if name == "Engine")
    assert "asymmetry" in engine
    assert "no model package given" in engine
    assert any("Old infarct, not counted: 3 ml" in words for _, words in said)
    assert not any("Nothing was segmented" in words for _, words in said)
    assert not any(name == "Decision point of the site" for name, _ in said)


def test_algorithm_is_named(report):
    for group in report.content.get_planar_roi_measurement_groups():
        identified = [item for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        words = {item.ConceptNameCodeSequence[0].CodeValue: item.TextValue for item in identified}
        assert (words["111001"], words["111003"]) == ("StrokeCore ASPECTS", __version__)
        parameters = [i.TextValue for i in identified if i.ConceptNameCodeSequence[0].CodeValue == "111002"]
        assert parameters == ["engine asymmetry, float32", "model asymmetry 1.0"]


def test_no_lesion_is_said(read, series, masks):
    empty = SourceMasks(np.zeros_like(masks.lesion), masks.regions)
    normal = read(series, cases.made_up_result(series, empty, affected=False), empty)
    assert any("No segmentation of findings was written" in words for _, words in texts(normal))


def test_the_cut_of_the_site_is_said(read, series, masks, result):
    software = replace(result.software, region_cut=RegionCut(0.42, "f" * 64))
    said = dict(texts(read(series, replace(result, software=software), masks)))
    assert "0.42" in said["Decision point of the site"]


def test_withheld_has_no_score_and_names_the_blood(read, series, masks, result):
    blood = SourceMasks(np.where(masks.lesion == 2, HAEMORRHAGE, 0).astype(np.uint8), masks.regions)
    report = read(series, cases.withheld(result), blood)
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    for side in ("left", "right"):
        assert set(measurements(groups[f"ASPECTS {side}"])) == {"Number of ASPECTS regions assessed"}
    for region in ALL_REGIONS:
        (evaluation,) = groups[f"Region {region.name} {region.side}"].get_qualitative_evaluations()
        assert evaluation.value == codes.INDETERMINATE
        assert set(measurements(groups[f"Region {region.name} {region.side}"])) <= {
            "Mean Attenuation Coefficient",
            "Attenuation difference to contralateral region",
        }
    found = groups["Suspected haemorrhage"]
    assert measurement_groups(report)[0] == found[0].ContentSequence
    assert found.finding_type == codes.HEMORRHAGE
    assert found.finding_sites[0].laterality == codes.LATERALITY["right"]
    assert measurements(found) == {"Volume": 12.3}
    (evaluation,) = found.get_qualitative_evaluations(name=codes.HEMORRHAGE)
    assert evaluation.value == codes.SUSPECTED
    assert found.roi.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    places = [i.TextValue for i in found[0].ContentSequence if i.ValueType == "TEXT"]
    assert "right, most of it in right L" in places
    said = dict(texts(report))
    assert said["ASPECTS summary"].startswith("HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS")
    assert not any("Volume of early" in name for name, _ in texts(report))
    assert any("right L" in words for name, words in texts(report) if name == "Quality flag")


def test_too_few_assessed_regions_give_no_number(read, series, masks, result):
    few = replace(result, aspects={"left": AspectsScore(None, 6), "right": AspectsScore(7, 10)})
    groups = tracked(read(series, few, masks).content.get_planar_roi_measurement_groups())
    left = groups["ASPECTS left"]
    assert measurements(left)["Number of ASPECTS regions assessed"] == 6
    assert [e.value for e in left.get_qualitative_evaluations()] == [codes.INDETERMINATE]
    assert measurements(groups["ASPECTS right"])["Alberta Stroke Program Early CT Score"] == 7


def test_affected_region_without_a_marked_voxel_is_outlined_itself(read, series, masks, result):
    empty = SourceMasks(np.zeros_like(masks.lesion), masks.regions)
    groups = tracked(read(series, result, empty).content.get_planar_roi_measurement_groups())
    region = masks.regions == next(r for r in ALL_REGIONS if r == ("M2", "right")).label
    area = region.sum(axis=(1, 2)).max() * np.prod(series.pixel_spacing_mm)
    assert measurements(groups["Region M2 right"])["Area"] == pytest.approx(area)


def test_superseded_result_is_named_and_referred_to(series, masks, result):
    key = str(uuid4())
    report = build(series, replace(result, supersedes=key), masks)
    assert ("Supersedes result", key) in texts(report)
    assert ("Supersedes", "Replaces an earlier result of this scan.") in texts(report, "Summary")
    earlier = Stamp.of(replace(result, result_key=key))
    (study,) = report.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == "1.2.3.4"
    (of_series,) = study.ReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == earlier.series_uid("sr")
    (document,) = of_series.ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == earlier.instance_uid("sr")
    assert "PredecessorDocumentsSequence" not in build(series, replace(result, supersedes="by hand"), masks)


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dsrdump (Debian package dcmtk) is not installed")
def test_dsrdump_reads_it(path):
    done = subprocess.run(["dsrdump", "+Pl", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("E:", "F:"))]
    for words in (
        'NUM:(,,"Alberta Stroke Program Early CT Score")="7',
        '(24028007,SCT,"Right")',
        "PRELIMINARY",
        "UNVERIFIED",
        "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)",
        "range of lower measurement uncertainty",
    ):
        assert words in done.stdout
