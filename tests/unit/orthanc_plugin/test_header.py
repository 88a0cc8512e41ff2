"""orthanc_plugin/header.py against pydicom: the same words from any encoding, and nothing ends the server."""

from __future__ import annotations

import io
import os
import time
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from orthanc_plugin.header import TAGS, read_header
from strokecore.reading.header_words import CONTRAST_KEYWORDS
from strokecore.reading.tags import SUMMARY_KEYWORDS, quiet_pydicom, summary_tags
from tests.ct_factory import write_series
from tests.enhanced_factory import enhanced, legacy_converted

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
]


def test_it_reads_what_the_choice_of_a_series_looks_at() -> None:
    assert set(TAGS.values()) == {*SUMMARY_KEYWORDS, *CONTRAST_KEYWORDS}
    assert {name: tag_for_keyword(name) for name in TAGS.values()} == {n: t for t, n in TAGS.items()}


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def file_of(syntax: str = ExplicitVRLittleEndian, *, undefined: bool = False, **values: Any) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dataset = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=implicit, is_little_endian=little)
    dataset.update(item(**values))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    for element in dataset:
        if element.VR == "SQ" and undefined:
            element.is_undefined_length = True
            for inner in element.value:
                inner.is_undefined_length_sequence_item = True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def expected(file: bytes) -> dict[str, str]:
    header = pydicom.dcmread(io.BytesIO(file), force=True)
    with quiet_pydicom():
        return {name: text for name, text in summary_tags(header).items() if text}


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_any_encoding(syntax: str, undefined: bool) -> None:
    file = file_of(
        syntax,
        undefined=undefined,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        Modality="CT",
        SeriesDescription="Schädel nativ",
        SpecificCharacterSet="ISO_IR 192",
        ReferencedStudySequence=[item(ReferencedSOPClassUID="1.2", ReferencedSOPInstanceUID="1.3")],
        ContrastBolusAgentSequence=[
            item(CodeValue="1", CodeMeaning="Iohexol", ContextGroupVersion="2020"),
            item(CodeValue="C-B0300", PurposeOfReferenceCodeSequence=[item(CodeMeaning="not this")]),
            item(CodingSchemeDesignator="SRT"),
        ],
        ConvolutionKernel=["J40s", "3"],
        SliceThickness="4.5",
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        RescaleType="HU",
    )
    found = read_header(file)
    assert found["SeriesDescription"] == "Schädel nativ"
    assert found["ContrastBolusAgentSequence"] == "Iohexol\\C-B0300\\item"
    assert found == expected(file)


@pytest.mark.parametrize(
    ("character_set", "text"),
    [
        ("ISO_IR 100", "crâne sans injection"),
        ("ISO_IR 144", "голова без контраста"),
        ("ISO_IR 101", "hlava nativně"),
        ("ISO_IR 192", "頭部単純"),
        ("GB18030", "头部平扫"),
        (["", "ISO 2022 IR 87"], "頭部単純"),
        (["ISO_IR 100", "ISO 2022 IR 144"], "crâne"),
    ],
)
def test_any_character_set(character_set: Any, text: str) -> None:
    file = file_of(SpecificCharacterSet=character_set, SeriesDescription=text, ProtocolName="Routine")
    found = read_header(file)
    assert (found["SeriesDescription"], found["ProtocolName"]) == (text, "Routine")


def test_real_and_made_files(tmp_path: Path) -> None:
    paths = write_series(tmp_path, slices=2)
    paths += [enhanced(paths, tmp_path / "e.dcm"), legacy_converted(paths, tmp_path / "l.dcm")]
    if "STROKECORE_TEST_DATA" in os.environ:
        paths += sorted(Path(os.environ["STROKECORE_TEST_DATA"]).rglob("*.dcm"))[:40]
    for path in paths:
        file = path.read_bytes()
        with quiet_pydicom():
            wanted = expected(file)
        assert {name: text for name, text in read_header(file).items() if text} == wanted


def nested(depth: int) -> bytes:
    """A file with so many sequences in each other; pydicom cannot write it."""
    file = file_of(Modality="CT", ConvolutionKernel="SOFT")
    place = file.index(b"CS\x02\x00CT") - 4
    head = b"\x18\x00\x12\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    cut = place + 10
    return file[:cut] + head * depth + end * depth + file[cut:]


@pytest.mark.parametrize("depth", [1, 50, 5_000, 40_000])
def test_sequences_in_sequences_end_nothing(depth: int) -> None:
    """50 of them end Orthanc where it opens the file; 40,000 would end anything that recurses."""
    found = read_header(nested(depth))
    assert (found["Modality"], found["ConvolutionKernel"]) == ("CT", "SOFT")
    assert found["ContrastBolusAgentSequence"] == "item"


def test_reading_ends_in_a_file_made_to_hold_it_up() -> None:
    start = time.process_time()
    assert read_header(nested(1_000_000))["Modality"] == "CT"
    assert time.process_time() - start < 30


def test_a_bomb_in_a_deflated_file_takes_little_memory() -> None:
    file = file_of(DeflatedExplicitVRLittleEndian, Modality="CT")
    place = file.index(b"1.2.840.10008.1.2.1.99") + 22
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(b"\0" * 2**20) for _ in range(256)) + packer.flush()
    assert read_header(file[:place] + bomb) == {}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_that_is_cut_off_gives_what_came_before(syntax: str) -> None:
    file = file_of(
        syntax, Modality="CT", ContrastBolusAgentSequence=[item(CodeMeaning="x")], RescaleType="HU"
    )
    whole = read_header(file)
    assert whole == expected(file)
    for length in range(0, len(file), 3):
        found = read_header(file[:length])
        assert set(found) <= set(whole)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 2000), junk=st.binary(max_size=40))
def test_junk_ends_nothing(place: int, junk: bytes) -> None:
    file = file_of(Modality="CT", ContrastBolusAgentSequence=[item(CodeMeaning="x")], RescaleType="HU")
    read_header(file[:place] + junk + file[place + len(junk) :])
    read_header(file[:place] + junk + file[place:])


def test_a_sequence_that_came_through_as_unknown() -> None:
    """A server that does not know a tag writes it as UN, its items in implicit little endian."""
    inner = (
        b"\xfe\xff\x00\xe0"
        + (14).to_bytes(4, "little")
        + b"\x08\x00\x04\x01"
        + (6).to_bytes(4, "little")
        + b"Iodine"
    )
    file = file_of(Modality="CT")
    place = file.index(b"CS\x02\x00CT") + 6
    for length, end in ((len(inner), b""), (0xFFFFFFFF, b"\xfe\xff\xdd\xe0\0\0\0\0")):
        unknown = b"\x18\x00\x12\x00UN\0\0" + length.to_bytes(4, "little") + inner + end
        found = read_header(file[:place] + unknown + file[place:])
        assert found["ContrastBolusAgentSequence"] == "Iodine"


@pytest.mark.parametrize("file", [b"", b"DICM", b"\0" * 5000, b"\0" * 128 + b"DICM"])
def test_what_is_no_dicom_has_no_header(file: bytes) -> None:
    assert read_header(file) == {}


def test_undefined_length_sequences_of_others_are_passed_over() -> None:
    other = Sequence([item(Modality="MR", ContrastBolusAgentSequence=[item(CodeMeaning="not this")])])
    file = file_of(undefined=True, ReferencedSeriesSequence=other, SourceImageSequence=other, Modality="CT")
    assert read_header(file)["Modality"] == "CT"
    assert "ContrastBolusAgentSequence" not in read_header(file)
