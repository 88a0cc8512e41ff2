"""Enhanced (multi-frame) CT as what it holds: one slice a frame.

Each frame gets a header of its own, in which what the functional groups say of it stands where a classic CT
image has it (PS3.3 A.38.1, A.70). Nothing else is added: what a frame does not say stays absent, and is
refused by the same codes as in a classic image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from strokecore.reading import tags
from strokecore.reading.acquisition import ENHANCED_CT_IMAGE_STORAGES
from strokecore.reading.header_words import CONTRAST_USAGE

_SHARED: Final = "SharedFunctionalGroupsSequence"
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
_PLACE: Final = "PlanePositionSequence"
# Functional group to the attributes that a classic image has at its top
_OF_A_SLICE: Final = {
    _PLACE: ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
}
_OF_AN_IMAGE: Final = {
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "FrameAnatomySequence": ("AnatomicRegionSequence",),
    "CTImageFrameTypeSequence": ("VolumeBasedCalculationTechnique",),
}
_USAGE: Final = "ContrastBolusUsageSequence"
# What a converter found in classic images and had no functional group for: kernel, protocol, contrast agent
_UNASSIGNED: Final = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)
_FLAVOR: Final = 2  # index in ImageType; FrameType may leave it to the image (PS3.3 C.8.16.1.3)
# What speaks of all frames at once
_REPLACED: Final = frozenset(
    tag_for_keyword(k) for k in (_SHARED, _PER_FRAME, "NumberOfFrames", "InstanceNumber")
)


def frame_headers(header: Dataset) -> list[Dataset]:
    """A header for each frame of an Enhanced CT image, in order; [] for any other image.

    Also [] where functional groups and NumberOfFrames contradict each other, and where they place no frame.
    ReferencedFrameNumber says which frame it is, counted from 1; so does InstanceNumber, as viewers count.
    """
    if not _is_enhanced(header):
        return []
    shared, frames = _functional_groups(header)
    if not frames or tags.number(header, "NumberOfFrames") != len(frames):
        return []
    if not any(tags.items(groups, _PLACE) for groups in (shared, *frames)):
        return []
    common = copied(header)
    for tag in _REPLACED & set(common.keys()):
        del common[tag]
    return [_header(common, frame, shared, number) for number, frame in enumerate(frames, 1)]


def image_header(header: Dataset) -> Dataset:
    """The header of an Enhanced CT image as a whole, and what its functional groups say that it shows.

    For one that cannot be taken apart into frames: whether it is a native head decides who hears of it. Body
    part, kernel and type are the first frame's, a contrast agent is any frame's. Any other header as it is.
    """
    if not _is_enhanced(header):
        return header
    shared, frames = _functional_groups(header)
    described = copied(header)
    _take_description(described, frames[0] if frames else Dataset(), shared)
    _take_contrast(
        described, [item for frame in (frames or [shared]) for item in _group(frame, shared, _USAGE)]
    )
    return described


def frame_number(header: Dataset) -> int | None:
    """Which frame of its image a header is of, counted from 1; None of a classic image."""
    if not _is_enhanced(header):
        return None
    number = tags.number(header, "ReferencedFrameNumber")
    return None if number is None else int(number)


def copied(dataset: Dataset) -> Dataset:
    """Elements as they are, with the encoding in which they are read later."""
    copy = Dataset()
    copy.update(dict(dataset.items()))
    implicit, little = dataset.original_encoding
    copy.set_original_encoding(implicit, little, dataset.original_character_set)
    if hasattr(dataset, "file_meta"):
        copy.file_meta = dataset.file_meta
    return copy


def _is_enhanced(header: Dataset) -> bool:
    return tags.text(header, "SOPClassUID") in ENHANCED_CT_IMAGE_STORAGES


def _functional_groups(header: Dataset) -> tuple[Dataset, list[Dataset]]:
    """Those that all frames share, and each frame's own."""
    return next(iter(tags.items(header, _SHARED)), Dataset()), tags.items(header, _PER_FRAME)


def _header(common: Dataset, frame: Dataset, shared: Dataset, number: int) -> Dataset:
    header = copied(common)
    for group, keywords in _OF_A_SLICE.items():
        _take_group(header, frame, shared, group, keywords)
    _take_acquisition(header, frame)
    _take_description(header, frame, shared)
    _take_contrast(header, _group(frame, shared, _USAGE))
    header.ReferencedFrameNumber = header.InstanceNumber = number
    return header


def _take_group(
    header: Dataset, frame: Dataset, shared: Dataset, group: str, keywords: Iterable[str]
) -> None:
    for item in _group(frame, shared, group)[:1]:
        _take(header, item, (tag_for_keyword(keyword) for keyword in keywords))


def _take_description(header: Dataset, frame: Dataset, shared: Dataset) -> None:
    """What the frame shows, and how it was made."""
    for group, keywords in _OF_AN_IMAGE.items():
        _take_group(header, frame, shared, group, keywords)
    _take_type(header, frame, shared)
    for unassigned in _UNASSIGNED:
        for item in _group(frame, shared, unassigned)[:1]:
            _take(header, item, (t for t in list(item.keys()) if t not in header and not t.is_private))


def _group(frame: Dataset, shared: Dataset, group: str) -> list[Dataset]:
    return tags.items(frame, group) or tags.items(shared, group)


def _take(header: Dataset, item: Dataset, wanted: Iterable[int | None]) -> None:
    """Elements as they are: whether a value can be used is found out where it is looked at."""
    for tag in wanted:
        if tag is not None and tag in item:
            header[tag] = item.get_item(tag)


def _take_acquisition(header: Dataset, frame: Dataset) -> None:
    """Two scans of the head in one image are told apart by number and time, as in a classic series."""
    for item in tags.items(frame, "FrameContentSequence")[:1]:
        if (number := tags.number(item, "FrameAcquisitionNumber")) is not None:
            header.AcquisitionNumber = int(number)
        if moment := tags.text(item, "FrameAcquisitionDateTime"):
            header.AcquisitionDateTime = moment


def _take_type(header: Dataset, frame: Dataset, shared: Dataset) -> None:
    for item in _group(frame, shared, "CTImageFrameTypeSequence")[:1]:
        words = tags.text(item, "FrameType").split("\\")
        of_image = tags.text(header, "ImageType").split("\\")
        if len(words) > _FLAVOR and not words[_FLAVOR] and len(of_image) > _FLAVOR:
            words[_FLAVOR] = of_image[_FLAVOR]
        if any(words):
            header.ImageType = words


def _take_contrast(header: Dataset, usage: Sequence[Dataset]) -> None:
    """Of every agent whether it was given: an item of ``usage`` each."""
    for keyword in CONTRAST_USAGE:
        if said := [text for item in usage if (text := tags.text(item, keyword))]:
            setattr(header, keyword, said)
