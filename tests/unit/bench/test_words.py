from __future__ import annotations

import pytest

from strokecore.bench.words import in_words, without_folders
from strokecore.errors import EngineError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no /home/jane/.cache/x/plan.bin here", "no plan.bin here"),
        ("'/data/model': wrong", "'model': wrong"),
        ("(/a/b/c)", "(c)"),
        ("1/2 of and/or x 32/8", "1/2 of and/or x 32/8"),
        ("two\n lines", "two lines"),
    ],
)
def test_folders_are_left_out(text: str, expected: str) -> None:
    assert in_words(EngineError(text)) == expected


def test_foreign_errors_have_their_kind() -> None:
    assert in_words(ValueError("x")) == "ValueError: x"
    assert in_words(MemoryError()) == "MemoryError"


def test_a_long_text_is_cut() -> None:
    assert len(without_folders("x" * 5000)) == 600
