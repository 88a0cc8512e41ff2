"""ONNX Runtime: on the CPU, where it is the portable reference of all engines, and on an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import io
from typing import Any, Final

from strokecore.arrays import Float4D
from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.devices import gpus, on_cpu
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import (
    CPU_BATCH_PIXELS,
    BatchedRuntime,
    check_tensors,
    is_memory,
    said,
)
from strokecore.learned.runtimes import runtime_kind

# A GPU is only busy with many slices.
_GPU_BATCH_PIXELS: Final = 2**23
_ONLY_ERRORS: Final = 3
_CPU: Final = "CPUExecutionProvider"


class OnnxRuntime(BatchedRuntime):
    """A package's fp32 graph on the CPU."""

    name = "onnx"
    provider = _CPU
    batch_pixels = CPU_BATCH_PIXELS

    def __init__(self, package: ModelPackage, precision: str = "fp32", threads: int | None = None) -> None:
        """Load the graph.

        Parameters
        ----------
        threads: at work on one batch; None as ``default_threads``.

        Raises
        ------
        EngineError: ONNX Runtime or its provider is not installed, or the device is not there.
        ModelPackageError: it cannot run the graph, or the graph is not the one that model.json describes.
        """
        super().__init__(package, precision, threads, self.batch_pixels)
        onnxruntime = self._loaded()
        self.library = f"onnxruntime {onnxruntime.__version__}"
        self.device = self._device()
        self._session: Any = self._started(onnxruntime)

    def _loaded(self) -> Any:
        """The module, when it has the provider."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime is not installed; run: {runtime_kind(self.name).install}, or use another "
                "engine."
            ) from error
        return onnxruntime

    def _device(self) -> str:
        return on_cpu(self.threads)

    def _provider_options(self) -> dict[str, str]:
        return {}

    def _started(self, onnxruntime: Any) -> Any:
        """A session of the package's graph, on the provider and no other."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # a thread that waits for another sleeps: on a machine with other work, turning in a circle costs a
        # third more of the CPU and doubles the time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _ONLY_ERRORS
        providers = [(self.provider, self._provider_options())]
        graph = self.package.onnx
        try:
            # by itself a session goes on with the CPU when its provider fails
            session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's own exceptions share no base
            if is_memory(error):
                raise EngineError(
                    f"ONNX Runtime has no memory for {self.package.name}; stop other programs."
                ) from error
            if self.provider != _CPU:
                raise EngineError(
                    f"ONNX Runtime cannot start its {self.provider} ({said(error)}); look at nvidia-smi."
                ) from error
            raise ModelPackageError(
                f"model package {self.package.folder}: {self.library} cannot load {graph.name} "
                f"({type(error).__name__}); update onnxruntime or export the model again."
            ) from error
        if session.get_providers()[0] != self.provider:  # nor does a provider that cannot start raise
            raise EngineError(
                f"ONNX Runtime cannot start its {self.provider}; look at nvidia-smi, and run: "
                f"{runtime_kind(self.name).install}, which brings the CUDA and cuDNN libraries that it asks "
                "for."
            )
        kinds = {"tensor(float)": "float32"}
        tensors = (*session.get_inputs(), *session.get_outputs())
        check_tensors(self.package, {t.name: (kinds.get(t.type, t.type), t.shape) for t in tensors})
        return session

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        bg[:], sg[:] = self._session.run(list(OUTPUT_NAMES.values()), {INPUT_NAME: slices})

    def _free(self) -> None:
        self._session = None

    def _failures(self) -> tuple[type[Exception], ...]:
        return (Exception,)  # onnxruntime's own exceptions share no base


class OnnxCudaRuntime(OnnxRuntime):
    """A package's fp32 graph on the first NVIDIA GPU that this process may use."""

    name = "onnx-cuda"
    provider = "CUDAExecutionProvider"
    batch_pixels = _GPU_BATCH_PIXELS

    def _loaded(self) -> Any:
        onnxruntime = super()._loaded()
        if self.provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this build of ONNX Runtime has no {self.provider}; run: {runtime_kind(self.name).install}."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls(directory="")  # CUDA and cuDNN as pip installs them
        return onnxruntime

    def _device(self) -> str:
        found = gpus()
        if not found:
            raise EngineError("no NVIDIA GPU for ONNX Runtime was found; look at nvidia-smi.")
        return found[0].name

    def _provider_options(self) -> dict[str, str]:
        return {
            "device_id": "0",
            # by itself it rounds fp32 to TF32
            "use_tf32": "1" if self.precision == "tf32" else "0",
            # by itself it times all algorithms for each number of slices: that takes long, and the choice,
            # with the last bits of the answer, is another each time (microsoft/onnxruntime#19822)
            "cudnn_conv_algo_search": "HEURISTIC",
        }
