"""A benchmark's record for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_bench(record: Mapping[str, Any], console: Console) -> None:
    """Machine, engines on a whole series, on smaller calls, what failed, and the steps of the pipeline."""
    for line in _machine(record):
        console.print(escape(line))
    ran = [line for line in record["engines"] if any(call["error"] is None for call in line["calls"])]
    if ran:
        console.print(escape(_model(record["model"])))
        console.print(f"A series of {_longest(ran)} slices, from {record['model']['slices_from']} slices:")
        console.print(_speed(ran))
        console.print(_worth(ran))
        console.print("Milliseconds per slice, by slices in one call:")
        console.print(_calls(ran))
        for peak in record["peaks"]:
            console.print(escape(f"peak {peak['name']}: {_peak(peak)}"), style="dim")
    for reason, names in _failures(record["engines"]).items():
        console.print(escape(f"{', '.join(names)}: {reason}"), style="yellow")
    if record["pipeline"] and record["pipeline"]["error"]:
        console.print(escape(f"strokecore score: {record['pipeline']['error']}"), style="yellow")
    elif record["pipeline"]:
        console.print(escape(_head(record["pipeline"])))
        console.print(_steps(record["pipeline"]))


def _machine(record: Mapping[str, Any]) -> list[str]:
    machine, load = record["machine"], record["load_average"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {record['threads']} "
        f"threads; load {load['before']} before, {load['after']} after",
        *machine["gpus"],
    ]
    if load["before"] > 0.5:
        lines.append("Others were at work on this machine: compare within the table, not with other tables.")
    return lines


def _model(model: Mapping[str, Any]) -> str:
    rows, columns = model["size"]
    flops = model["flops_per_slice"]
    count = (
        f"{flops / 1e9:.2f} GFLOP per slice" if flops else f"FLOPs not known: {model['flops_not_counted']}"
    )
    return f"{model['name']} {model['version']} ({model['backbone']}), {rows} x {columns} pixels, {count}"


def _speed(lines: list[Any]) -> Table:
    """Milliseconds of the whole series, and ratios."""
    table = _table("engine", "ms", "quartiles", "min", "x ONNX fp32 (95 %)", "x eager")
    for line, call in _whole(lines):
        ms = call["ms"]
        table.add_row(
            escape(f"{line['engine']} {line['precision']}"),
            _digits(ms["median"]),
            f"{_digits(ms['q1'])}-{_digits(ms['q3'])}",
            _digits(ms["min"]),
            _with_interval(call["speed_up_over_onnx_fp32"]),
            _value(call["speed_up_over_torch_eager"], "{:.2f}"),
        )
    return table


def _worth(lines: list[Any]) -> Table:
    """What the time is worth: share of the peak, what it costs, and whether the answer is right."""
    table = _table("engine", "of peak", "load s", "MiB", "99.9 % off by", "Dice")
    for line, call in _whole(lines):
        memory, parity = line["memory"], line["parity"]
        table.add_row(
            escape(f"{line['engine']} {line['precision']}"),
            _value(call["share_of_peak"], "{:.0%}"),
            "-" if memory is None else _digits(memory["load_s"]),
            _mib(memory),
            "-" if parity is None else _form(parity["p999_difference"], "{:.1e}"),
            "-" if parity is None else _form(parity["dice"], "{:.4f}"),
        )
    return table


def _whole(lines: list[Any]) -> Iterator[tuple[Any, Any]]:
    """The lines that ran a whole series, with that call."""
    number = _longest(lines)
    for line in lines:
        for call in line["calls"]:
            if call["slices"] == number and call["error"] is None:
                yield line, call


def _longest(lines: list[Any]) -> int:
    """Slices of the whole series."""
    return max(int(call["slices"]) for line in lines for call in line["calls"])


def _calls(lines: list[Any]) -> Table:
    """Milliseconds per slice by slices in one call."""
    numbers = sorted({call["slices"] for line in lines for call in line["calls"]})
    table = _table("engine", *map(str, numbers))
    for line in lines:
        found = {call["slices"]: call for call in line["calls"] if call["error"] is None}
        cells = (_digits(found[n]["ms_per_slice"]) if n in found else "-" for n in numbers)
        table.add_row(escape(f"{line['engine']} {line['precision']}"), *cells)
    return table


def _peak(peak: Mapping[str, Any]) -> str:
    if peak["error"]:
        return str(peak["error"])
    return f"{peak['gflops_median']:.0f} GFLOP/s (best {peak['gflops_best']:.0f}); {peak['how']}"


def _failures(lines: list[Any]) -> dict[str, list[str]]:
    """Engines by what they said; those that say the same stand together."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name = f"{line['engine']} {line['precision']}"
        if line["error"]:
            found.setdefault(line["error"], []).append(name)
        for call in line["calls"]:
            if call["error"]:
                found.setdefault(call["error"], []).append(f"{name} ({call['slices']} slices)")
    return found


def _head(pipeline: Mapping[str, Any]) -> str:
    return (
        f"strokecore score, {pipeline['head']} head of {pipeline['slices']} slices, {pipeline['engine']} "
        f"{pipeline['precision']}; the process takes {pipeline['cold']['peak_mib']} MiB:"
    )


def _steps(pipeline: Mapping[str, Any]) -> Table:
    cold, warm = pipeline["cold"], pipeline["warm"]
    table = _table("step", "process, s", "share", "warm, s", "share")
    for step in cold["shares"]:
        table.add_row(
            escape(step),
            *(cell for way in (cold, warm) for cell in _step(way["steps_s"], way["shares"], step)),
        )
    for name, key in (("start, imports, rest", None), ("whole", "wall")):
        cells = []
        for way in (cold, warm):
            wall = way["wall_s"]["median"]
            rest = 1 - sum(way["shares"].values())
            cells += [f"{wall:.2f}", "100 %"] if key else [f"{wall * rest:.2f}", f"{rest:.0%}"]
        table.add_row(name, *cells)
    return table


def _step(steps: Mapping[str, Any], shares: Mapping[str, float], step: str) -> tuple[str, str]:
    return (f"{steps[step]['median']:.2f}", f"{shares[step]:.0%}") if step in steps else ("-", "-")


def _table(first: str, *others: str) -> Table:
    """A table that fits 80 columns: what is not a terminal gets no more, and nothing may be wrapped."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _digits(value: float) -> str:
    """At least three digits, and none behind a thousand."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_interval(found: Mapping[str, Any] | None) -> str:
    if found is None or found["low"] is None:
        return _value(found, "{:.2f}")
    return f"{found['value']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def _value(found: Mapping[str, Any] | None, form: str) -> str:
    return "-" if found is None else _form(found["value"], form)


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _mib(memory: Mapping[str, Any] | None) -> str:
    if memory is None:
        return "-"
    gpu = memory["gpu_mib"]
    return str(memory["host_mib"]) if gpu is None else f"{memory['host_mib']} + {gpu} GPU"
