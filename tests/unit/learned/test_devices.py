"""What the driver says of GPUs, through a stand-in for cuda.bindings.driver."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from strokecore.learned.devices import CudaError, checked, driver_version, gpus, use_gpu
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
