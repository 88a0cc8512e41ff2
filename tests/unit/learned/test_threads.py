from __future__ import annotations

import os
from pathlib import Path

import pytest

from strokecore.errors import UsageError
from strokecore.learned import devices
from strokecore.learned.devices import (
    cpu_computes_in,
    cpu_flags,
    cpu_name,
    default_threads,
    on_cpu,
    usable_cores,
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROKECORE_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_threads_come_from_who_starts_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 7)
    assert default_threads() == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert default_threads() == 5
    monkeypatch.setenv("STROKECORE_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("0", "-1", "many", "2.5"):
        monkeypatch.setenv("STROKECORE_THREADS", wrong)
        with pytest.raises(UsageError, match="STROKECORE_THREADS"):
            default_threads()


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 6),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("900000 100000\n", 6),
        ("nonsense", 6),
        ("1 0", 6),
        (None, 6),
    ],
)
def test_a_containers_quota_counts(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(devices, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == expected


def test_the_cpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_CPU_FACTS", facts)
    assert cpu_name() == "CPU"
    facts.write_text("processor : 0\nmodel name\t: Test CPU @ 2 GHz\nmodel name : other\n")
    assert on_cpu(1) == "Test CPU @ 2 GHz, 1 thread"
    assert on_cpu(2) == "Test CPU @ 2 GHz, 2 threads"


def test_cpu_flags_are_read_as_each_architecture_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_CPU_FACTS", facts)
    first_core = "processor\t: 0\nflags\t\t: fpu avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
    for text, expected, bf16 in (
        (first_core, {"fpu", "avx512_bf16"}, True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}, True),
        ("processor\t: 0\nflags : avx2 avx512f\n", {"avx2", "avx512f"}, False),
        ("nothing\n", set(), False),
        (None, set(), False),
    ):
        facts.unlink(missing_ok=True)
        if text is not None:
            facts.write_text(text)
        cpu_flags.cache_clear()
        assert cpu_flags() == expected
        assert (cpu_computes_in("bf16"), cpu_computes_in("fp32"), cpu_computes_in("tf32")) == (
            bf16,
            True,
            False,
        )
    cpu_flags.cache_clear()
