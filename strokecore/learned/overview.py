"""What ``strokecore engines`` says: what is here, what would score and why, what the parity gate found."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from strokecore.anatomy.atlas import load_atlas
from strokecore.config import WEIGHT_FREE, ScoringConfig
from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned import runtimes
from strokecore.learned.devices import default_threads
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity import LIMITS, GateReport
from strokecore.learned.runtimes import RUNTIME_NAMES, Availability
from strokecore.learned.selection import default_package, select_engine
from strokecore.learned.shipped import SHIPPED, package_folder

if TYPE_CHECKING:
    from strokecore.learned.gate import Gate

Judged = dict[str, Any]
"""Whether an engine in a precision passed the gate, with the report, or why there is none."""
_NOT_JUDGED: Final[Judged] = {"passed": None, "report": None, "error": ""}


def overview(folder: Path | None = None, wanted: str = "auto", *, check: bool = False) -> dict[str, Any]:
    """JSON-ready record of this machine's engines.

    Parameters
    ----------
    folder: a model package; None for the one that runs when none is named, and for what needs one the shipped
        one.
    wanted: as in ``--engine``.
    check: run the whole parity gate on every engine that is here, whatever is remembered of it.

    Raises ModelPackageError when the package is damaged or does not fit this version.
    """
    folder = package_folder(folder) or default_package()
    if folder is None and (check or wanted in RUNTIME_NAMES):
        folder = SHIPPED
    found = [runtimes.availability(name) for name in RUNTIME_NAMES]
    package = None if folder is None else load_package(folder, atlas_sha256=load_atlas().sha256)
    judged = {} if package is None or not check else _judge(package, found, check=True)
    chosen = _chosen(folder, wanted)
    if package is not None and not check:  # after the choice, which leaves reports
        judged = _judge(package, found, check=False)
    return {
        "threads": default_threads(),
        "model": package and {"name": package.name, "version": package.version, "sha256": package.sha256},
        "checked": check,
        "engines": [_described(one, judged) for one in found],
        "chosen": chosen,
    }


def print_overview(record: dict[str, Any], console: Console) -> None:
    """The record as a table."""
    table = Table("engine", "library", "device", "precision", "parity gate", box=None)
    for engine in record["engines"]:
        names = engine["engine"], engine["library"] or "not installed", engine["device"] or "none"
        rows = [(one["precision"], _gate_words(one)) for one in engine["precisions"]]
        for row, cells in enumerate(rows or [("-", engine["reason"])]):
            table.add_row(*map(escape, (*(names if row == 0 else ("", "", "")), *cells)))
    console.print(table)
    for engine in record["engines"]:
        if engine["install"]:
            console.print(escape(f"{engine['engine']}: {engine['install']}"), highlight=False)
    if record["checked"]:
        _print_figures(record, console)
    chosen = record["chosen"]
    words = f"{chosen['engine'] or 'none'} {chosen['precision']}".strip()
    line = f"\n--engine {chosen['wanted']}: {words}. {chosen['why']}"
    console.print(escape(line), style="bold", highlight=False)
    for fallback in chosen["fallbacks"]:
        console.print(escape(f"passed over: {fallback}"), style="yellow", highlight=False)


def _described(found: Availability, judged: Mapping[tuple[str, str], Judged]) -> dict[str, Any]:
    return {
        "engine": found.engine,
        "available": found.available,
        "library": found.library,
        "device": found.device,
        "reason": found.reason,
        "install": found.install,
        "precisions": [
            {"precision": precision, **judged.get((found.engine, precision), _NOT_JUDGED)}
            for precision in found.precisions
        ],
    }


def _judge(
    package: ModelPackage, found: Sequence[Availability], *, check: bool
) -> dict[tuple[str, str], Judged]:
    """What the gate found, by engine and precision: now with ``check``, else what it remembers."""
    from strokecore.learned.gate import Gate

    gate = Gate(package, default_threads())
    judged = {}
    for one in reversed(found):  # the reference first: it is what the others are compared with
        for precision in one.precisions:
            if check:
                judged[one.engine, precision] = _examined(gate, one.engine, precision)
            else:
                judged[one.engine, precision] = _reported(gate.remembered(one.engine, precision))
    return judged


def _examined(gate: Gate, name: str, precision: str) -> Judged:
    """What the whole gate finds now; an engine that cannot be started has a reason instead of a report.

    TensorRT compiles the network first where that has not been done, which takes minutes.
    """
    if precision not in runtimes.package_precisions(name, gate.package):
        return {**_NOT_JUDGED, "error": "the package has no graph for it; trainer export --typed makes one"}
    try:
        runtime = runtimes.start(gate.package, name, precision, gate.threads)
    except (EngineError, ModelPackageError) as error:
        return {**_NOT_JUDGED, "passed": False, "error": str(error)}
    with contextlib.closing(runtime):
        return _reported(gate.examine_fully(runtime))


def _reported(report: GateReport | None) -> Judged:
    return (
        _NOT_JUDGED
        if report is None
        else {**_NOT_JUDGED, "passed": report.passed, "report": report.to_dict()}
    )


def _chosen(folder: Path | None, wanted: str) -> dict[str, Any]:
    """What ``--engine`` comes to, by doing it."""
    try:
        engine = select_engine(ScoringConfig(engine=wanted, model=folder))
    except (UsageError, ModelPackageError) as error:
        return {"wanted": wanted, "engine": None, "precision": "", "why": str(error), "fallbacks": []}
    if engine.engine == WEIGHT_FREE:
        why = "No model package is named, and the weight-free engine needs none."
    elif engine.fallbacks:
        why = "It is the first that the parity gate lets through; see below what is passed over."
    else:
        names = ", ".join(RUNTIME_NAMES)
        why = f"It is the first of {names} that is here, and the parity gate lets it through."
        if wanted != "auto":
            why = "It was asked for, and the parity gate lets it through."
    return {
        "wanted": wanted,
        "engine": engine.engine,
        "precision": engine.precision,
        "why": why,
        "fallbacks": list(engine.fallbacks),
    }


def _gate_words(one: dict[str, Any]) -> str:
    if one["error"]:
        return str(one["error"])
    if one["report"] is None:
        return "not run yet"
    date = one["report"]["date"][:10]
    if one["passed"]:
        return f"passed, {date}"
    failed = [name for name, criterion in one["report"]["criteria"].items() if not criterion["passed"]]
    return f"refused, {date}: {', '.join(failed[:3])}"


def _print_figures(record: dict[str, Any], console: Console) -> None:
    """Every criterion of every engine that was checked, side by side."""
    reports = {
        f"{engine['engine']} {one['precision']}": one["report"]
        for engine in record["engines"]
        for one in engine["precisions"]
        if one["report"] is not None
    }
    if not reports:
        return
    fixed = [Column(name, no_wrap=True) for name in ("criterion", "limit")]
    table = Table(*fixed, *reports, box=None)
    for name, limit in LIMITS.items():
        measured = [report["criteria"].get(name) for report in reports.values()]
        table.add_row(name, f"<= {limit:g}", *(_value_words(criterion) for criterion in measured))
    seconds = [f"{report['seconds']:.2f} s" for report in reports.values()]
    table.add_row("slices", "", *(str(report["slices"]) for report in reports.values()))
    table.add_row("time", "", *seconds)
    console.print()
    console.print(table)
    console.print(f"random input of seed {next(iter(reports.values()))['seed']}", highlight=False)


def _value_words(criterion: dict[str, Any] | None) -> str:
    if criterion is None:
        return "-"
    value = "none" if criterion["value"] is None else f"{criterion['value']:.3g}"
    return value if criterion["passed"] else f"[bold red]{value} refused[/]"
