"""The report as a PDF."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

import numpy as np
import pytest

from strokecore.reports import marks, pdf
from strokecore.reports.pages import Drawing
from strokecore.result import SourceMasks
from tests.unit.reports import output_cases as cases


def text(document: bytes) -> str:
    """What is written on its pages; the words of one line in the order of writing."""
    said = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", document, re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        if b" Tf" in content:
            said += re.findall(rb"\(((?:[^()\\]|\\.)*)\) Tj", content)
    return re.sub(r"\\(.)", r"\1", b" ".join(said).decode("latin-1"))


def pages(document: bytes) -> int:
    return len(re.findall(rb"/Type /Page\b(?!s)", document))


@pytest.fixture(scope="module")
def document(result, series, masks) -> bytes:
    seen = marks.shown(series, result, masks)
    return pdf.pdf_bytes(result, Drawing.of(series, result, seen))


def test_it_has_two_pages_that_fit_a4_and_letter(document):
    assert document.startswith(b"%PDF-")
    assert pages(document) == 2
    width, height = (
        float(v) / 72 * 25.4 for v in re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", document).groups()
    )
    assert width <= 210.1
    assert height <= 279.5


def test_it_says_what_the_other_outputs_say(document):
    said = text(document)
    assert "ASPECTS right 7 (6-8): I, M1, M2; left 9 (8-9; 9 of 10 assessed)" in said
    assert "Affected: right I, M1, M2." in said
    assert "W 40 L 40" in said
    assert "affected, borderline" in said
    assert "Brain noise is 9.1 HU" in said
    assert "RESEARCH USE ONLY" in said
    assert "adults with suspected stroke" in said


def test_the_same_result_gives_the_same_bytes(document, result, series, masks):
    seen = marks.shown(series, result, masks)
    assert pdf.pdf_bytes(result, Drawing.of(series, result, seen)) == document


def test_it_has_no_identity(document, series):
    header = series.datasets[0]
    for identity in ("Doe", header.PatientID, header.AccessionNumber, header.SeriesInstanceUID):
        assert str(identity).encode() not in document
        assert str(identity) not in text(document)


def test_withheld_has_the_blood_as_headline_and_no_score(result, series, masks):
    withheld = cases.withheld(result)
    blood = SourceMasks(np.where(masks.lesion == 2, 5, 0).astype(np.uint8), masks.regions)
    said = text(pdf.pdf_bytes(withheld, Drawing.of(series, withheld, blood)))
    assert "HAEMORRHAGE SUSPECTED, right, 12 ml - no ASPECTS" in said
    assert "0.91" not in said
    assert "ischaemic" not in said
    assert "W 100 L 50" in said


@pytest.mark.parametrize("status", ["refused", "failed"])
def test_a_run_without_a_score_has_reason_and_remedy(status):
    said = text(pdf.pdf_bytes(replace(cases.refused(cases.GAP), status=status)))
    assert "ASPECTS NOT SCORED" in said
    assert "What to do: Send the series again." in said


def test_many_flags_and_long_words_do_not_raise(result, series, masks):
    flags = tuple(replace(cases.SOFT, message="Long statement ≥ 8 mm – Müller " * 12) for _ in range(30))
    many = replace(result, quality=flags)
    seen = marks.shown(series, many, masks)
    assert "Muller" in text(pdf.pdf_bytes(many, Drawing.of(series, many, seen)))
