"""A benchmark for a terminal."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore.bench.benchmark import Benchmark
from strokecore.bench.engines import EngineResult
from strokecore.bench.steps import PipelineResult

# Programs that want the processor where nothing else is at work.
_QUIET: Final = 0.5


def print_benchmark(found: Benchmark, console: Console) -> None:
    """Machine, engines, what failed, and the steps of the pipeline."""
    machine, load, model = found.machine, found.load_average, found.model
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {found.threads} threads; "
        f"load {load['before']} before, {load['after']} after",
        *machine["gpus"],
    ]
    if load["before"] > _QUIET:
        lines.append("Others were at work on this machine: compare within the table, not with other tables.")
    if model is not None:
        rows, columns = model["size"]
        lines.append(f"{model['name']} {model['version']} ({model['backbone']}), {rows} x {columns} pixels")
    console.print(escape("\n".join(lines)))
    if any(call.ms for one in found.engines for call in one.calls):
        console.print(_engines(found.engines))
    for reason, names in _failures(found.engines).items():
        console.print(escape(f"{', '.join(names)}: {reason}"), style="yellow")
    if found.pipeline is not None:
        one = found.pipeline
        console.print(
            f"strokecore score, {one.head} head of {one.slices} slices, {one.engine} {one.precision}; "
            f"the process takes {one.cold.peak_mib or '?'} MiB:"
        )
        console.print(_steps(one))
    if found.pipeline_error is not None:
        console.print(escape(f"strokecore score: {found.pipeline_error}"), style="yellow")


def _engines(engines: list[EngineResult]) -> Table:
    """One line for each engine, precision and number of slices that ran."""
    table = _table("engine", "slices", "ms", "quartiles", "x ONNX", "load s", "MiB", "parity")
    for one in engines:
        once = (_digits(one.memory.load_s if one.memory else None), _mib(one), _parity(one))
        for call in one.calls:
            if call.ms is not None:
                quartiles = f"{_digits(call.ms.q1)}-{_digits(call.ms.q3)}"
                ratio = call.speed_up_over_onnx_fp32
                times = (_digits(call.ms.median), quartiles, _digits(ratio.median if ratio else None))
                table.add_row(escape(one.name), str(call.slices), *times, *once)
                once = ("", "", "")  # the same for all calls: said in the first line
    return table


def _mib(one: EngineResult) -> str:
    """Memory in MiB: the process's, and behind a plus sign the GPU's."""
    memory = one.memory
    if memory is None or memory.peak_mib is None:
        return "-"
    return f"{memory.peak_mib}" + ("" if memory.gpu_mib is None else f"+{memory.gpu_mib}")


def _parity(one: EngineResult) -> str:
    return "-" if one.parity is None else "passed" if one.parity["passed"] else "refused"


def _failures(engines: list[EngineResult]) -> dict[str, list[str]]:
    """Names of engines by what was said of them; engines with the same message stand together."""
    said: dict[str, list[str]] = {}
    for one in engines:
        if one.error is not None:
            said.setdefault(one.error, []).append(one.name)
        if one.parity is not None and not one.parity["passed"]:
            said.setdefault(f"refused by the parity gate ({one.parity['reason']})", []).append(one.name)
        for call in one.calls:
            if call.error is not None:
                said.setdefault(call.error, []).append(f"{one.name} ({call.slices} slices)")
    return said


def _steps(pipeline: PipelineResult) -> Table:
    """Medians of each step, and their share of the whole."""
    table = _table("step", "process, s", "share", "warm, s", "share")
    medians = []
    for way in (pipeline.cold, pipeline.warm):
        steps = {step: spread.median for step, spread in way.steps_s.items() if step != "total"}
        whole = way.wall_s.median
        medians.append({**steps, "start, imports, rest": whole - sum(steps.values()), "whole": whole})
    cold, warm = medians
    for step in cold:
        cells = [
            cell for way in (cold, warm) for cell in (f"{way[step]:.2f}", f"{way[step] / way['whole']:.0%}")
        ]
        table.add_row(escape(step), *cells)
    return table


def _table(first: str, *others: str) -> Table:
    """A table that fits 80 columns: what is not a terminal gets no more, and nothing may be wrapped."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _digits(value: float | None) -> str:
    """At least three digits, and none behind a hundred."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
