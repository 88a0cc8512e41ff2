"""Enhanced (multi-frame) CT is read as the classic series that it holds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from strokecore.errors import Refusal
from strokecore.reading.files import headers_in_memory
from strokecore.reading.series import Series, candidate_header_in_memory, read_candidate_header, read_series
from tests.ct_factory import uid, write_series
from tests.enhanced_factory import GROUPS, enhanced, legacy_converted

SMALL: dict[str, Any] = {"size": 96, "pixel_mm": 2.4}


def same(one: Series, other: Series) -> None:
    np.testing.assert_array_equal(one.hu, other.hu)
    np.testing.assert_array_equal(one.positions_mm, other.positions_mm)
    assert one.pixel_spacing_mm == other.pixel_spacing_mm
    assert one.tilt_deg == other.tilt_deg
    assert one.slice_thickness_mm == other.slice_thickness_mm
    assert one.chosen_because == other.chosen_because
    assert one.digest == other.digest
    assert one.flags == other.flags


def refused(folder: Path) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read_series(folder)
    return caught.value


def edited(path: Path, edit: Callable[[Dataset], None]) -> Path:
    """The folder of an image that was changed."""
    image = pydicom.dcmread(path)
    edit(image)
    image.save_as(path)
    return path.parent


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tilted, with two thicknesses and a rescale that differs from slice to slice."""
    return write_series(
        tmp_path_factory.mktemp("classic"),
        tilt_deg=12.0,
        thicknesses_mm=[4.0] * 14 + [6.0] * 14,
        edit=_own_rescale,
        **SMALL,
    )


def _own_rescale(dataset: Dataset, k: int) -> None:
    values = np.frombuffer(dataset.PixelData, "<u2") + k
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset.RescaleIntercept = -1024 - k


@pytest.fixture(scope="module")
def read(classic: list[Path]) -> Series:
    return read_series(classic[0].parent)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_an_enhanced_image_is_the_series_that_it_holds(
    syntax: str, classic: list[Path], read: Series, tmp_path: Path
) -> None:
    enhanced(classic, tmp_path / "e.dcm", transfer_syntax=syntax, shared=["PlaneOrientationSequence"])
    series = read_series(tmp_path)
    same(series, read)
    assert sorted(h.ReferencedFrameNumber for h in series.datasets) == list(range(1, 29))
    assert "PerFrameFunctionalGroupsSequence" not in series.datasets[0]
    assert (series.datasets[0].WindowCenter, series.datasets[0].WindowWidth) == (40, 80)


def test_legacy_converted_images_are_read_too(classic: list[Path], read: Series, tmp_path: Path) -> None:
    legacy_converted(classic, tmp_path / "e.dcm")
    series = read_series(tmp_path)
    same(series, read)
    # what has no functional group: the kernel
    assert series.chosen_because.startswith("soft-tissue kernel")


def test_what_all_frames_share_may_stand_apart(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "classic", **SMALL)
    shared = [g for g in GROUPS if g not in ("PlanePositionSequence", "FrameContentSequence")]
    enhanced(paths, tmp_path / "e" / "e.dcm", shared=shared)
    same(read_series(tmp_path / "e"), read_series(tmp_path / "classic"))


def test_several_images_of_one_series(classic: list[Path], read: Series, tmp_path: Path) -> None:
    """Also one image a slice, and classic slices between them."""
    enhanced(classic[:10], tmp_path / "a.dcm")
    enhanced(classic[10:26], tmp_path / "b.dcm", transfer_syntax=RLELossless)
    enhanced(classic[26:27], tmp_path / "c.dcm")
    (tmp_path / "d.dcm").write_bytes(classic[27].read_bytes())
    series = read_series(tmp_path)
    same(series, read)
    assert len({h.SOPInstanceUID for h in series.datasets}) == 4


def test_without_explicit_types(classic: list[Path], read: Series, tmp_path: Path) -> None:
    path = enhanced(classic, tmp_path / "e.dcm")
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image.save_as(path, implicit_vr=True)
    same(read_series(tmp_path), read)


def test_names_keep_their_character_set(classic: list[Path], tmp_path: Path) -> None:
    enhanced(classic, tmp_path / "e.dcm", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    assert {str(header.PatientName) for header in read_series(tmp_path).datasets} == {"Müller^Jörg"}


def test_two_copies_are_one_image(classic: list[Path], read: Series, tmp_path: Path) -> None:
    enhanced(classic, tmp_path / "e.dcm")
    enhanced(classic, tmp_path / "copy.dcm", name="e.dcm")
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.hu, read.hu)
    assert "duplicate_slices" in {flag.code for flag in series.flags}


@pytest.mark.parametrize(
    "fault", ["no groups", "too few", "too many", "no count", "no places", "no sequence"]
)
def test_frames_without_places_are_refused_by_name(fault: str, classic: list[Path], tmp_path: Path) -> None:
    def edit(image: Dataset) -> None:
        frames = image.PerFrameFunctionalGroupsSequence
        if fault == "no groups":
            del image.PerFrameFunctionalGroupsSequence
        if fault == "too few":
            image.PerFrameFunctionalGroupsSequence = frames[:20]
        if fault == "too many":
            image.PerFrameFunctionalGroupsSequence = [*frames, frames[0]]
        if fault == "no count":
            del image.NumberOfFrames
        if fault == "no places":
            for frame in frames:
                del frame.PlanePositionSequence
        if fault == "no sequence":
            del image.PerFrameFunctionalGroupsSequence
            image.add_new(0x52009230, "OB", b"0123456789")

    def unnamed(image: Dataset) -> None:
        edit(image)
        del image.SharedFunctionalGroupsSequence[0].FrameAnatomySequence

    folder = edited(enhanced(classic, tmp_path / "e.dcm"), unnamed)
    found = refused(folder)
    assert (found.code, found.ineligible) == ("enhanced_multiframe", True)  # nothing says: head
    assert read_candidate_header(folder) is not None
    folder = edited(folder / "e.dcm", lambda image: setattr(image, "BodyPartExamined", "HEAD"))
    assert (refused(folder).code, refused(folder).ineligible) == ("enhanced_multiframe", False)


def _region(meaning: str) -> Dataset:
    code = item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning=meaning)
    return item(FrameAnatomySequence=Sequence([item(AnatomicRegionSequence=Sequence([code]))]))


def _converted(**values: str) -> Dataset:
    return item(UnassignedSharedConvertedAttributesSequence=Sequence([item(**values)]))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("groups", "code", "ineligible"),
    [
        (_region("Head"), "enhanced_multiframe", False),
        (_region("Brain"), "enhanced_multiframe", False),
        (_converted(BodyPartExamined="HEAD"), "enhanced_multiframe", False),
        (_converted(SeriesDescription="Schädel nativ 5 mm"), "enhanced_multiframe", False),
        (_converted(ProtocolName="Head routine"), "enhanced_multiframe", False),
        (_converted(ConvolutionKernel="H31s"), "enhanced_multiframe", True),
        (_region("Chest"), "not_head", True),
        (_converted(BodyPartExamined="HEAD", ContrastBolusAgent="Iomeprol"), "contrast_agent", True),
        (_converted(SeriesDescription="CTA Head"), "contrast_agent", True),
        (
            item(ContrastBolusUsageSequence=Sequence([item(ContrastBolusAgentAdministered="YES")])),
            "contrast_agent",
            True,
        ),
    ],
)
def test_whose_head_it_is_may_stand_in_the_functional_groups_alone(
    shared: bool, groups: Dataset, code: str, ineligible: bool, classic: list[Path], tmp_path: Path
) -> None:
    """A head that cannot be taken apart gets its picture; what is none, or not native, stays silent."""

    def edit(image: Dataset) -> None:
        image.StudyDescription = ""
        of_all = image.SharedFunctionalGroupsSequence[0]
        del of_all.FrameAnatomySequence
        for frame in image.PerFrameFunctionalGroupsSequence:
            del frame.PlanePositionSequence
            if not shared:
                frame.update(groups)
        if shared:
            of_all.update(groups)

    image = enhanced(classic, tmp_path / "e" / "e.dcm")
    folder = edited(image, edit)
    found = refused(folder)
    assert (found.code, found.ineligible) == (code, ineligible)
    header = candidate_header_in_memory([image.read_bytes()])
    assert (header is not None) == (code == "enhanced_multiframe")


def _delete(name: str) -> Callable[[Dataset], None]:
    def edit(image: Dataset) -> None:
        delattr(image.PerFrameFunctionalGroupsSequence[3], name)

    return edit


def _move(image: Dataset) -> None:
    frames = image.PerFrameFunctionalGroupsSequence
    frames[3].PlanePositionSequence = frames[4].PlanePositionSequence


def _turn(image: Dataset) -> None:
    for frame in image.PerFrameFunctionalGroupsSequence:
        frame.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _drop(image: Dataset) -> None:
    size = image.Rows * image.Columns * 2
    at = next(p for p, f in enumerate(image.PerFrameFunctionalGroupsSequence) if _height(f) == 0)
    del image.PerFrameFunctionalGroupsSequence[at]
    image.PixelData = image.PixelData[: at * size] + image.PixelData[(at + 1) * size :]
    image.NumberOfFrames -= 1


def _height(frame: Dataset) -> int:
    """Index of a frame's slice among the heights, 0 for one in the middle."""
    return round((frame.PlanePositionSequence[0].ImagePositionPatient[2] - 2.5) / 5.0)


def _truncate(image: Dataset) -> None:
    image.PixelData = image.PixelData[:-5000]


def _spoil(image: Dataset) -> None:
    image.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0].ImagePositionPatient = [0, 0]


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_delete("PlanePositionSequence"), "no_geometry"),
        (_delete("PlaneOrientationSequence"), "no_geometry"),
        (_delete("PixelMeasuresSequence"), "no_geometry"),
        (_spoil, "no_geometry"),
        (_move, "duplicate_position"),
        (_turn, "not_axial"),
        (_drop, "missing_slice"),
        (_truncate, "unreadable_pixels"),
    ],
)
def test_faults_of_frames_are_refused_as_those_of_slices(
    edit: Callable[[Dataset], None], code: str, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "classic", **SMALL)
    assert refused(edited(enhanced(paths, tmp_path / "e" / "e.dcm"), edit)).code == code


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_frame_that_is_damaged(syntax: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "classic", **SMALL)
    path = enhanced(paths, tmp_path / "e" / "e.dcm", transfer_syntax=syntax)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert refused(path.parent).code == "unreadable_pixels"


def test_no_file_cut_anywhere_ends_the_reading(classic: list[Path], tmp_path: Path) -> None:
    path = enhanced(classic[:9], tmp_path / "e.dcm")
    content = path.read_bytes()
    header = len(content) - 9 * 96 * 96 * 2
    for length in range(200, header, header // 23):
        path.write_bytes(content[:length])
        assert refused(tmp_path).code


def _used(**values: str) -> Dataset:
    return item(ContrastBolusAgentNumber=1, **values)


@pytest.mark.parametrize(
    ("usage", "excluded"),
    [
        ([_used(ContrastBolusAgentAdministered="YES", ContrastBolusAgentDetected="YES")], True),
        ([_used(ContrastBolusAgentAdministered="NO"), _used(ContrastBolusAgentAdministered="YES")], True),
        ([_used(ContrastBolusAgentAdministered="NO", ContrastBolusAgentPhase="POST_CONTRAST")], True),
        ([_used(ContrastBolusAgentAdministered="NO", ContrastBolusAgentPhase="PRE_CONTRAST")], False),
    ],
)
def test_contrast_in_the_functional_groups(
    usage: list[Dataset], excluded: bool, classic: list[Path], tmp_path: Path
) -> None:
    def edit(image: Dataset) -> None:
        image.PerFrameFunctionalGroupsSequence[5].ContrastBolusUsageSequence = Sequence(usage)

    folder = edited(enhanced(classic, tmp_path / "e.dcm"), edit)
    if excluded:
        assert refused(folder).code == "contrast_agent"
    else:
        assert len(read_series(folder).hu) == 28


def test_contrast_and_body_part_of_the_image(classic: list[Path], tmp_path: Path) -> None:
    agent = item(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning="Iohexol")
    enhanced(
        classic, tmp_path / "agent" / "e.dcm", ContrastBolusAgentSequence=[agent], SeriesDescription="CTA"
    )
    assert refused(tmp_path / "agent").code == "contrast_agent"
    enhanced(classic, tmp_path / "type" / "e.dcm", SeriesDescription="CTA")
    assert refused(tmp_path / "type").code == "contrast_agent"

    def chest(image: Dataset) -> None:
        region = image.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0].AnatomicRegionSequence[0]
        region.CodeMeaning = "Chest"

    assert refused(edited(enhanced(classic, tmp_path / "chest" / "e.dcm"), chest)).code == "not_head"


@pytest.mark.parametrize(
    ("frame_type", "technique", "code"),
    [
        (["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"], "NONE", "localizer_only"),
        (["DERIVED", "PRIMARY", "VOLUME", "MAXIMUM"], "MAX_IP", "not_hounsfield"),
        (["DERIVED", "PRIMARY", "VOLUME", "NONE"], "VOLUME_RENDER", "not_hounsfield"),
        (["ORIGINAL", "PRIMARY", "POST_CONTRAST", "NONE"], "NONE", "contrast_agent"),
        (["DERIVED", "PRIMARY", "", "NONE"], "MPR", None),
    ],
)
def test_the_types_of_frames(
    frame_type: list[str], technique: str, code: str | None, classic: list[Path], tmp_path: Path
) -> None:
    def edit(image: Dataset) -> None:
        image.ImageType = ["MIXED", "PRIMARY", "VOLUME", "MIXED"]
        for frame in image.PerFrameFunctionalGroupsSequence:
            frame.CTImageFrameTypeSequence = [
                item(FrameType=frame_type, VolumeBasedCalculationTechnique=technique)
            ]

    folder = edited(enhanced(classic, tmp_path / "e.dcm"), edit)
    if code is not None:
        assert refused(folder).code == code
        return
    series = read_series(folder)
    assert list(series.datasets[0].ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert "derived_images" in {flag.code for flag in series.flags}


def test_a_localizer_among_the_frames_is_left_out(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "classic", **SMALL)
    scout = write_series(
        tmp_path / "scout",
        slices=1,
        orientation=((1, 0, 0), (0, 0, -1)),
        tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        **SMALL,
    )
    enhanced([*paths, *scout], tmp_path / "e" / "e.dcm")
    series = read_series(tmp_path / "e")
    assert len(series.hu) == 28
    assert "other_images_left_out" in {flag.code for flag in series.flags}


def test_two_stacks_in_one_image(tmp_path: Path) -> None:
    """Two scans are told apart as in a classic series; two reconstructions of one are not."""
    first = write_series(tmp_path / "first", **SMALL)
    later = {"AcquisitionTime": "120300", "AcquisitionNumber": 2}
    second = write_series(tmp_path / "second", seed=1, series="second", tags=later, **SMALL)
    enhanced([*first, *second], tmp_path / "scans" / "e.dcm")
    series = read_series(tmp_path / "scans")
    np.testing.assert_array_equal(series.hu, read_series(tmp_path / "second").hu)
    assert "several_passes" in {flag.code for flag in series.flags}

    bone = write_series(tmp_path / "bone", seed=1, series="bone", tags={"ConvolutionKernel": "H60s"}, **SMALL)
    enhanced([*first, *bone], tmp_path / "kernels" / "e.dcm")
    assert refused(tmp_path / "kernels").code == "duplicate_position"

    reformatted = write_series(
        tmp_path / "coronal", series="coronal", orientation=((1, 0, 0), (0, 0, -1)), **SMALL
    )
    enhanced([*first, *reformatted], tmp_path / "planes" / "e.dcm")
    assert refused(tmp_path / "planes").code == "mixed_orientation"


def test_mixed_patients(classic: list[Path], tmp_path: Path) -> None:
    enhanced(classic[:14], tmp_path / "a.dcm", PatientBirthDate="19500101")
    enhanced(classic[14:], tmp_path / "b.dcm", PatientBirthDate="19600101")
    assert refused(tmp_path).code == "mixed_patients"


def test_a_patient_with_enhanced_and_classic_series(classic: list[Path], tmp_path: Path) -> None:
    """The better kernel is chosen whatever kind of image it is in."""
    bone = {"ConvolutionKernel": "H60s"}
    write_series(tmp_path, series="bone", tags=bone, **SMALL)
    enhanced(classic, tmp_path / "e.dcm")
    series = read_series(tmp_path)
    assert series.series_instance_uid == uid("series")
    assert [reason for _, reason in series.not_selected] == ["sharper kernel"]


@pytest.mark.parametrize("undefined", [False, True])
def test_large_functional_groups_are_kept(undefined: bool, classic: list[Path], tmp_path: Path) -> None:
    """Of hundreds of frames they are larger than what is dropped as a large element."""

    def edit(image: Dataset) -> None:
        for frame in image.PerFrameFunctionalGroupsSequence:
            frame.FrameContentSequence[0].FrameComments = "x" * 10_000
        image["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined

    folder = edited(enhanced(classic, tmp_path / "e.dcm"), edit)
    assert len(read_series(folder).hu) == 28
    content = (folder / "e.dcm").read_bytes()
    assert len(headers_in_memory([content])) == 28
    assert candidate_header_in_memory([content]) is not None


def test_an_image_in_memory_is_damaged(classic: list[Path], tmp_path: Path) -> None:
    path = enhanced(classic, tmp_path / "e.dcm")
    image = pydicom.dcmread(path)
    del image.PerFrameFunctionalGroupsSequence
    buffer = BytesIO()
    image.save_as(buffer)
    assert [file.frame for file in headers_in_memory([buffer.getvalue(), b"\0" * 200])] == [None]


def test_three_hundred_frames_do_not_fill_the_memory(tmp_path: Path) -> None:
    slices = 300
    paths = write_series(tmp_path / "classic", slices=slices, spacing_mm=0.5, **SMALL)
    enhanced(paths, tmp_path / "e" / "e.dcm")
    tracemalloc.start()
    try:
        assert len(read_series(tmp_path / "e").hu) == slices
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    stored = slices * 96 * 96 * 2
    # the file's pixels, the slices and their stack, and 100 kB of header a frame; not an image for each frame
    assert peak < 6 * stored + slices * 100_000
