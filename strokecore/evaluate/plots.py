"""The pictures of a study: ROC, reliability, AUC by depth, Bland-Altman, confusion, rates by region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from strokecore.anatomy.regions import SIDES
from strokecore.evaluate import statistics as st
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.statistics import in_words
from strokecore.scoring.aspects import FULL_SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI: Final = 120
_INK, _SOFT, _WARM = "#1f4e79", "#9db7d1", "#b5541c"
_COLOURS: Final = (_INK, _WARM, "#3d7a4e", "#8a5aa8")
_SMALLEST_DOT, _LARGEST_DOT = 12.0, 500.0
_NOTE: Final = "Research use only."


def draw_all(outcomes: Sequence[Outcome], figures: dict[str, Any], folder: Path) -> list[Path]:
    """Write a PNG of each picture; returns the files. by_depth.png only where infarcts of known depth are."""
    drawn = {
        "roc": roc(outcomes, figures),
        "regions": rates_by_region(figures),
        "bland_altman": bland_altman(outcomes, figures),
        "aspects_confusion": confusion(outcomes),
        "reliability": reliability(figures),
    }
    if figures["detection"]:
        drawn["by_depth"] = auc_by_depth(figures)
    paths = []
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=_DPI)
        paths.append(path)
    return paths


def roc(outcomes: Sequence[Outcome], figures: dict[str, Any]) -> Figure:
    """Region ROC over all cases, with the point at which the node decides."""
    figure, axes = _figure(5.2, 5.2)
    judged = np.array([o.truth.judged for o in outcomes])
    truth = np.array([o.truth.regions for o in outcomes])
    found = figures["regions"]
    if (truth & judged).any() and (~truth & judged).any():
        probability = np.array([o.probability for o in outcomes])
        false, true = st.roc_curve(truth, np.where(judged, probability, np.nan))
        axes.plot(false, true, color=_INK, lw=1.8)
        # the decision also asks for a tall enough lesion, so its point need not lie on the curve
        point = (1 - found["specificity"]["value"], found["sensitivity"]["value"])
        axes.plot(*point, "o", color=_WARM, label="what the node calls affected")
        axes.legend(loc="lower right", frameon=False)
    axes.plot([0, 1], [0, 1], color=_SOFT, lw=0.8, ls="--")
    axes.set(
        xlabel="1 - specificity",
        ylabel="sensitivity",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        title=f"Regions: AUC {in_words(found['auc'])}",
    )
    return figure


def reliability(figures: dict[str, Any]) -> Figure:
    """Share of regions that are affected against their probability; the area of a dot is how many."""
    figure, axes = _figure(5.2, 5.2)
    for (group, found), colour in zip(figures["calibration"].items(), _COLOURS, strict=True):
        bins = found["reliability"]
        if not bins:
            continue
        most = max(row["regions"] for row in bins)
        x, y = ([row[key] for row in bins] for key in ("probability", "affected"))
        error = found["expected_calibration_error"]["value"]
        axes.plot(x, y, color=colour, lw=1.2, label=f"{group}: error {error:.3f}")
        areas = [max(_SMALLEST_DOT, _LARGEST_DOT / 3 * row["regions"] / most) for row in bins]
        axes.scatter(x, y, s=areas, color=colour, alpha=0.6, lw=0)
    axes.plot([0, 1], [0, 1], color=_SOFT, lw=0.8, ls="--")
    axes.set(
        xlabel="the node's probability",
        ylabel="share affected",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        title="Reliability of the regions' probabilities",
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", frameon=False)
    return figure


def auc_by_depth(figures: dict[str, Any]) -> Figure:
    """Region AUC by the infarct's depth: the node, its plain mirror difference, and the observer."""
    figure, axes = _figure(6.4, 4.4)
    depths = {float(name): row for name, row in figures["detection"].items() if name != "clear"}
    lines = {"node": ("auc", _INK), "mirror difference": ("mirror", _WARM), "observer": ("observer", _SOFT)}
    shift = 0.02 * max(depths)
    for place, (label, (key, colour)) in enumerate(lines.items()):
        found = {d: row["regions"]["all"].get(key) for d, row in depths.items()}
        known = {d: e for d, e in found.items() if e is not None and e["value"] is not None}
        if not known:
            continue
        x = [d + (place - 1) * shift for d in known]
        axes.plot(x, [e["value"] for e in known.values()], "o-", color=colour, label=label, ms=5, lw=1.4)
        for at, e in zip(x, known.values(), strict=True):
            if e["low"] is not None:
                axes.plot([at, at], [e["low"], e["high"]], color=colour, lw=1.0)
    axes.set(ylim=(0.45, 1.02), xlabel="depth of the infarct in grey matter, HU", ylabel="region AUC")
    axes.set_title("Detection limit: regions ranked by node, mirror difference and observer")
    axes.set_xticks(list(depths), [f"{d:g}" for d in depths])
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", frameon=False)
    return figure


def rates_by_region(figures: dict[str, Any]) -> Figure:
    """Sensitivity and specificity of each region name, with 95 % intervals."""
    figure, axes = _figure(7.0, 4.0)
    by_name = figures["regions"]["by_name"]
    for shift, key, colour in ((-0.12, "sensitivity", _WARM), (0.12, "specificity", _INK)):
        for position, row in enumerate(by_name.values()):
            rate = row[key]
            if rate["value"] is None:
                continue
            label = key if position == 0 else None
            axes.plot(position + shift, rate["value"], "o", color=colour, label=label, ms=5)
            if rate["low"] is not None:
                axes.plot([position + shift] * 2, [rate["low"], rate["high"]], color=colour, lw=1.4)
    axes.set_xticks(range(len(by_name)), [f"{n}\n{row['affected']}" for n, row in by_name.items()])
    axes.set(ylim=(-0.02, 1.02), xlabel="region, and how many were affected", title="Rates by region")
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.legend(loc="lower left", frameon=False)
    return figure


def bland_altman(outcomes: Sequence[Outcome], figures: dict[str, Any]) -> Figure:
    """Score minus truth against their mean, per hemisphere; the area of a dot is how many lie there."""
    figure, axes = _figure(6.4, 4.6)
    pairs = score_pairs(outcomes)
    heaps = Counter(pairs)
    for (true, found), count in heaps.items():
        area = max(_SMALLEST_DOT, _LARGEST_DOT * count / max(heaps.values()))
        axes.scatter((true + found) / 2, found - true, s=area, color=_INK, alpha=0.6, lw=0)
    limits = figures["aspects"]["hemispheres"]["bland_altman"]
    lines = {"bias": limits["bias"]["value"]}
    if limits["limits"] is not None:
        lines |= {"95 % limits": limits["limits"][0], "": limits["limits"][1]}
    for name, value in lines.items():
        if value is not None:
            axes.axhline(value, color=_WARM, lw=1.2, ls="-" if name == "bias" else "--")
            axes.text(10.4, value, f" {value:+.2f}", va="center", color=_WARM, fontsize=8)
    reach = max([3.0, *(abs(found - true) + 0.7 for true, found in pairs)])
    axes.set(
        xlim=(-0.4, 10.4),
        ylim=(-reach, reach),
        xlabel="mean of node's and true ASPECTS",
        ylabel="node's minus true ASPECTS",
        title=f"Bland-Altman: {len(pairs)} hemispheres, bias and 95 % limits",
    )
    axes.axhline(0, color=_SOFT, lw=0.8)
    return figure


def confusion(outcomes: Sequence[Outcome]) -> Figure:
    """How many hemispheres of each true score got each score."""
    figure, axes = _figure(5.4, 5.2)
    table = np.zeros((FULL_SCORE + 1, FULL_SCORE + 1), int)
    for true, found in score_pairs(outcomes):
        table[true, found] += 1
    # counts of the healthy hemispheres would drown the others
    axes.imshow(np.sqrt(table), cmap="Blues", origin="lower")
    for (true, found), count in np.ndenumerate(table):
        if count:
            pale = np.sqrt(count) > 0.6 * np.sqrt(table.max())
            axes.text(found, true, str(count), ha="center", va="center", color="white" if pale else _INK)
    axes.plot([-0.5, 10.5], [-0.5, 10.5], color=_SOFT, lw=0.8, ls="--")
    axes.set_xticks(range(FULL_SCORE + 1))
    axes.set_yticks(range(FULL_SCORE + 1))
    axes.set(xlabel="node's ASPECTS", ylabel="true ASPECTS", title="Hemispheres by true and found ASPECTS")
    return figure


def score_pairs(outcomes: Sequence[Outcome]) -> list[tuple[int, int]]:
    """(true, found) ASPECTS of every hemisphere that was scored."""
    return [
        (o.truth.scores[side], score)
        for o in outcomes
        for side in SIDES
        if (score := o.scores[side]) is not None
    ]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty picture; without pyplot, which keeps state and looks for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.text(0.995, 0.005, _NOTE, ha="right", va="bottom", fontsize=6, color="#777777")
    return figure, figure.add_subplot()
