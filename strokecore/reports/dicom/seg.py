"""The two segmentation objects: what was found, and where the twenty regions lie.

Both are BINARY on the source's own voxels: every frame carries the position of its source slice, so
that gantry tilt and uneven gaps need no resampling and a viewer lays each frame exactly on its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard_codes
from pydicom.sr.coding import Code
from pydicom.valuerep import format_number_as_ds

from strokecore._version import __version__
from strokecore.anatomy.regions import ALL_REGIONS
from strokecore.arrays import UInt8Array
from strokecore.config import WEIGHT_FREE
from strokecore.reading.acquisition import CT_IMAGE_STORAGE
from strokecore.reading.geometry import thickness_mm
from strokecore.reading.series import Series
from strokecore.reports.dicom import codes, inherit
from strokecore.reports.dicom.instance import DEVICE_SERIAL_NUMBER, MANUFACTURER, MODEL_NAME, Stamp, finish
from strokecore.reports.dicom.references import references_to
from strokecore.reports.palette import MARKS, REGION_COLOURS
from strokecore.result import (
    HAEMORRHAGE,
    INFARCT,
    OLD_INFARCT,
    OTHER_HYPODENSITY,
    ModelInfo,
    SourceMasks,
)

# Property types of CID 7194, and what modifies them (CID 244 and CID 3770).
_LESION_TYPES: Final[dict[int, Code]] = {
    **dict.fromkeys((*INFARCT.values(), OLD_INFARCT), codes.INFARCT),
    OTHER_HYPODENSITY: codes.LESION,
    HAEMORRHAGE: codes.HEMORRHAGE,
}
_LESION_MODIFIERS: Final[dict[int, Code]] = {
    **{value: codes.LATERALITY[side] for side, value in INFARCT.items()},
    OLD_INFARCT: codes.CHRONIC,
    HAEMORRHAGE: codes.SUSPECTED,
}


def lesion_segments(masks: SourceMasks) -> dict[int, int]:
    """Segment number of each lesion value that has a voxel; {} when there is no lesion at all.

    Numbers are consecutive, as DICOM asks, so change on the right side alone is segment 1; the
    segment's label and laterality, not its number, say what it is.
    """
    present = [value for value in MARKS if bool((masks.lesion == value).any())]
    return {value: number for number, value in enumerate(present, start=1)}


def build_lesion(series: Series, masks: SourceMasks, model: ModelInfo, stamp: Stamp) -> Dataset | None:
    """The segmentation of findings; None when nothing is segmented (an empty object misleads viewers)."""
    numbers = lesion_segments(masks)
    if not numbers:
        return None
    descriptions = [_lesion_description(number, value, model) for value, number in numbers.items()]
    return _build(series, _renumbered(masks.lesion, numbers), descriptions, stamp, "seg", "ASPECTS_FINDINGS")


def build_regions(series: Series, masks: SourceMasks, model: ModelInfo, stamp: Stamp) -> Dataset | None:
    """The ASPECTS regions that have a voxel in the scan; None when none has."""
    present = [region for region in ALL_REGIONS if bool((masks.regions == region.label).any())]
    if not present:
        return None
    descriptions = []
    for number, region in enumerate(present, start=1):
        description = SegmentDescription(
            segment_number=number,
            segment_label=f"{region.name} {region.side}",
            segmented_property_category=codes.ANATOMICAL_STRUCTURE,
            segmented_property_type=codes.REGION_SITE[region.name],
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=_algorithm("StrokeCore atlas", __version__, trained=False),
            display_color=CIELabColor.from_rgb(*REGION_COLOURS[region.name]),
        )
        _modify(description, codes.LATERALITY[region.side])
        descriptions.append(description)
    numbers = {region.label: number for number, region in enumerate(present, start=1)}
    return _build(
        series, _renumbered(masks.regions, numbers), descriptions, stamp, "regions", "ASPECTS_REGIONS"
    )


def _lesion_description(number: int, value: int, model: ModelInfo) -> SegmentDescription:
    algorithm = _algorithm(model.name, model.version, trained=model.engine != WEIGHT_FREE)
    if value == HAEMORRHAGE:  # found by a rule of ours, whatever segments infarct
        algorithm = _algorithm(codes.HAEMORRHAGE_RULE, __version__, trained=False)
    description = SegmentDescription(
        segment_number=number,
        segment_label=MARKS[value].label,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=_LESION_TYPES[value],
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.BRAIN],
        display_color=CIELabColor.from_rgb(*MARKS[value].colour),
    )
    if value in _LESION_MODIFIERS:
        _modify(description, _LESION_MODIFIERS[value])
    return description


def _build(
    series: Series,
    segments: UInt8Array,
    descriptions: Sequence[SegmentDescription],
    stamp: Stamp,
    kind: str,
    label: str,
) -> Dataset:
    images = [inherit.reference(header, series.slice_thickness_mm) for header in series.datasets]
    sources = [_as_single(image, k) for k, image in enumerate(images, 1)]
    dataset = Segmentation(
        source_images=sources,
        pixel_array=segments,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=stamp.series_uid(kind),
        series_number=1,
        sop_instance_uid=stamp.instance_uid(kind),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=__version__,
        device_serial_number=DEVICE_SERIAL_NUMBER,
        content_label=label,
        content_description="StrokeCore, research use only",
        omit_empty_frames=True,
        coding_schemes=[codes.private_scheme()],
    )
    _measure_frames(dataset, sources, series)
    _name_frames(dataset, sources, images)
    inherit.lossy(dataset, series.datasets)
    return finish(dataset, series.datasets[0], stamp, kind)


def _as_single(image: Dataset, number: int) -> Dataset:
    """A frame of an Enhanced CT image as an image of its own: highdicom takes no frames of several images."""
    if inherit.FRAME not in image:
        return image
    single = deepcopy(image)
    single.SOPClassUID, single.SOPInstanceUID = CT_IMAGE_STORAGE, f"2.25.{number}"
    return single


def _measure_frames(dataset: Dataset, sources: Sequence[Dataset], series: Series) -> None:
    """Give each frame its own slice's thickness, where the series has several.

    highdicom writes one for all frames; the standard has it there or in every frame, never in both places.
    """
    declared = [thickness_mm(header) or series.slice_thickness_mm for header in series.datasets]
    if len(set(declared)) == 1:
        return
    by_source = {str(s.SOPInstanceUID): mm for s, mm in zip(sources, declared, strict=True)}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    common = shared.PixelMeasuresSequence[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        measures = deepcopy(common)
        measures.SliceThickness = format_number_as_ds(by_source[str(source.ReferencedSOPInstanceUID)])
        frame.PixelMeasuresSequence = [measures]
    del shared.PixelMeasuresSequence


def _name_frames(dataset: Dataset, sources: Sequence[Dataset], images: Sequence[Dataset]) -> None:
    """In place of what ``_as_single`` made of them: each frame's source frame, and the image once."""
    originals = {str(s.SOPInstanceUID): i for s, i in zip(sources, images, strict=True) if s is not i}
    if not originals:
        return
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                original = originals.get(str(source.ReferencedSOPInstanceUID))
                if original is not None:
                    source.ReferencedSOPClassUID = original.SOPClassUID
                    source.ReferencedSOPInstanceUID = original.SOPInstanceUID
                    source.ReferencedFrameNumber = original[inherit.FRAME].value
    dataset.SourceImageSequence = references_to(images)
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references_to(images)


def _renumbered(volume: UInt8Array, numbers: dict[int, int]) -> UInt8Array:
    table = np.zeros(256, np.uint8)
    for value, number in numbers.items():
        table[value] = number
    return table[volume]


def _algorithm(name: str, version: str, *, trained: bool) -> AlgorithmIdentificationSequence:
    families = standard_codes.cid7162
    return AlgorithmIdentificationSequence(
        name=name,
        family=families.ArtificialIntelligence if trained else families.NeighborhoodAnalysis,
        version=version,
    )


def _modify(description: SegmentDescription, modifier: Code) -> None:
    """Modify the property type, which is where viewers look for laterality (CID 244)."""
    type_item = description.SegmentedPropertyTypeCodeSequence[0]
    type_item.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(modifier)]
