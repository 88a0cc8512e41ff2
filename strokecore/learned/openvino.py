"""OpenVINO on the CPU: bf16 where the CPU computes in it, else fp32.

``import openvino`` by itself loads its model converter, and that reports each start to a web analytics
service (the package openvino-telemetry, opt-out; it also leaves a client id in the home folder). A node in a
hospital must not do that: nothing but ``load_openvino`` may import openvino, and a test looks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from types import ModuleType
from typing import Any, Final

from strokecore.arrays import Float4D
from strokecore.errors import EngineError
from strokecore.learned.compiled_cache import CompiledCache
from strokecore.learned.devices import cpu_name, on_cpu
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import (
    CPU_BATCH_PIXELS,
    BatchedRuntime,
    check_tensors,
    is_memory,
    said,
)
from strokecore.learned.runtimes import runtime_kind

log = logging.getLogger(__name__)

# None in sys.modules: an import of this name fails, and OpenVINO then uses its own stub that does nothing.
_TELEMETRY: Final = "openvino_telemetry"
# The converter of other formats: nothing here uses it, and it doubles the time of the import.
_CONVERTER: Final = "openvino.tools.ovc"

# A few models in two precisions.
_COMPILED: Final = CompiledCache("openvino", ".blob", 6, 2 * 2**30)
_CAPABILITIES: Final = {"bf16": "BF16", "fp32": "FP32"}
_INFERENCE_PRECISION: Final = {"bf16": "bf16", "fp32": "f32"}


class OpenVinoRuntime(BatchedRuntime):
    """A package's graph in OpenVINO's CPU plugin."""

    name = "openvino"

    def __init__(self, package: ModelPackage, precision: str, threads: int | None = None) -> None:
        """Compile the graph, or load it from the cache of compiled ones.

        Parameters
        ----------
        threads: at work on one batch; None as ``default_threads``.

        Raises
        ------
        EngineError: OpenVINO is not installed, cannot run the graph, or this CPU lacks the precision.
        ModelPackageError: the graph is not the one that model.json describes.
        """
        super().__init__(package, precision, threads, CPU_BATCH_PIXELS)
        openvino = load_openvino()
        self.library = f"openvino {openvino.__version__.split('-')[0]}"
        self.device = on_cpu(self.threads)
        try:
            core = openvino.Core()
            has = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if _CAPABILITIES[precision] not in has:
                raise EngineError(
                    f"{cpu_name()} does not compute in {precision}, says OpenVINO (it has {', '.join(has)}); "
                    "use openvino in fp32, or onnx."
                )
            key = {
                "package_sha256": package.sha256,
                "openvino": openvino.__version__,
                "precision": precision,
                "cpu": f"{cpu_name()}; {', '.join(sorted(has))}",
            }
            compiled = _compiled(core, package, _settings(precision, self.threads), key)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(
                f"{self.library} cannot run {package.onnx.name} of {package.name} in {precision} "
                f"({'no memory' if is_memory(error) else said(error)}); use another engine."
            ) from error
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != _INFERENCE_PRECISION[precision]:
            raise EngineError(f"OpenVINO computes in {used} when asked for {precision}; use another engine.")

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        self._request.infer({INPUT_NAME: slices}, share_inputs=True)
        for name, values in zip(OUTPUT_NAMES.values(), (bg, sg), strict=True):
            values[:] = self._request.get_tensor(name).data

    def _free(self) -> None:
        self._request = None

    def _failures(self) -> tuple[type[Exception], ...]:
        return RuntimeError, MemoryError


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
            f"OpenVINO cannot be loaded ({error}); run: {runtime_kind('openvino').install}, or use another "
            "engine."
        ) from error
    finally:
        if blocked:
            del modules[_CONVERTER]
    return openvino


def _settings(precision: str, threads: int) -> dict[str, Any]:
    """Properties of the compiled model.

    Threads are not pinned: OpenVINO pins them to the first cores, and so would every worker of this machine.
    Without "ACCURACY" it may use other formats than fp32 where it thinks that faster.
    """
    return {
        "INFERENCE_PRECISION_HINT": _INFERENCE_PRECISION[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


def _compiled(core: Any, package: ModelPackage, settings: dict[str, Any], key: dict[str, str]) -> Any:
    """From the cache where it is there and sound, else compiled now and kept."""
    kept = _COMPILED.load(key)
    if kept is not None:
        # whole as it was written; should the library not like it after all, it is made again
        with contextlib.suppress(RuntimeError):
            return core.import_model(io.BytesIO(kept), "CPU", settings)
        _COMPILED.discard(key)
    model = core.read_model(package.onnx)
    check_tensors(package, {t.any_name: _described(t) for t in (*model.inputs, *model.outputs)})
    compiled = core.compile_model(model, "CPU", settings)
    stream = io.BytesIO()
    compiled.export_model(stream)
    try:
        _COMPILED.store(key, stream.getvalue())
    except EngineError as error:
        log.warning("the compiled model is not kept, so every start compiles it again: %s", error)
    return compiled


def _described(tensor: Any) -> tuple[str, list[Any]]:
    """(type, shape) as ``check_tensors`` has them."""
    shape = [
        length.get_length() if length.is_static else str(length) for length in tensor.get_partial_shape()
    ]
    kind = tensor.get_element_type().to_string()
    return {"f32": "float32"}.get(kind, kind), shape
