"""Find the DICOM files in a folder, whatever else lies there."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import pydicom
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from strokecore.errors import UsageError
from strokecore.reading import tags
from strokecore.reading.frames import copied, frame_headers, image_header

_log = logging.getLogger(__name__)

_OF_PIXELS: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
)
_OF_A_FRAME: Final = ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit")
_DICOMDIR: Final = "1.2.840.10008.1.3.10"
_PREAMBLE_BYTES: Final = 128
_FUNCTIONAL_GROUPS: Final = (0x52009229, 0x52009230)  # hundreds of frames have large ones
_LARGE: Final = "256 KB"  # of one element of a header; every one that is looked at is far smaller
# How a file begins that holds others: the name of its kind, and where in the file its mark lies.
_ARCHIVES: Final = (
    ("zip", 0, b"PK\x03\x04"),
    ("gzip", 0, b"\x1f\x8b"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c"),
    ("rar", 0, b"Rar!\x1a\x07"),
    ("xz", 0, b"\xfd7zXZ\x00"),
    ("bzip2", 0, b"BZh"),
    ("tar", 257, b"ustar"),
    ("ISO image", 32769, b"CD001"),
)
_REPEATED_IN_FILE_META: Final = {
    "SOPClassUID": "MediaStorageSOPClassUID",
    "SOPInstanceUID": "MediaStorageSOPInstanceUID",
}
# A file without preamble starts with an element of group 0002 or 0008, little endian.
_FIRST_GROUPS: Final = (b"\x02\x00", b"\x08\x00")


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One slice: where it lies and its header without PixelData.

    ``frame``: index of its frame in an Enhanced CT image, None for an image that is one slice.
    """

    path: Path
    header: Dataset
    frame: int | None = None

    @property
    def series_uid(self) -> str:
        return tags.text(self.header, "SeriesInstanceUID")

    @property
    def instance_uid(self) -> str:
        return tags.text(self.header, "SOPInstanceUID")

    @property
    def patient_and_study(self) -> tuple[str, str]:
        return tags.text(self.header, "PatientID"), tags.text(self.header, "StudyInstanceUID")


@dataclass(frozen=True, eq=False)
class Folder:
    """What a folder holds.

    Attributes
    ----------
    files: DICOM instances, sorted by SOPInstanceUID, so that nothing depends on file names.
    damaged: number of files or folders that look like DICOM, or could not be opened, and were skipped.
    archives: kinds of the archives that lie there ("zip"), one for each; nothing is unpacked.
    """

    files: tuple[DicomFile, ...]
    damaged: int
    archives: tuple[str, ...] = ()


def find_dicom(folder: Path) -> Folder:
    """DICOM instances below ``folder``; DICOMDIR and other files are passed over. Raises UsageError."""
    if not folder.is_dir():
        kind = archive_kind(folder) if folder.is_file() else None
        if kind is not None:
            raise UsageError(
                f"The input is an archive ({kind}); unpack it and name the folder that it gives."
            )
        raise UsageError("The input is not a folder; name the folder that holds the DICOM files.")
    paths, damaged = _regular_files(folder)
    files: list[DicomFile] = []
    archives = []
    for path in paths:
        try:
            header = read_header(path)
            slices = [] if header is None else _slices(path, header)
        except Exception as error:  # pydicom raises many kinds on damaged input; none may stop the others
            _log.debug("skipped a file: %s", type(error).__name__)
            damaged += 1
            continue
        if header is None:
            if kind := archive_kind(path):
                archives.append(kind)
            continue
        files += slices
        damaged += not slices
    files.sort(key=lambda f: (f.instance_uid, f.path, f.frame or 0))
    return Folder(tuple(files), damaged, tuple(sorted(archives)))


def headers_in_memory(contents: Iterable[bytes]) -> tuple[DicomFile, ...]:
    """Encoded instances that lie on no disk, as find_dicom() would find them; damaged ones are left out."""
    files: list[DicomFile] = []
    for content in contents:
        try:
            header = _header(BytesIO(content))
            files += [] if header is None else _slices(Path(), header)
        except Exception as error:
            _log.debug("skipped an instance: %s", type(error).__name__)
    return tuple(sorted(files, key=lambda f: (f.instance_uid, f.frame or 0)))


def _slices(path: Path, header: Dataset) -> list[DicomFile]:
    """What one instance holds; [] when it does not say which it is."""
    file = DicomFile(path, header)
    if not (file.series_uid and file.instance_uid):
        return []
    frames = frame_headers(header)
    if not frames:
        return [DicomFile(path, image_header(header))]
    return [DicomFile(path, frame, n) for n, frame in enumerate(frames)]


def archive_kind(path: Path) -> str | None:
    """What kind of archive a file is, by how it begins; None when it is none, or cannot be opened."""
    try:
        with path.open("rb") as stream:
            for kind, place, mark in _ARCHIVES:
                stream.seek(place)
                if stream.read(len(mark)) == mark:
                    return kind
    except OSError:
        pass
    return None


def read_with_pixels(path: Path) -> Dataset:
    """What is needed to decode the pixels, all frames'. Raises whatever pydicom raises on damaged input."""
    return pydicom.dcmread(path, force=True, specific_tags=list(_OF_PIXELS))


def of_frame(image: Dataset, file: DicomFile) -> Dataset:
    """``image`` of ``read_with_pixels`` with what the slice's own header says of its stored values."""
    if file.frame is None:
        return image
    dataset = copied(image)
    for tag in map(tag_for_keyword, _OF_A_FRAME):
        if tag is not None and tag in file.header:
            dataset[tag] = file.header.get_item(tag)
    return dataset


def _regular_files(folder: Path) -> tuple[list[Path], int]:
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    unreadable: list[OSError] = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        try:
            here = os.stat(root)
        except OSError as error:  # gone or locked since it was listed
            unreadable.append(error)
            folders.clear()
            continue
        if (here.st_dev, here.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        for name in names:
            path = Path(root) / name
            try:
                regular = stat.S_ISREG(path.stat().st_mode)  # a pipe or device would block for ever
            except OSError:
                continue  # a dangling link
            if regular:
                found.append(path)
    return found, len(unreadable)


def read_header(path: Path) -> Dataset | None:
    """Header of a DICOM instance; None for any other file and for a DICOMDIR.

    Raises whatever pydicom raises on damaged input.
    """
    with path.open("rb") as stream:
        return _header(stream)


def _header(stream: BinaryIO) -> Dataset | None:
    start = stream.read(_PREAMBLE_BYTES + 4)
    stream.seek(0)
    has_preamble = start[_PREAMBLE_BYTES:] == b"DICM"
    if not has_preamble and (len(start) < _PREAMBLE_BYTES or start[:2] not in _FIRST_GROUPS):
        return None
    header = pydicom.dcmread(stream, stop_before_pixels=True, force=not has_preamble, defer_size=_LARGE)
    if tags.text(header, "SOPClassUID") == _DICOMDIR or "DirectoryRecordSequence" in header:
        return None
    media_class = getattr(getattr(header, "file_meta", None), "MediaStorageSOPClassUID", "")
    if media_class == _DICOMDIR:
        return None
    if not has_preamble and "SOPClassUID" not in header:
        return None
    _drop_large(header)
    _complete(header)
    return header


def _drop_large(header: Dataset) -> None:
    """Drop private and large elements: some scanners keep 20 MB in each slice that nothing here looks at."""
    for tag, element in list(header.items()):
        put_off = isinstance(element, RawDataElement) and element.value is None and element.length > 0
        if tag.is_private or (put_off and tag not in _FUNCTIONAL_GROUPS):
            del header[tag]


def _complete(header: Dataset) -> None:
    """Take identity that de-identifiers drop from the file meta, which repeats it (PS3.10 7.1)."""
    meta = getattr(header, "file_meta", Dataset())
    for keyword, repeated in _REPEATED_IN_FILE_META.items():
        if not tags.text(header, keyword) and (value := tags.text(meta, repeated)):
            setattr(header, keyword, value)
