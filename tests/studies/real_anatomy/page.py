"""The page of results: bars, tables, plots, and the worst cases as pictures with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from strokecore.anatomy.regions import ALL_REGIONS, SIDES
from strokecore.evaluate.detection import GROUPS
from strokecore.evaluate.outcomes import Outcome
from strokecore.evaluate.plots import auc_by_depth, reliability
from strokecore.evaluate.statistics import in_words
from tests.studies.real_anatomy.acceptance import Measured, Row, fit_figures
from tests.studies.real_anatomy.run import PICTURE

_WORST: Final = 10
_DPI: Final = 80
# What the observer, who knows the true regions, does not see is at the detection limit.
_UNSEEN_HU: Final = 1.0
# A region that overlaps less with the person's own one measures other tissue.
_MISPLACED_DICE: Final = 0.5
_DILUTED: Final = 0.6
# Sound regions differ between sides with a standard deviation of about 1 HU.
_MISLEADING_HU: Final = 1.5


def write_page(
    measured: Measured, rows: Sequence[Row], page: Path, kept: Path, heading: dict[str, str]
) -> Path:
    """Write ``page`` (Markdown) and its pictures to the folder of the same name beside it."""
    pictures = page.with_suffix("")
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    parts = [_head(heading), _bars(rows)]
    figures = measured.figures
    if "infarct" in figures:
        for name, figure in (("by-depth", auc_by_depth), ("reliability", reliability)):
            figure(figures["infarct"]).savefig(pictures / f"{name}.png", dpi=_DPI)
        parts += [
            f"![AUC by depth]({pictures.name}/by-depth.png) ![Reliability]({pictures.name}/reliability.png)",
            _by_depth(figures["infarct"]),
            _by_person(figures["infarct"]),
        ]
    if "sound" in figures and figures["sound"]["without_infarct"]["by_confounder"]:
        parts.append(_confounders(figures["sound"]))
    if measured.fits:
        parts.append(_fits(measured))
    if "real" in figures:
        parts.append(_real_head(measured, kept, pictures))
    parts.append(_worst(measured, kept, pictures))
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def _head(heading: dict[str, str]) -> str:
    lines = [f"- {key}: {value}" for key, value in heading.items()]
    return (
        "# Real anatomy\n\n"
        + "\n".join(lines)
        + (
            "\n\nIntervals are 95 %, drawn over heads (of the real head: over insertions, for there is one "
            "patient). A region is *affected* from 30 % involvement, and not judged from 5 to 30 %. The "
            "observer knows the true regions, the density field and the noise. Definitions: "
            "[evaluation.md](../evaluation.md). Research use only."
        )
    )


def _bars(rows: Sequence[Row]) -> str:
    words = {True: "met", False: "**not met**", None: ""}
    table = [(row.name, row.bar, row.figure, words[row.met]) for row in rows]
    met = sum(row.met is True for row in rows)
    judged = sum(row.met is not None for row in rows)
    return f"## Bars: {met} of {judged} met\n\n" + _table(("", "bar", "figure (95 % interval)", ""), table)


def _by_depth(figures: dict[str, Any]) -> str:
    rows = []
    for depth, found in figures["detection"].items():
        for group in GROUPS:
            row = found["regions"][group]
            name = f"{depth} HU" if depth != "clear" else "4 HU and more"
            cells = [in_words(row[key]) for key in _SCORES if key in row]
            rows.append((name if group == "all" else "", group, str(row["affected"]), *cells))
    titles = (
        "depth",
        "regions",
        "affected",
        "AUC",
        "mirror",
        "observer",
        "of the observer's",
        "sensitivity",
        "at 0.95",
    )
    return "## By depth and region\n\n" + _table(titles, rows)


_SCORES: Final = ("auc", "mirror", "observer", "of_observer", "sensitivity", "sensitivity_at_95")


def _by_person(figures: dict[str, Any]) -> str:
    rows = []
    for person, found in figures["by_person"].items():
        clear = found["detection"].get("clear", {"regions": {"all": {}}, "side_correct": {"value": None}})
        sensitivity = clear["regions"]["all"].get("sensitivity", {"value": None})
        aucs = "; ".join(
            f"{depth}: {in_words(row['regions']['all']['auc'], '{:.2f}')}"
            for depth, row in found["detection"].items()
            if depth != "clear"
        )
        agreement = found["aspects"]["hemispheres"]
        rows.append(
            (
                person,
                str(found["cases"]["all"]),
                aucs,
                in_words(sensitivity, "{:.2f}"),
                in_words(agreement["icc_2_1"], "{:.2f}"),
                in_words(agreement["mean_absolute_error"], "{:.2f}"),
                in_words(clear["side_correct"], "{:.2f}"),
                in_words(found["without_infarct"]["all"]["share_exactly_10"], "{:.2f}"),
            )
        )
    titles = (
        "person",
        "cases",
        "AUC by depth",
        "sensitivity >= 4 HU",
        "ICC",
        "absolute error",
        "side",
        "clean at 10",
    )
    return "## By person\n\n" + _table(titles, rows)


def _confounders(figures: dict[str, Any]) -> str:
    rows = [
        (
            name,
            str(row["hemispheres"]),
            in_words(row["share_exactly_10"], "{:.2f}"),
            in_words(row["points_lost"], "{:.2f}"),
            "" if row["cost"] is None else f"{row['cost']:+.2f}",
            str(row["not_scored"]),
        )
        for name, row in figures["without_infarct"]["by_confounder"].items()
    ]
    titles = ("confounder alone", "hemispheres", "exactly 10", "points lost", "cost", "not scored")
    return "## Heads without infarct\n\n" + _table(titles, rows)


def _fits(measured: Measured) -> str:
    rows = [
        (
            name,
            in_words(found["dice"], "{:.2f}"),
            "; ".join(f"{person} {value:.2f}" for person, value in found["by_person"].items()),
            f"{found['lowest_head']:.2f}",
            in_words(found["border_mm"], "{:.1f}"),
        )
        for name, found in fit_figures(measured).items()
    ]
    titles = ("region", "Dice, median", "by person", "lowest head", "border error, mm, median")
    return (
        "## Regions on the person's own\n\nC and L against the person's labels, I and M against the case's "
        "definition; both sides of a head averaged.\n\n" + _table(titles, rows)
    )


def _real_head(measured: Measured, kept: Path, pictures: Path) -> str:
    """The head as it was scanned: no truth exists for its own state, so both measurements are shown."""
    untouched = [o for o in measured.outcomes["real"] if o.truth.delta_hu is None]
    parts = [
        "## The real head as it was scanned, and its mirror image",
        "No expert has scored it. It has mild atrophy, wider on the left around the Sylvian fissure, and an "
        "old lesion in the left temporo-occipital region, outside the MCA regions; nothing acute is known. "
        "The table sets the node's mirror difference beside that of the independent masks (left minus right, "
        "HU): where both agree, the scan itself is asymmetric, and no misplaced region makes the call.",
    ]
    for o in untouched:
        scores = ", ".join(f"{side} {o.scores[side]}" for side in SIDES)
        called = ", ".join(_called(o)) or "none"
        warnings = ", ".join(o.warnings) or "none"
        parts.append(f"**{o.name}**: {o.status}, {scores}; affected: {called}; warnings: {warnings}.")
        if (kept / o.name / PICTURE).exists():
            shutil.copy(kept / o.name / PICTURE, pictures / f"{o.name}.jpg")
            parts.append(f"![{o.name}]({pictures.name}/{o.name}.jpg)")
    rows = []
    for number, region in enumerate(ALL_REGIONS):
        if region.side == "left":
            cells = [
                _hu(value[number]) for o in untouched for value in (o.difference_hu, o.truth.observer_hu)
            ]
            rows.append((region.name, *cells))
    titles = [f"{o.name}, {who}" for o in untouched for who in ("node", "independent masks")]
    return "\n\n".join([*parts, _table(("left minus right", *titles), rows)])


def _hu(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _called(o: Outcome) -> list[str]:
    rows = zip(ALL_REGIONS, o.affected, o.probability, strict=True)
    return [f"{region.side} {region.name} ({p:.2f})" for region, called, p in rows if called]


def _worst(measured: Measured, kept: Path, pictures: Path) -> str:
    # the real head has a section of its own, and one head ten times would teach nothing
    simulated = [o for part, found in measured.outcomes.items() if part != "real" for o in found]
    worst = sorted(simulated, key=_error, reverse=True)[:_WORST]
    lines = ["## The worst cases"]
    for number, o in enumerate((o for o in worst if _error(o)[0] > 0), start=1):
        lines.append(f"**{number}. {o.name}**: {reason(o, measured.fits.get(o.name))}")
        if (kept / o.name / PICTURE).exists():
            name = f"worst-{number}.jpg"
            shutil.copy(kept / o.name / PICTURE, pictures / name)
            lines.append(f"![{o.name}]({pictures.name}/{name})")
    return "\n\n".join(lines)


def _error(o: Outcome) -> tuple[float, float]:
    """Points that the score is off, a missed bleed as three; then how many regions are wrong."""
    if o.truth.blood:
        return (0.0 if o.blood else 3.0, o.truth.blood.ml)
    wrong = float(
        sum(t != c for t, c, j in zip(o.truth.regions, o.affected, o.truth.judged, strict=True) if j)
    )
    if o.status != "scored":
        return (5.0, wrong)
    off = [abs(score - o.truth.scores[side]) for side, score in o.scores.items() if score is not None]
    return (float(max(off, default=0)), wrong)


def reason(o: Outcome, fit: dict[str, Any] | None) -> str:
    """What the case was, what was said of it, and for each wrong region what the figures blame."""
    truth = o.truth
    what = [str(truth.person or "")]
    if truth.delta_hu is not None:
        what.append(f"{truth.delta_hu:g} HU")
    if truth.confounder:
        what.append(truth.confounder)
    if truth.blood:
        what.append(f"{truth.blood.ml:g} ml {truth.blood.place} blood")
    said = ", ".join(f"{side} {o.scores[side]} for {truth.scores[side]}" for side in SIDES)
    if o.status != "scored":
        said = f"{o.status} ({o.code})"
    elif truth.blood and not o.blood:
        said = "blood not suspected"
    return f"{', '.join(what)}; {said}. " + " ".join(_wrong_regions(o, fit))


def _wrong_regions(o: Outcome, fit: dict[str, Any] | None) -> Iterable[str]:
    if o.status != "scored":
        return
    for number, region in enumerate(ALL_REGIONS):
        true, called = o.truth.regions[number], o.affected[number]
        if true == called or not o.truth.judged[number]:
            continue
        seen = o.truth.observer_hu[number] if o.truth.observer_hu else None
        found = o.difference_hu[number]
        overlap = fit["dice"][f"{region.side}:{region.name}"] if fit else None
        why = "evidence is there and the decision does not follow it" if true else "taken for infarct"
        if seen is not None and true and seen > -_UNSEEN_HU:
            why = "the observer does not see it either"
        elif seen is not None and not true and seen < -_MISLEADING_HU:
            why = "this head is darker there, and the observer is misled as well"
        elif overlap is not None and overlap < _MISPLACED_DICE:
            why = f"region misplaced (Dice {overlap:.2f})"
        elif true and seen is not None and found is not None and found > _DILUTED * seen:
            why = "the region holds other tissue as well"
        words = "" if found is None else f", difference {found:+.1f} HU"
        words += "" if seen is None else f", observer's {seen:+.1f}"
        kind = "missed" if true else "false"
        yield f"{kind.capitalize()} {region.side} {region.name}: p {o.probability[number]:.2f}{words}: {why}."


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(
        "| " + " | ".join(cell.strip() if n else cell for n, cell in enumerate(line)) + " |" for line in lines
    )
