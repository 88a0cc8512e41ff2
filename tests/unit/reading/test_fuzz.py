"""Whatever a header or file holds, reading it returns a Series or refuses; nothing else is ever raised."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ImplicitVRLittleEndian

from strokecore.errors import Refusal, UsageError
from strokecore.reading.series import Series, read_candidate_header, read_series
from strokecore.reading.tags import SUMMARY_KEYWORDS
from tests.ct_factory import write_series

KEYWORDS = sorted(
    {
        *SUMMARY_KEYWORDS,
        "BitsAllocated",
        "BitsStored",
        "Columns",
        "ContrastBolusAgentSequence",
        "ContrastBolusVolume",
        "HighBit",
        "ImagePositionPatient",
        "InstanceNumber",
        "LossyImageCompression",
        "NumberOfFrames",
        "PatientBirthDate",
        "PatientID",
        "PatientName",
        "PhotometricInterpretation",
        "PixelData",
        "PixelPaddingRangeLimit",
        "PixelPaddingValue",
        "PixelRepresentation",
        "PixelSpacing",
        "RescaleIntercept",
        "RescaleSlope",
        "Rows",
        "SOPInstanceUID",
        "SamplesPerPixel",
        "SpecificCharacterSet",
    }
)
ODD_VALUES = [
    b"", b" ", b"\0", b"\0\0", b"\\", b"abc ", b"nan ", b"inf ", b"-1", b"0 ", b"1 ", b"1e400 ", b"1e-300",
    b"1\\2 ", b"1\\0\\0\\0\\1\\0 ", b"0\\0\\0\\0\\0\\0 ", b"nan\\0\\0 ", b"1e9\\1e9\\1e9 ",
    b"99999999", b"20201399",
    b"\xff\xff", b"\xff\xff\xff\xff", b"\0\x80", b"\x1b$B\x1b(B", b"\\ISO 2022 IR 87 ", b"HEAD\\CHEST",
    b"CT\\MR ",
]  # fmt: skip
MUTATION = st.tuples(
    st.sampled_from(KEYWORDS),
    st.one_of(st.none(), st.sampled_from(ODD_VALUES), st.binary(max_size=24)),
    st.one_of(st.none(), st.integers(0, 9)),  # every slice, or one
)
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("head")
    paths = write_series(folder, slices=10, spacing_mm=10, size=64, pixel_mm=3)
    for path in paths:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    return paths


def write_mutated(path: Path, target: Path, changes: dict[int, bytes | None]) -> None:
    """Copy an implicit VR file with the values of some elements replaced, past every check of a writer."""
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # preamble, DICM, length of the meta group
    elements: dict[int, bytes] = {}
    place = start
    while place < len(content):
        group, element, length = struct.unpack_from("<HHI", content, place)
        elements[group << 16 | element] = content[place + 8 : place + 8 + length]
        place += 8 + length
    for tag, value in changes.items():
        if value is None:
            elements.pop(tag, None)
        else:
            elements[tag] = value + b"\0" * (len(value) % 2)
    body = b"".join(
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
        for tag, value in sorted(elements.items())
    )
    target.write_bytes(content[:start] + body)


def read_or_refuse(folder: Path) -> Series | None:
    read_candidate_header(folder)
    try:
        return read_series(folder)
    except (Refusal, UsageError):
        return None


def check_series(series: Series | None) -> None:
    """Whatever was read is a series: finite, with a header and a place for each slice, in order."""
    if series is not None:
        assert np.isfinite(series.hu).all()
        assert series.hu.shape[0] == len(series.datasets) == len(series.positions_mm)
        assert (np.diff(series.slice_offsets_mm) > 0).all()


def test_the_unchanged_head_is_read(head: list[Path]) -> None:
    assert read_or_refuse(head[0].parent) is not None


@SETTINGS
@given(mutations=st.lists(MUTATION, min_size=1, max_size=3))
def test_odd_headers(head: list[Path], mutations: list[tuple[str, bytes | None, int | None]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for k, path in enumerate(head):
            changes = {tag_for_keyword(kw): value for kw, value, only in mutations if only in (None, k)}
            write_mutated(path, Path(name) / str(k), changes)
        check_series(read_or_refuse(Path(name)))


@SETTINGS
@given(data=st.data())
def test_damaged_files(head: list[Path], data: st.DataObject) -> None:
    """Truncated anywhere, or with some bytes changed."""
    with tempfile.TemporaryDirectory() as name:
        for k, path in enumerate(head):
            content = bytearray(path.read_bytes())
            if k in (2, 5):
                for place in data.draw(st.lists(st.integers(128, 1500), max_size=4)):
                    content[place % len(content)] = data.draw(st.integers(0, 255))
                content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
            (Path(name) / str(k)).write_bytes(content)
        check_series(read_or_refuse(Path(name)))
