"""torch: CUDA graphs on an NVIDIA GPU; on the CPU for comparison, where it is the slowest."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any, Final

from strokecore.errors import EngineError
from strokecore.learned.engine import Float4D
from strokecore.learned.package import ModelPackage, output_shapes
from strokecore.learned.runtime import CPU_BATCH_PIXELS, BatchedEngine, check_tensors, is_memory, said
from strokecore.learned.threads import on_cpu

# Hopper, Ada and Ampere have matrix units for bf16 and TF32; older GPUs only imitate them.
_MATRIX_UNITS: Final = (8, 0)


class TorchEngine(BatchedEngine):
    """A package's graph in torch.

    Attributes
    ----------
    on_gpu: it runs on an NVIDIA GPU.
    """

    engine = "torch"
    PRECISIONS = ("bf16", "tf32", "fp32")

    def __init__(
        self,
        package: ModelPackage,
        precision: str,
        threads: int | None = None,
        *,
        device: str | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """Load the network.

        Parameters
        ----------
        precision: "bf16" and "tf32" need a GPU of compute capability 8.0 or more.
        threads: on the CPU; None as ``default_threads``.
        device: "cpu", or "cuda" for the first GPU that this process may use; None: that one if there is
            one.
        cuda_graphs: False runs operation by operation, as torch does by itself.

        Raises
        ------
        EngineError: torch, onnx, the device or the precision is not there, or torch cannot run the graph.
        ModelPackageError: the graph is not the one that model.json describes.
        """
        super().__init__(package, precision, threads, CPU_BATCH_PIXELS)
        torch = self._torch = _torch()
        from strokecore.learned.cuda_graphs import MOST, Recorder, Recordings
        from strokecore.learned.torch_network import TorchNetwork, read_graph
        from strokecore.learned.torch_settings import torch_settings

        self._settings = torch_settings
        self._network: TorchNetwork | None = None
        self._recordings: Recordings | None = None
        self.library = f"torch {torch.__version__}"
        self._where = _device(torch, device)
        self.on_gpu = self._where.type == "cuda"
        self.device = torch.cuda.get_device_name(self._where) if self.on_gpu else on_cpu(self.threads)
        _check_precision(torch, self._where, precision, self.device)
        graph = read_graph(package.onnx)
        check_tensors(package, graph.tensors)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        try:
            self._network = TorchNetwork(graph, self._where, dtype)
            if self.on_gpu:
                self.batch = MOST
            if self.on_gpu and cuda_graphs:
                shape = (len(package.spec.channels), *package.spec.size)
                recorder = partial(Recorder, self._network, self._where)
                self._recordings = Recordings(recorder, shape, self._where)
        except RuntimeError as error:
            why = "no memory is left for the network" if is_memory(error) else said(error)
            raise EngineError(
                f"torch cannot use {self.device}: {why}; look at nvidia-smi, or use another engine."
            ) from error

    def _answer(self, slices: Float4D, bg: Float4D, sg: Float4D) -> None:
        torch, network = self._torch, self._network
        assert network is not None, "not closed"
        outputs = torch.from_numpy(bg), torch.from_numpy(sg)
        with torch.inference_mode(), self._scoped():
            if self._recordings is not None:
                self._recordings.run(torch.from_numpy(slices), *outputs)
                return
            found = network(torch.from_numpy(slices).to(self._where))
            for values, answer in zip(outputs, found, strict=True):
                values.copy_(answer)

    def _scoped(self) -> contextlib.AbstractContextManager[None]:
        return self._settings(None if self.on_gpu else self.threads, tf32=self.precision == "tf32")

    def _next(self, left: int) -> int:
        return super()._next(left) if self._recordings is None else self._recordings.next(left)

    def _outputs(self, number: int) -> tuple[Float4D, Float4D]:
        """On a GPU memory that it can write by itself; torch keeps and reuses what was pinned once."""
        if not self.on_gpu:
            return super()._outputs(number)
        shapes = [(number, *shape[1:]) for shape in output_shapes(self.package.spec.size).values()]
        bg, sg = (self._torch.empty(shape, pin_memory=True).numpy() for shape in shapes)
        return bg, sg

    def _shrink(self, error: Exception) -> None:
        super()._shrink(error)
        if self._recordings is not None:
            self._recordings.forget(self.batch)

    def _free(self) -> None:
        self._network = self._recordings = None
        if self.on_gpu:
            with contextlib.suppress(RuntimeError):  # of a GPU that is lost
                self._torch.cuda.empty_cache()

    def _failures(self) -> tuple[type[Exception], ...]:
        return RuntimeError, MemoryError  # torch's own for memory and devices are RuntimeErrors


def _torch() -> Any:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries is missing
        raise EngineError(
            f"torch cannot be loaded ({said(error)}); run: pip install 'strokecore[train]', or use another "
            "engine."
        ) from error
    return torch


def _device(torch: Any, wanted: str | None) -> Any:
    seen = torch.cuda.is_available()
    if wanted == "cuda" and not seen:
        remedy = "look at nvidia-smi" if torch.version.cuda else "install torch's build for CUDA"
        raise EngineError(f"torch {torch.__version__} sees no NVIDIA GPU; {remedy}, or use another engine.")
    return torch.device("cuda", 0) if seen and wanted != "cpu" else torch.device("cpu")


def _check_precision(torch: Any, where: Any, precision: str, device: str) -> None:
    if precision == "fp32":
        return
    if where.type == "cpu":
        raise EngineError(f"torch in {precision} needs an NVIDIA GPU; use torch in fp32, or openvino.")
    capability = torch.cuda.get_device_capability(where)
    if capability < _MATRIX_UNITS:
        raise EngineError(
            f"{device} has compute capability {'.'.join(map(str, capability))}, and {precision} needs "
            f"{'.'.join(map(str, _MATRIX_UNITS))}; use torch in fp32."
        )
