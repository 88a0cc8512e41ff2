"""A few attributes of one DICOM file, read without Orthanc and without any package.

Orthanc's own routes that open a file (``/simplified-tags``, and ``/content`` for a single attribute too)
read it whole in a thread with a small stack: 50 nested sequences end the server. Its index does not hold
everything that the choice of a series needs, and pydicom is not there. Nothing here recurses, what is nested
deep is passed over, and what is damaged ends the reading with what was found so far.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strokecore.reading.header_words import CODE_SEQUENCES

# What summary_from_tags looks at. The largest number ends the reading: attributes come in order.
TAGS: Final[dict[int, str]] = {
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080022: "AcquisitionDate",
    0x0008002A: "AcquisitionDateTime",
    0x00080032: "AcquisitionTime",
    0x00080060: "Modality",
    0x00081030: "StudyDescription",
    0x0008103E: "SeriesDescription",
    0x00082218: "AnatomicRegionSequence",
    0x00089207: "VolumeBasedCalculationTechnique",
    0x00180010: "ContrastBolusAgent",
    0x00180012: "ContrastBolusAgentSequence",
    0x00180014: "ContrastBolusAdministrationRouteSequence",
    0x00180015: "BodyPartExamined",
    0x00180050: "SliceThickness",
    0x00181030: "ProtocolName",
    0x00181040: "ContrastBolusRoute",
    0x00181041: "ContrastBolusVolume",
    0x00181042: "ContrastBolusStartTime",
    0x00181043: "ContrastBolusStopTime",
    0x00181044: "ContrastBolusTotalDose",
    0x00181046: "ContrastFlowRate",
    0x00181047: "ContrastFlowDuration",
    0x00181048: "ContrastBolusIngredient",
    0x00181049: "ContrastBolusIngredientConcentration",
    0x00181210: "ConvolutionKernel",
    0x00189342: "ContrastBolusAgentAdministered",
    0x00189343: "ContrastBolusAgentDetected",
    0x00189344: "ContrastBolusAgentPhase",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200012: "AcquisitionNumber",
    0x00200037: "ImageOrientationPatient",
    0x00200052: "FrameOfReferenceUID",
    0x00281054: "RescaleType",
}
PATIENT_TAGS: Final[dict[int, str]] = {
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100030: "PatientBirthDate",
    0x00100040: "PatientSex",
}
_SEQUENCES: Final = frozenset(tag for tag, name in TAGS.items() if name in CODE_SEQUENCES)
_CODE_VALUE, _CODE_MEANING, _CHARACTER_SET = 0x00080100, 0x00080104, 0x00080005
UNDECODED: Final = "\N{REPLACEMENT CHARACTER}"  # stands for every byte that could not be decoded
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LONG: Final = frozenset(  # the value representations with a length of four bytes
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_PREAMBLE_BYTES: Final = 128
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INFLATED_BYTES: Final = 16 * 2**20  # a small file can hold gigabytes; a header is far smaller
_STEPS: Final = 200_000  # elements, items and ends; some ten thousand are much
_VALUE_BYTES: Final = 2**16
# DICOM's names of character sets (PS3.3 C.12.1.1.2), without what introduces them
_CODECS: Final = {
    "100": "latin_1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "144": "iso8859_5",
    "127": "iso8859_6",
    "126": "iso8859_7",
    "138": "iso8859_8",
    "148": "iso8859_9",
    "203": "iso8859_15",
    "166": "tis_620",
    "13": "shift_jis",
    "87": "iso2022_jp_2",
    "159": "iso2022_jp_2",
    "149": "euc_kr",
    "58": "gb2312",
    "192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}


@dataclass
class _Frame:
    """A dataset or sequence that is open. ``end``: where it ends; None: at its delimiter."""

    end: int | None
    items: bool  # a sequence, which holds items
    implicit: bool
    sequence: int = 0  # of the wanted ones, the one that this belongs to


class _Damaged(Exception):
    """The file does not go on as DICOM does."""


def read_header(file: bytes, tags: Mapping[int, str] = TAGS) -> dict[str, str]:
    """The attributes of ``tags`` as text, several values joined by a backslash; what is absent is left out.

    Of the sequences, for each item the meaning of its code, else the code, else "item".
    """
    reader = _Reader(tags)
    with contextlib.suppress(_Damaged, struct.error, zlib.error):
        reader.read(file)
    return reader.texts()


class _Reader:
    def __init__(self, tags: Mapping[int, str]) -> None:
        self._tags = tags
        self._last = max(tags)
        self._values: dict[int, bytes] = {}
        self._items: dict[int, list[dict[int, bytes]]] = {}
        self._character_sets = b""
        self._endian = "<"

    def read(self, file: bytes) -> None:
        if file[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4] != b"DICM":
            raise _Damaged
        syntax, start = self._transfer_syntax(file, _PREAMBLE_BYTES + 4)
        if syntax == _DEFLATED:
            file, start = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file[start:], _INFLATED_BYTES), 0
        self._endian = ">" if syntax == _BIG_ENDIAN else "<"
        self._walk(file, start, implicit=syntax == _IMPLICIT)

    def texts(self) -> dict[str, str]:
        found = {self._tags[tag]: self._text(value) for tag, value in self._values.items()}
        for tag, items in self._items.items():
            words = [self._text(i.get(_CODE_MEANING) or i.get(_CODE_VALUE) or b"item") for i in items]
            if words:
                found[self._tags[tag]] = "\\".join(words)
        return found

    def _transfer_syntax(self, file: bytes, position: int) -> tuple[str, int]:
        """(transfer syntax, where the dataset begins); the file's own head is always little and explicit."""
        syntax = ""
        while struct.unpack_from("<H", file, position)[0] == 0x0002:
            tag, _, length, value = self._element(file, position, implicit=False)
            if length == _UNDEFINED:
                raise _Damaged
            if tag == 0x00020010:
                syntax = file[value : value + length].decode("ascii", "replace").strip(" \0")
            position = value + length
        return syntax, position

    def _element(self, file: bytes, position: int, *, implicit: bool) -> tuple[int, bytes, int, int]:
        """(tag, VR, length, where the value begins)."""
        group, element = struct.unpack_from(f"{self._endian}HH", file, position)
        tag = group << 16 | element
        if implicit or group == 0xFFFE:
            return tag, b"", struct.unpack_from(f"{self._endian}I", file, position + 4)[0], position + 8
        vr = file[position + 4 : position + 6]
        if not (vr.isalpha() and vr.isupper()):
            raise _Damaged
        if vr in _LONG:
            return tag, vr, struct.unpack_from(f"{self._endian}I", file, position + 8)[0], position + 12
        return tag, vr, struct.unpack_from(f"{self._endian}H", file, position + 6)[0], position + 8

    def _walk(self, file: bytes, position: int, *, implicit: bool) -> None:
        frames = [_Frame(len(file), items=False, implicit=implicit)]
        for _ in range(_STEPS):
            if not frames:
                return
            frame = frames[-1]
            if frame.end is not None and position >= frame.end:
                frames.pop()
                continue
            tag, vr, length, value = self._element(file, position, implicit=frame.implicit)
            position = value
            if len(frames) == 1 and tag > self._last:
                return
            if tag in (_ITEM_END, _SEQUENCE_END):
                frames.pop()
                continue
            if frame.items != (tag == _ITEM):
                raise _Damaged
            end = None if length == _UNDEFINED else value + length
            if frame.items:
                if len(frames) == 2 and frame.sequence:
                    self._items[frame.sequence].append({})
                frames.append(_Frame(end, False, frame.implicit, frame.sequence))
            elif len(frames) == 1 and tag in _SEQUENCES and tag in self._tags:
                self._items[tag] = []
                frames.append(_Frame(end, True, frame.implicit or vr == b"UN", tag))
            elif end is None:
                frames.append(_Frame(None, True, frame.implicit or vr == b"UN"))
            else:
                self._keep(tag, file[value : min(end, value + _VALUE_BYTES)], frame, len(frames))
                position = end

    def _keep(self, tag: int, value: bytes, frame: _Frame, depth: int) -> None:
        if depth == 1 and tag == _CHARACTER_SET:
            self._character_sets = value
        elif depth == 1 and tag in self._tags:
            self._values[tag] = value
        elif depth == 3 and frame.sequence and tag in (_CODE_VALUE, _CODE_MEANING):
            self._items[frame.sequence][-1][tag] = value

    def _text(self, value: bytes) -> str:
        names = self._character_sets.decode("ascii", "replace").replace("_", " ").upper().split("\\")
        numbers = [name.split()[-1] for name in names if name.split()]
        codecs = [_CODECS[number] for number in numbers if number in _CODECS]
        # where several are named, the later ones come in with escape sequences
        codec = (
            codecs[-1] if codecs and (len(codecs) == 1 or b"\x1b" in value) else (codecs or ["latin_1"])[0]
        )
        return value.decode(codec, "replace").strip(" \0")
