"""Loading TensorRT or its edition for RTX, and its messages."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from strokecore.errors import EngineError
from strokecore.learned.tensorrt.library import library_name, load_library, logger_of
from tests.unit.learned.cuda_fake import L4, FakeDriver
from tests.unit.learned.tensorrt.fakes import FakeTensorRt


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> dict[str, ModuleType | None]:
    """Modules of these versions; None for those that are not there."""
    driver = FakeDriver(L4)
    modules = {name: version and FakeTensorRt(driver, name, version) for name, version in versions.items()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules  # type: ignore[return-value]


def test_tensorrt_comes_before_its_edition_for_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = installed(monkeypatch, tensorrt="11.2.1.2", tensorrt_rtx="1.7.1")
    assert load_library(L4) is modules["tensorrt"]
    assert library_name(load_library(L4)) == "tensorrt 11.2.1.2"


@pytest.mark.parametrize("tensorrt", [None, "11.1.0.106"])
def test_the_edition_for_rtx_serves_its_cards(tensorrt: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = installed(monkeypatch, tensorrt=tensorrt, tensorrt_rtx="1.7.1")
    for capability in ((7, 5), (8, 6), (8, 9), (12, 0), (12, 1)):
        assert load_library(replace(L4, compute_capability=capability)) is modules["tensorrt_rtx"]
    for capability in ((8, 0), (9, 0), (10, 0)):  # A100, H100 and H200, B200
        with pytest.raises(EngineError, match="TensorRT cannot be loaded"):
            load_library(replace(L4, compute_capability=capability))


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({}, r"ModuleNotFoundError: import of tensorrt halted"),
        ({"tensorrt": "10.16.1.11"}, r"tensorrt 10.16.1.11 is too old, expected 11.2 or newer"),
        ({"tensorrt_rtx": "1.4.0"}, r"tensorrt_rtx 1.4.0 is too old, expected 1.7 or newer"),
        ({"tensorrt": "unknown"}, r"ValueError"),
    ],
)
def test_the_remedy_is_said(
    versions: dict[str, str | None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, **{"tensorrt": None, "tensorrt_rtx": None, **versions})
    with pytest.raises(EngineError, match=words + r".*run: .*pip install 'strokecore\[gpu\]'"):
        load_library(L4)


def test_without_a_gpu_tensorrt_is_not_even_imported(tmp_path: Path) -> None:
    """It ends the process with a segmentation fault where there is no driver."""
    code = (
        "import sys\nfrom strokecore.learned import devices\n"
        "from strokecore.learned.tensorrt.build import start_background_build\n"
        "from strokecore.learned.tensorrt.engine_files import ready\n"
        "from strokecore.learned.shipped import SHIPPED\n"
        "from strokecore.learned.package import load_package\n"
        "package = load_package(SHIPPED)\n"
        "if not devices.gpus():\n"
        "    assert not ready(package, 'fp32')\n"
        "    assert not start_background_build(package, 'fp32')\n"
        "    assert not {'tensorrt', 'tensorrt_rtx', 'torch', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_messages_go_to_the_log_by_severity(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "strokecore")
    trt = FakeTensorRt(FakeDriver(L4))
    logger = logger_of(trt)
    assert logger_of(trt) is logger
    for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        logger.log(getattr(trt.ILogger, name), f"a message of {name}")
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert levels == [
        ("ERROR", "TensorRT: a message of INTERNAL_ERROR"),
        ("ERROR", "TensorRT: a message of ERROR"),
        ("WARNING", "TensorRT: a message of WARNING"),
        ("DEBUG", "TensorRT: a message of INFO"),
    ]
    assert logger.said().endswith("a message of ERROR; a message of WARNING")
    logger.log("not a severity", "lost")  # comes from threads that no exception may pass
    logger.forget()
    assert logger.said() == "it gave no reason"
