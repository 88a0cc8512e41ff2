from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor

from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.reading.series import read_series
from strokecore.reports import dicom
from strokecore.reports.dicom import seg
from strokecore.reports.dicom.instance import Stamp, write
from strokecore.reports.palette import MARKS
from strokecore.result import HAEMORRHAGE, INFARCT, OLD_INFARCT, OTHER_HYPODENSITY, SourceMasks
from tests.unit.reports import output_cases as cases

EARLY_RIGHT, OLD = "Early ischaemic change right", "Old infarct, not counted"


@pytest.fixture(scope="module")
def stamp(series, masks):
    return Stamp.of(cases.made_up_result(series, masks))


def read_back(path, series) -> dict[str, np.ndarray]:
    """Every segment of a file as bool [k, j, i] on the voxels of ``series``, by label."""
    segmentation = hd.seg.segread(path)
    uids = [str(header.SOPInstanceUID) for header in series.datasets]
    numbers = list(segmentation.segment_numbers)
    pixels = segmentation.get_pixels_by_source_instance(
        uids, segment_numbers=numbers, ignore_spatial_locations=False, assert_missing_frames_are_empty=True
    )
    return {
        segmentation.get_segment_description(number).segment_label: pixels[..., index].astype(bool)
        for index, number in enumerate(numbers)
    }


def check_both(series, masks, stamp, folder):
    lesion = read_back(write(seg.build_lesion(series, masks, cases.MODEL, stamp), folder / "seg.dcm"), series)
    for value, mark in MARKS.items():
        label, expected = mark.label, masks.lesion == value
        if expected.any():
            assert np.array_equal(lesion.pop(label), expected), label
    assert lesion == {}
    regions = read_back(
        write(seg.build_regions(series, masks, cases.MODEL, stamp), folder / "regions.dcm"), series
    )
    for region in ALL_REGIONS:
        assert np.array_equal(regions.pop(f"{region.name} {region.side}"), masks.regions == region.label), (
            region
        )
    assert regions == {}


def test_masks_come_back_on_the_same_voxels(series, masks, stamp, tmp_path):
    check_both(series, masks, stamp, tmp_path)


@pytest.mark.parametrize("flip", ["rows_flipped", "columns_flipped", "transposed"])
def test_masks_come_back_from_any_storage_order(flip, tmp_path):
    series = cases.small_series(**{flip: True})
    masks = cases.made_up_masks(series)
    check_both(series, masks, Stamp.of(cases.made_up_result(series, masks)), tmp_path)


def test_real_scan_with_tilt_and_uneven_gaps(shared_data, tmp_path):
    series = cases.real_series(shared_data)
    masks = cases.made_up_masks(series, centre=(0.0, 0.0, 25.0))
    check_both(series, masks, Stamp.of(cases.made_up_result(series, masks)), tmp_path)


def test_every_frame_lies_on_its_source_slice(series, masks, stamp):
    dataset = seg.build_regions(series, masks, cases.MODEL, stamp)
    positions = {str(h.SOPInstanceUID): list(h.ImagePositionPatient) for h in series.datasets}
    assert len(dataset.PerFrameFunctionalGroupsSequence) == dataset.NumberOfFrames
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == positions[source]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert list(orientation) == list(series.datasets[0].ImageOrientationPatient)
    assert dataset.FrameOfReferenceUID == series.datasets[0].FrameOfReferenceUID


def test_empty_frames_are_left_out_and_the_series_is_referenced(series, masks, stamp):
    dataset = seg.build_lesion(series, masks, cases.MODEL, stamp)
    filled = sum(int((masks.lesion == value).any(axis=(1, 2)).sum()) for value in MARKS)
    assert dataset.NumberOfFrames == filled < 2 * len(series.datasets)
    references = dataset.ReferencedSeriesSequence
    assert [item.SeriesInstanceUID for item in references] == [series.series_instance_uid]
    assert {item.ReferencedSOPInstanceUID for item in references[0].ReferencedInstanceSequence} == {
        header.SOPInstanceUID for header in series.datasets
    }


def test_segments_say_what_they_are(series, masks, stamp):
    dataset = seg.build_lesion(series, masks, cases.MODEL, stamp)
    assert dataset.SegmentationType == "BINARY"
    described = {item.SegmentLabel: item for item in dataset.SegmentSequence}
    assert set(described) == {EARLY_RIGHT, OLD}
    for item in described.values():
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == "55641003"
        assert len(item.RecommendedDisplayCIELabValue) == 3
    assert modifier(described[EARLY_RIGHT]) == "24028007"
    assert modifier(described[OLD]) == "90734009"


def test_segments_have_the_colours_of_the_pictures(series, masks, stamp):
    dataset = seg.build_lesion(series, masks, cases.MODEL, stamp)
    for item in dataset.SegmentSequence:
        mark = next(mark for mark in MARKS.values() if mark.label == item.SegmentLabel)
        stored = np.asarray(item.RecommendedDisplayCIELabValue) / 65535  # PS3.3 C.10.7.1.1
        colour = CIELabColor(*(stored * [100, 255, 255] - [0, 128, 128]))
        assert np.abs(np.subtract(colour.to_rgb(), mark.colour)).max() <= 3


def test_haemorrhage_and_other_hypodensity_are_segments_of_their_own(series, masks, stamp):
    lesion = masks.lesion.copy()
    lesion[lesion == INFARCT["right"]] = HAEMORRHAGE
    lesion[lesion == OLD_INFARCT] = OTHER_HYPODENSITY
    dataset = seg.build_lesion(series, SourceMasks(lesion, masks.regions), cases.MODEL, stamp)
    blood, other = dataset.SegmentSequence
    assert other.SegmentLabel == "Other hypodensity, age unknown, not counted"
    assert blood.SegmentLabel == "Suspected haemorrhage"
    for item, kind in ((other, "52988006"), (blood, "50960005")):
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == kind
    assert modifier(blood) == "415684004"
    # the rule that finds blood is no part of the engine
    algorithms = [item.SegmentationAlgorithmIdentificationSequence[0] for item in (other, blood)]
    assert [item.AlgorithmName for item in algorithms] == [cases.MODEL.name, "StrokeCore haemorrhage"]


def test_regions_name_their_own_side_and_colour(series, masks, stamp):
    dataset = seg.build_regions(series, masks, cases.MODEL, stamp)
    assert dataset.SegmentsOverlap == "NO"
    assert len(dataset.SegmentSequence) == 20
    for item in dataset.SegmentSequence:
        name, side = item.SegmentLabel.split()
        assert modifier(item) == {"left": "7771000", "right": "24028007"}[side]
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        if name.startswith("M"):
            assert (kind.CodeValue, kind.CodingSchemeDesignator) == (name, "99STROKECORE")
        else:
            assert kind.CodingSchemeDesignator == "SCT"
    colours = {
        item.SegmentLabel.split()[0]: tuple(item.RecommendedDisplayCIELabValue)
        for item in dataset.SegmentSequence
    }
    assert len(set(colours.values())) == 10
    assert [item.CodingSchemeDesignator for item in dataset.CodingSchemeIdentificationSequence] == [
        "99STROKECORE"
    ]


def test_left_infarct_alone_is_left(series, masks, stamp):
    only_left = SourceMasks(np.where(masks.lesion == 2, 1, 0).astype(np.uint8), masks.regions)
    assert seg.lesion_segments(only_left) == {1: 1}
    dataset = seg.build_lesion(series, only_left, cases.MODEL, stamp)
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["Early ischaemic change left"]
    assert modifier(dataset.SegmentSequence[0]) == "7771000"


def test_no_lesion_writes_no_segmentation(series, masks, tmp_path):
    empty = SourceMasks(np.zeros_like(masks.lesion), masks.regions)
    result = cases.made_up_result(series, empty, affected=False)
    written = dicom.write_outputs(series, result, empty, tmp_path)
    assert [path.name for path in written][:2] == ["regions.dcm", "sr.dcm"]
    assert not (tmp_path / "seg.dcm").exists()


def test_trained_models_are_named_as_such(series, masks, stamp):
    trained = replace(cases.MODEL, name="tagl", engine="onnx")
    for model, family in ((cases.MODEL, "123101"), (trained, "123110")):
        dataset = seg.build_lesion(series, masks, model, stamp)
        algorithm = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmName == model.name
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == family


def test_declared_slice_thickness_is_not_needed(masks, tmp_path):
    series = cases.recoded(cases.small_series(), SliceThickness=None)
    dataset = seg.build_lesion(series, masks, cases.MODEL, Stamp.of(cases.made_up_result(series, masks)))
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == series.slice_thickness_mm
    assert pydicom.dcmread(write(dataset, tmp_path / "seg.dcm")).Modality == "SEG"


def differing(series, **values):
    """``series`` whose slices have their own header values, one for each; None removes the attribute."""
    headers = [deepcopy(header) for header in series.datasets]
    for keyword, of_slices in values.items():
        for header, value in zip(headers, of_slices, strict=True):
            header.pop(keyword, None)
            if value is not None:
                setattr(header, keyword, value)
    return replace(series, datasets=tuple(headers))


def built(series, masks):
    stamp = Stamp.of(cases.made_up_result(series, masks))
    return [build(series, masks, cases.MODEL, stamp) for build in (seg.build_lesion, seg.build_regions)]


def thicknesses_of(dataset, series) -> list[tuple[int, float]]:
    """(slice, SliceThickness) of every frame, found by its source image."""
    places = {str(header.SOPInstanceUID): k for k, header in enumerate(series.datasets)}
    return [
        (
            places[str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)],
            float(frame.PixelMeasuresSequence[0].SliceThickness),
        )
        for frame in dataset.PerFrameFunctionalGroupsSequence
    ]


@pytest.mark.parametrize(
    "declared",
    [
        [4.0] * 4 + [7.0] * 4,
        [7.0] * 4 + [3.0] * 4,
        [4.0, 4.0, 4.0, None, 7.0, 7.0, 7.0, 7.0],  # the series' thickness stands in
        [2.999, 3.0, 3.0, 3.0, 6.0, 6.0, 6.001, 6.0],
    ],
)
def test_every_frame_has_its_own_slices_thickness(declared, masks, tmp_path):
    series = differing(cases.small_series(), SliceThickness=declared)
    for dataset in built(series, masks):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        assert "PixelMeasuresSequence" not in shared
        found = thicknesses_of(dataset, series)
        assert {k for k, _ in found} >= {1, 7}  # frames of both slabs
        for k, thickness in found:
            assert thickness == (declared[k] or series.slice_thickness_mm)
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            spacing = frame.PixelMeasuresSequence[0].PixelSpacing
            assert tuple(map(float, spacing)) == pytest.approx(series.pixel_spacing_mm)
    check_both(series, masks, Stamp.of(cases.made_up_result(series, masks)), tmp_path)


def test_one_thickness_is_written_once(series, masks):
    for dataset in built(series, masks):
        assert "PixelMeasuresSequence" in dataset.SharedFunctionalGroupsSequence[0]
        assert not any("PixelMeasuresSequence" in f for f in dataset.PerFrameFunctionalGroupsSequence)


def test_thicknesses_of_the_real_scan(shared_data):
    series = read_series(shared_data / "real_head_ct")
    regions = np.zeros(series.hu.shape, np.uint8)
    regions[:, 200:220, 200:220] = ALL_REGIONS[0].label
    masks = SourceMasks(np.zeros_like(regions), regions)
    stamp = Stamp.of(cases.made_up_result(series, masks))
    found = dict(thicknesses_of(seg.build_regions(series, masks, cases.MODEL, stamp), series))
    assert found == dict.fromkeys(range(14), 4.0) | dict.fromkeys(range(14, 28), 7.0)


@pytest.mark.parametrize("lossy_slice", [0, 5, 7])
def test_loss_of_any_source_image_is_inherited(lossy_slice, masks):
    of_one = [None] * 8
    of_one[lossy_slice] = "01"
    series = differing(
        cases.recoded(
            cases.small_series(), LossyImageCompressionRatio="12.5", LossyImageCompressionMethod="ISO_15444_1"
        ),
        LossyImageCompression=of_one,
    )
    for dataset in built(series, masks):
        assert dataset.LossyImageCompression == "01"
        assert dataset.LossyImageCompressionRatio == 12.5
        assert dataset.LossyImageCompressionMethod == "ISO_15444_1"


def test_without_loss_nothing_is_said_of_it(series, masks):
    for dataset in built(series, masks):
        assert dataset.LossyImageCompression == "00"
        assert "LossyImageCompressionRatio" not in dataset


def modifier(segment) -> str:
    return segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue
