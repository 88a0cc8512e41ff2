"""ONNX Runtime in fp32: the portable reference of all trained engines."""

from __future__ import annotations

from typing import Any, Final

from strokecore.errors import EngineError, ModelPackageError
from strokecore.learned.engine import Float4D
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES, ModelPackage
from strokecore.learned.runtime import CPU_BATCH_PIXELS, BatchedEngine, check_tensors, is_memory
from strokecore.learned.threads import on_cpu

# A GPU is only busy with many slices.
_BATCH_PIXELS: Final = {"cpu": CPU_BATCH_PIXELS, "cuda": 2**23}
_EXECUTION_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ONLY_ERRORS: Final = 3


class OnnxEngine(BatchedEngine):
    """A package's fp32 graph in ONNX Runtime."""

    engine = "onnx"
    PRECISIONS = ("fp32",)

    def __init__(
        self,
        package: ModelPackage,
        precision: str = "fp32",
        threads: int | None = None,
        *,
        provider: str = "cpu",
    ) -> None:
        """Load the graph.

        Parameters
        ----------
        threads: at work on one slice batch; None as ``default_threads``.
        provider: "cpu", or "cuda" for measurements on a GPU; that needs onnxruntime-gpu.

        Raises
        ------
        EngineError: there is no such precision, or ONNX Runtime or its provider is not installed.
        ModelPackageError: it cannot run the graph, or the graph is not the one that model.json describes.
        """
        super().__init__(package, precision, threads, _BATCH_PIXELS[provider])
        onnxruntime = _onnxruntime(provider)
        self.library = f"onnxruntime {onnxruntime.__version__}"
        self.device = _gpu_name() if provider == "cuda" else on_cpu(self.threads)
        self._session: Any = _session(onnxruntime, package, self.threads, provider)

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        bg[:], sg[:] = self._session.run(list(OUTPUT_NAMES.values()), {INPUT_NAME: slices})

    def _free(self) -> None:
        self._session = None

    def _failures(self) -> tuple[type[Exception], ...]:
        return (Exception,)  # onnxruntime's own exceptions share no base


def _onnxruntime(provider: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "ONNX Runtime is not installed; run: pip install 'strokecore[cpu]', or use another engine."
        ) from error
    if _EXECUTION_PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"this build of ONNX Runtime has no {_EXECUTION_PROVIDERS[provider]}; run: pip uninstall "
            "onnxruntime && pip install onnxruntime-gpu."
        )
    return onnxruntime


def _session(onnxruntime: Any, package: ModelPackage, threads: int, provider: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    # a thread that waits for another sleeps: on a machine with other work, turning in a circle costs a third
    # more of the CPU and doubles the time
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ONLY_ERRORS
    # fp32 means fp32: the CUDA provider would round to TF32 by itself
    chosen = _EXECUTION_PROVIDERS[provider], {"use_tf32": "0"} if provider == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(package.onnx, options, providers=[chosen])
    except Exception as error:  # onnxruntime's own exceptions share no base
        if is_memory(error):
            raise EngineError(
                f"ONNX Runtime has no memory for {package.name}; stop other programs."
            ) from error
        raise ModelPackageError(
            f"model package {package.folder}: ONNX Runtime {onnxruntime.__version__} cannot load "
            f"{package.onnx.name} ({type(error).__name__}); update onnxruntime or export the model again."
        ) from error
    if session.get_providers()[0] != chosen[0]:  # it falls back to the CPU without a word
        raise EngineError(
            f"ONNX Runtime cannot start its {chosen[0]}; look at nvidia-smi, and install the CUDA and cuDNN "
            "libraries that this build of onnxruntime-gpu asks for."
        )
    kinds = {"tensor(float)": "float32"}
    tensors = (*session.get_inputs(), *session.get_outputs())
    check_tensors(package, {t.name: (kinds.get(t.type, t.type), t.shape) for t in tensors})
    return session


def _gpu_name() -> str:
    from strokecore.learned.devices import gpus

    found = gpus()
    if not found:
        raise EngineError("no NVIDIA GPU for ONNX Runtime was found; look at nvidia-smi.")
    return found[0].name
