"""orthanc_plugin/study.py: acquisitions and fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orthanc_plugin.header import read_header
from orthanc_plugin.orthanc_api import NotFound, parse_orthanc_time
from orthanc_plugin.study import read_acquisitions
from tests.ct_factory import uid, write_series
from tests.enhanced_factory import enhanced, legacy_converted
from tests.unit.orthanc_plugin.fakes import FakeOrthanc


def fingerprint(orthanc: FakeOrthanc) -> str:
    (acquisition,) = read_acquisitions(orthanc.api, "study")
    return acquisition.fingerprint


def test_series_of_one_acquisition_are_one_unit_of_work() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("thick")
    orthanc.add("bone", ConvolutionKernel="BONE")
    orthanc.add("scout", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")
    orthanc.add("later", AcquisitionTime="140000")
    first, second = read_acquisitions(orthanc.api, "study")
    assert [m.id for m in first.candidates] == ["bone", "thick"]
    assert [(m.id, m.excluded and m.excluded[0]) for m in first.excluded] == [("scout", "localizer_only")]
    assert [m.id for m in second.members] == ["later"]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"ContrastBolusAgent": "NONE", "ContrastBolusVolume": "80"}, "contrast_agent"),
        ({"ContrastBolusAgentSequence": [{"CodeMeaning": "Iohexol"}]}, "contrast_agent"),
        ({"ContrastBolusAgentSequence": [{}]}, "contrast_agent"),
        ({"ContrastBolusAgentSequence": []}, None),
        ({"ContrastBolusAgent": "KEIN KM", "ContrastBolusVolume": "0"}, None),
    ],
)
def test_evidence_of_a_contrast_agent(tags: dict[str, Any], code: str | None) -> None:
    orthanc = FakeOrthanc()
    orthanc.add("series").tags.update(tags)
    ((member,),) = (a.members for a in read_acquisitions(orthanc.api, "study"))
    assert (member.excluded and member.excluded[0]) == code


@pytest.mark.parametrize("convert", [enhanced, legacy_converted])
def test_one_image_of_many_frames_is_a_candidate(convert: Any, tmp_path: Path) -> None:
    """Whatever its functional groups say: the scorer reads them."""
    slices = write_series(tmp_path / "classic", slices=3, size=32)
    orthanc = FakeOrthanc()
    orthanc.add("frames", slices=1).tags = read_header(convert(slices, tmp_path / "e.dcm").read_bytes())
    orthanc.add("scout", FrameOfReferenceUID=uid("frame"), ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")
    orthanc.series["scout"].tags["StudyInstanceUID"] = uid("study")
    (acquisition,) = read_acquisitions(orthanc.api, "study")
    assert [(m.id, len(m.instances)) for m in acquisition.candidates] == [("frames", 1)]
    assert [m.id for m in acquisition.excluded] == ["scout"]
    orthanc.series["frames"].tags["ContrastBolusAgentSequence"] = [{"CodeMeaning": "Iohexol"}]
    (acquisition,) = read_acquisitions(orthanc.api, "study")
    assert acquisition.candidates == ()


def test_what_one_attribute_excludes_is_a_candidate_where_the_study_has_nothing_else() -> None:
    orthanc = FakeOrthanc()
    wrong = {"BodyPartExamined": "CHEST", "SeriesDescription": "5 mm", "ProtocolName": "Head routine"}
    orthanc.add("wrong", **wrong)
    orthanc.add("scout", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")
    (acquisition,) = read_acquisitions(orthanc.api, "study")
    assert [m.id for m in acquisition.candidates] == ["wrong"]
    assert [m.id for m in acquisition.excluded] == ["scout"]
    alone = acquisition.fingerprint
    orthanc.add("native", AcquisitionTime="140000")
    beside, native = read_acquisitions(orthanc.api, "study")
    assert beside.candidates == ()
    assert [m.id for m in native.candidates] == ["native"]
    assert beside.fingerprint != alone


@pytest.mark.parametrize("modality", ["SEG", "SR", "OT"])
def test_our_own_outputs_are_not_seen(modality: str) -> None:
    orthanc = FakeOrthanc()
    orthanc.add("output", Modality=modality)
    assert read_acquisitions(orthanc.api, "study") == []


def test_a_capture_with_modality_ct_stands_alone_and_is_excluded() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("capture", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (acquisition,) = read_acquisitions(orthanc.api, "study")
    assert acquisition.candidates == ()
    assert acquisition.excluded[0].excluded[0] == "not_ct"


def test_the_fingerprint_follows_slices_files_and_patient() -> None:
    orthanc = FakeOrthanc()
    series = orthanc.add("thick")
    prints = {fingerprint(orthanc)}
    assert fingerprint(orthanc) in prints
    series.instances["thick-9"] = "file"
    prints.add(fingerprint(orthanc))
    series.instances["thick-9"] = "overwritten"
    prints.add(fingerprint(orthanc))
    orthanc.patient["PatientID"] = "Q"
    prints.add(fingerprint(orthanc))
    assert len(prints) == 4


def test_a_contrast_phase_that_grows_does_not_disturb_the_plain_one() -> None:
    orthanc = FakeOrthanc()
    orthanc.add("thick")
    contrast = orthanc.add("cta", ContrastBolusAgent="IOHEXOL")
    before = fingerprint(orthanc)
    contrast.instances["cta-9"] = "file"
    assert fingerprint(orthanc) == before


def test_a_study_that_is_gone() -> None:
    with pytest.raises(NotFound):
        read_acquisitions(FakeOrthanc().api, "study")


def test_times() -> None:
    moment = parse_orthanc_time("20261123T051329")
    assert moment is not None
    assert moment.isoformat() == "2026-11-23T05:13:29+00:00"
    assert parse_orthanc_time(None) is None
