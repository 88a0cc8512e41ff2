"""OpenVINO, imported so that it sends nothing.

``import openvino`` by itself loads its model converter, and that reports each start to a web analytics
service (the package openvino-telemetry, opt-out; it also leaves a client id in the home folder). A node in a
hospital must not do that. Nothing but this file may import openvino; a test looks.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, Final

from strokecore.errors import EngineError

# None in sys.modules: an import of this name fails, and OpenVINO then uses its own stub that does nothing.
_TELEMETRY: Final = "openvino_telemetry"
# The converter of other formats: nothing here uses it, and it doubles the time of the import.
_CONVERTER: Final = "openvino.tools.ovc"


def load_openvino() -> Any:
    """The module openvino.

    Raises EngineError when it is not installed, or cannot be loaded.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault(_TELEMETRY, None)
    blocked = "openvino" not in modules and _CONVERTER not in modules
    if blocked:
        modules[_CONVERTER] = None
    try:
        import openvino
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be loaded ({error}); run: pip install 'strokecore[cpu]', or use another engine."
        ) from error
    finally:
        if blocked:
            del modules[_CONVERTER]
    return openvino
