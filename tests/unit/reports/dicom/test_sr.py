from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom.sr.codedict import codes as standard_codes
from pydicom.sr.coding import Code

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.config import RegionCut
from strokecore.reports.dicom import codes, seg, sr
from strokecore.reports.dicom.instance import Stamp, write
from strokecore.result import HAEMORRHAGE, AspectsScore, SourceMasks
from tests.unit.reports import output_cases as cases


def build(series, result, masks):
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


def tracked(groups) -> dict[str, object]:
    return {group.tracking_identifier: group for group in groups}


def texts(report) -> list[tuple[str, str]]:
    container = next(
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    )
    return [
        (item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue) for item in container.ContentSequence
    ]


def test_document_is_preliminary_and_unverified(report):
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_hemispheres_carry_score_count_and_volume(report):
    groups = tracked(report.content.get_image_measurement_groups())
    right, left = groups["ASPECTS right"], groups["ASPECTS left"]
    assert measurements(right) == {
        "Alberta Stroke Program Early CT Score": 7,
        "Number of ASPECTS regions assessed": 10,
        "Volume": 21.75,
    }
    assert measurements(left)["Number of ASPECTS regions assessed"] == 9
    assert right.get_measurements()[0].name == Code("1290002002", "SCT", "ASPECTS")
    for side, group in (("right", right), ("left", left)):
        assert group.finding_sites[0].laterality == codes.LATERALITY[side]


def test_each_region_has_a_group_of_its_own_side(report, result):
    groups = tracked(report.content.get_image_measurement_groups())
    assert len(groups) == 22
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
        assert [(doubt.name, doubt.value) for doubt in doubts] == (
            [(codes.BORDERLINE, codes.YES)] if finding.borderline else []
        )


def test_the_score_carries_its_range_as_measurement_uncertainty(report):
    groups = tracked(report.content.get_image_measurement_groups())
    for side, below, above in (("right", 1, 1), ("left", 1, 0)):
        score = groups[f"ASPECTS {side}"].get_measurements()[0]
        found = {
            item.ConceptNameCodeSequence[0].CodeValue: item.MeasuredValueSequence[0].NumericValue
            for item in score[0].ContentSequence
            if item.RelationshipType == "HAS PROPERTIES"
        }
        assert found == {"371885007": below, "371886008": above}


def test_a_region_not_assessed_says_why(report):
    group = tracked(report.content.get_image_measurement_groups())["Region M6 left"]
    reasons = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    assert "old_infarct" in reasons


def test_affected_regions_are_outlined_on_their_largest_slice(report, series, masks):
    groups = tracked(report.content.get_planar_roi_measurement_groups())
    assert set(groups) == {"Contour I right", "Contour M1 right", "Contour M2 right"}
    region = next(r for r in ALL_REGIONS if r == ("M2", "right"))
    marked = (masks.regions == region.label) & (masks.lesion == 2)
    k = int(marked.sum(axis=(1, 2)).argmax())
    item = groups["Contour M2 right"].roi
    assert item.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    image = item.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == series.datasets[k].SOPInstanceUID
    polygon = np.asarray(item.value)
    assert np.array_equal(polygon[0], polygon[-1])
    rows, columns = np.nonzero(marked[k])
    assert polygon.min(axis=0) == pytest.approx([columns.min(), rows.min()], abs=6)
    assert polygon.max(axis=0) == pytest.approx([columns.max() + 1, rows.max() + 1], abs=6)


def test_contours_come_first_for_viewers_that_open_the_first_group(report):
    container = next(
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == standard_codes.DCM.ImagingMeasurements.value
    )
    first = container.ContentSequence[0].ContentSequence
    assert "SCOORD" in [item.ValueType for item in first]


def test_volume_refers_to_the_segment(report, result, masks):
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    assert measurements(group) == {"Volume": 21.75}
    reference = next(item for item in group[0].ContentSequence if item.ValueType == "IMAGE")
    assert reference.ConceptNameCodeSequence[0].CodeMeaning == "Referenced Segment"
    sop = reference.ReferencedSOPSequence[0]
    assert sop.ReferencedSOPInstanceUID == Stamp.of(result).instance_uid("seg")
    assert sop.ReferencedSegmentNumber == seg.lesion_segments(masks)[2]


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
    assert any("other hypodensity 2.6 ml" in words for _, words in said)
    assert not any("Nothing was segmented" in words for _, words in said)
    assert not any(name == "Decision point of the site" for name, _ in said)


def test_algorithm_is_named(report):
    for group in report.content.get_image_measurement_groups():
        identified = [item for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        words = {item.ConceptNameCodeSequence[0].CodeValue: item.TextValue for item in identified}
        assert (words["111001"], words["111003"]) == ("asymmetry", "1.0")


def test_no_lesion_is_said(read, series, masks):
    empty = SourceMasks(np.zeros_like(masks.lesion), masks.regions)
    normal = read(series, cases.made_up_result(series, empty, affected=False), empty)
    assert any("no segmentation of findings was written" in words for _, words in texts(normal))
    assert normal.content.get_volumetric_roi_measurement_groups() == []


def test_the_cut_of_the_site_is_said(read, series, masks, result):
    software = replace(result.software, region_cut=RegionCut(0.42, "f" * 64))
    said = dict(texts(read(series, replace(result, software=software), masks)))
    assert "0.42" in said["Decision point of the site"]


def test_withheld_has_no_score_and_names_the_blood(read, series, masks, result):
    blood = SourceMasks(np.where(masks.lesion == 2, HAEMORRHAGE, 0).astype(np.uint8), masks.regions)
    report = read(series, cases.withheld(result), blood)
    groups = tracked(report.content.get_image_measurement_groups())
    for side in ("left", "right"):
        assert set(measurements(groups[f"ASPECTS {side}"])) == {"Number of ASPECTS regions assessed"}
    for region in ALL_REGIONS:
        (evaluation,) = groups[f"Region {region.name} {region.side}"].get_qualitative_evaluations()
        assert evaluation.value == codes.INDETERMINATE
        assert set(measurements(groups[f"Region {region.name} {region.side}"])) <= {
            "Mean Attenuation Coefficient",
            "Attenuation difference to contralateral region",
        }
    (found,) = report.content.get_planar_roi_measurement_groups()
    assert found.finding_type == codes.HEMORRHAGE
    assert found.finding_sites[0].laterality == codes.LATERALITY["right"]
    assert measurements(found) == {"Volume": 12.3}
    (evaluation,) = found.get_qualitative_evaluations(name=codes.HEMORRHAGE)
    assert evaluation.value == codes.SUSPECTED
    assert found.roi.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
    places = [i.TextValue for i in found[0].ContentSequence if i.ValueType == "TEXT"]
    assert "right, most of it in right L" in places
    said = dict(texts(report))
    assert "haemorrhage suspected: 12.3 ml" in said["ASPECTS summary"]
    assert any("right L" in words for name, words in texts(report) if name == "Quality flag")


def test_too_few_assessed_regions_give_no_number(read, series, masks, result):
    few = replace(result, aspects={"left": AspectsScore(None, 6), "right": AspectsScore(7, 10)})
    groups = tracked(read(series, few, masks).content.get_image_measurement_groups())
    left = groups["ASPECTS left"]
    assert measurements(left)["Number of ASPECTS regions assessed"] == 6
    assert [e.value for e in left.get_qualitative_evaluations()] == [codes.INDETERMINATE]
    assert measurements(groups["ASPECTS right"])["Alberta Stroke Program Early CT Score"] == 7


def test_affected_region_without_a_marked_voxel_is_outlined_itself(read, series, masks, result):
    empty = SourceMasks(np.zeros_like(masks.lesion), masks.regions)
    groups = read(series, result, empty).content.get_planar_roi_measurement_groups()
    assert len(groups) == 3


def test_superseded_result_is_named(series, masks, result):
    report = build(series, replace(result, supersedes="old-key"), masks)
    assert ("Supersedes result", "old-key") in texts(report)


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
