"""What ``strokecore engines`` says: what is here, what would serve and why, and how the gate judged it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from strokecore.anatomy.atlas import load_atlas
from strokecore.config import ScoringConfig
from strokecore.errors import EngineError, ModelPackageError, UsageError
from strokecore.learned import runtimes, verdicts
from strokecore.learned.devices import default_threads
from strokecore.learned.package import ModelPackage, load_package
from strokecore.learned.parity_report import LIMITS
from strokecore.learned.runtimes import RUNTIME_NAMES, Availability
from strokecore.learned.selection import default_package, select_engine
from strokecore.learned.shipped import SHIPPED, package_folder


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
    package = None
    checked: dict[tuple[str, str], dict[str, Any]] = {}
    if folder is not None:
        package = load_package(folder, atlas_sha256=load_atlas().sha256)
        if check:
            checked = _check(package, found)
    return {
        "threads": default_threads(),
        "model": package and {"name": package.name, "version": package.version, "sha256": package.sha256},
        "engines": [_described(one, package, checked) for one in found],
        "chosen": _chosen(folder, wanted),
    }


def print_overview(record: dict[str, Any], console: Console) -> None:
    """The record as a table."""
    table = Table("engine", "library", "device", "precision", "parity gate", box=None)
    for engine in record["engines"]:
        precisions = engine["precisions"] or [{"precision": "-", "verdict": engine["reason"]}]
        for row, one in enumerate(precisions):
            names = (engine["engine"], engine["library"] or "not installed", engine["device"] or "none")
            shown = names if row == 0 else ("", "", "")
            table.add_row(*map(escape, (*shown, one["precision"], _verdict_words(one))))
    console.print(table)
    for engine in record["engines"]:
        if engine["install"]:
            console.print(escape(f"{engine['engine']}: {engine['install']}"), highlight=False)
    _print_figures(record, console)
    chosen = record["chosen"]
    words = f"{chosen['engine'] or 'none'} {chosen['precision']}".strip()
    line = f"\n--engine {chosen['wanted']}: {words}. {chosen['why']}"
    console.print(escape(line), style="bold", highlight=False)
    for fallback in chosen["fallbacks"]:
        console.print(escape(f"passed over: {fallback}"), style="yellow", highlight=False)


def _described(
    found: Availability, package: ModelPackage | None, checked: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, Any]:
    return {
        "engine": found.engine,
        "available": found.available,
        "library": found.library,
        "device": found.device,
        "reason": found.reason,
        "install": found.install,
        "precisions": [
            {
                "precision": precision,
                **(checked.get((found.engine, precision)) or _remembered(found.engine, precision, package)),
            }
            for precision in found.precisions
        ],
    }


def _remembered(engine: str, precision: str, package: ModelPackage | None) -> dict[str, Any]:
    if package is None:
        return {"verdict": None}
    verdict = verdicts.remembered(verdicts.key_of(package, engine, precision, default_threads()))
    if verdict is None:
        return {"verdict": None}
    date = verdict.date.isoformat(timespec="seconds")
    return {"verdict": verdict.passed, "date": date, "report": verdict.report.to_dict()}


def _check(package: ModelPackage, found: Sequence[Availability]) -> dict[tuple[str, str], dict[str, Any]]:
    """The whole gate on each; what cannot be started has a reason instead of a report."""
    from strokecore.learned.gate import Gate

    gate = Gate(package, default_threads())
    checked: dict[tuple[str, str], dict[str, Any]] = {}
    for engine in reversed(found):  # the reference first: it is what the others are compared with
        for precision in engine.precisions:
            try:
                runner = runtimes.start(package, engine.engine, precision, default_threads())
            except (EngineError, ModelPackageError) as error:
                checked[engine.engine, precision] = {"verdict": False, "error": str(error)}
                continue
            try:
                report = gate.examine_fully(runner)
            finally:
                runner.close()
            checked[engine.engine, precision] = {
                "verdict": report.passed,
                "report": report.to_dict(),
                "checked": True,
            }
    return checked


def _chosen(folder: Path | None, wanted: str) -> dict[str, Any]:
    """What ``--engine`` comes to, by doing it."""
    try:
        engine = select_engine(ScoringConfig(engine=wanted, model=folder))
    except (UsageError, ModelPackageError) as error:
        return {"wanted": wanted, "engine": None, "precision": "", "why": str(error), "fallbacks": []}
    if engine.engine == "asymmetry":
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


def _verdict_words(one: dict[str, Any]) -> str:
    verdict = one.get("verdict")
    if isinstance(verdict, str):  # why the engine is not available
        return verdict
    if "error" in one:
        return str(one["error"])
    if verdict is None:
        return "not run yet"
    when = f", {one['date'][:10]}" if "date" in one else ""
    if verdict:
        return f"passed{when}"
    failed = [name for name, c in one["report"]["criteria"].items() if not c["passed"]]
    return f"refused{when}: {', '.join(failed[:3])}"


def _print_figures(record: dict[str, Any], console: Console) -> None:
    """Every criterion of every engine that was checked, side by side."""
    reports = {
        f"{engine['engine']} {one['precision']}": one["report"]
        for engine in record["engines"]
        for one in engine["precisions"]
        if one.get("checked")
    }
    if not reports:
        return
    fixed = [Column(name, no_wrap=True) for name in ("criterion", "limit")]
    table = Table(*fixed, *reports, box=None)
    for name, limit in LIMITS.items():
        measured = [report["criteria"].get(name) for report in reports.values()]
        table.add_row(name, str(limit), *(_value_words(criterion) for criterion in measured))
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
