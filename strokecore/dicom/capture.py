"""The Secondary Capture series: the pages as RGB images that any viewer shows.

A refused head CT gets one image that says why and what to do. No image carries a patient's name or
identifier in its pixels: the viewer shows those from the header.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from strokecore.dicom import inherit
from strokecore.dicom.instance import Stamp, finish
from strokecore.pages import montage_pages, refusal_page, summary_page
from strokecore.picture import Rgb8
from strokecore.result import Result, SourceMasks
from strokecore.series import Series


def build(series: Series, result: Result, masks: SourceMasks, stamp: Stamp) -> list[Dataset]:
    """All images of the Secondary Capture series, in viewing order."""
    pages = [summary_page(series, result, masks), *montage_pages(series, result, masks)]
    source = series.datasets[0]
    return [
        _secondary_capture(page, source, stamp, index, series.datasets) for index, page in enumerate(pages)
    ]


def build_refusal(source: Dataset, result: Result, stamp: Stamp) -> Dataset:
    """The one image of a head CT that was not scored."""
    return _secondary_capture(refusal_page(result), source, stamp, 0, [source])


def _secondary_capture(
    pixels: Rgb8, source: Dataset, stamp: Stamp, index: int, sources: Sequence[Dataset]
) -> Dataset:
    """An RGB Secondary Capture Image (PS3.3 A.8.1) of uint8 [rows, columns, 3]."""
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Modality = "OT"
    # WSD: made on a workstation
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY", "ASPECTS"]
    dataset.PatientOrientation = None
    # no text in the image identifies the patient
    dataset.BurnedInAnnotation = "NO"
    dataset.DerivationDescription = "ASPECTS regions and early ischemic change drawn on CT slices"
    references = _references(sources)
    if references:
        dataset.SourceImageSequence = references
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated = 8
    dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    finish(dataset, source, stamp, "sc", index)
    if "BodyPartExamined" not in dataset:
        # Type 2C: without a body part nobody can say that it is not a paired one
        dataset.Laterality = None
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    dataset["PixelData"].VR = "OB"
    return dataset


def _references(sources: Sequence[Dataset]) -> list[Dataset]:
    items = []
    for source in sources:
        clean = inherit.reference(source)
        if "SOPInstanceUID" not in clean or "SOPClassUID" not in clean:
            continue
        item = Dataset()
        item.ReferencedSOPClassUID = clean.SOPClassUID
        item.ReferencedSOPInstanceUID = clean.SOPInstanceUID
        items.append(item)
    return items
