"""A model package of any backbone and size with random weights: fast as a trained one, of no other use.

    python -m tests.benchmarks.random_package OUT --backbone vits16 --size 512 416

Its golden slices are of two simulated heads. The last layer is scaled so that probabilities vary in them as
a trained network's do; the parity gate rightly refuses to judge by constants.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from strokecore.learned.arms import CLASSES
from strokecore.learned.package import (
    INPUT_NAME,
    MANIFEST,
    OUTPUT_NAMES,
    file_sha256,
    load_package,
    output_shapes,
)
from strokecore.learned.preprocessing import InputSpec
from strokecore.simulate import VALIDATE_SEEDS
from tests.unit.learned.package_cases import manifest
from trainer.data.cases import Case, Dataset
from trainer.loop.checkpoint import write_weights
from trainer.network.vit_dpt import BACKBONES, NetworkConfig, StrokeNet
from trainer.package.graph import check_parity, golden, golden_bytes, to_onnx
from trainer.prepare.simulated import prepare_simulated

# The part of the head that the tiny recipe's slices show.
_ROWS_MM: Final = 204.0
_HEADS: Final = 2
# Log-odds of infarct in brain, mean and standard deviation: most of it healthy, some of it not.
_MEAN: Final = -2.0
_SPREAD: Final = 2.0
_TEXT: Final = "Random weights, made to measure speed. Not a model of anything.\n"


def write_random_package(out: Path, backbone: str, size: tuple[int, int], seed: int = 0) -> Path:
    """Write the package; ``size`` in pixels, (rows, columns), multiples of the backbone's patch."""
    torch.manual_seed(seed)
    spec = InputSpec(size=size, pixel_mm=round(_ROWS_MM / size[0], 4))
    net = StrokeNet(NetworkConfig(backbone)).eval()
    cases = simulated_cases()
    spread_answers(net, golden(net, cases, spec))
    arrays = golden(net, cases, spec)
    network = to_onnx(net, size)
    check_parity(network, arrays)
    out.mkdir(parents=True)
    (out / "model.onnx").write_bytes(network)
    (out / "golden.npz").write_bytes(golden_bytes(arrays))
    weights = write_weights(out / "weights.safetensors", net.decoder.state_dict(), {})
    for name in ("MODEL_CARD.md", "LICENSE"):
        (out / name).write_text(_TEXT, "utf-8")
    content = _manifest(backbone, spec, weights)
    content["files"] = {path.name: file_sha256(path) for path in sorted(out.iterdir())}
    (out / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    load_package(out)
    return out


def simulated_cases() -> list[Case]:
    """Heads of the simulator's validation seeds, prepared as the trainer does."""
    with tempfile.TemporaryDirectory() as folder:
        *_, dataset = prepare_simulated(Path(folder) / "data", _HEADS, VALIDATE_SEEDS, workers=1)
        assert isinstance(dataset, Dataset)
        return [dataset.load(record) for record in dataset.split("validate")]


@torch.no_grad()
def spread_answers(net: StrokeNet, arrays: dict[str, Any]) -> None:
    """Scale and shift both arms' last layer by what they answer in the golden heads' brain."""
    inside = torch.from_numpy(arrays["brain"] & (arrays["case"] >= 0)[:, None, None])
    rows = [net(torch.from_numpy(row[None])) for row in arrays["slices"]]
    for arm, answers in zip((net.decoder.bg, net.decoder.sg), zip(*rows, strict=True), strict=True):
        last = arm[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        logits = torch.cat(answers).movedim(1, -1)[inside]
        logits = logits - logits.mean(0)
        last.bias -= torch.cat(answers).movedim(1, -1)[inside].mean(0)
        scale = _SPREAD / float(_log_odds(logits).std())
        last.weight *= scale
        last.bias *= scale
        last.bias[0] += float(_log_odds(logits * scale).mean()) - _MEAN


def _log_odds(logits: Tensor) -> Tensor:
    """Of infarct, any class but the first; ``logits`` [pixels, classes]."""
    return logits[:, 1:].logsumexp(1) - logits[:, 0]


def _manifest(backbone: str, spec: InputSpec, weights: str) -> dict[str, Any]:
    shapes = output_shapes(spec.size)
    return manifest(
        name=f"random-{backbone}",
        version=f"0.0.0+{weights[:8]}",
        intended_use="measuring speed only",
        input={
            "name": INPUT_NAME,
            "dtype": "float32",
            "shape": ["n", spec.channel_count, *spec.size],
            **spec.to_dict(),
        },
        outputs=[
            {"name": OUTPUT_NAMES[arm], "shape": shapes[arm], "classes": list(classes)}
            for arm, classes in CLASSES.items()
        ],
        backbone={"name": backbone, "origin": "random", "sha256": "none", "built_with_dinov3": False},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the package; must not exist")
    parser.add_argument("--backbone", choices=list(BACKBONES), default="tiny")
    parser.add_argument("--size", type=int, nargs=2, default=(136, 112), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows, columns = options.size
    write_random_package(options.out, options.backbone, (rows, columns), options.seed)
    megabytes = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.out}: {options.backbone}, {rows} x {columns}, {megabytes:.0f} MB")


if __name__ == "__main__":
    main()
