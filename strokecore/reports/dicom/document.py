"""The report as an Encapsulated PDF, which every PACS and most viewers open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes as standard_codes
from pydicom.uid import EncapsulatedPDFStorage

from strokecore.reports.dicom.instance import Stamp, finish
from strokecore.reports.dicom.references import references_to

TITLE: Final = "ASPECTS report (research)"


def build(pdf: bytes, sources: Sequence[Dataset], stamp: Stamp) -> Dataset:
    """An Encapsulated PDF (PS3.3 A.45.1) of ``pdf``; ``sources``: headers of the series it is of."""
    dataset = Dataset()
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.Modality = "DOC"
    # WSD: made on a workstation
    dataset.ConversionType = "WSD"
    # no text in the document identifies the patient
    dataset.BurnedInAnnotation = "NO"
    dataset.AcquisitionDateTime = None
    dataset.DocumentTitle = TITLE
    dataset.ConceptNameCodeSequence = [CodedConcept.from_code(standard_codes.DCM.ImagingMeasurementReport)]
    references = references_to(sources)
    if references:
        dataset.SourceInstanceSequence = references
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    finish(dataset, sources[0], stamp, "pdf")
    if "BodyPartExamined" in dataset:  # of an image, and this is none
        del dataset.BodyPartExamined
    dataset.EncapsulatedDocumentLength = len(pdf)
    # OB holds an even number of bytes (PS3.5 6.2)
    dataset.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return dataset
