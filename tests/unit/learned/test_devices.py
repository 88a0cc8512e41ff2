"""The driver's answers, through a stand-in for libcuda that has its functions' real argument lists."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from strokecore.learned.devices import Gpu, driver_version, gpus

H100 = ("NVIDIA H100 80GB HBM3", (9, 0), 85_024_112_640, bytes(range(16)))
T4 = ("Tesla T4", (7, 5), 15_828_320_256, bytes(range(16, 32)))


class FakeDriver:
    """libcuda with ``devices``; ``fail`` maps a function to the status that it answers."""

    def __init__(self, *devices: Any, fail: dict[str, int] | None = None, version: int = 13000) -> None:
        self.devices, self.fail, self.version = devices, fail or {}, version
        self.started = False

    def __call__(self) -> FakeDriver:
        return self

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return super().__getattribute__(name)
        if name in self.fail:
            return lambda *arguments: self.fail[name]
        return super().__getattribute__(name)

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self.started = True
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        assert self.started
        count._obj.value = len(self.devices)
        return 0

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 100 + ordinal  # a handle is not an ordinal
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        assert length == ctypes.sizeof(name)
        name.value = self.devices[device.value - 100][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        assert isinstance(memory._obj, ctypes.c_size_t)
        memory._obj.value = self.devices[device.value - 100][2]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self.devices[device.value - 100][1][{75: 0, 76: 1}[attribute]]
        return 0

    def cuDeviceGetUuid(self, uuid: Any, device: Any) -> int:  # noqa: N802
        uuid._obj[:] = list(self.devices[device.value - 100][3])
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, device: Any) -> int:  # noqa: N802
        return self.cuDeviceGetUuid(uuid, device)


def absent() -> Any:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_every_device_is_described() -> None:
    assert gpus(FakeDriver(H100, T4)) == (
        Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), 85_024_112_640, "000102030405060708090a0b0c0d0e0f"),
        Gpu(1, "Tesla T4", (7, 5), 15_828_320_256, "101112131415161718191a1b1c1d1e1f"),
    )


def test_a_device_is_named_for_people() -> None:
    assert str(gpus(FakeDriver(T4))[0]) == "Tesla T4 (15 GiB, compute capability 7.5)"


@pytest.mark.parametrize(
    "load",
    [
        absent,
        FakeDriver(),
        FakeDriver(H100, fail={"cuInit": 100}),  # no device
        FakeDriver(H100, fail={"cuInit": 803}),  # the driver's halves do not fit
        FakeDriver(H100, fail={"cuDeviceGetCount": 3}),
        FakeDriver(H100, fail={"cuDeviceGetName": 101}),
        object,  # a library without the functions
    ],
    ids=["no driver", "no device", "no device at start", "mismatch", "not started", "lost", "not libcuda"],
)
def test_without_a_usable_device_there_is_none(load: Any) -> None:
    assert gpus(load) == ()


def test_an_old_driver_names_its_devices_too() -> None:
    driver = FakeDriver(T4, fail={"cuDeviceGetUuid_v2": 1})
    assert gpus(driver)[0].uuid == "101112131415161718191a1b1c1d1e1f"
    driver = FakeDriver(T4, fail={"cuDeviceGetUuid_v2": 1, "cuDeviceGetUuid": 1})
    assert gpus(driver)[0].uuid == ""


def test_driver_version() -> None:
    assert driver_version(FakeDriver(version=12080)) == (12, 8)
    assert driver_version(absent) is None
    assert driver_version(FakeDriver(fail={"cuDriverGetVersion": 34})) is None


def test_this_machine_is_asked_without_torch() -> None:
    code = (
        "import sys\nfrom strokecore.learned.devices import driver_version, gpus\n"
        "assert isinstance(gpus(), tuple)\nassert bool(gpus()) <= (driver_version() is not None)\n"
        "assert not {'torch', 'tensorrt', 'cuda', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
