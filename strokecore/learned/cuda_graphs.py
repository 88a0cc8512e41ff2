"""A torch network on the GPU as CUDA graphs: one recording per number of slices, replayed in one call.

Of a small network most time on a fast GPU goes into starting its thousand kernels one by one from Python; a
recording starts them all at once. It holds fixed addresses, so slices are copied into its input, padded up to
the next number that there is a recording for, and answers are copied out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from strokecore.learned.runtime import is_memory, padded_batch

MOST: Final = 64
"""Slices of the largest recording; there are at most seven: for 1, 2, 4, 8, 16, 32 and 64."""

# What libraries set up at their first calls must not happen inside a recording; torch asks for some runs.
_WARM_UP_RUNS: Final = 3

Network = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Recording:
    """A network for a fixed number of slices.

    Attributes
    ----------
    slices: its input, and bg, sg: its outputs, on the device; always the same memory.
    replay: computes the outputs from the input.
    """

    slices: Tensor
    bg: Tensor
    sg: Tensor
    replay: Callable[[], None]


class Recordings:
    """Those of one network that were needed so far.

    Parameters
    ----------
    recorder: makes what makes a recording for an input; on a GPU ``Recorder`` of the network.
    shape: of a slice.
    most: slices of the largest one; a power of two.
    """

    def __init__(
        self,
        recorder: Callable[[], Callable[[Tensor], Recording]],
        shape: tuple[int, int, int],
        device: torch.device,
        most: int = MOST,
    ) -> None:
        self._recorder, self._shape, self._device = recorder, shape, device
        self._record = recorder()
        self._pinned = device.type == "cuda"
        self._kept: dict[int, tuple[Recording, Tensor]] = {}
        self.most = most

    def next(self, left: int) -> int:
        """How many of ``left`` slices the next call takes."""
        return padded_batch(left, self.most)[0]

    def run(self, slices: Tensor, bg: Tensor, sg: Tensor) -> None:
        """Answer as many slices as ``next`` gave, into ``bg`` and ``sg``; all three are on the CPU."""
        number = len(slices)
        taken, batch = padded_batch(number, self.most)
        assert taken == number, "as next() gave"
        if batch not in self._kept:
            self._kept[batch] = self._new(batch)
        recording, staging = self._kept[batch]
        staging[:number] = slices
        recording.slices.copy_(staging, non_blocking=True)
        recording.replay()
        bg.copy_(recording.bg[:number], non_blocking=True)
        sg.copy_(recording.sg[:number], non_blocking=True)
        if self._pinned:
            torch.cuda.current_stream(self._device).synchronize()

    def forget(self, most: int) -> None:
        """Free all recordings; the new ones are for up to ``most`` slices."""
        self._kept.clear()
        self.most = most
        self._record = self._recorder()  # its pool of memory is not used again once it is empty
        if self._pinned:
            torch.cuda.empty_cache()

    def _new(self, batch: int) -> tuple[Recording, Tensor]:
        """A recording, and memory of the host that the GPU can read by itself."""
        staging = torch.zeros((batch, *self._shape), pin_memory=self._pinned)
        return self._record(staging.to(self._device)), staging


class Recorder:
    """Records a network as CUDA graphs, which share one pool of memory: they never run at the same time."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network = network
        self._pool = torch.cuda.graph_pool_handle()
        # one for all: libraries keep working memory for each stream
        self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, slices: Tensor) -> Recording:
        aside = self._aside
        aside.wait_stream(torch.cuda.current_stream(slices.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_RUNS):
                self._network(slices)
        aside.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # "thread_local": another thread of this process may use the GPU meanwhile, to build an engine
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                bg, sg = self._network(slices)
        except RuntimeError as error:
            # what failed inside is hidden by the end of the recording, which fails too
            if isinstance(error.__context__, RuntimeError) and is_memory(error.__context__):
                raise error.__context__ from None
            raise
        return Recording(slices, bg, sg, graph.replay)
