from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path

import pytest

from strokecore.bench import machine
from strokecore.bench.machine import load_average, machine_facts


def test_facts_explain_times_and_name_nobody() -> None:
    facts = machine_facts()
    assert facts["cores"] >= 1
    assert facts["memory_gib"] > 0
    assert facts["libraries"]["numpy"]
    words = json.dumps(facts)
    for secret in (socket.gethostname(), f'"{getpass.getuser()}"', str(Path.home()) + "/"):
        assert secret not in words
    assert load_average() >= 0


@pytest.mark.parametrize(
    ("text", "instructions"),
    [
        ("model name\t: Some CPU 9\nflags\t\t: fpu avx2 avx512_bf16 sse\n", ["avx2", "avx512_bf16"]),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", ["asimd", "bf16"]),
        ("processor\t: 0\n", []),
    ],
)
def test_instructions_are_read(text: str, instructions: list[str], tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert machine._instructions(tmp_path / "cpuinfo") == instructions
    assert machine._instructions(tmp_path / "nothing") == []


def test_the_driver_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "version"
    monkeypatch.setattr(machine, "_DRIVER", path)
    assert machine._gpu_driver() is None
    path.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    )
    assert machine._gpu_driver() == "550.54.15"
