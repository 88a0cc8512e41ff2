"""A stand-in for the tensorrt module that has no name which the vendor's bindings do not have.

Its names come from tensorrt_record.json, which was read out of the bindings of one TensorRT version; a method
or property that is not there cannot be read or set. Plans hold their ONNX graph and the contexts run it with
ONNX Runtime, on memory of the stand-in for CUDA. What NVIDIA's documentation forbids is an error here.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from tests.unit.learned.cuda_fake import FakeCuda
from tests.unit.learned.tensorrt_fake_base import RECORD, PyEnum
from tests.unit.learned.tensorrt_fake_build import Builder, IBuilderConfig, OnnxParser
from tests.unit.learned.tensorrt_fake_run import Runtime


class FakeTensorRt(ModuleType):
    """The module ``tensorrt`` of one version.

    The attributes with an underscore steer it: what goes wrong, and what was done (``_builds``, ``_runs``).
    """

    def __init__(self, version: str, cuda: FakeCuda) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self._cuda, self._major = cuda, int(version.split(".")[0])
        self._classes, self._timing = RECORD[version]["classes"], b"measured on this GPU"
        self._build_error = self._parser_error = self._load_error = self._execute_error = ""
        self._cannot_capture = self._no_context = self._unknown_scratch = False
        self._fault, self._dtype, self._contexts = 0, "FLOAT", 0
        self._builds: list[IBuilderConfig] = []
        self._runs: list[int] = []
        for name, members in RECORD[version]["enums"].items():
            setattr(self, name, PyEnum(name, members))
        for kind in (Builder, OnnxParser, Runtime):
            setattr(self, kind.__name__, self._constructor(kind))
        self.ILogger = self._logger_class()

    def _constructor(self, kind: type) -> Any:
        return lambda *arguments: kind(self, *arguments)

    def _logger_class(self) -> type:
        severity = PyEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

        class ILogger:
            def __init__(self) -> None:
                self._made = True

        for level in severity:
            setattr(ILogger, level.name, level)
        return ILogger

    def _check_logger(self, logger: Any) -> None:
        assert isinstance(logger, self.ILogger)
        assert logger._made, "ILogger.__init__ was not called: pybind11 refuses such an object"
        for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO"):
            assert name in self._classes["ILogger"]
