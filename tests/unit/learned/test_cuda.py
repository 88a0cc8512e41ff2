"""The calls into the driver, against its header and against a stand-in that has the header's functions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from strokecore.errors import EngineError
from strokecore.learned import cuda as module
from strokecore.learned import devices
from strokecore.learned.cuda import FUNCTIONS, LOST, Cuda, CudaError
from tests.unit.learned.cuda_fake import ECC, LAUNCH_FAILED, RECORD, FakeCuda
from tests.unit.learned.cuda_types import ctype
from tests.unit.learned.tensorrt_uses import used_of_cuda

VERSIONS = sorted(RECORD)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    driver = FakeCuda()
    monkeypatch.setattr(devices, "open_driver", driver)
    yield driver
    assert not driver.faults


@pytest.fixture
def cuda(fake: FakeCuda) -> Iterator[Cuda]:
    device = Cuda(0)
    yield device
    device.close()


def test_the_header_was_read() -> None:
    assert VERSIONS == ["12090", "13050"]


@pytest.mark.parametrize("version", VERSIONS)
def test_functions_and_their_arguments_are_the_headers(version: str) -> None:
    declared = RECORD[version]["functions"]
    # the older form of the last one is there for old drivers only
    assert used_of_cuda() - set(declared) <= {"cuDeviceGetUuid"}
    for name, arguments in FUNCTIONS.items():
        assert list(arguments) == [ctype(text) for text in declared[name]], name


@pytest.mark.parametrize("version", VERSIONS)
def test_numbers_are_the_headers(version: str) -> None:
    values = RECORD[version]["values"]
    assert {code: name for code, name in LOST.items() if values[name] != code} == {}
    assert values["CUDA_ERROR_OUT_OF_MEMORY"] == module.OUT_OF_MEMORY
    assert values["CU_STREAM_NON_BLOCKING"] == module.STREAM_NON_BLOCKING
    assert values["CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"] == module.CAPTURE_THREAD_LOCAL
    assert values["CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR"] == devices._CAPABILITY_MAJOR
    assert values["CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR"] == devices._CAPABILITY_MINOR


@pytest.mark.parametrize("version", VERSIONS)
def test_devices_are_listed_through_the_headers_functions(version: str) -> None:
    driver = FakeCuda("NVIDIA L4", "NVIDIA A100-SXM4-80GB", capability=(8, 9), version=version)
    found = devices.gpus(driver)
    assert [gpu.name for gpu in found] == ["NVIDIA L4", "NVIDIA A100-SXM4-80GB"]
    assert found[1].uuid == "01" * 16
    assert found[0].compute_capability == (8, 9)
    assert devices.driver_version(driver) == (int(version) // 1000, int(version) % 1000 // 10)
    assert not driver.faults


def test_a_copy_there_and_back(cuda: Cuda, fake: FakeCuda) -> None:
    sent, received = cuda.allocate_pinned((2, 3)), cuda.allocate_pinned((2, 3))
    address = cuda.allocate(sent.nbytes)
    assert address % 256 == 0
    sent[:], received[:] = np.arange(6).reshape(2, 3), -1
    cuda.upload(address, sent)
    cuda.download(received, address)
    assert (received == -1).all()  # queued, not done
    cuda.synchronize()
    assert np.array_equal(received, np.arange(6).reshape(2, 3))
    assert cuda.free_bytes() == fake.memory
    cuda.free(address)
    cuda.free_pinned(sent)
    cuda.free_pinned(received)
    cuda.close()
    cuda.close()
    assert fake.left_over == {}


def test_a_graph_repeats_what_was_queued(cuda: Cuda, fake: FakeCuda) -> None:
    ran: list[int] = []
    graph = cuda.capture(lambda: fake.queue_kernel(cuda.stream, lambda: ran.append(1)))
    cuda.synchronize()
    assert ran == []
    cuda.launch(graph)
    cuda.launch(graph)
    cuda.synchronize()
    assert ran == [1, 1]
    cuda.free_graph(graph)
    cuda.close()
    assert fake.left_over == {}


def test_a_failed_capture_leaves_the_stream_usable(cuda: Cuda, fake: FakeCuda) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cuda.capture(fail)
    with pytest.raises(CudaError, match=r"cuStreamSynchronize answers CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
        cuda.capture(cuda.synchronize)
    cuda.synchronize()
    cuda.close()
    assert fake.left_over == {}


def test_errors_are_told_apart(cuda: Cuda, fake: FakeCuda) -> None:
    with pytest.raises(CudaError, match=r"cuMemAlloc_v2 answers CUDA_ERROR_OUT_OF_MEMORY \(2\)") as found:
        cuda.allocate(fake.memory + 1)
    assert found.value.out_of_memory
    assert not found.value.lost
    for code in (ECC, LAUNCH_FAILED):
        fake.lost = code
        with pytest.raises(CudaError) as found:
            cuda.synchronize()
        assert found.value.lost
    fake.lost = 12345
    with pytest.raises(CudaError, match=r"an unknown error \(12345\)"):
        cuda.synchronize()


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        ("cuInit", 803, "GPU 0 cannot be used: cuInit answers CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        ("cuDevicePrimaryCtxRetain", 46, "CUDA_ERROR_DEVICE_UNAVAILABLE"),
        ("cuStreamCreate", 2, "CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_a_device_that_cannot_be_had_is_said(fake: FakeCuda, function: str, code: int, words: str) -> None:
    fake.fail[function] = code
    with pytest.raises(EngineError, match=words):
        Cuda(0)
    assert fake.left_over == {}
    fake.fail.clear()
    with pytest.raises(EngineError, match="GPU 7 cannot be used"):
        Cuda(7)


def test_a_driver_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    for library in (absent, object):
        monkeypatch.setattr(devices, "open_driver", library)
        with pytest.raises(EngineError, match="driver cannot be used"):
            Cuda(0)
