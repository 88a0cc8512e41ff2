"""deploy/CONFORMANCE.md says what the code writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.sr.coding import Code

from strokecore.reports import dicom
from strokecore.reports.dicom import codes
from strokecore.reports.dicom.instance import SERIES_NUMBER
from tests.unit.reports import output_cases as cases

STATEMENT = (Path(__file__).resolve().parents[3] / "deploy" / "CONFORMANCE.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    series = cases.small_series()
    masks = cases.made_up_masks(series)
    result = cases.made_up_result(series, masks)
    folder = tmp_path_factory.mktemp("outputs")
    return [pydicom.dcmread(path) for path in dicom.write_outputs(series, result, masks, folder)]


def public_codes(value: object) -> Iterator[Code]:
    if isinstance(value, Code):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from public_codes(inner)


def test_every_code_that_is_used_is_listed_and_no_other() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \| (\w+) \| (.+) \|$", STATEMENT, re.MULTILINE))
    used = {
        (code.value, code.scheme_designator, code.meaning)
        for name, value in vars(codes).items()
        if name.isupper()
        for code in public_codes(value)
    }
    assert listed == used


def test_classes_modalities_and_series_numbers_are_those_of_the_objects(
    written: list[pydicom.Dataset],
) -> None:
    rows = re.findall(
        r"^\| [^|]+ \| [^|]+ \| (1\.2\.840[\d.]+) \| (\w+) \| ([\d, ]+) \|$", STATEMENT, re.MULTILINE
    )
    said = {(uid, modality, int(n)) for uid, modality, numbers in rows for n in numbers.split(",")}
    found = {(str(d.SOPClassUID), str(d.Modality), int(d.SeriesNumber)) for d in written}
    assert said == found
    assert {n for _, _, n in said} == set(SERIES_NUMBER.values())


def test_syntax_character_set_and_private_attributes(written: list[pydicom.Dataset]) -> None:
    for dataset in written:
        assert str(dataset.file_meta.TransferSyntaxUID) in STATEMENT
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert not [element for element in dataset.iterall() if element.tag.is_private]


def test_every_code_in_a_report_or_a_segment_is_listed(written: list[pydicom.Dataset]) -> None:
    """Those of templates (TID 1500's own headings and the like) aside, which highdicom writes."""
    private = {
        str(item.CodeValue)
        for dataset in written
        for item in _items(dataset)
        if "CodeValue" in item and item.CodingSchemeDesignator == codes.PRIVATE_SCHEME
    }
    assert private
    for value in private:
        assert f"| `{value}` | {codes.PRIVATE_SCHEME} |" in STATEMENT


def _items(dataset: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
