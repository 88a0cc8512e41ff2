"""Running a TensorRT engine: a context and a CUDA graph per number of slices, buffers shared by all.

NVIDIA's guide asks for one context per captured graph: a graph keeps the addresses and the inner state that
its context had, and a context that is given another shape changes both. The contexts never run at the same
time, so they share the memory for activations and the buffers for inputs and outputs. The order of calls is
that of the vendor's own trtexec.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from strokecore.errors import EngineError
from strokecore.learned.cuda import Cuda, CudaError
from strokecore.learned.tensorrt_api import ICudaEngine, IExecutionContext
from strokecore.learned.tensorrt_build import logger_of

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float32]
Shape = tuple[int, ...]

MAX_LANES: Final = 4
"""Graphs that are kept; a node meets series of few lengths."""
# How TensorRT words it.
_NO_MEMORY: Final = re.compile(r"out ?of ?memory|could not be allocated", re.IGNORECASE)


class OutOfMemory(Exception):
    """The GPU has no memory for this many slices."""


class Buffers:
    """Memory for up to ``batch`` slices: pinned on the host, and on the device.

    Parameters
    ----------
    shapes: of one slice of each tensor, by name; the input first.
    scratch_bytes: what a context needs for its activations.
    """

    def __init__(self, cuda: Cuda, shapes: Mapping[str, Shape], batch: int, scratch_bytes: int) -> None:
        self._cuda, self.batch, self.scratch_bytes = cuda, batch, scratch_bytes
        self.host: dict[str, Float] = {}
        self.device: dict[str, int] = {}
        self.scratch = 0
        try:
            self.scratch = cuda.allocate(scratch_bytes) if scratch_bytes else 0
            for name, shape in shapes.items():
                self.host[name] = cuda.allocate_pinned((batch, *shape))
                self.device[name] = cuda.allocate(self.host[name].nbytes)
        except CudaError:
            self.free()
            raise

    def free(self) -> None:
        """Give everything back. No context may use it any more."""
        arrays, addresses = list(self.host.values()), [*self.device.values(), self.scratch]
        self.host, self.device, self.scratch = {}, {}, 0
        for array in arrays:
            with contextlib.suppress(CudaError):
                self._cuda.free_pinned(array)
        for address in filter(None, addresses):
            with contextlib.suppress(CudaError):
                self._cuda.free(address)


class Lanes:
    """Runs batches of any size that the plan's profile allows.

    Parameters
    ----------
    trt: the tensorrt module.
    cuda: the device that ``engine`` was loaded on.
    shapes: of one slice of each tensor, by name; the input first.
    """

    def __init__(self, trt: Any, cuda: Cuda, engine: ICudaEngine, shapes: Mapping[str, Shape]) -> None:
        self._trt, self._cuda, self._engine, self._shapes = trt, cuda, engine, dict(shapes)
        self._input, *self._outputs = self._shapes
        self._buffers: Buffers | None = None
        # by number of slices, the last used at the end; a graph of 0 could not be captured
        self._lanes: OrderedDict[int, tuple[IExecutionContext, int]] = OrderedDict()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of slices that are prepared, the last used at the end."""
        return tuple(self._lanes)

    def run(self, slices: Float, batch: int) -> dict[str, Float]:
        """The outputs for ``slices``, padded with zeros to ``batch``; copies, by name.

        Raises
        ------
        OutOfMemory: not this many at once; everything has been freed.
        CudaError: the device failed.
        EngineError: TensorRT refused.
        """
        try:
            context, graph = self._lane(batch)
            buffers = self._buffers
            assert buffers is not None, "a lane has buffers"
            inputs = buffers.host[self._input]
            inputs[: len(slices)] = slices
            inputs[len(slices) : batch] = 0.0
            if graph:
                self._cuda.launch(graph)
            else:
                self._queue(context, batch)
            self._cuda.synchronize()
        except (OutOfMemory, CudaError) as error:
            self.clear()
            if isinstance(error, CudaError) and error.out_of_memory:
                raise OutOfMemory from error
            raise
        return {name: buffers.host[name][: len(slices)].copy() for name in self._outputs}

    def clear(self) -> None:
        """Free the graphs, the contexts and the buffers."""
        while self._lanes:
            self._drop()
        if self._buffers is not None:
            self._buffers.free()
            self._buffers = None

    def _drop(self) -> None:
        """The lane that was not used for the longest time."""
        _, (_, graph) = self._lanes.popitem(last=False)
        if graph:
            with contextlib.suppress(CudaError):
                self._cuda.free_graph(graph)

    def _lane(self, batch: int) -> tuple[IExecutionContext, int]:
        if batch in self._lanes:
            self._lanes.move_to_end(batch)
            return self._lanes[batch]
        while len(self._lanes) >= MAX_LANES:
            self._drop()
        context = self._context(batch)
        scratch = context.update_device_memory_size_for_shapes()
        if scratch == 0:  # "unknown" as well as "none": then what the largest batch needs
            scratch = self._engine.get_device_memory_size_for_profile_v2(0)
        self._reserve(batch, scratch)
        self._bind(context)
        # the first run sets up what a capture must not: kernels are loaded, inner buffers filled
        self._queue(context, batch)
        self._cuda.synchronize()
        self._lanes[batch] = context, self._capture(context, batch)
        return self._lanes[batch]

    def _context(self, batch: int) -> IExecutionContext:
        logger_of(self._trt).forget()
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            self._cuda.synchronize()  # raises where the device is lost
            raise OutOfMemory
        if not context.set_optimization_profile_async(0, self._cuda.stream):
            raise self._refused("its profile")
        self._cuda.synchronize()
        shape = (batch, *self._shapes[self._input])
        if not context.set_input_shape(self._input, shape):
            raise self._refused(f"slices of shape {shape}")
        for name in self._outputs:
            found, expected = tuple(context.get_tensor_shape(name)), (batch, *self._shapes[name])
            if found != expected:
                raise EngineError(
                    f"the TensorRT plan gives {name} of shape {found}, expected {expected}; build it again "
                    "with strokecore build-engine --force."
                )
        return context

    def _reserve(self, batch: int, scratch: int) -> None:
        """Buffers that are large enough. Larger ones have other addresses, which no older graph knows."""
        held = self._buffers
        if held is not None and held.batch >= batch and held.scratch_bytes >= scratch:
            return
        if held is not None:
            batch, scratch = max(batch, held.batch), max(scratch, held.scratch_bytes)
        self.clear()
        self._buffers = Buffers(self._cuda, self._shapes, batch, scratch)

    def _bind(self, context: IExecutionContext) -> None:
        buffers = self._buffers
        assert buffers is not None, "reserved before"
        if buffers.scratch:
            context.set_device_memory(buffers.scratch, buffers.scratch_bytes)
        for name, address in buffers.device.items():
            if not context.set_tensor_address(name, address):
                raise self._refused(f"the memory of {name}")

    def _queue(self, context: IExecutionContext, batch: int) -> None:
        """Put copy, network and copies back on the stream."""
        buffers = self._buffers
        assert buffers is not None, "reserved before"
        self._cuda.upload(buffers.device[self._input], buffers.host[self._input][:batch])
        if not context.execute_async_v3(self._cuda.stream):
            raise self._refused(f"{batch} slices")
        for name in self._outputs:
            self._cuda.download(buffers.host[name][:batch], buffers.device[name])

    def _capture(self, context: IExecutionContext, batch: int) -> int:
        try:
            return self._cuda.capture(lambda: self._queue(context, batch))
        except (CudaError, EngineError) as error:
            if isinstance(error, CudaError) and (error.lost or error.out_of_memory):
                raise
            log.warning("no CUDA graph for %d slices, TensorRT runs without: %s", batch, error)
            self._cuda.synchronize()
            return 0

    def _refused(self, what: str) -> Exception:
        """Why TensorRT said no: its own words, unless the memory is the reason.

        Raises CudaError when the device is.
        """
        self._cuda.synchronize()
        said = logger_of(self._trt).said()
        if _NO_MEMORY.search(said):
            return OutOfMemory(said)
        return EngineError(
            f"TensorRT refuses {what}: {said}. Build the plan again with strokecore build-engine --force, "
            "or use another engine."
        )
