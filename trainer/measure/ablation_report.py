"""An ablation as tables shaped like the paper's: a row per kind, a column per territory, and their mean."""

from __future__ import annotations

from typing import Any, Final

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from strokecore.anatomy.regions import REGION_NAMES

TITLES: Final = {
    "coupled": "Coupled: infarct of a branch at both levels",
    "uncoupled": "Uncoupled: infarct of one level without the other's",
    "lesion_free": "Lesion-free",
    "all": "All test patients",
}
# Figures in the order of the columns, the paper's own mean first.
_COLUMNS: Final = {
    "territory_mean": "mean",
    "dice": "Dice",
    "dice_bg": "BG",
    "dice_sg": "SG",
    "sg_sensitivity": "SG found",
    "false_positive_ml": "false ml",
}
_BY: Final = {
    "class": "class channels against the true territories",
    "inside": "infarct inside the atlas regions",
}


def to_markdown(record: dict[str, Any]) -> str:
    """The tables of ablation.json."""
    lines = [
        f"# Ablation of {record['recipe']['name']}",
        "",
        *(criterion["text"] for criterion in record["verdicts"].values()),
    ]
    lines += ["", _preamble(record)]
    for name, found in record["sets"].items():
        lines += ["", f"## {TITLES[name]} ({found['patients']} patients)", ""]
        lines += _markdown(*_rows(found))
        lines += ["", "Difference from the control, paired by patient and seed (95 % interval):", ""]
        lines += _markdown(*_difference_rows(found))
    return "\n".join(lines) + "\n"


def print_report(record: dict[str, Any], console: Console) -> None:
    """The tables of every set for a terminal, and whether the criterion is met."""
    for name, found in record["sets"].items():
        header, rows = _rows(found)
        middle = header.index("mean") + 1 if "mean" in header else 1  # two tables fit 80 columns
        console.print(escape(f"{TITLES[name]} ({found['patients']} patients)"), style="bold")
        if middle > 1:
            console.print(_table(header[:middle], [row[:middle] for row in rows]))
        console.print(_table(["", *header[middle:]], [[row[0], *row[middle:]] for row in rows]))
        console.print(_table(*_difference_rows(found)))
    for criterion in record["verdicts"].values():
        console.print(escape(criterion["text"]), style="bold" if criterion["met"] else "bold red")
    console.print("Research use only.", style="dim")


def _table(header: list[str], rows: list[list[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(header):
        table.add_column(escape(column), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def _preamble(record: dict[str, Any]) -> str:
    seeds, data = record["seeds"], record["data"]
    return (
        f"Seeds {seeds[0]}-{seeds[-1]}; {data['kind']} data {data['sha256'][:12]}.\n"
        f"Territory columns: Dice of {_BY[record['territories_by']]},\n"
        "mean over the patients in whom the territory is infarcted; mean: over the territories.\n"
        "Dice: of infarct per patient; BG, SG: of one level; SG found: share of the SG infarct found.\n"
        "False ml: in patients without infarct. Threshold of each run from its own validation.\n"
        "Intervals: bootstrap over patients and seeds. Research use only."
    )


def _rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Kinds by territories, mean and the figures that this set has."""
    kinds = found["kinds"]
    shown = _shown(next(iter(kinds.values())))
    territories = [n for n in REGION_NAMES if "territory_mean" in shown]
    header = ["", *territories, *(_COLUMNS[name] for name in shown)]
    return header, [
        [kind, *(_number(values[n]) for n in [*territories, *shown])] for kind, values in kinds.items()
    ]


def _difference_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for kind, values in found["differences"].items():
        for name in _shown(values):
            value = values[name]
            interval = "-" if value["low"] is None else f"{value['low']:+.4f} to {value['high']:+.4f}"
            seeds = " ".join("-" if one is None else f"{one:+.3f}" for one in value["per_seed"])
            rows.append(
                [kind, _COLUMNS[name], f"{value['value']:+.4f}", interval, seeds, str(value["patients"])]
            )
    return ["kind", "figure", "difference", "interval", "per seed", "patients"], rows


def _shown(values: dict[str, Any]) -> list[str]:
    """The figures that somebody in the set has; territory_mean first, as in the paper."""
    return [name for name in _COLUMNS if values[name]["value"] is not None]


def _number(value: dict[str, Any]) -> str:
    return "-" if value["value"] is None else f"{value['value']:.3f}"


def _markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(header), line(["---"] + ["---:"] * (len(header) - 1)), *(line(row) for row in rows)]
