"""The Secondary Capture series: the pages as RGB images that any viewer shows.

A refused head CT gets one image that says why and what to do. No image carries a patient's name or
identifier in its pixels: the viewer shows those from the header.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from strokecore.reading.series import Series
from strokecore.reports.dicom import inherit
from strokecore.reports.dicom.instance import Stamp, finish
from strokecore.reports.dicom.references import references_to
from strokecore.reports.pages import Drawing, refusal_page
from strokecore.reports.picture import Rgb8
from strokecore.result import Result


def build(series: Series, drawing: Drawing, stamp: Stamp) -> list[Dataset]:
    """All images of the Secondary Capture series, in viewing order."""
    sources = [inherit.reference(header) for header in series.datasets]
    captures = [
        _secondary_capture(page, series.datasets[0], stamp, index, sources)
        for index, page in enumerate((drawing.summary, *drawing.montage))
    ]
    for capture in captures:
        inherit.lossy(capture, series.datasets)
    return captures


def build_refusal(source: Dataset, result: Result, stamp: Stamp) -> Dataset:
    """The one image of a head CT that was not scored."""
    return _secondary_capture(refusal_page(result), source, stamp, 0, [inherit.reference(source)])


def _secondary_capture(
    pixels: Rgb8, source: Dataset, stamp: Stamp, index: int, sources: Sequence[Dataset]
) -> Dataset:
    """An RGB Secondary Capture Image (PS3.3 A.8.1) of uint8 [rows, columns, 3].

    ``sources``: references to the images that it shows, as inherit.py makes them.
    """
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
    references = references_to(sources)
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
