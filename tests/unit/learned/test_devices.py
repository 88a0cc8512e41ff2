"""What this machine computes on: GPUs, by a stand-in for cuda.bindings.driver, the CPU, and threads."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from strokecore.errors import UsageError
from strokecore.learned import devices
from strokecore.learned.devices import (
    CudaError,
    Gpu,
    checked,
    cpu_computes_in,
    cpu_flags,
    cpu_name,
    default_threads,
    driver_version,
    gpus,
    on_cpu,
    usable_cores,
    use_gpu,
)
from tests.unit.learned.cuda_fake import L4, T4, FakeDriver

SECOND = replace(T4, index=1)


def install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver | None) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)


def test_every_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver(L4, SECOND))
    assert gpus() == (L4, SECOND)
    assert str(gpus()[1]) == "Tesla T4 (16 GiB, compute capability 7.5)"


@pytest.mark.parametrize("function", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetUuid"])
def test_a_device_that_cannot_be_asked_is_none(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(L4)
    install(monkeypatch, driver)
    driver.fail[function] = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"
    assert gpus() == ()


def test_without_bindings_driver_or_device_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeDriver())
    assert gpus() == ()
    install(monkeypatch, None)
    assert gpus() == ()
    assert driver_version() is None

    class WithoutDriver(FakeDriver):
        def cuInit(self, flags: int) -> None:  # noqa: N802
            raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found via system search')

        def cuDriverGetVersion(self) -> int:  # noqa: N802
            raise RuntimeError("as cuInit")

    install(monkeypatch, WithoutDriver(L4))
    assert gpus() == ()
    assert driver_version() is None


def test_driver_version(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(version=13020)
    install(monkeypatch, driver)
    assert driver_version() == (13, 2)
    driver.fail["cuDriverGetVersion"] = "CUDA_ERROR_STUB_LIBRARY"
    assert driver_version() is None


def test_a_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(L4, SECOND)
    install(monkeypatch, driver)
    use_gpu(SECOND)
    assert driver.current == 1
    driver.fail["cuDevicePrimaryCtxRetain"] = "CUDA_ERROR_DEVICE_UNAVAILABLE"
    with pytest.raises(CudaError, match="CUDA_ERROR_DEVICE_UNAVAILABLE"):
        use_gpu(L4)


def test_answers_are_checked() -> None:
    success = SimpleNamespace(name="CUDA_SUCCESS")
    assert checked((success, 5)) == 5
    assert checked((success,)) is None
    with pytest.raises(MemoryError, match="no memory left"):
        checked((SimpleNamespace(name="CUDA_ERROR_OUT_OF_MEMORY"), None))


def test_this_machine_is_asked_without_torch_or_numpy() -> None:
    code = (
        "import sys\nfrom strokecore.learned.devices import driver_version, gpus\n"
        "assert isinstance(gpus(), tuple)\nassert bool(gpus()) <= (driver_version() is not None)\n"
        "assert not {'torch', 'tensorrt', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STROKECORE_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("nothing_set")
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


def test_only_ampere_and_later_compute_in_bf16_and_tf32() -> None:
    def has(gpu: Gpu) -> list[str]:
        return [precision for precision in ("bf16", "fp16", "tf32", "fp32") if gpu.computes_in(precision)]

    assert has(replace(L4, compute_capability=(7, 5))) == ["fp16", "fp32"]
    assert has(replace(L4, compute_capability=(8, 0))) == ["bf16", "fp16", "tf32", "fp32"]
