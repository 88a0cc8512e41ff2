"""Classic CT series turned into Enhanced (multi-frame) CT images, for tests of everything that reads them.

paths = write_series(tmp_path / "classic")
enhanced(paths, tmp_path / "enhanced" / "image.dcm", shared=("PlaneOrientationSequence",))
legacy_converted(paths, tmp_path / "legacy" / "image.dcm")
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pydicom
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import Dataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from tests.ct_factory import uid

# Functional group to its attributes, by what a classic image calls them.
GROUPS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {"PixelSpacing": "PixelSpacing", "SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
        "RescaleType": "RescaleType",
    },
    "FrameVOILUTSequence": {"WindowCenter": "WindowCenter", "WindowWidth": "WindowWidth"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "CTImageFrameTypeSequence": {"ImageType": "FrameType"},
    "FrameContentSequence": {
        "AcquisitionNumber": "FrameAcquisitionNumber",
        "AcquisitionDateTime": "FrameAcquisitionDateTime",
    },
}


def enhanced(
    paths: Iterable[Path],
    out: Path,
    *,
    shared: Sequence[str] = (),
    transfer_syntax: str = ExplicitVRLittleEndian,
    name: str = "",
    **tags: Any,
) -> Path:
    """One Enhanced CT image of classic slices; its frames are in the order of the files' names, shuffled.

    ``shared``: the functional groups that all frames share. ``name``: of the image, for its UID. ``tags``:
    keyword to value, set at the top.
    """
    slices = [pydicom.dcmread(path) for path in sorted(paths)]
    for one in slices:
        one.AcquisitionDateTime = one.AcquisitionDate + one.AcquisitionTime
    image = deepcopy(slices[0])
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid(f"enhanced {name or out.name}")
    image.NumberOfFrames = len(slices)
    image.InstanceNumber = 1
    image.SharedFunctionalGroupsSequence = [_groups(slices[0], shared)]
    image.PerFrameFunctionalGroupsSequence = [
        _groups(one, [g for g in GROUPS if g not in shared]) for one in slices
    ]
    for names in GROUPS.values():
        for keyword in set(names) - {"ImageType", "AcquisitionDateTime"}:
            image.pop(keyword, None)
    del image.AcquisitionDate, image.AcquisitionTime, image.BodyPartExamined
    head = Dataset()
    head.CodeValue, head.CodingSchemeDesignator, head.CodeMeaning = "69536005", "SCT", "Head"
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence, anatomy.FrameLaterality = [head], "U"
    image.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    image.PixelData = b"".join(one.PixelData for one in slices)
    for keyword, value in tags.items():
        setattr(image, keyword, value)
    if transfer_syntax != ExplicitVRLittleEndian:
        image.compress(transfer_syntax, generate_instance_uid=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(out, enforce_file_format=True)
    return out


def legacy_converted(paths: Iterable[Path], out: Path) -> Path:
    """The same by highdicom: Legacy Converted Enhanced CT, frames in the order of their positions."""
    slices = [pydicom.dcmread(path) for path in paths]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that the slices lack
        image = LegacyConvertedEnhancedCTImage(
            slices,
            series_instance_uid=uid(f"legacy series {out.name}"),
            series_number=5,
            sop_instance_uid=uid(f"legacy {out.name}"),
            instance_number=1,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(out)
    return out


def _groups(source: Dataset, names: Iterable[str]) -> Dataset:
    groups = Dataset()
    for name in names:
        item = Dataset()
        for classic, keyword in GROUPS[name].items():
            if classic in source:
                setattr(item, keyword, source[classic].value)
        setattr(groups, name, [item])
    return groups
