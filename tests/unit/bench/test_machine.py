from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from strokecore.bench.machine import load_average, machine_facts, without_folders
from strokecore.errors import EngineError


def test_facts_explain_times_and_name_nobody() -> None:
    facts = machine_facts()
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert {"numpy", "onnxruntime"} <= set(facts["libraries"])
    words = json.dumps(facts)
    for secret in (socket.gethostname(), f'"{getpass.getuser()}"', str(Path.home()) + "/"):
        assert secret not in words
    assert load_average() >= 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no /home/jane/.cache/x/engine.bin here", "no engine.bin here"),
        ("'/data/model': wrong", "'model': wrong"),
        ("(/a/b/c)", "(c)"),
        ("1/2 of and/or x 32/8", "1/2 of and/or x 32/8"),
        ("two\n lines", "two lines"),
        ("x" * 5000, "x" * 599 + "…"),
    ],
)
def test_errors_name_no_folders(text: str, expected: str) -> None:
    assert without_folders(EngineError(text)) == expected


def test_foreign_errors_have_their_kind() -> None:
    assert without_folders(ValueError("x")) == "ValueError: x"
    assert without_folders(MemoryError()) == "MemoryError"
