"""The pictures of an ablation: what the gate did over training, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from strokecore.anatomy.regions import REGION_NAMES
from strokecore.arrays import Float64Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[Mapping[str, str]]

_DPI: Final = 110
_COLOURS: Final = (
    "#7a8691",
    "#b5541c",
    "#1f4e79",
    "#3a7d44",
    "#8e5ea2",
    "#c09a2b",
)  # control grey, TAGL warm
_SMOOTHED: Final = 25  # pair steps in the running mean: single batches of eight pairs are noise
_NOTE: Final = "Research use only."
# Sets and figures of the overview; what a set lacks is left out.
_ROWS: Final = (
    ("coupled", "territory_mean", "coupled: mean Dice of territories"),
    ("coupled", "dice", "coupled: Dice per patient"),
    ("coupled", "dice_bg", "coupled: BG-level Dice"),
    ("coupled", "dice_sg", "coupled: SG-level Dice"),
    ("coupled", "sg_sensitivity", "coupled: SG sensitivity"),
    ("uncoupled", "territory_mean", "uncoupled: mean Dice of territories"),
    ("uncoupled", "dice", "uncoupled: Dice per patient"),
    ("uncoupled", "sg_sensitivity", "uncoupled: SG sensitivity"),
    ("all", "dice", "all: Dice per patient"),
)


def draw_gate(path: Path, curves: Mapping[tuple[str, int], Curve], plain_steps: float) -> None:
    """Confidence with its running median, gate, coupling and SG loss over the steps of every run.

    Parameters
    ----------
    curves: rows of metrics.csv by (kind, seed). Control runs compute the gate and do not use it.
    plain_steps: until here TAGL's loss is the control's.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.4), layout="constrained")
    figure.suptitle(
        f"The gate in training (means of {_SMOOTHED} pair steps; one line per seed; dots: end of plain loss)"
    )
    axes = figure.subplots(2, 3, sharex=True)
    kinds = list(dict.fromkeys(kind for kind, _ in curves))
    panels = (
        ("confidence_lesion", "confidence, BG slice with lesion (dashed: median tau)", "tau_lesion"),
        ("confidence_free", "confidence, BG slice without lesion (dashed: tau)", "tau_free"),
        ("coupling", "coupling, mean of g C", None),
        ("gate_lesion", "gate g, BG slice with lesion", None),
        ("gate_free", "gate g, BG slice without lesion", None),
        ("val_dice", "validation Dice", None),
    )
    for place, (column, title, dashed) in zip(axes.flat, panels, strict=True):
        for (kind, _), rows in curves.items():
            colour = _colour(kinds.index(kind))
            steps, values = _column(rows, column)
            place.plot(steps, _smooth(values) if column != "val_dice" else values, color=colour, lw=1.1)
            if dashed is not None:
                place.plot(*_column(rows, dashed), color=colour, lw=0.8, ls="--", alpha=0.7)
        place.axvline(plain_steps, color="0.6", lw=0.8, ls=":", zorder=0)
        place.set_title(title, fontsize=10, loc="left")
        _plain(place)
        if column.startswith("gate"):
            place.set_ylim(0, 1)
            place.axhline(0.5, color="0.8", lw=0.8, zorder=0)
    for place in axes[1]:
        place.set_xlabel("step")
    for index, kind in enumerate(kinds):
        axes[0, 0].plot([], [], color=_colour(index), label=kind)
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower right")
    figure.text(0.995, 0.002, _NOTE, ha="right", color="0.5", fontsize=8)
    figure.savefig(path, dpi=_DPI)


def draw_differences(path: Path, record: Mapping[str, Any]) -> None:
    """Differences from the control with 95 % intervals and each seed's own, and by territory."""
    from matplotlib.figure import Figure

    sets = record["sets"]
    kinds = [kind for kind in record["kinds"] if kind != "control"]
    rows = [row for row in _ROWS if row[0] in sets and _known(sets[row[0]], kinds[0], row[1])]
    territories = [
        name for name in REGION_NAMES if "coupled" in sets and _known(sets["coupled"], kinds[0], name)
    ]
    figure = Figure(figsize=(12, 1.8 + 0.42 * max(len(rows), len(territories), 4)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, kind in enumerate(kinds):
        shift = (index - (len(kinds) - 1) / 2) * 0.22
        colour = _colour(index + 1)
        _forest(left, [sets[s]["differences"][kind][f] for s, f, _ in rows], shift, colour, kind)
        if territories:
            found = sets["coupled"]["differences"][kind]
            _forest(right, [found[name] for name in territories], shift, colour, kind)
    _finish(left, [title for _, _, title in rows], "difference from the control (ticks: single seeds)")
    _finish(right, territories, "Dice of territory, coupled set")
    if rows:
        left.legend(frameon=False, fontsize=9, loc="best")
    figure.suptitle("Paired differences from the control, 95 % intervals over patients and seeds")
    figure.supxlabel(_NOTE, fontsize=8, color="0.5")
    figure.savefig(path, dpi=_DPI)


def _forest(axes: Axes, found: Sequence[Mapping[str, Any]], shift: float, colour: str, kind: str) -> None:
    for place, value in enumerate(found):
        y = place + shift
        if value["low"] is not None:
            axes.plot([value["low"], value["high"]], [y, y], color=colour, lw=2)
        axes.plot(value["value"], y, "D", color=colour, ms=6, label=kind if place == 0 else None)
        seeds = [one for one in value["per_seed"] if one is not None]
        axes.plot(seeds, [y] * len(seeds), "|", color=colour, ms=9, mew=1.2)


def _finish(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.axvline(0, color="0.3", lw=0.9, zorder=0)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_title(title, fontsize=10, loc="left")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _known(found: Mapping[str, Any], kind: str, name: str) -> bool:
    return found["differences"][kind][name]["value"] is not None


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _column(rows: Curve, name: str) -> tuple[Float64Array, Float64Array]:
    """Steps and values of a column where it is filled."""
    filled = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
    steps, values = np.array(filled, np.float64).reshape(-1, 2).T
    return steps, values


def _smooth(values: Float64Array) -> Float64Array:
    """Running mean over up to _SMOOTHED values, centred; shorter at both ends."""
    half = _SMOOTHED // 2
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / np.maximum(high - low, 1))
