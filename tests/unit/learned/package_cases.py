"""Model packages for tests: a hand-made network that compares each pixel with its mirror partner."""

from __future__ import annotations

import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from strokecore.anatomy.atlas import load_atlas
from strokecore.anatomy.regions import REGION_NAMES, RegionId
from strokecore.head.canonical import Head
from strokecore.learned.arms import BG_CLASSES, BLEND_MM, SG_CLASSES, level_plane_mm, sg_share
from strokecore.learned.preprocessing import (
    DEFAULT_CHANNELS,
    PREPROCESS_VERSION,
    STROKE_WINDOW,
    InputSpec,
    hu_slices,
    label_slices,
    mask_slices,
    slice_centres_mm,
    to_channels,
)
from tests.unit.scoring.heads import darken, flat_head

SPEC = InputSpec()
# Darker than the mirror image by this much is even odds; logits per HU beyond.
EVEN_HU = 3.0
GAIN = 2.0


def mirror_network(spec: InputSpec = SPEC, classes: tuple[int, int] = (9, 6)) -> bytes:
    """An ONNX graph with the contracted tensors whose infarct probability is a logistic of the darkening.

    It looks at channels 1 and 2, the stroke window and its mirror image. Infarct is always class 1.
    """
    nodes, constants, outputs = [], [], []
    hu_per_unit = (STROKE_WINDOW[1] - STROKE_WINDOW[0]) * DEFAULT_CHANNELS[1].std
    for arm, count in zip(("bg", "sg"), classes, strict=True):
        weight = np.zeros((count, spec.channel_count, 1, 1), np.float32)
        weight[1, 1], weight[1, 2] = -GAIN * hu_per_unit, GAIN * hu_per_unit
        bias = np.full(count, -30.0, np.float32)
        bias[:2] = 0.0, -GAIN * EVEN_HU
        constants += [
            numpy_helper.from_array(weight, f"{arm}_weight"),
            numpy_helper.from_array(bias, f"{arm}_bias"),
        ]
        nodes += [
            helper.make_node("Conv", ["slices", f"{arm}_weight", f"{arm}_bias"], [f"{arm}_logits"]),
            helper.make_node("Softmax", [f"{arm}_logits"], [f"{arm}_probability"], axis=1),
        ]
        shape = ["n", count, *spec.size]
        outputs.append(helper.make_tensor_value_info(f"{arm}_probability", TensorProto.FLOAT, shape))
    shape = ["n", spec.channel_count, *spec.size]
    slices = helper.make_tensor_value_info("slices", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "mirror", [slices], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def mirror_answers(
    slices: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What ``mirror_network`` computes, without any library: class probabilities of both arms."""
    hu_per_unit = (STROKE_WINDOW[1] - STROKE_WINDOW[0]) * DEFAULT_CHANNELS[1].std
    logit = GAIN * ((slices[:, 2] - slices[:, 1]).astype(np.float64) * hu_per_unit - EVEN_HU)
    arms = []
    for count in (9, 6):
        arm = np.zeros((len(slices), count, *slices.shape[2:]), np.float32)
        arm[:, 1] = 1 / (1 + np.exp(-logit))
        arm[:, 0] = 1 / (1 + np.exp(logit))
        arms.append(arm)
    return arms[0], arms[1]


def golden_arrays() -> dict[str, npt.NDArray[Any]]:
    """golden.npz of the mirror network as the trainer would write it: an infarct, a normal head, noise."""
    sick = flat_head(noise_hu=1.0)
    for region, side, depth_hu in (("M1", "right", 7.0), ("L", "right", 6.0), ("M5", "right", 7.0)):
        sick = darken(sick, RegionId(region, side), depth_hu)  # type: ignore[arg-type]
    parts = [_golden_slices(head, case) for case, head in enumerate((sick, flat_head(1.0, seed=1)))]
    parts.append(
        {
            "slices": np.random.default_rng(5).normal(size=(1, 3, *SPEC.size)).astype(np.float32),
            "case": np.full(1, -1, np.int16),
            "share": np.full(1, 0.5, np.float32),
            "regions": np.zeros((1, *SPEC.size), np.uint8),
            "brain": np.ones((1, *SPEC.size), np.bool_),
        }
    )
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    answers = (np.round(arm * 2**16) / 2**16 for arm in mirror_answers(arrays["slices"]))
    arrays["bg_probability"], arrays["sg_probability"] = (arm.astype(np.float32) for arm in answers)
    return arrays


def _golden_slices(head: Head, case: int) -> dict[str, npt.NDArray[Any]]:
    brain = mask_slices(head.brain.parenchyma, head.grid, SPEC)
    chosen = np.array([2, 4, 8, 10])  # two of each level
    regions = label_slices(head.regions, head.grid, SPEC)[chosen]
    share = sg_share(slice_centres_mm(head.grid, SPEC)[chosen], level_plane_mm(head.regions, head.grid))
    return {
        "slices": to_channels(hu_slices(head.hu, head.grid, SPEC)[chosen][:, None], regions, SPEC),
        "case": np.full(len(chosen), case, np.int16),
        "share": share.astype(np.float32),
        "regions": regions,
        "brain": brain[chosen],
    }


@cache
def golden_bytes() -> bytes:
    """The content of golden.npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **golden_arrays())
    return buffer.getvalue()


def manifest(**changes: Any) -> dict[str, Any]:
    """A valid model.json without "files"."""
    content: dict[str, Any] = {
        "schema": 1,
        "name": "mirror",
        "version": "1.2.3+test",
        "licence": "Apache-2.0",
        "intended_use": "research use only",
        "training": {"data": {"kind": "simulated", "labels": "territory", "sha256": "0" * 64}},
        "metrics": {"validation": {}, "test": None},
        "input": {
            "name": "slices",
            "dtype": "float32",
            "shape": ["n", 3, *SPEC.size],
            **SPEC.to_dict(),
        },
        "outputs": [
            {"name": "bg_probability", "shape": ["n", 9, *SPEC.size], "classes": list(BG_CLASSES)},
            {"name": "sg_probability", "shape": ["n", 6, *SPEC.size], "classes": list(SG_CLASSES)},
        ],
        "arms": {"rule": "plane_midway_between_levels", "blend_mm": BLEND_MM},
        "lesion": {"threshold": 0.5, "minimum_component_ml": 0.7},
        "regions": {
            "aggregation": "logit_of_mean",
            "calibration": {name: {"slope": 1.0, "offset": 0.5} for name in REGION_NAMES},
        },
        "preprocess_version": PREPROCESS_VERSION,
        "atlas_sha256": load_atlas().sha256,
        "minimum_strokecore": "0.1.0",
        "backbone": {"name": "none", "origin": "none", "sha256": "none", "built_with_dinov3": False},
    }
    return {**content, **changes}


def write_package(
    folder: Path, network: bytes | None = None, golden: bytes | None = None, **changes: Any
) -> Path:
    """A package folder; ``changes`` replace top-level fields of model.json (None removes one)."""
    folder.mkdir(parents=True)
    files = {
        "model.onnx": network or mirror_network(),
        "weights.safetensors": b"weights",
        "golden.npz": golden if golden is not None else golden_bytes(),
        "MODEL_CARD.md": b"# Card\n",
        "LICENSE": b"Apache-2.0\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    whole = {**manifest(), "files": hashes, **changes}
    write_manifest(folder, {name: value for name, value in whole.items() if value is not None})
    return folder


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    (folder / "model.json").write_text(json.dumps(content, indent=1), "utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
    return content
