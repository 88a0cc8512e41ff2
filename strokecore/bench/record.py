"""What was measured as JSON-ready values; docs/bench.md explains the fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from strokecore.bench.engines import Line, Measured
from strokecore.bench.memory import Memory
from strokecore.bench.steps import Scoring, Steps
from strokecore.bench.summary import Spread, speed_up
from strokecore.evaluate.statistics import Estimate
from strokecore.files import write_atomically
from strokecore.learned.package import ModelPackage

_MIB: Final = 2**20
# More digits than a time of two runs ever shares.
_DIGITS: Final = 5


def model_facts(
    package: ModelPackage, slices_from: str, flops: Mapping[str, int] | None, not_counted: str | None
) -> dict[str, Any]:
    """The package, its slices and their operations."""
    return {
        "name": package.name,
        "version": package.version,
        "sha256": package.sha256,
        "backbone": package.manifest["backbone"]["name"],
        "size": list(package.spec.size),
        "slices_from": slices_from,
        "lesion_threshold": package.lesion_threshold,
        "flops_per_slice": sum(flops.values()) if flops else None,
        "flops_by_node": dict(flops) if flops else None,
        "flops_not_counted": not_counted,
    }


def peak_lines(measured: Measured) -> list[dict[str, Any]]:
    """One line for each matrix product, and for each that could not be had."""
    lines: list[dict[str, Any]] = []
    for name, product in measured.products.items():
        seconds = [s for times in measured.product_seconds.get(name, {}).values() for s in times]
        rate = Spread.of([product.flops / s / 1e9 for s in seconds]) if seconds else None
        lines.append(
            {
                "name": name,
                "how": product.how,
                "gflops_median": rate and _short(rate.median),
                "gflops_best": rate and _short(max(product.flops / s / 1e9 for s in seconds)),
                "error": None if seconds else "the product failed",
            }
        )
    for name, error in measured.missing_products.items():
        lines.append({"name": name, "how": None, "gflops_median": None, "gflops_best": None, "error": error})
    return lines


def engine_lines(measured: Measured, flops: int | None) -> list[dict[str, Any]]:
    """One line for each engine and precision; ``flops`` of one slice."""
    return [_engine_line(line, measured, flops) for line in measured.lines]


def steps_facts(steps: Steps) -> dict[str, Any]:
    """The pipeline's steps, in a process of their own and in a warm one."""
    return {
        "error": None,
        "head": steps.origin,
        "slices": steps.slices,
        "engine": steps.engine,
        "precision": steps.precision,
        "cold": _scoring(steps.cold),
        "warm": _scoring(steps.warm),
    }


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Write the JSON; the whole of it or nothing."""
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def _engine_line(line: Line, measured: Measured, flops: int | None) -> dict[str, Any]:
    eager = _eager(line, measured.lines)
    return {
        "engine": line.subject.engine,
        "precision": line.subject.precision,
        "device": line.device,
        "library": line.library,
        "error": line.error,
        "memory": line.memory and _memory(line.memory),
        "parity": line.parity and {k: v and _short(v) for k, v in asdict(line.parity).items()},
        "peak": line.product,
        "eager": eager.subject.name if eager else None,
        "calls": [
            *(_call(line, number, measured, flops) for number in sorted(line.seconds)),
            *({"slices": number, "error": error} for number, error in sorted(line.errors.items())),
        ],
    }


def _call(line: Line, number: int, measured: Measured, flops: int | None) -> dict[str, Any]:
    own = line.seconds[number]
    milliseconds = Spread.of(own).scaled(1e3)
    eager = _eager(line, measured.lines)
    return {
        "slices": number,
        "error": None,
        "ms": _spread(milliseconds),
        "ms_per_slice": _short(milliseconds.median / number),
        "gflops": flops and _short(flops * number / milliseconds.median / 1e6),
        "share_of_peak": _share(line, number, measured, flops),
        "speed_up_over_onnx_fp32": _ratio(measured.lines[0].seconds.get(number), own),
        "speed_up_over_torch_eager": _ratio(eager.seconds.get(number) if eager else None, own),
    }


def _share(line: Line, number: int, measured: Measured, flops: int | None) -> dict[str, Any] | None:
    """The engine's rate against the product's, of the same rounds."""
    times = measured.product_seconds.get(line.product or "", {}).get(number)
    if flops is None or times is None:
        return None
    assert line.product is not None
    of_product = measured.products[line.product].flops
    return _ratio([s / of_product for s in times], [s / (flops * number) for s in line.seconds[number]])


def _eager(line: Line, lines: Sequence[Line]) -> Line | None:
    """The torch line that stands for "without any of this": same device, same precision, else fp32."""
    ran = {other.subject.name: other for other in lines if other.seconds and other.on_gpu == line.on_gpu}
    engine = "torch-eager" if line.on_gpu else "torch"
    return ran.get(f"{engine} {line.subject.precision}") or ran.get(f"{engine} fp32")


def _ratio(baseline_s: Sequence[float] | None, own_s: Sequence[float]) -> dict[str, Any] | None:
    """None without a baseline; both have the same rounds."""
    if not baseline_s or len(baseline_s) != len(own_s):
        return None
    return _estimate(speed_up(baseline_s, own_s))


def _estimate(found: Estimate) -> dict[str, Any]:
    return {name: value if value is None else _short(value) for name, value in asdict(found).items()}


def _memory(found: Memory) -> dict[str, Any]:
    return {
        "load_s": _short(found.load_s),
        "host_mib": round(found.host_bytes / _MIB),
        "gpu_mib": None if found.gpu_bytes is None else round(found.gpu_bytes / _MIB),
        "torch_mib": None if found.torch_bytes is None else round(found.torch_bytes / _MIB),
    }


def _scoring(found: Scoring) -> dict[str, Any]:
    whole = found.wall_s.median
    return {
        "wall_s": _spread(found.wall_s),
        "steps_s": {name: _spread(spread) for name, spread in found.steps_s.items()},
        "shares": {
            name: _short(spread.median / whole) for name, spread in found.steps_s.items() if name != "total"
        },
        "peak_mib": None if found.peak_bytes is None else round(found.peak_bytes / _MIB),
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "median": _short(spread.median),
        "min": _short(spread.least),
        "q1": _short(spread.lower_quartile),
        "q3": _short(spread.upper_quartile),
        "rounds": spread.number,
    }


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
