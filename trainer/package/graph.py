"""A trained network as an ONNX graph, and the golden inputs and outputs that prove a copy of it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from strokecore.arrays import Float4D, Float32Array
from strokecore.errors import StrokeCoreError
from strokecore.head.grid import CANONICAL_GRID
from strokecore.learned.arms import sg_share
from strokecore.learned.package import INPUT_NAME, OUTPUT_NAMES
from strokecore.learned.preprocessing import (
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
    with_neighbours,
)
from trainer.data.cases import Case
from trainer.network.vit_dpt import StrokeNet
from trainer.package.plain_graph import make_plain

if TYPE_CHECKING:
    import onnx

OPSET: Final = 20
# Largest difference of a probability between torch and ONNX Runtime. Measured: below 1e-6.
TOLERANCE: Final = 1e-4

# Slices of the golden set at the size of the tiny recipe: every second of two heads, 2 MB. Fewer of larger
# slices, so that the file stays at some megabytes.
_GOLDEN_PIXELS: Final = 24 * 136 * 112
_GOLDEN_SLICES: Final = (6, 24)
_RANDOM_SLICES: Final = 2
_RANDOM_SEED: Final = 20261123
# Golden probabilities are kept to this step: far below the tolerance, and the file becomes a fifth.
_GOLDEN_STEP: Final = 2.0**-16
# So are the slices: 2^-10 of a channel's standard deviation is below 0.01 HU.
_SLICE_STEP: Final = 2.0**-10

_REGISTRATION_LOG: Final = "torch.onnx._internal.exporter._registration"


class ExportError(StrokeCoreError):
    """The graph does not compute what the network does; nothing was written."""


class ProbabilityNet(nn.Module):
    """The network with softmax: what the node runs."""

    def __init__(self, net: StrokeNet) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Slices [n, channels, H, W] to class probabilities of both arms."""
        bg, sg = self.net(slices)
        return bg.softmax(1), sg.softmax(1)


def to_onnx(net: StrokeNet, size: tuple[int, int]) -> bytes:
    """The network on the CPU in fp32 as an ONNX file whose number of slices is free.

    Made plain (plain_graph), and without the exporter's notes: they hold paths of this machine.
    """
    example = torch.zeros(2, net.config.channels, *size)  # 1 would be taken for a constant
    with _quiet_exporter():
        program = torch.onnx.export(
            ProbabilityNet(net),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES.values()),
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip_notes(model)
    make_plain(model)
    return bytes(model.SerializeToString(deterministic=True))


def golden(net: StrokeNet, cases: Sequence[Case], spec: InputSpec) -> dict[str, npt.NDArray[Any]]:
    """Inputs and the network's fp32 answers, for export and for every engine's parity gate.

    Returns
    -------
    slices: float32 [n, channels, H, W], evenly spaced brain slices of ``cases``, then random ones.
    bg_probability, sg_probability: float32 [n, 9 or 6, H, W], to 2**-16.
    case: int16 [n], index of the slice's case, -1 for random ones.
    share: float32 [n], weight of the SG arm (strokecore.learned.arms.sg_share); regions: uint8 [n, H, W],
    RegionId.label; brain: bool [n, H, W]: what region decisions are made from.
    """
    low, high = _GOLDEN_SLICES
    number = int(np.clip(_GOLDEN_PIXELS // np.prod(spec.size), low, high)) - _RANDOM_SLICES
    parts = [_of_case(case, index, number // len(cases), spec) for index, case in enumerate(cases)]
    shape = (_RANDOM_SLICES, *spec.size)
    rng = np.random.default_rng(_RANDOM_SEED)
    parts.append(
        {
            "slices": _noise(spec, rng),
            "case": np.full(_RANDOM_SLICES, -1, np.int16),
            "share": np.full(_RANDOM_SLICES, 0.5, np.float32),
            "regions": np.zeros(shape, np.uint8),
            "brain": np.ones(shape, np.bool_),
        }
    )
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    found["slices"] = (np.round(found["slices"] / _SLICE_STEP) * _SLICE_STEP).astype(np.float32)
    for name, values in zip(OUTPUT_NAMES.values(), _answers(net, found["slices"]), strict=True):
        found[name] = (np.round(values / _GOLDEN_STEP) * _GOLDEN_STEP).astype(np.float32)
    return found


def _noise(spec: InputSpec, rng: np.random.Generator) -> Float32Array:
    """Slices of noise in every window and no region anywhere, float32 [n, channels, rows, columns]."""
    slices = np.zeros((_RANDOM_SLICES, spec.channel_count, *spec.size), np.float32)
    windows = slices[:, : len(spec.channels)]
    windows[:] = rng.normal(size=windows.shape)
    return slices


def golden_bytes(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """The content of golden.npz; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def check_parity(network: bytes, arrays: dict[str, npt.NDArray[Any]]) -> float:
    """Largest difference of a probability between ONNX Runtime and the golden outputs.

    Raises ExportError when it is above TOLERANCE.
    """
    worst = 0.0
    for name, values in zip(OUTPUT_NAMES.values(), run_onnx(network, arrays["slices"]), strict=True):
        difference = float(np.abs(values - arrays[name]).max())
        if not difference <= TOLERANCE:  # also when it is NaN
            raise ExportError(
                f"ONNX Runtime differs from torch by {difference:g} in {name}, expected at most "
                f"{TOLERANCE:g}; try another version of torch, onnxscript or onnxruntime."
            )
        worst = max(worst, difference)
    return worst


def run_onnx(network: bytes, slices: Float4D) -> tuple[Float4D, Float4D]:
    """What a graph answers in ONNX Runtime: float32 [n, 9, H, W] and [n, 6, H, W].

    Parameters
    ----------
    slices: float32 [n, channels, H, W].
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = list(OUTPUT_NAMES.values())
    # one by one: the largest networks take gigabytes together
    parts = [session.run(names, {INPUT_NAME: slices[row : row + 1]}) for row in range(len(slices))]
    bg, sg = (np.concatenate(arm) for arm in zip(*parts, strict=True))
    return bg, sg


def _of_case(case: Case, index: int, number: int, spec: InputSpec) -> dict[str, npt.NDArray[Any]]:
    """Up to ``number`` brain slices of a case, from the lowest to the highest."""
    brain = mask_slices(case.brain, CANONICAL_GRID, spec)
    shown = np.flatnonzero(brain.any(axis=(1, 2)))
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(number, len(shown))).round().astype(int))]
    slices = hu_slices(case.density(spec), CANONICAL_GRID, spec)
    regions = label_slices(case.regions, CANONICAL_GRID, spec)[chosen]
    share = sg_share(slice_centres_mm(CANONICAL_GRID, spec)[chosen], case.record.level_plane_mm)
    return {
        "slices": to_channels(with_neighbours(slices, chosen, spec), regions, spec),
        "case": np.full(len(chosen), index, np.int16),
        "share": share.astype(np.float32),
        "regions": regions,
        "brain": brain[chosen],
    }


@torch.inference_mode()
def _answers(net: StrokeNet, slices: Float4D) -> tuple[Float4D, Float4D]:
    whole = ProbabilityNet(net)
    parts = [[arm.numpy() for arm in whole(torch.from_numpy(row[None]))] for row in slices]
    return np.concatenate([bg for bg, _ in parts]), np.concatenate([sg for _, sg in parts])


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove documentation and source lines from every part of a graph."""
    graphs = [model.graph]
    del model.metadata_props[:]
    while graphs:
        graph = graphs.pop()
        graph.ClearField("doc_string")
        del graph.metadata_props[:]
        for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            part.ClearField("doc_string")
            del part.metadata_props[:]
        for node in graph.node:
            graphs += [a.g for a in node.attribute if a.HasField("g")]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without torch's own deprecation inside torch.export, and without its notes on torchvision."""
    log = logging.getLogger(_REGISTRATION_LOG)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        log.setLevel(level)
