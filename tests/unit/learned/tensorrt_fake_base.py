"""What all objects of the stand-in for TensorRT share: they have the recorded names and no others."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

RECORD: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_record.json").read_text("utf-8"))
VERSIONS = sorted(RECORD)


class PyEnum(enum.Enum):
    """As pybind11's: a number only when asked."""

    def __int__(self) -> int:
        return int(self.value)


class Strict:
    """Base of all objects: only the recorded names can be read or set from outside."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._real = cls.__name__

    _real = ""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            table = object.__getattribute__(self, "_trt")._classes[object.__getattribute__(self, "_real")]
            if name not in table:
                raise AttributeError(f"'{self._real}' object has no attribute '{name}'")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self._trt._classes[self._real].get(name) != "settable property":
            raise AttributeError(f"'{self._real}' object attribute '{name}' cannot be set")
        object.__setattr__(self, name, value)

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
