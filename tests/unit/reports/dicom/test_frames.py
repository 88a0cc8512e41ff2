"""Outputs of a series that is one Enhanced CT image: they name its frames."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pydicom
import pytest

from strokecore.reports import dicom
from tests.unit.reports import output_cases as cases
from tests.unit.reports.dicom.test_dicom import errors

IMAGE = "1.2.3.4.1.77"


@pytest.fixture(scope="module")
def written(series, masks, tmp_path_factory):
    headers = []
    for k, original in enumerate(series.datasets):
        header = deepcopy(original)
        header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        header.SOPInstanceUID = IMAGE
        header.ReferencedFrameNumber = k + 1
        headers.append(header)
    of_frames = replace(series, datasets=tuple(headers))
    folder = tmp_path_factory.mktemp("frames")
    result = cases.made_up_result(of_frames, masks)
    return {path.name: path for path in dicom.write_outputs(of_frames, result, masks, folder)}


def test_all_outputs_are_valid_and_name_the_image_once(written):
    for path in written.values():
        assert errors(path) == []
        output = pydicom.dcmread(path)
        for sequence in ("SourceImageSequence", "SourceInstanceSequence"):
            if sequence in output:
                assert [i.ReferencedSOPInstanceUID for i in output[sequence].value] == [IMAGE]


def test_each_segmented_frame_names_its_source_frame(written, series):
    positions = [tuple(map(float, h.ImagePositionPatient)) for h in series.datasets]
    for name in ("seg.dcm", "regions.dcm"):
        output = pydicom.dcmread(written[name])
        (referenced,) = output.ReferencedSeriesSequence
        assert [i.ReferencedSOPInstanceUID for i in referenced.ReferencedInstanceSequence] == [IMAGE]
        for frame in output.PerFrameFunctionalGroupsSequence:
            source = frame.DerivationImageSequence[0].SourceImageSequence[0]
            place = tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
            assert source.ReferencedSOPInstanceUID == IMAGE
            assert source.ReferencedFrameNumber == positions.index(place) + 1


def test_each_contour_names_its_source_frame(written, series, masks):
    report = pydicom.dcmread(written["sr.dcm"])
    scoords = [i for i in walk(report) if i.get("ValueType") == "SCOORD"]
    assert len(scoords) >= 20
    frames = {i.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber for i in scoords}
    assert frames <= set(range(1, len(series.datasets) + 1))
    assert len(frames) > 1
    # the image library has an entry for each slice that a contour or a picture shows
    entries = [i for i in walk(report) if i.get("ValueType") == "IMAGE" and _of(i) == IMAGE]
    library = [i for i in entries if "ContentSequence" in i]
    assert {i.ReferencedSOPSequence[0].ReferencedFrameNumber for i in library} >= frames
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = [s.ReferencedSOPInstanceUID for item in evidence for s in item.ReferencedSOPSequence]
    assert named.count(IMAGE) == 1


def _of(item):
    return item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID


def walk(dataset):
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from walk(item)
